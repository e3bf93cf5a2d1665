"""
A JWT, checked by the keys of its issuer (RFC 7519, RFC 9068).

The algorithm is the settings', never the token's; nothing in the header leads anywhere: ``jku``, ``x5u``, ``jwk`` and ``x5c``
are not looked at, ``kid`` is compared with the ids of known keys. PyJWT checks the signature; the claims are `claims`'.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
import orjson

from poller.ingress.auth_settings import AuthSettings, ClientSettings
from poller.ingress.principal import Principal, Refused
from poller.ingress.tokens.claims import (
    check_form,
    check_kind,
    check_source,
    check_times,
    check_unclaimed,
    client_of,
    scopes_of,
)
from poller.ingress.tokens.keys import Keys
from poller.ingress.tokens.rights import principal

#: RFC 9068 2.1.
_ACCESS: Final = frozenset({"at+jwt", "application/at+jwt"})
_ANY: Final = _ACCESS | {"jwt", "application/jwt"}
_LONGEST_KID: Final = 256
_LONGEST_HEADER: Final = 4096


class JwtVerifier:
    """
    Judges JWTs of one issuer.

    Args:
        keys: The issuer's.

        clients: What the settings leave to single clients.

        wall: Seconds since 1970.
    """

    def __init__(
        self,
        settings: AuthSettings,
        keys: Keys,
        clients: Mapping[str, ClientSettings],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._clients = clients
        self._wall = wall
        self._jws = jwt.PyJWS(algorithms=[settings.algorithm])

    def verify(self, token: str) -> Principal:
        kid, access = self._header(check_form(token))
        key = self._keys.find(kid)
        claims = self._claims(token, key)
        try:
            return self._judged(claims, access=access)
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            raise Refused("its claims cannot be read") from None

    def close(self) -> None:
        self._keys.close()

    def _header(self, token: str) -> tuple[str | None, bool]:
        """Return the id of the key that it names, and whether it says to be an access token."""
        parts = token.split(".")
        if len(parts) != 3 or not all(parts) or len(parts[0]) > _LONGEST_HEADER:
            raise Refused("not a JWT")
        header = _object(parts[0])
        if header.get("alg") != self._settings.algorithm:
            raise Refused("alg is another than the settings'")
        # Whatever it demands that we understand, we do not; b64 would change what is signed.
        if "crit" in header or "b64" in header:
            raise Refused("its header asks for more than is understood")
        kid = header.get("kid")
        if kid is not None and (not isinstance(kid, str) or len(kid) > _LONGEST_KID):
            raise Refused("kid is no id")
        return kid, self._typed(header.get("typ"))

    def _typed(self, typ: object) -> bool:
        if typ is not None and not isinstance(typ, str):
            raise Refused("typ is no text")
        access = typ is not None and typ.lower() in _ACCESS
        if not access and (self._settings.require_typ or (typ is not None and typ.lower() not in _ANY)):
            raise Refused("typ is not an access token's")
        return access

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            payload = self._jws.decode_complete(token, key, algorithms=[self._settings.algorithm])["payload"]
        except Exception:  # noqa: BLE001  whatever hostile bytes make a library do, they are no token
            raise Refused("its signature does not hold") from None
        return _loaded(payload)

    def _judged(self, claims: dict[str, Any], *, access: bool) -> Principal:
        settings = self._settings
        check_kind(claims)
        if not access:
            check_unclaimed(claims)
        check_source(claims, settings)
        if check_times(claims, now=self._wall(), leeway=settings.leeway.total_seconds()) is None:
            raise Refused("exp is missing")
        return principal(client_of(claims, settings), scopes_of(claims, settings), self._clients)


def _object(part: str) -> dict[str, Any]:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise Refused("not a JWT") from None
    return _loaded(data)


def _loaded(data: bytes) -> dict[str, Any]:
    """Return a JSON object; orjson bounds how deep it goes, and knows no NaN."""
    try:
        found = orjson.loads(data)
    except (ValueError, RecursionError):
        raise Refused("holds no JSON") from None
    if not isinstance(found, dict):
        raise Refused("holds no JSON object")
    return found
