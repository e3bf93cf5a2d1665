"""How far our clock and theirs are apart, from the Date of each answer."""

from __future__ import annotations

import threading
from datetime import datetime


class Skew:
    """
    Our wall clock minus theirs.

    A Date has a grain of one second and was written at some moment between our question and its answer, so each answer
    gives an interval. Intervals are intersected; one that does not fit starts afresh, since a clock was set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._low = float("-inf")
        self._high = float("inf")

    def measure(self, asked: float, answered: float, date: datetime) -> None:
        """
        Take one answer into account.

        Args:
            asked: Our wall clock before the question, in seconds since 1970.

            answered: Our wall clock after the answer.
        """
        if answered < asked:
            return  # our clock was set meanwhile
        theirs = date.timestamp()
        low, high = asked - theirs - 1.0, answered - theirs
        with self._lock:
            self._low, self._high = max(self._low, low), min(self._high, high)
            if self._low > self._high:
                self._low, self._high = low, high

    @property
    def measured(self) -> bool:
        """Whether any answer carried a Date that could be used."""
        with self._lock:
            return self._high != float("inf")

    @property
    def seconds(self) -> float:
        """The smallest difference that fits all answers; negative where our clock is behind, 0 before any answer."""
        with self._lock:
            if self._low > 0:
                return self._low
            return min(self._high, 0.0)
