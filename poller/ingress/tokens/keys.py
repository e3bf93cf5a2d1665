"""
The keys in use, and when they are fetched anew.

One fetch at a time, on a thread of its own: a key that is known never waits for it. Keys are fetched again as they get old, so
that a withdrawn one goes, and where a token names one that is not known, so that a new one comes; in all at most once in
``COOLDOWN``, whoever asks and how often. Where there is no key that may still be used, the pauses are shorter, since then nobody
is served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol

import jwt

from poller.clock import Clock
from poller.ingress.principal import Refused, Undecided, about_to_wait
from poller.ingress.tokens.jwks import NoKeys
from poller.logs import get_logger

log = get_logger()

#: Seconds between two fetches, however many tokens name keys that are not known.
COOLDOWN: Final = 60.0
#: Seconds after which keys are fetched again although nobody misses any.
OLD: Final = 300.0
#: The first pause after a failure while there is no key at all; it doubles, up to COOLDOWN.
_FIRST_PAUSE: Final = 5.0
#: Callers that may wait for a fetch under way; the others are told to come again. Each holds a thread of the server.
_MOST_WAITING: Final = 4
_LONGEST_WAIT: Final = 10.0

Found = list[tuple[str | None, jwt.PyJWK]]


class Source(Protocol):
    """Where keys come from: `poller.ingress.tokens.jwks.KeySource`."""

    def fetch(self) -> Found:
        """
        Return the usable keys, each with its id.

        Raises:
            NoKeys: They cannot be had.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Keys:
    """
    The keys of one issuer, for any number of threads.

    Args:
        stale: How long keys are used after they were fetched.

        clock: Monotonic seconds.

        count: Called with ``keys_fetched`` or ``keys_failed``, for the metrics.
    """

    def __init__(
        self,
        source: Source,
        *,
        stale: timedelta,
        clock: Callable[[], float] = Clock.monotonic,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._stale = stale.total_seconds()
        self._old = min(OLD, self._stale / 2)
        self._clock = clock
        self._count = count
        self._changed = threading.Condition()
        self._keys: Found = []
        self._fetched_at = self._tried_at = float("-inf")
        self._failures = 0
        self._fetching = False
        self._waiting = 0
        self._closed = False

    def find(self, kid: str | None) -> jwt.PyJWK:
        """
        Return the key with this id; where the token names none, the only one there is.

        Raises:
            Refused: There is none.

            Undecided: Nobody can say, since the provider does not answer.
        """
        with self._changed:
            living = self._living()
            key = _pick(living, kid)
            if key is not None:
                if self._clock() - self._fetched_at >= self._old:
                    self._start()
                return key
            if living and kid is None:
                raise Refused("it names no key, and there are several")
            asked = self._start()
            if not asked and not self._fetching:
                raise self._failed(living)
            self._wait()
            living = self._living()
            key = _pick(living, kid)
            if key is None:
                raise self._failed(living)
            return key

    def close(self) -> None:
        """Fetch no more."""
        with self._changed:
            self._closed = True
        self._source.close()

    def _living(self) -> Found:
        return self._keys if self._clock() - self._fetched_at < self._stale else []

    @staticmethod
    def _failed(living: Found) -> Refused | Undecided:
        return Refused("no key of the issuer has its kid") if living else Undecided("the issuer's keys cannot be had")

    def _start(self) -> bool:
        """Begin a fetch, unless one is under way or was made a moment ago; return whether one has begun."""
        now = self._clock()
        pause = COOLDOWN
        if not self._living():
            pause = min(COOLDOWN, _FIRST_PAUSE * 2 ** min(self._failures - 1, 10)) if self._failures else 0.0
        if self._closed or self._fetching or now - self._tried_at < pause:
            return False
        self._fetching, self._tried_at = True, now
        try:
            threading.Thread(target=self._fetch, name="keys", daemon=True).start()
        except RuntimeError:  # no thread to be had: as good as no answer
            self._fetching = False
            return False
        return True

    def _wait(self) -> None:
        """
        Wait until the fetch under way has ended.

        Raises:
            Undecided: Too many wait already, or it takes too long.
        """
        if self._waiting >= _MOST_WAITING:
            raise Undecided("the issuer's keys are being fetched", retry_after=timedelta(seconds=1))
        self._waiting += 1
        about_to_wait()
        try:
            if not self._changed.wait_for(lambda: not self._fetching, timeout=_LONGEST_WAIT):
                raise Undecided("the issuer's keys are being fetched")
        finally:
            self._waiting -= 1

    def _fetch(self) -> None:
        found: Found = []
        why = "poller itself failed"
        try:
            found = self._source.fetch()
        except NoKeys as error:
            why = str(error)
        finally:
            # Also after a fault that nobody foresaw: else no one would ever fetch again.
            self._ended(found, why)

    def _ended(self, found: Found, why: str) -> None:
        with self._changed:
            self._fetching = False
            if found:
                self._keys, self._fetched_at, self._failures = found, self._clock(), 0
            else:
                self._failures += 1
            usable = len(self._living())
            self._changed.notify_all()
        if found:
            log.debug("keys_fetched", count=len(found))
        else:
            log.warning("keys_failed", error=why, usable=usable)
        self._count("keys_fetched" if found else "keys_failed")


def _pick(keys: Found, kid: str | None) -> jwt.PyJWK | None:
    if kid is None:
        return keys[0][1] if len(keys) == 1 else None
    return next((key for name, key in keys if name == kid), None)
