"""
The doorbell: a poll is pulled forward, however often somebody rings.

A ring while a poll is under way is not lost: what it is about may have become visible behind the page that was read. And since
whoever rings may do so before its own transaction is visible to others, a second look follows a few seconds later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.base import BaseScheduler

#: Between the beginnings of two polls that somebody rang for.
GAP: Final = timedelta(seconds=1)
#: After a poll that somebody rang for.
SECOND_LOOK: Final = timedelta(seconds=5)


class Bell:
    """
    Pulls polls forward; for any number of threads.

    Args:
        scheduler: Has one entry a route.

        entry: Its id, by the route's name.
    """

    def __init__(self, scheduler: BaseScheduler, entry: Callable[[str], str]) -> None:
        self._scheduler = scheduler
        self._entry = entry
        self._lock = threading.Lock()
        self._rung: set[str] = set()
        self._looking: set[str] = set()
        # By a clock that is never set.
        self._began: dict[str, float] = {}

    def ring(self, route: str) -> None:
        """Poll *route* as soon as may be."""
        with self._lock:
            already = route in self._rung
            self._rung.add(route)
            wait = self._gap(route)
        if not already:
            self._pull(route, wait)

    def began(self, route: str) -> None:
        """Say that a poll begins: whoever rings from now on means another one."""
        with self._lock:
            self._began[route] = time.monotonic()
            if route in self._rung:
                self._rung.discard(route)
                self._looking.add(route)

    def ended(self, route: str) -> None:
        """Say that it has ended; what was rung for meanwhile comes next."""
        with self._lock:
            again = route in self._rung
            wait = self._gap(route) if again else SECOND_LOOK
            wanted = again or route in self._looking
            if not again:
                self._looking.discard(route)
        if wanted:
            self._pull(route, wait)

    def _gap(self, route: str) -> timedelta:
        """Return how long the next poll has to wait for the one before."""
        since = time.monotonic() - self._began.get(route, float("-inf"))
        return max(timedelta(0), GAP - timedelta(seconds=min(since, GAP.total_seconds())))

    def _pull(self, route: str, wait: timedelta) -> None:
        """Let the next poll be so soon, unless it comes before anyway."""
        at = datetime.now(UTC) + wait
        name = self._entry(route)
        entry = self._scheduler.get_job(name)
        if entry is not None and (entry.next_run_time is None or entry.next_run_time > at):
            try:
                self._scheduler.modify_job(name, next_run_time=at)
            except JobLookupError:
                return  # its route has just gone
