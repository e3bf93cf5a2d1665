"""
A provider's keys: where they are, how they are fetched, which of them may be used.

Nothing but the settings says whom we ask. What the issuer's metadata name must be at the issuer's own address: another place is
written into the settings by a person (``jwks_url``), or not asked at all (guarantee S34).

Source: RFC 7517; RFC 8414; OpenID Connect Discovery 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import orjson

from poller.clients.http import HttpRemote
from poller.errors import PollerError
from poller.ingress.auth_settings import AuthSettings

_MOST_KEYS: Final = 100
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
#: Below it is weak; above it, each signature costs a hostile caller nothing and us milliseconds.
_RSA_BITS: Final = range(2048, 8193)
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]+")
_HEADERS: Final = {"Accept": "application/json"}


class NoKeys(Exception):
    """They could not be had; one line says why."""


class KeySource:
    """
    Fetches the keys of one issuer.

    Args:
        remote: Bounded in time and size; follows no redirect.
    """

    def __init__(self, settings: AuthSettings, remote: HttpRemote) -> None:
        self._settings = settings
        self._remote = remote
        self._found: str | None = None

    def fetch(self) -> list[tuple[str | None, jwt.PyJWK]]:
        """
        Return the usable keys, each with its id.

        Raises:
            NoKeys: There are none, or nobody answers as is expected.
        """
        url = self._settings.jwks_url or self._found or self._discovered()
        try:
            document = self._document(url)
        except NoKeys:
            # They may have moved: the next time, the metadata are asked again.
            self._found = None
            raise
        keys = usable(document, self._settings.algorithm)
        if not keys:
            raise NoKeys(f"{_shown(url)}: holds no key that is fit for {self._settings.algorithm}")
        if self._settings.jwks_url is None:
            self._found = url
        return keys

    def close(self) -> None:
        """Let go of connections."""
        self._remote.close()

    def _discovered(self) -> str:
        issuer = self._settings.issuer or ""
        last = NoKeys("the issuer has no metadata")
        for place in metadata_urls(issuer):
            try:
                document = self._document(place)
            except NoKeys as error:
                last = error
                continue
            if document.get("issuer") != issuer:
                raise NoKeys(f"{_shown(place)}: names another issuer than the settings")
            url = document.get("jwks_uri")
            if not isinstance(url, str):
                raise NoKeys(f"{_shown(place)}: names no jwks_uri")
            if _origin(url) != _origin(issuer):
                raise NoKeys(f"{_shown(place)}: its jwks_uri is at another address; if that is right, set jwks_url")
            return url
        raise last

    def _document(self, url: str) -> Mapping[str, Any]:
        try:
            answer = self._remote.get(url, headers=_HEADERS)
        except (PollerError, ValueError) as error:
            raise NoKeys(f"{_shown(url)}: {error}") from None
        if answer.status != 200:
            raise NoKeys(f"{_shown(url)}: answers {answer.status}")
        try:
            found = orjson.loads(answer.body)
        except (ValueError, RecursionError):
            raise NoKeys(f"{_shown(url)}: holds no JSON") from None
        if not isinstance(found, dict):
            raise NoKeys(f"{_shown(url)}: holds no JSON object")
        return found


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Return where an issuer describes itself: as OpenID Connect has it, and as RFC 8414 has it."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    bare = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{bare}{path}/.well-known/openid-configuration",
        f"{bare}/.well-known/oauth-authorization-server{path}",
    )


def usable(document: Mapping[str, Any], algorithm: str) -> list[tuple[str | None, jwt.PyJWK]]:
    """
    Return those keys of a key set by which signatures of *algorithm* may be checked, each with its id.

    Left out are keys of another type, use, operation or curve, RSA keys that are too small, private ones, and malformed ones.

    Raises:
        NoKeys: It is no key set.
    """
    given = document.get("keys")
    if not isinstance(given, list):
        raise NoKeys("the key set holds no list of keys")
    found: list[tuple[str | None, jwt.PyJWK]] = []
    for key in given[:_MOST_KEYS]:
        if not isinstance(key, dict) or not _fit(key, algorithm):
            continue
        try:
            made = jwt.PyJWK(key, algorithm=algorithm)
        except Exception:  # noqa: BLE001, S112  a foreign document may be wrong in any way; its other keys count
            continue
        found.append((key.get("kid"), made))
    return found


def _fit(key: Mapping[str, Any], algorithm: str) -> bool:
    kid = key.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > 256):
        return False
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    operations = key.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return False
    # Whoever publishes the private half has no secret any more.
    if "d" in key or "k" in key:
        return False
    if algorithm.startswith("ES"):
        return key.get("kty") == "EC" and key.get("crv") == _CURVES[algorithm]
    if algorithm == "EdDSA":
        return key.get("kty") == "OKP" and key.get("crv") in {"Ed25519", "Ed448"}
    return key.get("kty") == "RSA" and _bits(key.get("n")) in _RSA_BITS and 2 <= _bits(key.get("e")) <= 32


def _bits(number: object) -> int:
    """Return the length of a base64url number in bits, 0 where it is none."""
    if not isinstance(number, str) or not _BASE64.fullmatch(number) or len(number) > 4096:
        return 0
    try:
        return int.from_bytes(jwt.utils.base64url_decode(number), "big").bit_length()
    except ValueError:
        return 0


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return "", None, None
    return parts.scheme, parts.hostname, port


def _shown(url: str) -> str:
    """Return an address without what may stand behind it."""
    return url.partition("?")[0][:200]
