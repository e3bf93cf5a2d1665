"""The sandbox's clock: real time plus a skew that a switch sets."""

import time
from datetime import UTC, datetime
from email.utils import formatdate

from poller.sandbox.options import Switches


class Clock:
    """Tells the time as the stand-in instance sees it."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._cached = (0, "")

    def now(self) -> float:
        """Return seconds since 1970, skew included."""
        return time.time() + self._switches.clock_skew

    def stamp(self) -> str:
        """Return the time as ServiceNow stores it: ``YYYY-MM-DD HH:MM:SS``, UTC, whole seconds."""
        return stamp(self.now())

    def http_date(self) -> str:
        """Return the value of a ``Date`` header."""
        whole = int(self.now())
        cached = self._cached
        if cached[0] != whole:
            cached = self._cached = (whole, formatdate(whole, usegmt=True))
        return cached[1]


def stamp(moment: float) -> str:
    """Return *moment* (seconds since 1970) as ``YYYY-MM-DD HH:MM:SS`` in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")
