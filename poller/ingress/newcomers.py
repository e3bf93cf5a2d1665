"""
Those of whom nothing is known yet: a few of them are looked at at a time, the others wait without a thread.

A crowd that comes at once would otherwise keep the processor from those who are known, each of its threads for a while.
Nobody keeps a turn while somebody else is waited for, be it the client itself; so turns pass quickly, and one that does not is
not waited for.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from poller.ingress.holding import Holding

#: From so many on it is a crowd.
_CROWD: Final = 5


@dataclass(eq=False)
class _Waiting:
    """One that waits for a turn: to be served, or in a thread of its own."""

    one: Any = None
    gate: threading.Lock | None = None
    #: The number of the turn it was given.
    turn: int | None = None


class Newcomers:
    """
    Turns, given in the order in which they were asked for; for any number of threads. Each has a number, by which it is ended.

    Args:
        serve: Called with what was put and the number of its turn, once it has one; raises nothing.

        turns: How many there are.

        pause: Seconds between a turn that was in vain and the next one.

        longest: Seconds after which a turn that was not ended counts no more.

        now: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        serve: Callable[[Any, int], None],
        turns: int,
        pause: float,
        longest: float = 1.0,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serve = serve
        self._free = turns
        self._pause = pause
        self._longest = longest
        self._now = now
        self._stopped = False
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._under_way: set[int] = set()
        self._waiting: deque[_Waiting] = deque()
        self._pausing = Holding(lambda _: self._next())
        self._expiring = Holding(self.end)

    def start(self) -> None:
        """Keep time from now on."""
        self._pausing.start()
        self._expiring.start()

    def stop(self) -> None:
        """Serve all who wait, and whoever comes after them, at once."""
        with self._lock:
            self._stopped = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._free -= len(waiting)
            given = [(each, self._give(each)) for each in waiting]
        for each in given:
            self._begin(*each)
        self._pausing.stop()
        self._expiring.stop()

    @property
    def crowd(self) -> bool:
        """Whether many wait for a turn."""
        return len(self._waiting) >= _CROWD

    def put(self, one: Any) -> None:  # noqa: ANN401  whatever is served
        """Have *one* served when its turn has come; whoever serves it calls `end`."""
        self._ask(_Waiting(one=one))

    def withdraw(self, one: Any) -> bool:  # noqa: ANN401
        """Have *one* not be served; return whether it was still waiting."""
        with self._lock:
            for each in self._waiting:
                if each.gate is None and each.one is one:
                    self._waiting.remove(each)
                    return True
        return False

    def take(self, patience: float) -> int | None:
        """Wait for a turn, at most so many seconds; return its number, None where there was none in that time."""
        asking = _Waiting(gate=threading.Lock())
        assert asking.gate is not None  # noqa: S101
        asking.gate.acquire()
        self._ask(asking)
        if not asking.gate.acquire(timeout=patience):
            with self._lock:
                if asking.turn is None:
                    self._waiting.remove(asking)
        return asking.turn

    def end(self, turn: int, *, vain: bool = False) -> None:
        """
        Let the next one have a turn that has ended; nothing where that one has ended already.

        Args:
            vain: Nobody has proven who he is; where that is so again and again, it must not take all of the time.
        """
        with self._lock:
            if turn not in self._under_way:
                return
            self._under_way.discard(turn)
        if vain:
            self._pausing.put(None, self._now() + self._pause)
        else:
            self._next()

    def _ask(self, asking: _Waiting) -> None:
        with self._lock:
            if not self._free and not self._stopped:
                self._waiting.append(asking)
                return
            self._free -= 1
            number = self._give(asking)
        self._begin(asking, number)

    def _next(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            asking = self._waiting.popleft()
            number = self._give(asking)
        self._begin(asking, number)

    def _give(self, asking: _Waiting) -> int:
        """Give a turn its number; the lock is held."""
        asking.turn = next(self._numbers)
        self._under_way.add(asking.turn)
        return asking.turn

    def _begin(self, asking: _Waiting, number: int) -> None:
        if not self._stopped:
            self._expiring.put(number, self._now() + self._longest)
        if asking.gate is not None:
            asking.gate.release()
        else:
            self._serve(asking.one, number)
