"""
The tokens of our own endpoint: 256 random bits, kept as their SHA-256, so that a copy of the database opens nothing.

A token is worth what its client is worth now: one whose secret was replaced, or that is gone from the settings, has none.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from poller.clock import Clock
from poller.errors import DatabaseUnusable
from poller.ingress.auth_settings import ClientSettings
from poller.ingress.principal import Principal, Refused, Undecided
from poller.ingress.tokens.guessing import ClientSecrets, fingerprint
from poller.ingress.tokens.lasting import Lasting
from poller.ingress.tokens.rights import principal
from poller.model import StoredToken

#: How long a token lives.
LIFE: Final = timedelta(minutes=30)
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")
#: Seconds after which a token is looked up again, and a client that was changed is noticed.
_BELIEVED: Final = 10.0
_MOST: Final = 4096


class TokenStore(Protocol):
    """Where tokens are kept: `poller.store.tokens.Tokens`."""

    def keep(self, token: StoredToken, *, now: datetime) -> None:
        """
        Remember *token*, durably, and forget those that have expired by *now*.

        Raises:
            DatabaseUnusable: It could not be kept.
        """
        ...

    def find(self, digest: str) -> StoredToken | None:
        """
        Return the token with this SHA-256 (hex), expired or not.

        Raises:
            DatabaseUnusable: Nobody can say.
        """
        ...


def new_token() -> str:
    """Return a new token: 43 letters, 256 bits."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Return what a token is known by where it is not kept."""
    return hashlib.sha256(token.encode()).hexdigest()


def utc_now() -> datetime:
    """Return the wall clock's time; a token's life is told to its client in seconds, whatever the clock does."""
    return datetime.now(UTC)


class OpaqueVerifier:
    """
    Judges tokens of our own endpoint.

    Args:
        now: The time in UTC.

        clock: Monotonic seconds.
    """

    def __init__(
        self,
        clients: Mapping[str, ClientSettings],
        secrets: ClientSecrets,
        tokens: TokenStore,
        *,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = Clock.monotonic,
    ) -> None:
        self._clients = clients
        self._secrets = secrets
        self._tokens = tokens
        self._now = now
        self._known: Lasting[str, Principal] = Lasting(_MOST, clock)

    def verify(self, token: str) -> Principal:
        if not _FORM.fullmatch(token):
            raise Refused("not one of our tokens")
        digest = digest_of(token)
        if (known := self._known.get(digest)) is not None:
            return known
        try:
            stored = self._tokens.find(digest)
        except DatabaseUnusable:
            raise Undecided("the database does not answer") from None
        found, seconds = self._judged(stored)
        self._known.put(digest, found, seconds)
        return found

    def close(self) -> None:
        """Nothing is held open."""

    def _judged(self, stored: StoredToken | None) -> tuple[Principal, float]:
        """Return whose token it is, and for how many seconds that may be believed."""
        if stored is None:
            raise Refused("not one of our tokens")
        left = (stored.expires_at - self._now()).total_seconds()
        if left <= 0:
            raise Refused("expired")
        text = self._secrets.stored(stored.client)
        if text is None or fingerprint(text) != stored.fingerprint:
            raise Refused("its client is gone, or has another secret by now")
        return principal(stored.client, stored.scopes, self._clients), min(left, _BELIEVED)
