"""
Refusals that wait for their turn: connections that are held without a thread, each until it is told.

A flood that waits for its answers is as fast as these are given; waiting costs it a connection and us a few hundred bytes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Holding:
    """
    Holds things until their times, which come in their order.

    Args:
        release: Called with each at its time, or when all is over; raises nothing.
    """

    def __init__(self, release: Callable[[Any], object]) -> None:
        self._release = release
        self._held: deque[tuple[float, Any]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ingress-holding", daemon=True)

    def __len__(self) -> int:
        return len(self._held)

    def start(self) -> None:
        """Release from now on."""
        self._thread.start()

    def put(self, one: Any, at: float) -> None:  # noqa: ANN401  whatever is held
        """Hold *one* until *at*, in seconds of the monotonic clock."""
        with self._changed:
            if not self._stopped:
                self._held.append((at, one))
                if len(self._held) == 1:
                    self._changed.notify()
                return
        self._release(one)

    def stop(self) -> None:
        """Release all at once."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._held or (wait := self._held[0][0] - time.monotonic()) > 0):
                    self._changed.wait(wait if self._held else None)
                if not self._held:
                    return
                _, one = self._held.popleft()
            self._release(one)
