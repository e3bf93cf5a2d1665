"""
The lanes in which sends wait for a connection: one lane a remote, as many workers in it as it may have requests in flight.

More is claimed than there are connections, so that none of them waits for the dispatcher's turn; each worker takes what
comes next until its lane is empty. For sinks that are simply sent to again; who needs proof of each attempt has no lane.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from poller.work import Send


@dataclass
class _Lane:
    waiting: deque[Send] = field(default_factory=deque)
    workers: int = 0


class Lanes:
    """
    All lanes of a dispatcher.

    Args:
        executor: Gives the workers.

        carry_out: Does a piece of work and tells the dispatcher; never raises.
    """

    def __init__(self, executor: Executor, carry_out: Callable[[Send], None]) -> None:
        self._executor = executor
        self._carry_out = carry_out
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}

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
                if not lane.waiting:
                    lane.workers -= 1
                    return
                work = lane.waiting.popleft()
            self._carry_out(work)
