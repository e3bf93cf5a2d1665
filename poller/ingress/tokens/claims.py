"""
What a token says of itself, or a provider of it, held against the settings. Whatever does not fit is `Refused`.

Pure: no clock, no network, no log. Values are never repeated in an error: they are not proven, and may be anything.

Source: RFC 7519 4.1; RFC 9068 2.2 and 4; RFC 7662 2.2; RFC 8725 (best practices).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from poller.ingress.auth_settings import CLIENT_ID, AuthSettings
from poller.ingress.principal import Refused

#: Larger than any token of the providers that we know of, by a factor of four.
LARGEST: Final = 16_384

#: RFC 6750 2.1, the form of anything that may stand behind Bearer.
_FORM: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_CLIENT: Final = re.compile(CLIENT_ID)
_SCOPE_CLAIMS: Final = ("scope", "scp", "roles")
_CLIENT_CLAIMS: Final = ("client_id", "azp", "sub")
#: Keycloak's payload ``typ`` and others' ``token_use`` of what is no access token.
_NO_ACCESS: Final = frozenset({"id", "refresh", "offline", "logout"})
_USES: Final = frozenset({"access", "access_token"})
#: Claims of ID tokens, logout tokens and security events alone.
_OTHER_KINDS: Final = ("nonce", "at_hash", "c_hash", "s_hash", "events")
#: The year 9999: whatever is later is no date.
_LAST: Final = 253_402_300_799.0


def check_form(token: str) -> str:
    """
    Return *token* if it can be one at all, before anything is made of it.

    Raises:
        Refused: It is too long, or holds what no token does.
    """
    if len(token) > LARGEST:
        raise Refused("too long for a token")
    if not _FORM.fullmatch(token):
        raise Refused("not of a token's form")
    return token


def check_unclaimed(claims: Mapping[str, Any]) -> None:
    """
    Refuse what has a claim of other kinds of tokens; for tokens that do not say themselves of which kind they are.

    Raises:
        Refused: It has one.
    """
    for name in _OTHER_KINDS:
        if name in claims:
            raise Refused(f"claim {name} is not an access token's")


def check_kind(claims: Mapping[str, Any]) -> None:
    """
    Refuse what says to be an ID token or a refresh token, and a token that is bound to a key which nobody has shown.

    Raises:
        Refused: It is one of these.
    """
    typ = claims.get("typ")
    if isinstance(typ, str) and typ.lower() in _NO_ACCESS:
        raise Refused("typ is not an access token's")
    use = claims.get("token_use")
    if use is not None and (not isinstance(use, str) or use.lower() not in _USES):
        raise Refused("token_use is not an access token's")
    # RFC 9449 and RFC 8705: as a bearer token it would be worth what a stolen one is.
    if "cnf" in claims:
        raise Refused("bound to a key (cnf), which is not supported")


def check_times(claims: Mapping[str, Any], *, now: float, leeway: float) -> float | None:
    """
    Return when it expires, in seconds since 1970; None where it does not say.

    Raises:
        Refused: It has expired, is not valid yet, was made in the future, or a time is no number.
    """
    expires, not_before, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is not None and now >= expires + leeway:
        raise Refused("expired")
    if not_before is not None and now < not_before - leeway:
        raise Refused("not valid yet")
    if issued is not None and now < issued - leeway:
        raise Refused("issued in the future")
    return expires


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    # bool is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"{name} is no number")
    if not math.isfinite(value) or not 0 <= value <= _LAST:
        raise Refused(f"{name} is no date")
    return float(value)


def check_source(claims: Mapping[str, Any], settings: AuthSettings) -> None:
    """
    Refuse what was made by somebody else, or for somebody else.

    Raises:
        Refused: ``iss`` or ``aud`` is missing or another, as far as the settings name one.
    """
    issuer, audiences = claims.get("iss"), claims.get("aud")
    if settings.issuer is not None and issuer != settings.issuer:
        raise Refused("iss is not the issuer")
    if not settings.audiences:
        return
    named = [audiences] if isinstance(audiences, str) else audiences
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise Refused("aud is missing or no text")
    if settings.audiences.isdisjoint(named):
        raise Refused("aud is somebody else")


def client_of(claims: Mapping[str, Any], settings: AuthSettings) -> str:
    """
    Return the client's id.

    Raises:
        Refused: There is none, or it is no plain text.
    """
    names = _CLIENT_CLAIMS if settings.client_claim is None else (settings.client_claim,)
    for name in names:
        found = _at(claims, name)
        if found is None:
            continue
        if not isinstance(found, str) or not _CLIENT.fullmatch(found):
            raise Refused("the client's id is no plain text")
        return found
    raise Refused("it names no client")


def scopes_of(claims: Mapping[str, Any], settings: AuthSettings) -> Sequence[str]:
    """
    Return the scopes as they stand there, those of others included; none where the claim is missing.

    Raises:
        Refused: They are neither text nor a list of texts.
    """
    names = _SCOPE_CLAIMS if settings.scope_claim is None else (settings.scope_claim,)
    for name in names:
        found = _at(claims, name)
        if found is None:
            continue
        if isinstance(found, str):
            return found.split(" ")
        if isinstance(found, list) and all(isinstance(each, str) for each in found):
            return found
        raise Refused("its scopes are neither text nor a list of texts")
    return ()


def _at(claims: Mapping[str, Any], name: str) -> object:
    """Return the claim of that very name, else what the dotted path leads to: ``realm_access.roles``."""
    if name in claims:
        return claims[name]
    found: object = claims
    for step in name.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(step)
    return found
