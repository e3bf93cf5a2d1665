"""
How each OAuth 2 grant comes to a token: what is sent along, and what follows when that is refused.

It keeps refresh tokens, in memory alone; access tokens are `poller.clients.oauth`'s. Secrets are read anew for each request.

Source: RFC 6749 4.3, 4.4, 6; RFC 7523; servicenow.md 1.1 and 1.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, Protocol

from poller.clients.assertion import Claims, algorithm_for, load_key, signed
from poller.clients.auth import JwtBearerAuth, PasswordAuth, RefreshAuth, TokenAuth
from poller.clients.http import HttpRemote
from poller.clients.revealing import reveal
from poller.clients.token_request import JWT_BEARER, Granted, TokenRefused, TokenRequest, request_token
from poller.errors import BlockedError
from poller.logs import hide
from poller.values import Secret

#: Clocks closer than this in seconds are no reason for a refused assertion.
_CLOSE: Final = 30.0


class Asker(Protocol):
    """Comes to a token."""

    #: Whose rights it gives; no secret.
    identity: str

    def ask(self) -> Granted:
        """
        Return a token, newly asked for.

        Raises:
            TransientError: No token just now.

            BlockedError: No token until a person changes something.
        """
        ...

    def distrust(self) -> None:
        """Take note that the last token never was of any use."""
        ...

    def secrets(self) -> list[Secret]:
        """Return the secrets that are sent, as the settings have them."""
        ...


def asker(settings: TokenAuth, remote: HttpRemote, url: str) -> Asker:
    """Return what asks *url* for tokens as *settings* say."""
    if isinstance(settings, JwtBearerAuth):
        return JwtAsker(settings, remote, url)
    if isinstance(settings, PasswordAuth | RefreshAuth):
        return RefreshingAsker(settings, remote, url)
    return ClientAsker(settings, remote, url)


class ClientAsker:
    """The grant ``client_credentials``, and the ground of all others."""

    def __init__(self, settings: TokenAuth, remote: HttpRemote, url: str) -> None:
        self.identity = settings.client_id or ""
        self._client = settings
        self._remote = remote
        self._url = url

    def ask(self) -> Granted:
        return self._send("client_credentials", {}, scope=self._client.scope)

    def distrust(self) -> None:
        """Do nothing: the next one is asked for in the same way."""

    def secrets(self) -> list[Secret]:
        return [] if self._client.client_secret is None else [self._client.client_secret]

    def _send(self, grant: str, fields: Mapping[str, str], *, scope: str | None) -> Granted:
        client = self._client
        asked = TokenRequest(
            grant=grant,
            client_id=client.client_id,
            client_secret=None if client.client_secret is None else reveal(client.client_secret),
            client_auth=client.client_auth,
            scope=scope,
            fields=fields,
        )
        return request_token(asked, self._remote, self._url)


class RefreshingAsker(ClientAsker):
    """
    The types ``password`` and ``refresh``: by refresh token while one lives, else by user name and password.

    Refused by one token, it goes on to the next: the one that came last, the one of the settings, the password.
    """

    def __init__(self, settings: PasswordAuth | RefreshAuth, remote: HttpRemote, url: str) -> None:
        super().__init__(settings, remote, url)
        self.identity = settings.username or settings.client_id
        self._settings = settings
        self._refresh = ""

    def ask(self) -> Granted:
        refused: TokenRefused | None = None
        for token in self._refresh_tokens():
            try:
                # Without a scope: the one that was granted at first stays.
                return self._kept(self._send("refresh_token", {"refresh_token": token}, scope=None))
            except TokenRefused as error:
                refused = error
        settings = self._settings
        if settings.username is not None and settings.password is not None:
            self._refresh = ""
            fields = {"username": settings.username, "password": reveal(settings.password)}
            return self._kept(self._send("password", fields, scope=settings.scope))
        assert refused is not None  # noqa: S101  the settings demand one of the two
        raise refused

    def distrust(self) -> None:
        """Go back to the password, where there is one: what a refresh token brought was of no use."""
        if self._settings.password is not None:
            self._refresh = ""

    def secrets(self) -> list[Secret]:
        further = [self._settings.password]
        if isinstance(self._settings, RefreshAuth):
            further.append(self._settings.refresh_token)
        return [*super().secrets(), *(secret for secret in further if secret is not None)]

    def _refresh_tokens(self) -> list[str]:
        found = [self._refresh]
        if isinstance(self._settings, RefreshAuth) and self._settings.refresh_token is not None:
            found.append(reveal(self._settings.refresh_token))
        return list(dict.fromkeys(filter(None, found)))

    def _kept(self, granted: Granted) -> Granted:
        # Some providers hand out a new one each time and let the old one die.
        if granted.refresh is not None:
            hide(granted.refresh)
            self._refresh = granted.refresh
        return granted


class JwtAsker(ClientAsker):
    """
    The type ``jwt_bearer``: a new assertion for each request.

    Where one is refused and the answer's Date is far from our clock, the next is dated by theirs, once.

    Args:
        wall: Seconds since 1970.
    """

    def __init__(
        self, settings: JwtBearerAuth, remote: HttpRemote, url: str, wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__(settings, remote, url)
        self.identity = settings.subject
        self._settings = settings
        self._wall = wall
        #: Seconds that their clock is ahead of ours, as far as it mattered.
        self._ahead = 0.0

    def ask(self) -> Granted:
        try:
            return self._send(JWT_BEARER, {"assertion": self._assertion()}, scope=self._settings.scope)
        except TokenRefused as error:
            if not self._set_right(error.date):
                raise
        return self._send(JWT_BEARER, {"assertion": self._assertion()}, scope=self._settings.scope)

    def secrets(self) -> list[Secret]:
        further = (self._settings.private_key, self._settings.passphrase)
        return [*super().secrets(), *(secret for secret in further if secret is not None)]

    def _assertion(self) -> str:
        settings = self._settings
        passphrase = None if settings.passphrase is None else reveal(settings.passphrase)
        claims = Claims(
            issuer=settings.issuer or settings.client_id or "",
            subject=settings.subject,
            audience=settings.audience or settings.client_id or self._url,
            key_id=settings.key_id,
        )
        try:
            key = load_key(reveal(settings.private_key), passphrase)
            algorithm = algorithm_for(key, settings.algorithm)
        except ValueError as error:
            # It was right when the settings were read: the file has changed since.
            raise BlockedError(f"auth: {error}") from None
        return signed(key, algorithm, claims, now=self._wall() + self._ahead)

    def _set_right(self, date: datetime | None) -> bool:
        """Go by their clock from now on; return whether that makes a difference."""
        ahead = 0.0 if date is None else date.timestamp() - self._wall()
        if abs(ahead) < _CLOSE:
            ahead = 0.0
        if abs(ahead - self._ahead) < _CLOSE:
            return False
        self._ahead = ahead
        return True
