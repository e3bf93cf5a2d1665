"""
What stands in the Authorization header, and where it comes from.

requests-oauthlib is used for one thing, the token request, and only here. Its session is made anew for each token and
never shared: a shared one sends requests without a token while another thread renews it. Its transport is our own, so
limits, TLS, proxy and "no redirects" hold for tokens too.

Source: RFC 6749; servicenow.md section 1; dependencies.md section 2.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote_plus

import requests
from oauthlib.oauth2 import BackendApplicationClient, LegacyApplicationClient
from requests.adapters import BaseAdapter
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from poller.clients.auth import (
    AuthSettings,
    BasicAuth,
    BearerAuth,
    HeaderAuth,
    NoAuth,
    PasswordAuth,
    TokenAuth,
)
from poller.clients.http import Answer, HttpRemote
from poller.clients.retry_after import retry_after
from poller.errors import BlockedError, Evidence, PollerError, TransientError, UnknownOutcome

__all__ = ["AuthSettings", "Credentials", "Grant", "TokenSource", "credentials"]

# They write tokens and secrets at DEBUG.
for _name in ("requests_oauthlib", "oauthlib"):
    logging.getLogger(_name).setLevel(logging.INFO)

#: A token that is said to live shorter is used this long all the same: else each call would ask for a new one.
_FLOOR: Final = 1.0
#: RFC 6749 only recommends ``expires_in``; ServiceNow's tokens live 1800 s.
_UNSTATED: Final = 1800.0
_LONGEST: Final = 86_400.0
_DEADLINE: Final = 30.0
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_WORD: Final = re.compile(r"[a-z_]{1,40}")


class Grant:
    """What one request is sent with. Its text never shows."""

    __slots__ = ("_headers", "proved", "renewable")

    def __init__(self, headers: Mapping[str, str], *, renewable: bool) -> None:
        self._headers = headers
        #: A remote has accepted it: an answer other than 401 came to a request that carried it.
        self.proved = False
        #: True where a 401 may be cured by asking for a new one.
        self.renewable = renewable

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    def __repr__(self) -> str:
        return "Grant(**********)"


class Credentials(Protocol):
    """Hands out grants."""

    #: Whose rights the requests have; no secret.
    identity: str

    def grant(self) -> Grant:
        """
        Return what the next request is to be sent with; never an empty one.

        Raises:
            TransientError: No token just now.

            BlockedError: No token until a person changes something.
        """
        ...

    def drop(self, grant: Grant) -> None:
        """Forget *grant* if it is still the one in use: a remote has refused it."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return what must never be shown, for the redaction of foreign texts."""
        ...


class FixedCredentials:
    """
    Credentials that need no asking.

    Args:
        headers: Made anew for each request, so that a rotated secret is used without a restart.
    """

    def __init__(self, identity: str, headers: Callable[[], dict[str, str]], secrets: Callable[[], list[str]]) -> None:
        self.identity = identity
        self._headers = headers
        self._secrets = secrets

    def grant(self) -> Grant:
        try:
            return Grant(self._headers(), renewable=False)
        except OSError as error:
            raise _unreadable(error) from None

    def drop(self, grant: Grant) -> None:
        """Do nothing: the next grant reads the secret again."""

    def secrets(self) -> tuple[str, ...]:
        try:
            return tuple(self._secrets())
        except OSError:
            return ()


@dataclass(frozen=True, slots=True)
class _Token:
    grant: Grant
    text: str
    #: Monotonic times.
    renew_at: float
    expires_at: float


