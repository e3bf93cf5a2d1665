"""
The lanes in which sends wait for a connection: one lane a remote, with as many workers as it may have requests in flight.

More is claimed than there are connections, so that none of them waits for the dispatcher's turn; each worker takes what
comes next until its lane is empty. Where a remote fails as a whole, or a route may not go on, what waits behind it is given
back unsent. For sinks that are simply sent to again; who needs proof of each attempt has no lane.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

from poller.errors import BlockedError, HeldError, NotSentError, TransientError
from poller.route import Route
from poller.work import Done, Send

#: Sends claimed for each connection where an outcome in doubt is simply sent again: while a turn settles and claims, the
#: connections go on with these.
AHEAD = 48


@dataclass
class _Lane:
    waiting: deque[Send] = field(default_factory=deque)
    workers: int = 0
    #: What a send takes, on the mean of the latest.
    seconds: float = 0.0

    def took(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) / 8 if self.seconds else seconds

    def next(self) -> Send | None:
        """Take what may go now: a route whose remote others use too may allow fewer requests in flight than they do."""
        for index, work in enumerate(self.waiting):
            if self.workers <= work.route.concurrency:
                del self.waiting[index]
                return work
        return None

    def take_out(self, wanted: Callable[[Send], bool]) -> list[Send]:
        """Take out all that is *wanted*."""
        found = [work for work in self.waiting if wanted(work)]
        self.waiting = deque(work for work in self.waiting if not wanted(work))
        return found


class Lanes:
    """
    All lanes of a dispatcher.

    Args:
        executor: Gives the workers.

        carry_out: Does a piece of work, tells the dispatcher, and returns what it told; never raises.

        give_back: Tells the dispatcher of a piece of work that is not done; never raises.

        lease: How long a claim lasts; half of it is all the time that a send has until its first byte.
    """

    def __init__(
        self,
        executor: Executor,
        carry_out: Callable[[Send], Done],
        give_back: Callable[[Send], object],
        *,
        lease: Callable[[], timedelta] = lambda: timedelta(seconds=60),
    ) -> None:
        self._executor = executor
        self._carry_out = carry_out
        self._give_back = give_back
        self._lease = lease
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}

    def most(self, route: Route) -> int:
        """Return how much of a route may be claimed at a time: what can begin long before its time is over."""
        if route.sink.guarded:
            return route.concurrency
        with self._lock:
            lane = self._lanes.get(route.sink.remote)
            seconds = lane.seconds if lane is not None else 0.0
        ahead = int(self._lease().total_seconds() / 4 / seconds) if seconds else AHEAD
        return max(1, min(AHEAD, ahead)) * route.concurrency

    @property
    def plenty(self) -> bool:
        """Whether there is a lane that is in use, and none of them will be empty soon."""
        with self._lock:
            used = [lane for lane in self._lanes.values() if lane.workers]
            return bool(used) and all(len(lane.waiting) >= lane.workers * AHEAD / 2 for lane in used)

    def add(self, work: Send) -> None:
        """Put *work* at the end of its remote's lane."""
        with self._lock:
            lane = self._lanes.setdefault(work.route.sink.remote, _Lane())
            lane.waiting.append(work)
            if lane.workers >= work.route.concurrency:
                return
            lane.workers += 1
        self._executor.submit(self._empty, lane)

    def _empty(self, lane: _Lane) -> None:
        while True:
            with self._lock:
                work = lane.next()
                if work is None:
                    # Whoever is left takes what this one may not: the last of them may take anything.
                    lane.workers -= 1
                    return
            began = monotonic()
            done = self._carry_out(work)
            if not isinstance(done.result, NotSentError):
                lane.took(monotonic() - began)
            self._clear(lane, done)

    def _clear(self, lane: _Lane, done: Done) -> None:
        """Give back what must not follow *done* at once: it would ask a remote that has just said no."""
        with self._lock:
            if isinstance(done.result, BlockedError | HeldError):
                unsent = lane.take_out(lambda work: work.route.name == done.work.route.name)
            elif isinstance(done.result, TransientError) and done.result.remote:
                unsent = lane.take_out(lambda _: True)
            else:
                return
        for work in unsent:
            self._give_back(work)
