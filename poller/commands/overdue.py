"""
Whether a route's polls have fallen silent: a source that fails for long, or a daemon that is not there to poll.

Pure: no clock, no database. When a poll ought to have come is told by the route's own schedule, as the daemon reads it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from poller.commands.showing import brief, span
from poller.settings import Route
from poller.store.reading import RouteLine

_FAILS = "poller check asks the source once and names the fault"
_SILENT = "see whether the daemon runs (systemctl status poller), or a poll hangs"


def overdue(route: Route | None, line: RouteLine | None, *, now: datetime, most: timedelta) -> dict[str, Any] | None:
    """
    Return since when a route has had no whole poll, and why; None where all is well or nothing is to be polled.

    A route that the database has never seen has no time to count from: it begins with the daemon's first start.

    Args:
        most: How long after it was due a poll may be missing.
    """
    if route is None or not route.enabled or route.source is None or line is None:
        return None
    since = line.finished_at or line.created_at
    if not _late(route, since, now, most):
        return None
    # A source that asked for a pause, or a backoff, is not tried before its end: so long nobody is missing.
    tried = max(each for each in (since, line.polled_at, line.not_before) if each is not None)
    silent = _late(route, tried, now, most)
    ended = line.polled_at or since
    return {
        "since": since,
        "age_seconds": now - since,
        "ever": line.finished_at is not None,
        "error": f"no try has ended since {brief(ended)}" if silent else line.error,
        "remedy": _SILENT if silent else _FAILS,
    }


def words(found: dict[str, Any]) -> str:
    """Return what `overdue` found, in words."""
    since = f"since {brief(found['since'])} ({span(found['age_seconds'])})"
    return f"no good poll {since if found['ever'] else f'ever, first started {since}'}: {found['error']}"


def _late(route: Route, after: datetime, now: datetime, most: timedelta) -> bool:
    due = _next(route, after)
    return due is not None and now - due > most


def _next(route: Route, after: datetime) -> datetime | None:
    """Return when the schedule has the next poll after *after*; None where a cron line never comes again."""
    if route.cron is None:
        return after + (route.every or timedelta(minutes=1))
    # The daemon's own reading, imported late: routes with `every` need not wait for it.
    from poller.route import Schedule
    from poller.service import next_poll

    return next_poll(Schedule(cron=route.cron, timezone=route.timezone), after)
