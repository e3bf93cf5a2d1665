"""
The process's one clock: wall time at the start, carried on by a clock that cannot be set.

A step of the wall clock while the daemon runs must not shorten a wait that guards against a double (guarantee F46), so
it is read once. CLOCK_BOOTTIME also counts the time that the machine slept.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """
    Tells the time; tests pass their own.

    Args:
        wall: The time to go on from; None: this machine's. Daemons that share a database go on from its clock.
    """

    def __init__(self, wall: datetime | None = None) -> None:
        self._wall = datetime.now(UTC) if wall is None else wall
        self._mark = self.monotonic()

    @staticmethod
    def monotonic() -> float:
        """Return seconds since some moment; never set back, and counting through suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        """Return the time in UTC."""
        return self._wall + timedelta(seconds=self.monotonic() - self._mark)
