"""
What stands in the Authorization header, and where it comes from.

One token serves all threads; it is asked for by one of them (`poller.clients.token_request`). A request is never sent
without its token: whoever cannot have one gets an error instead.

Source: RFC 6749; servicenow.md section 1; dependencies.md section 2.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from poller.clients.auth import (
    AuthSettings,
    BasicAuth,
    BearerAuth,
    HeaderAuth,
    NoAuth,
    PasswordAuth,
    TokenAuth,
)
from poller.clients.http import HttpRemote
from poller.clients.token_request import request_token
from poller.errors import BlockedError, PollerError
from poller.logs import hide

__all__ = ["AuthSettings", "Credentials", "Grant", "TokenSource", "credentials"]

#: A token that is said to live shorter is used this long all the same: else each call would ask for a new one.
_FLOOR: Final = 1.0


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
        hide(text)
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
        return request_token(settings, self._remote, self._url, secret, password)


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
