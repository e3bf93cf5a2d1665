"""
The token request: how it is made, and what its answer means.

requests-oauthlib is used here and nowhere else, with a session of its own for each request: a shared one sends requests
without a token while another thread renews it. Its transport is our own, so limits, TLS, proxy and "no redirects" hold.

Source: RFC 6749; RFC 7523; servicenow.md section 1.4; dependencies.md section 2.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import quote_plus, urlsplit

import requests
from oauthlib.oauth2 import BackendApplicationClient
from requests.adapters import BaseAdapter
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from poller import metrics
from poller.clients.http import Answer, HttpRemote
from poller.clients.retry_after import retry_after
from poller.errors import BlockedError, Evidence, PollerError, TransientError, UnknownOutcome

# They write tokens and secrets at DEBUG.
for _name in ("requests_oauthlib", "oauthlib"):
    logging.getLogger(_name).setLevel(logging.INFO)

#: RFC 6749 only recommends ``expires_in``; ServiceNow's tokens live 1800 s.
_UNSTATED: Final = 1800.0
_LONGEST: Final = 86_400.0
_DEADLINE: Final = 30.0
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_WORD: Final = re.compile(r"[a-z_]{1,40}")

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
#: What to look at when a grant is refused.
_ADVICE: Final = {
    "client_credentials": (
        "check client_id and client_secret, and that the instance allows this grant"
        " (glide.oauth.inbound.client.credential.grant_type.enabled) and its application user is active"
    ),
    "password": "check client_id, client_secret, username and password, and that the user is active and not locked out",
    "refresh_token": "check client_id and client_secret; if they are right, the refresh token is dead: hand in a new one",
    JWT_BEARER: (
        "check that private_key belongs to the key registered there, and issuer, subject, audience, key_id,"
        " client_id and client_secret"
    ),
}


class TokenRefused(BlockedError):
    """
    The endpoint has answered, and said no: no token until a person changes something.

    Args:
        date: The answer's Date; an assertion may have been refused for our clock.
    """

    def __init__(self, message: str, *, evidence: Evidence, date: datetime | None) -> None:
        super().__init__(message, evidence=evidence)
        self.date = date


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """What is asked for, and as whom."""

    #: ``grant_type``.
    grant: str
    #: None: the grant itself says who asks.
    client_id: str | None
    client_secret: str | None = field(repr=False)
    client_auth: Literal["post", "basic"]
    scope: str | None = None
    #: Further form fields of this grant; those that matter are secrets.
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)

    def secrets(self) -> tuple[str, ...]:
        """Return what must never be shown."""
        return tuple(filter(None, (self.client_secret, *self.fields.values())))


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A token as the endpoint has handed it out."""

    token: str = field(repr=False)
    #: Seconds that it is said to live.
    life: float
    #: None where none came along.
    refresh: str | None = field(repr=False, default=None)


def request_token(asked: TokenRequest, remote: HttpRemote, url: str) -> Granted:
    """
    Ask for a token, once.

    Raises:
        TransientError: No token just now.

        TokenRefused: No token until a person changes something.

        BlockedError: Same, but the endpoint was not reached.
    """
    host, outcome = urlsplit(url).hostname or "", "failed"
    try:
        granted = _request(asked, remote, url)
        outcome = "granted"
        return granted
    except BlockedError:
        outcome = "refused"
        raise
    finally:
        metrics.token_asked(host, outcome)


def _request(asked: TokenRequest, remote: HttpRemote, url: str) -> Granted:
    bridge = _Bridge(remote, url, asked)
    try:
        token = _ask(asked, bridge)
    except PollerError:
        raise
    except (Exception, Warning) as error:  # noqa: BLE001  oauthlib even raises a Warning
        # Its text may hold what the endpoint said, and so a secret.
        raise TransientError(
            f"token endpoint {_host(url)}: no token in its answer ({type(error).__name__})", remote=True
        ) from None
    return Granted(token=token, life=bridge.life, refresh=bridge.refresh)