class TokenSource:
    """
    One token for any number of threads; whoever needs a new one first asks for all.

    Args:
        settings: The grant.

        remote: What the token request is sent through.

        token_url: Where to ask.

        clock: Monotonic; the wall clock may jump.
    """

    def __init__(
        self,
        settings: TokenAuth,
        remote: HttpRemote,
        *,
        token_url: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = settings.username if isinstance(settings, PasswordAuth) else settings.client_id
        self._settings = settings
        self._remote = remote
        self._url = token_url
        self._clock = clock
        self._lock = threading.Lock()
        self._token: _Token | None = None
        #: The last token refused or replaced; an answer may still echo it.
        self._old = ""

    def authorization(self) -> str:
        """Return the value of the Authorization header; see `grant`."""
        return self.grant().headers["Authorization"]

    def grant(self) -> Grant:
        token = self._token
        if token is not None and self._clock() < token.renew_at:
            return token.grant
        # While one thread renews early, the others go on with the token that still lives.
        alive = token is not None and self._clock() < token.expires_at - _FLOOR
        if not self._lock.acquire(blocking=not alive):
            assert token is not None  # noqa: S101  what alive says
            return token.grant
        try:
            return self._renewed()
        finally:
            self._lock.release()

    def drop(self, grant: Grant) -> None:
        token = self._token
        with self._lock:
            token = self._token
            if token is not None and token.grant is grant:
                self._old = token.text
                self._token = None

    def invalidate(self, authorization: str) -> None:
        """Forget the token if *authorization* carries it."""
        token = self._token
        if token is not None and authorization == f"Bearer {token.text}":
            self.drop(token.grant)

    def secrets(self) -> tuple[str, ...]:
        token = self._token
        found = [token.text if token is not None else "", self._old]
        try:
            found.append(self._settings.client_secret.reveal())
            if isinstance(self._settings, PasswordAuth):
                found.append(self._settings.password.reveal())
        except OSError:
            pass
        return tuple(text for text in found if text)

    def _renewed(self) -> Grant:
        """Ask, unless another thread did so while this one waited for the lock."""
        token, now = self._token, self._clock()
        if token is not None and now < token.renew_at:
            return token.grant
        try:
            text, life = self._fetch()
        except PollerError:
            if token is None or now >= token.expires_at - _FLOOR:
                raise
            # Early renewal failed, the token still lives: ask again in a while, not with each request.
            self._token = _Token(token.grant, token.text, now + min(5.0, token.expires_at - now), token.expires_at)
            return token.grant
        same = token is not None and token.text == text
        # The endpoint may hand out the living token again, with what is left of its life.
        grant = token.grant if same and token else Grant({"Authorization": f"Bearer {text}"}, renewable=True)
        if token is not None and not same:
            self._old = token.text
        early = min(60.0, life * 0.1)
        self._token = _Token(grant, text, now + max(_FLOOR, life - early), now + max(_FLOOR, life))
        return grant

    def _fetch(self) -> tuple[str, float]:
        """Return a token and how many seconds it lives."""
        settings = self._settings
        try:
            secret = settings.client_secret.reveal()
            password = settings.password.reveal() if isinstance(settings, PasswordAuth) else None
        except OSError as error:
            raise _unreadable(error) from None
        bridge = _Bridge(self._remote, self._url, tuple(filter(None, (secret, password))))
        try:
            return _ask(settings, bridge, secret, password), bridge.life
        except PollerError:
            raise
        except (Exception, Warning) as error:  # noqa: BLE001  oauthlib even raises a Warning
            # Its text may hold what the endpoint said, and so a secret.
            raise TransientError(
                f"token endpoint {_host(self._url)}: no token in its answer ({type(error).__name__})", remote=True
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


def _unreadable(error: OSError) -> BlockedError:
    return BlockedError(f"secret file {error.filename} cannot be read: {error.strerror}")


def credentials(auth: AuthSettings, remote: HttpRemote, *, token_url: str | None = None) -> Credentials:
    """
    Return what *auth* describes.

    Args:
        remote: Token requests are sent through it.

        token_url: Where the settings name no token address.

    Raises:
        ValueError: A token address is needed and none is known.
    """
    if isinstance(auth, NoAuth):
        return FixedCredentials("", dict, list)
    if isinstance(auth, BasicAuth):
        return FixedCredentials(
            auth.username,
            lambda: {"Authorization": "Basic " + _pair(auth.username, auth.password.reveal())},
            lambda: [auth.password.reveal(), _pair(auth.username, auth.password.reveal())],
        )
    if isinstance(auth, BearerAuth):
        return FixedCredentials(
            "bearer",
            lambda: {"Authorization": f"Bearer {auth.token.reveal()}"},
            lambda: [auth.token.reveal()],
        )
    if isinstance(auth, HeaderAuth):
        return FixedCredentials(
            auth.name.lower(), lambda: {auth.name: auth.value.reveal()}, lambda: [auth.value.reveal()]
        )
    url = auth.token_url or token_url
    if url is None:
        raise ValueError("auth.token_url is needed")
    return TokenSource(auth, remote, token_url=url)


def _pair(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()
