"""
Our own token endpoint, ``POST /oauth/token``: client credentials for opaque tokens, and nothing else.

It knows no HTTP server: a form and two headers in, a status, headers and a JSON object out.

Source: RFC 6749 2.3.1, 4.4, 5.1, 5.2; RFC 6750.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote_plus

from poller.errors import DatabaseUnusable
from poller.ingress.auth_settings import SCOPE, ClientSettings
from poller.ingress.principal import Refused, Undecided
from poller.ingress.tokens.guessing import ClientSecrets, Throttled
from poller.ingress.tokens.opaque import LIFE, TokenStore, digest_of, new_token, utc_now
from poller.ingress.tokens.rights import covered
from poller.logs import get_logger
from poller.model import StoredToken

log = get_logger()

_LARGEST: Final = 8192
_MOST_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"


class TokenAnswer(NamedTuple):
    """What the endpoint answers: a JSON object under these headers, besides Content-Type. Its text never shows."""

    status: int
    headers: list[tuple[str, str]]
    body: dict[str, str | int]

    def __repr__(self) -> str:
        return f"TokenAnswer({self.status})"


class _Refusal(Exception):
    """An OAuth error; one word of RFC 6749 5.2, and a sentence for whoever sets the client up."""

    def __init__(self, error: str, why: str, *, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.why = why
        self.status = status
        self.headers = headers or {}


class TokenEndpoint:
    """
    Hands out tokens to the clients of the settings.

    Args:
        now: The time in UTC.
    """

    def __init__(
        self,
        clients: Mapping[str, ClientSettings],
        secrets: ClientSecrets,
        tokens: TokenStore,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._clients = clients
        self._secrets = secrets
        self._tokens = tokens
        self._now = now

    def answer(
        self,
        body: bytes,
        content_type: str,
        authorization: str | None,
        peer: str,
        proven: Callable[[str], object] = lambda _client: None,
    ) -> TokenAnswer:
        """
        Return the answer to one request; it never raises for what a caller sends.

        Args:
            body: The whole body.

            content_type: The header, "" where there is none.

            authorization: The header's whole value, None where there is none.

            peer: Where the caller is, for counting its failures.

            proven: Called with the client whose secret was right, before it is given a token; may raise `Throttled`.
        """
        try:
            fields = _fields(body, content_type)
            if "grant_type" not in fields:
                raise _Refusal("invalid_request", "grant_type is missing")
            if fields["grant_type"] != "client_credentials":
                raise _Refusal("unsupported_grant_type", "only client_credentials is supported")
            client, mark = self._client(fields, authorization, peer)
            try:
                proven(client)
            except Throttled as error:
                raise _later(429, "slow_down", error.why, error.retry_after) from None
            scopes = _scopes(fields.get("scope"), self._clients[client])
            return self._granted(client, mark, scopes)
        except _Refusal as refusal:
            said: dict[str, str | int] = {"error": refusal.error, "error_description": refusal.why}
            return TokenAnswer(refusal.status, _headers(refusal.headers), said)

    def _client(self, fields: Mapping[str, str], authorization: str | None, peer: str) -> tuple[str, str]:
        """Return the client, and the fingerprint of its hash."""
        client, secret = _credentials(fields, authorization)
        try:
            return client, self._secrets.check(client, secret, peer)
        except Refused:
            raise _invalid_client() from None
        except Throttled as error:
            raise _later(429, "slow_down", "too many wrong secrets", error.retry_after) from None
        except Undecided as error:
            raise _later(503, "temporarily_unavailable", error.why, error.retry_after) from None

    def _granted(self, client: str, mark: str, scopes: frozenset[str]) -> TokenAnswer:
        token, now = new_token(), self._now()
        stored = StoredToken(
            digest=digest_of(token), client=client, scopes=scopes, fingerprint=mark, expires_at=now + LIFE
        )
        try:
            self._tokens.keep(stored, now=now)
        except DatabaseUnusable:
            wait = timedelta(seconds=5)
            raise _later(503, "temporarily_unavailable", "the database does not answer", wait) from None
        log.debug("token_issued", client=client)
        body: dict[str, str | int] = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": int(LIFE.total_seconds()),
            "scope": " ".join(sorted(scopes)),
        }
        return TokenAnswer(200, _headers({}), body)


def _headers(more: Mapping[str, str]) -> list[tuple[str, str]]:
    return [("Cache-Control", "no-store"), ("Pragma", "no-cache"), *more.items()]


def _invalid_client() -> _Refusal:
    return _Refusal(
        "invalid_client",
        "unknown client or wrong secret",
        status=401,
        headers={"WWW-Authenticate": 'Basic realm="poller", charset="UTF-8"'},
    )


def _later(status: int, error: str, why: str, after: timedelta) -> _Refusal:
    seconds = str(max(1, math.ceil(after.total_seconds())))
    return _Refusal(error, why, status=status, headers={"Retry-After": seconds})


def _fields(body: bytes, content_type: str) -> dict[str, str]:
    """Return the form; fields without a value count as left out (RFC 6749 3.2)."""
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise _Refusal("invalid_request", f"the body must be {_FORM}")
    if len(body) > _LARGEST:
        raise _Refusal("invalid_request", "the body is too large")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise _Refusal("invalid_request", "the body is no form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _Refusal("invalid_request", "a field is given twice")
    return {name: value for name, value in fields.items() if value}


def _credentials(fields: Mapping[str, str], authorization: str | None) -> tuple[str, str]:
    """Return the client's id and secret, from the header or the form."""
    named, secret = fields.get("client_id"), fields.get("client_secret")
    if authorization is None:
        if named is None or secret is None:
            raise _invalid_client()
        return named, secret
    if secret is not None:
        raise _Refusal("invalid_request", "the client's secret is given both in the header and in the form")
    pair = basic_pair(authorization)
    if pair is None:
        raise _invalid_client()
    try:
        client, secret = (unquote_plus(part, errors="strict") for part in pair)
    except UnicodeDecodeError:
        raise _invalid_client() from None
    if named not in (None, client):
        raise _Refusal("invalid_request", "client_id is another than that of the header")
    return client, secret


def basic_pair(authorization: str) -> tuple[str, str] | None:
    """Return user and password of an Authorization header, None where it is no proper HTTP Basic (RFC 7617)."""
    scheme, _, value = authorization.partition(" ")
    return decoded_pair(value.strip(" ")) if scheme.lower() == "basic" else None


def decoded_pair(value: str) -> tuple[str, str] | None:
    """Return user and password of what stands behind ``Basic``, None where it is nothing proper."""
    if len(value) > _LARGEST:
        return None
    try:
        user, colon, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except ValueError:
        return None
    return (user, password) if colon and user and password else None


def _scopes(asked: str | None, settings: ClientSettings) -> frozenset[str]:
    """Return what is granted: all of the client's scopes, or those that it asks for among them."""
    own = frozenset(settings.scopes or ())
    wanted = frozenset(asked.split()) if asked is not None else frozenset()
    if not wanted:
        return own
    for scope in wanted:
        if not SCOPE.fullmatch(scope) or not covered(scope, own):
            raise _Refusal("invalid_scope", "a scope is asked for that the client does not have")
    return wanted
