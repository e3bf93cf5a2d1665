"""
How much is taken of whom: token buckets, requests under way, and the pace at which refusals are told.

In memory, each process for itself; times are seconds of a clock that is never set.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

_MINUTE = 60.0
#: From so many on, those that are full again are forgotten.
_MOST_BUCKETS = 10_000
#: Seconds of waiting from which on many do.
_CROWD = 0.1


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How a bucket stands after one request; the tightest of several is what a caller is told."""

    #: Requests a minute, and as many at once where nobody has asked for a minute.
    limit: int
    #: Whole requests that are left now.
    remaining: int
    #: Seconds until it is full again.
    reset: int
    #: Seconds until the next request may come; 0: this one was let through.
    wait: int = 0

    def headers(self) -> list[tuple[str, str]]:
        """Return what tells a caller of it: the IETF draft's fields in the form that API managers send."""
        found = [
            ("RateLimit-Limit", str(self.limit)),
            ("RateLimit-Remaining", str(self.remaining)),
            ("RateLimit-Reset", str(self.reset)),
        ]
        return [*found, ("Retry-After", str(self.wait))] if self.wait else found


class Bucket:
    """A token bucket; for any number of threads."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.limit = per_minute
        self._tokens = float(per_minute)
        self._at = now
        self._lock = threading.Lock()

    def take(self, now: float) -> Quota:
        """Take one, where there is one."""
        rate = self.limit / _MINUTE
        with self._lock:
            self._tokens = min(self.limit, self._tokens + max(0.0, now - self._at) * rate)
            self._at = now
            wait = 0
            if self._tokens >= 1.0:
                self._tokens -= 1.0
            else:
                wait = max(1, ceil((1.0 - self._tokens) / rate))
            left = self._tokens
        return Quota(limit=self.limit, remaining=int(left), reset=ceil((self.limit - left) / rate), wait=wait)

    def full(self, now: float) -> bool:
        """Return whether nothing of it is missing."""
        return self._tokens + (now - self._at) * self.limit / _MINUTE >= self.limit

    def give_back(self) -> None:
        """Undo one `take`: the request was refused for another reason."""
        with self._lock:
            self._tokens = min(self.limit, self._tokens + 1.0)


class Buckets:
    """
    The buckets of the whole server, of its clients and of its routes.

    Args:
        now: Seconds of a monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._buckets: dict[str, Bucket] = {}

    def take(self, limits: Mapping[str, int]) -> Quota | None:
        """
        Take one request of each bucket, or of none.

        Args:
            limits: Requests a minute by the bucket's name; 0: no limit.

        Returns:
            The tightest of them; None where there is no limit at all.
        """
        now = self._now()
        taken: list[Bucket] = []
        found: Quota | None = None
        for name, limit in limits.items():
            if not limit:
                continue
            bucket = self._bucket(name, limit, now)
            quota = bucket.take(now)
            if quota.wait:
                for each in taken:
                    each.give_back()
                return quota
            taken.append(bucket)
            found = tightest(found, quota)
        return found

    def _bucket(self, name: str, limit: int, now: float) -> Bucket:
        with self._lock:
            found = self._buckets.get(name)
            if found is None or found.limit != limit:
                if len(self._buckets) >= _MOST_BUCKETS:
                    # A provider may name a client for each of its users. A bucket that is full again tells nothing.
                    self._buckets = {kept: one for kept, one in self._buckets.items() if not one.full(now)}
                found = self._buckets[name] = Bucket(limit, now)
            return found


def tightest(one: Quota | None, other: Quota | None) -> Quota | None:
    """Return the quota of which less is left; None where there is none."""
    if one is None or other is None:
        return one or other
    return other if other.remaining < one.remaining else one


class Gauge:
    """Counts what is under way, up to a limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: How many there are.
        self.count = 0
        self._lock = threading.Lock()

    @contextmanager
    def enter(self) -> Iterator[bool]:
        """Count one in for the block; yields False where there was no room, and nothing was counted."""
        with self._lock:
            room = self.count < self._most
            self.count += room
        try:
            yield room
        finally:
            if room:
                with self._lock:
                    self.count -= 1


class Pace:
    """
    The pace at which refusals are told: a flood of forged requests waits for its answers, while who is known does not.

    Some come at once; beyond that each takes its turn, slower where many wait: one client that is wrong hardly notices. Where
    the queue is too long for that, nothing is said at all; as long as it is not, the flood waits, which costs less than that
    it comes again.

    Args:
        per_second: Refusals told while hardly anybody waits, and in a crowd.

        at_once: Before anybody has to wait.

        longest: Seconds that anybody waits.
    """

    def __init__(
        self,
        per_second: tuple[float, float] = (200.0, 50.0),
        at_once: int = 20,
        longest: float = 10.0,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gap, self._crowded = (1.0 / each for each in per_second)
        self._slack = at_once * self._gap
        self._longest = longest
        self._now = now
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self, *, crowd: bool = False) -> float | None:
        """
        Return when the refusal is to be told; None: not at all, close the connection.

        Args:
            crowd: Many wait to be looked at at all.
        """
        with self._lock:
            now = self._now()
            at = max(self._next, now - self._slack)
            if at - now > self._longest:
                return None
            self._next = at + (self._crowded if crowd or at - now >= _CROWD else self._gap)
        return max(now, at)
