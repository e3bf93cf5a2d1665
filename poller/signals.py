"""
Signals, awaited by the main thread.

A handler runs between two steps of whatever the main thread is doing, also in the middle of taking a lock; so it may take
none itself, or the process stands still for ever (a `threading.Event` takes one). What wakes the main thread here is a
byte that the interpreter writes into a socket.
"""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterable
from types import FrameType


class Signals:
    """
    Collects signals from the moment it is made. In the main thread only, one in a process.

    Args:
        numbers: Those that no longer do what they do by default.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._arrived: list[int] = []
        self._bell, rung = socket.socketpair()
        for end in (self._bell, rung):
            end.setblocking(False)
        self._rung = rung
        # A full buffer wakes as well as a byte more would.
        signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._arrived.append(number)

    def wait(self, seconds: float) -> list[int]:
        """Return those that have arrived, in order; after *seconds* none."""
        if not self._arrived:
            select.select([self._bell], [], [], seconds)
        try:
            while self._bell.recv(4096):
                pass
        except BlockingIOError:
            pass
        arrived, self._arrived = self._arrived, []
        return arrived
