"""
The token request: how it is made, and what its answer means.

requests-oauthlib is used here and nowhere else, with a session of its own for each request: a shared one sends requests
without a token while another thread renews it. Its transport is our own, so limits, TLS, proxy and "no redirects" hold.

Source: RFC 6749; servicenow.md section 1.4; dependencies.md section 2.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Final
from urllib.parse import quote_plus

import requests
from oauthlib.oauth2 import BackendApplicationClient, LegacyApplicationClient
from requests.adapters import BaseAdapter
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from poller.clients.auth import PasswordAuth, TokenAuth
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


def request_token(
    settings: TokenAuth, remote: HttpRemote, url: str, secret: str, password: str | None
) -> tuple[str, float]:
    """
    Ask for a token, once; return it and how many seconds it is said to live.

    Raises:
        TransientError: No token just now.

        BlockedError: No token until a person changes something.
    """
    bridge = _Bridge(remote, url, tuple(filter(None, (secret, password))))
    try:
        return _ask(settings, bridge, secret, password), bridge.life
    except PollerError:
        raise
    except (Exception, Warning) as error:  # noqa: BLE001  oauthlib even raises a Warning
        # Its text may hold what the endpoint said, and so a secret.
        raise TransientError(
            f"token endpoint {_host(url)}: no token in its answer ({type(error).__name__})", remote=True
        ) from None


def _ask(settings: TokenAuth, bridge: _Bridge, secret: str, password: str | None) -> str:
    """Let requests-oauthlib make the token request."""
    kind = LegacyApplicationClient if isinstance(settings, PasswordAuth) else BackendApplicationClient
    scope: list[object] | None = [*settings.scope.split()] if settings.scope else None
    with OAuth2Session(client=kind(client_id=settings.client_id, scope=scope)) as session:
        session.trust_env = False
        session.mount("https://", bridge)
        asked: dict[str, Any] = {}
        if isinstance(settings, PasswordAuth):
            asked |= {"username": settings.username, "password": password}
        if settings.client_auth == "basic":
            asked["auth"] = HTTPBasicAuth(quote_plus(settings.client_id), quote_plus(secret))
        else:
            asked |= {"include_client_id": True, "client_secret": secret}
        # oauthlib refuses plain HTTP unless an environment variable of the whole process allows it. Ours is for
        # loopback only and was checked by the settings, so it is shown an address that it accepts.
        token = session.fetch_token("https://token.invalid/", **asked)
    return str(token["access_token"])


class _Bridge(BaseAdapter):
    """Carries the token request over our own remote, and looks at the answer before oauthlib does."""

    def __init__(self, remote: HttpRemote, url: str, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._remote = remote
        self._url = url
        self._secrets = secrets
        self.life = _UNSTATED

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
        except UnknownOutcome as error:
            raise TransientError(f"token endpoint: {error}", remote=True) from None
        except TransientError as error:
            raise TransientError(f"token endpoint: {error}", remote=True) from None
        found = _token_in(answer, self._secrets)
        self.life = _life(found.get("expires_in"))
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, self._url
        response.raw = None
        # Only what oauthlib may see: it stumbles over an odd expires_in and raises over another scope.
        text = json.dumps({"access_token": found["access_token"], "token_type": "Bearer"})
        response._content = text.encode()  # noqa: SLF001  requests has no way to set it
        return response

    def close(self) -> None:
        """Leave the remote open: it is not ours."""


def _token_in(answer: Answer, secrets: tuple[str, ...]) -> dict[str, Any]:
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
    word = error if isinstance(error, str) and _WORD.fullmatch(error) and error not in secrets else None
    if answer.status in {400, 401, 403} and (word or answer.status != 400):
        raise BlockedError(
            f"{where} refused: {answer.status} {word or 'without a reason'}; {_advice(word)}", evidence=evidence
        )
    if answer.status == 407:
        raise BlockedError(f"{where}: the proxy asks for credentials (407)", evidence=evidence)
    raise TransientError(
        f"{where}: a token was expected, {answer.status} {'with ' + word if word else 'without one'} came",
        evidence=evidence,
        retry_after=retry_after(answer) if answer.status in {429, 503} else None,
        remote=True,
    )


def _advice(word: str | None) -> str:
    if word == "unauthorized_client":
        return "the OAuth application needs an application user"
    if word == "invalid_scope":
        return "check auth.scope"
    return (
        "check client_id and client_secret, and that the instance allows this grant"
        " (glide.oauth.inbound.client.credential.grant_type.enabled) and its application user is active"
    )


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
