"""
Those of whom nothing is known yet: a few of them are looked at at a time, the others wait without a thread.

A crowd that comes at once would otherwise keep the processor from those who are known, each of its threads for a while.
Nobody keeps a turn while somebody else is waited for, be it the client itself; so turns pass quickly.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from poller.ingress.holding import Holding

#: From so many on it is a crowd.
_CROWD: Final = 5


class Newcomers:
    """
    Turns, given in the order in which they were asked for; for any number of threads.

    Args:
        serve: Called with what was put, once it has its turn; raises nothing.

        turns: How many there are.

        pause: Seconds between a turn that was in vain and the next one.

        now: Seconds of a monotonic clock.
    """

    def __init__(
        self, serve: Callable[[Any], None], turns: int, pause: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._serve = serve
        self._free = turns
        self._pause = pause
        self._now = now
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._pausing = Holding(lambda _: self._next())

    def start(self) -> None:
        """Pause from now on."""
        self._pausing.start()

    def stop(self) -> None:
        """Pause no more."""
        self._pausing.stop()

    @property
    def crowd(self) -> bool:
        """Whether many wait for a turn."""
        return len(self._waiting) >= _CROWD

    def put(self, one: Any) -> None:  # noqa: ANN401  whatever is served
        """Have *one* served when its turn has come; whoever serves it calls `end`."""
        if self._take_or_wait(lambda: self._serve(one)):
            self._serve(one)

    def take(self, patience: float) -> bool:
        """Wait for a turn, at most so many seconds; return whether there was one, to be ended by `end`."""
        gate = threading.Lock()
        gate.acquire()
        if self._take_or_wait(gate.release) or gate.acquire(timeout=patience):
            return True
        with self._lock:
            try:
                self._waiting.remove(gate.release)
            except ValueError:  # given between the time and the lock
                return True
        return False

    def end(self, *, vain: bool = False) -> None:
        """
        Let the next one have a turn that has ended.

        Args:
            vain: Nobody has proven who he is; where that is so again and again, it must not take all of the time.
        """
        if vain:
            self._pausing.put(None, self._now() + self._pause)
        else:
            self._next()

    def _next(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            begin = self._waiting.popleft()
        begin()

    def _take_or_wait(self, begin: Callable[[], None]) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.append(begin)
            return False
