"""
A client's secret, checked so that guessing is slow and says nothing.

An unknown client costs what a known one does, and gets the same answer. Two checks run at the same time, each some 50 ms of a
core; failures are counted for each client and each peer, and after too many nobody is asked any more for a while. A peer from
which that client came with the right secret is counted apart, so that strangers cannot lock it out. A secret that was right is
remembered for five minutes as an HMAC under a key that this process alone has.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from poller.clock import Clock
from poller.ingress.auth_settings import ClientSettings
from poller.ingress.principal import Refused, Undecided, about_to_wait
from poller.ingress.scrypt import ScryptHash
from poller.ingress.tokens.lasting import Lasting
from poller.logs import get_logger

log = get_logger()

_AT_ONCE: Final = 2
#: Seconds that a caller waits for its turn; each holds a thread of the server.
_TURN: Final = 2.0
_MOST_WAITING: Final = 8
#: Failures in a minute.
_MOST_FAILURES: Final = 20
_WINDOW: Final = 60.0
_REMEMBERED: Final = 300.0
#: A peer is trusted to be that client's own for so long.
_OWN: Final = 86_400.0
_MOST: Final = 4096
#: No secret is longer: what is longer only costs time.
_LONGEST: Final = 1024


class Throttled(Undecided):
    """Too many wrong secrets: 429, nothing was checked."""


class _Failures:
    """Counts failures by somebody, within a window that begins with the first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: Lasting[bytes, tuple[float, int]] = Lasting(_MOST, clock)

    def left(self, who: bytes) -> float:
        """Return for how many seconds *who* has failed too often; 0: it may try."""
        began, count = self._counts.get(who) or (0.0, 0)
        return max(0.0, began + _WINDOW - self._clock()) if count >= _MOST_FAILURES else 0.0

    def add(self, who: bytes) -> None:
        now = self._clock()
        began, count = self._counts.get(who) or (now, 0)
        self._counts.put(who, (began, count + 1), began + _WINDOW - now)


class ClientSecrets:
    """
    Tells whether a secret is a client's.

    Args:
        clients: Those with a ``client_secret``; the others have none that is right.

        clock: Monotonic seconds.
    """

    def __init__(self, clients: Mapping[str, ClientSettings], *, clock: Callable[[], float] = Clock.monotonic) -> None:
        self._clients = clients
        self._key = secrets.token_bytes(32)
        self._nobody = self._like_the_others()
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._waiting = threading.BoundedSemaphore(_AT_ONCE + _MOST_WAITING)
        self._failures = _Failures(clock)
        self._right: Lasting[bytes, bool] = Lasting(_MOST, clock)
        self._own: Lasting[bytes, bool] = Lasting(_MOST, clock)

    def check(self, client: str, secret: str, peer: str) -> str:
        """
        Return the fingerprint of *client*'s hash, if *secret* is its secret.

        Args:
            peer: Where the caller is; any text that stays the same for one machine.

        Raises:
            Refused: It is not, or there is no such client.

            Throttled: Too many were wrong lately.

            Undecided: Too many are being checked.
        """
        text = self.stored(client)
        known = self._digest("right", client, secret, text or "")
        if text is not None and self._right.get(known):
            self._right.put(known, value=True, seconds=_REMEMBERED)
            return fingerprint(text)
        counted = self._counted(client, peer)
        wait = max(self._failures.left(who) for who in counted)
        if wait > 0:
            raise Throttled("too many wrong secrets", retry_after=timedelta(seconds=wait))
        if not self._matches(text, secret):
            for who in counted:
                self._failures.add(who)
            # A stranger's word for who it is does not get into the log.
            log.warning("client_refused", client=client if client in self._clients else None, peer=peer)
            raise Refused("unknown client or wrong secret")
        assert text is not None  # noqa: S101  nobody's hash matches nothing
        self._right.put(known, value=True, seconds=_REMEMBERED)
        self._own.put(self._digest("own", client, peer), value=True, seconds=_OWN)
        return fingerprint(text)

    def stored(self, client: str) -> str | None:
        """Return the text of *client*'s hash as the settings have it just now, None where there is none that can be read."""
        settings = self._clients.get(client)
        if settings is None or settings.client_secret is None:
            return None
        try:
            return settings.client_secret.reveal()
        except (OSError, UnicodeDecodeError):
            return None

    def _like_the_others(self) -> ScryptHash:
        """Return the hash that stands in for an unknown client: as dear as that of the first known one."""
        for client in self._clients:
            try:
                return ScryptHash.parse(self.stored(client) or "").of_nothing()
            except ValueError:
                continue
        return ScryptHash.of(secrets.token_urlsafe(32))

    def _counted(self, client: str, peer: str) -> list[bytes]:
        """Return whom a failure is counted for."""
        if self._own.get(self._digest("own", client, peer)):
            return [self._digest("both", client, peer)]
        # By digest: an id or an address of any length takes no more room than another.
        return [self._digest("client", client), self._digest("peer", peer)]

    def _matches(self, text: str | None, secret: str) -> bool:
        """
        Return whether *text* is the hash of *secret*; without a text, compute as long for nothing.

        Raises:
            Undecided: Too many want to know at the same time.
        """
        try:
            stored = None if text is None else ScryptHash.parse(text)
        except ValueError:  # a file that is being rewritten
            stored = None
        if not self._waiting.acquire(blocking=False):
            raise Undecided("too many secrets are being checked", retry_after=timedelta(seconds=1))
        about_to_wait()
        try:
            if not self._turns.acquire(timeout=_TURN):
                raise Undecided("too many secrets are being checked", retry_after=timedelta(seconds=1))
            try:
                matches = (stored or self._nobody).matches(secret[:_LONGEST])
            finally:
                self._turns.release()
        finally:
            self._waiting.release()
        return matches and stored is not None and len(secret) <= _LONGEST

    def _digest(self, *parts: str) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(8, "big") + data)
        return mac.digest()


def fingerprint(text: str) -> str:
    """Return what a hash is known by where it is not kept: its SHA-256, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