def _ask(asked: TokenRequest, bridge: _Bridge) -> str:
    """Let requests-oauthlib make the token request."""
    # Of its clients this one alone adds nothing of its own; the others differ from it by the name of their grant.
    scope: list[object] | None = [*asked.scope.split()] if asked.scope else None
    client = BackendApplicationClient(client_id=asked.client_id or "", scope=scope)
    client.grant_type = asked.grant
    with OAuth2Session(client=client) as session:
        session.trust_env = False
        session.mount("https://", bridge)
        form: dict[str, Any] = dict(asked.fields)
        if asked.client_auth == "basic" and asked.client_id is not None:
            form["auth"] = HTTPBasicAuth(quote_plus(asked.client_id), quote_plus(asked.client_secret or ""))
        elif asked.client_id is not None:
            form |= {"include_client_id": True, "client_secret": asked.client_secret}
        # oauthlib refuses plain HTTP unless an environment variable of the whole process allows it. Ours is for
        # loopback only and was checked by the settings, so it is shown an address that it accepts.
        token = session.fetch_token("https://token.invalid/", **form)
    return str(token["access_token"])


class _Bridge(BaseAdapter):
    """Carries the token request over our own remote, and looks at the answer before oauthlib does."""

    def __init__(self, remote: HttpRemote, url: str, asked: TokenRequest) -> None:
        super().__init__()
        self._remote = remote
        self._url = url
        self._asked = asked
        self.life = _UNSTATED
        self.refresh: str | None = None

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        kept = {"Accept": "application/json"}
        kept |= {n: v for n, v in request.headers.items() if n.lower() in {"authorization", "content-type"}}
        body = request.body or b""
        try:
            answer = self._remote.request(
                "POST",
                self._url,
                headers=kept,
                body=body.encode() if isinstance(body, str) else bytes(body),
                deadline=_DEADLINE,
            )
        except (UnknownOutcome, TransientError) as error:
            raise TransientError(f"token endpoint: {error}", remote=True) from None
        found = _token_in(answer, self._asked)
        self.life = _life(found.get("expires_in"))
        again = found.get("refresh_token")
        self.refresh = again if isinstance(again, str) and _TOKEN.fullmatch(again) else None
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, self._url
        response.raw = None
        # Only what oauthlib may see: it stumbles over an odd expires_in and raises over another scope.
        text = json.dumps({"access_token": found["access_token"], "token_type": "Bearer"})
        response._content = text.encode()  # noqa: SLF001  requests has no way to set it
        return response

    def close(self) -> None:
        """Leave the remote open: it is not ours."""


def _token_in(answer: Answer, asked: TokenRequest) -> dict[str, Any]:
    """Return the answer's object if it holds a token, else raise what its status says."""
    where = f"token endpoint {_host(answer.url)}"
    evidence = Evidence(status=answer.status, transaction_id=answer.headers.get("x-transaction-id"))
    found: Any = None
    if answer.is_json:
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            found = None
    if answer.status == 200 and isinstance(found, dict) and "error" not in found:
        token, kind = found.get("access_token"), found.get("token_type", "Bearer")
        if isinstance(token, str) and _TOKEN.fullmatch(token) and str(kind).lower() == "bearer":
            return found
    error = found.get("error") if isinstance(found, dict) else None
    word = error if isinstance(error, str) and _WORD.fullmatch(error) and error not in asked.secrets() else None
    if answer.status in {400, 401, 403} and (word or answer.status != 400):
        said = f"{where} refused {_called(asked.grant)}: {answer.status} {word or 'without a reason'}"
        raise TokenRefused(f"{said}; {_advice(word, asked.grant)}", evidence=evidence, date=answer.date)
    raise TransientError(
        f"{where}: a token was expected, {answer.status} {'with ' + word if word else 'without one'} came",
        evidence=evidence,
        retry_after=retry_after(answer) if answer.status in {429, 503} else None,
        remote=True,
    )


def _called(grant: str) -> str:
    return "jwt_bearer" if grant == JWT_BEARER else grant


def _advice(word: str | None, grant: str) -> str:
    if word == "unauthorized_client":
        return "the OAuth application needs an application user, and this grant"
    if word == "unsupported_grant_type":
        return "it does not know this grant: choose another auth.type"
    if word == "invalid_scope":
        return "check auth.scope"
    return _ADVICE[grant]


def _life(value: object) -> float:
    """Return ``expires_in`` as seconds; text and nonsense are met in the field."""
    if value is None or isinstance(value, bool):
        return _UNSTATED
    try:
        seconds = float(value) if isinstance(value, int | float | str) else _UNSTATED
    except (ValueError, OverflowError):
        return _UNSTATED
    if seconds != seconds:  # noqa: PLR0124  not a number
        return _UNSTATED
    return min(max(seconds, 0.0), _LONGEST)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
