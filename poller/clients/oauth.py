"""
What stands in the Authorization header, and where it comes from.

One token serves all threads; it is asked for by one of them (`poller.clients.grants`). A request is never sent without its
token: whoever cannot have one gets an error instead.

Source: RFC 6749; servicenow.md section 1; dependencies.md section 2.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from poller.clients.auth import AuthSettings, BasicAuth, BearerAuth, HeaderAuth, NoAuth, TokenAuth
from poller.clients.grants import asker
from poller.clients.http import HttpRemote
from poller.clients.lines import header_line
from poller.clients.revealing import reveal
from poller.errors import BlockedError, PollerError
from poller.logs import hide

__all__ = ["AuthSettings", "Credentials", "Grant", "TokenSource", "credentials"]

#: A token that is said to live shorter is used this long all the same: else each call would ask for a new one.
_FLOOR: Final = 1.0


class Grant:
    """
    What one request is sent with. Its text never shows.

    Args:
        renewable: Says whether the next grant may be another.
    """

    __slots__ = ("_headers", "_renewable", "proved")

    def __init__(self, headers: Mapping[str, str], *, renewable: Callable[[], bool]) -> None:
        self._headers = headers
        self._renewable = renewable
        #: A remote has accepted it: an answer other than 401 came to a request that carried it.
        self.proved = False

    @property
    def renewable(self) -> bool:
        """Whether a 401 may be cured by a new grant, as far as is known just now."""
        return self._renewable()

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
        #: The grant in use; the same one while the secret is, so that it can prove itself.
        self._grant: Grant | None = None

    def grant(self) -> Grant:
        headers = self._headers()
        known = self._grant
        if known is not None and known.headers == headers:
            return known
        try:
            "".join(header_line(name, value) for name, value in headers.items())
        except ValueError:
            raise BlockedError("auth: its secret holds a character that no header may; write it anew") from None
        found = self._grant = Grant(headers, renewable=lambda: self._rotated(headers))
        return found

    def drop(self, grant: Grant) -> None:
        """Begin anew: the next grant reads the secret again, and has proved nothing."""
        if self._grant is grant:
            self._grant = None

    def secrets(self) -> tuple[str, ...]:
        try:
            return tuple(self._secrets())
        except BlockedError:
            return ()

    def _rotated(self, headers: Mapping[str, str]) -> bool:
        """Return whether the secret is another by now: the one that was refused had just been replaced."""
        try:
            return self._headers() != headers
        except BlockedError:
            return False


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
        self._asker = asker(settings, remote, token_url)
        self.identity = self._asker.identity
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
                if not grant.proved:
                    self._asker.distrust()

    def invalidate(self, authorization: str) -> None:
        """Forget the token if *authorization* carries it."""
        token = self._token
        if token is not None and authorization == f"Bearer {token.text}":
            self.drop(token.grant)

    @property
    def left(self) -> float | None:
        """Seconds that the token in use still lives, None without one."""
        token = self._token
        return None if token is None else max(0.0, token.expires_at - self._clock())

    def secrets(self) -> tuple[str, ...]:
        token = self._token
        found = [token.text if token is not None else "", self._old]
        for secret in self._asker.secrets():
            # One that cannot be read is not in any text either.
            with contextlib.suppress(OSError, ValueError):
                found.append(secret.reveal())
        return tuple(text for text in found if text)

    def _renewed(self) -> Grant:
        """Ask, unless another thread did so while this one waited for the lock."""
        token, now = self._token, self._clock()
        if token is not None and now < token.renew_at:
            return token.grant
        try:
            granted = self._asker.ask()
        except PollerError:
            if token is None or now >= token.expires_at - _FLOOR:
                raise
            # Early renewal failed, the token still lives: ask again in a while, not with each request.
            self._token = _Token(token.grant, token.text, now + min(5.0, token.expires_at - now), token.expires_at)
            return token.grant
        text, life = granted.token, granted.life
        hide(text)
        same = token is not None and token.text == text
        # The endpoint may hand out the living token again, with what is left of its life.
        grant = token.grant if same and token else Grant({"Authorization": f"Bearer {text}"}, renewable=_always)
        if token is not None and not same:
            self._old = token.text
        early = min(60.0, life * 0.1)
        self._token = _Token(grant, text, now + max(_FLOOR, life - early), now + max(_FLOOR, life))
        return grant


def _always() -> bool:
    return True


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
            lambda: {"Authorization": "Basic " + _pair(auth.username, reveal(auth.password))},
            lambda: [reveal(auth.password), _pair(auth.username, reveal(auth.password))],
        )
    if isinstance(auth, BearerAuth):
        return FixedCredentials(
            "bearer",
            lambda: {"Authorization": f"Bearer {reveal(auth.token)}"},
            lambda: [reveal(auth.token)],
        )
    if isinstance(auth, HeaderAuth):
        return FixedCredentials(
            auth.name.lower(), lambda: {auth.name: reveal(auth.value)}, lambda: [reveal(auth.value)]
        )
    url = auth.token_url or token_url
    if url is None:
        raise ValueError("auth.token_url is needed")
    return TokenSource(auth, remote, token_url=url)


def _pair(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()
