"""
The threads that serve connections: as many as speak at once, and no more than there are places.

Not `concurrent.futures`: its work items, futures and counters cost a tenth of a short request. Here the thread that was busy last
is the next to be, so that the others can go when they have had nothing to do for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

#: Seconds without work after which a thread goes.
_IDLE: Final = 10.0


class _Thread:
    """One thread, and what it is to do next."""

    def __init__(self, work: Any) -> None:  # noqa: ANN401  whatever the pool serves
        self.work = work
        #: Released once there is work, or none ever again.
        self.gate = threading.Lock()
        self.gate.acquire()


class Threads:
    """
    What cheroot asks of its pool.

    Args:
        serve: Called with what is put; raises nothing.

        most: Threads; what comes when all are busy waits.
    """

    def __init__(self, serve: Callable[[Any], None], most: int) -> None:
        self._serve = serve
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[_Thread] = []
        self._waiting: list[Any] = []
        self._stopped = False
        #: How many there are.
        self.count = 0

    def start(self) -> None:
        """There is nothing to do before somebody comes."""

    def put(self, work: Any) -> bool:  # noqa: ANN401
        """Have *work* served soon; return False once it has been stopped: then it is not served at all."""
        with self._lock:
            if self._stopped:
                return False
            if self._idle:
                thread = self._idle.pop()
                thread.work = work
                thread.gate.release()
                return True
            if self.count >= self._most:
                self._waiting.append(work)
                return True
            self.count += 1
        try:
            threading.Thread(target=self._run, args=(_Thread(work),), name="ingress", daemon=True).start()
        except RuntimeError:  # the system gives no more: whoever is done takes it
            with self._lock:
                self.count -= 1
                self._waiting.append(work)
        return True

    def stop(self, _timeout: float) -> None:
        """Let those who have nothing to do go, and the others once all is done that was put."""
        with self._lock:
            self._stopped = True
            idle, self._idle = self._idle, []
        for each in idle:
            each.gate.release()

    def _run(self, me: _Thread) -> None:
        while me.work is not None:
            self._serve(me.work)
            self._next(me)

    def _next(self, me: _Thread) -> None:
        """Wait for work; none means that the thread is to end, and is counted out."""
        with self._lock:
            me.work = self._waiting.pop(0) if self._waiting else None
            if me.work is not None:
                return
            if self._stopped:
                self.count -= 1
                return
            self._idle.append(me)
        if me.gate.acquire(timeout=_IDLE):
            handed = me.work is not None
        else:
            with self._lock:
                handed = me not in self._idle
                if not handed:
                    self._idle.remove(me)
            # Between the time and the lock somebody may have handed it work, or stopped it.
            handed = handed and me.gate.acquire() and me.work is not None
        if not handed:
            with self._lock:
                self.count -= 1
