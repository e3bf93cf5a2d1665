"""
Maintenance: the sweep that finds what must not be, and the forgetting of payloads whose time is over.

The sweep reads incidents that bear our correlation ids and compares them with the records (guarantee 2.3, 9). It reports;
it never deletes and never creates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from poller.clock import Clock
from poller.errors import PollerError
from poller.logs import get_logger
from poller.model import Owned
from poller.route import Route
from poller.store import Store, reviewing

log = get_logger()

#: How far back a sweep looks: longer than a day, so that daily troubles are seen more than once.
WINDOW = timedelta(hours=25)
#: An incident is missed only when it has been delivered for so long: look-ups may lag.
SETTLED = timedelta(minutes=5)
#: Rows a sweep reads at most.
MOST = 50_000


def sweep(store: Store, clock: Clock, routes: Mapping[str, Route]) -> None:
    """Compare the incidents of each instance and table with the records, and report what differs."""
    started = clock.monotonic()
    for key, sharing in _by_instance(routes.values()).items():
        since = clock.now() - WINDOW
        try:
            rows = sharing[0].sink.owned(sharing[0].receiver.prefix, since=since, most=MOST)
        except PollerError as error:
            log.warning("sweep_failed", error=str(error), instance=key)
            continue
        doubled, foreign = _review(store, rows)
        # Where not all was read, what was not seen may be there all the same.
        whole = len(rows) < MOST
        missing = sum(_missing(store, route, rows, since=since, now=clock.now()) for route in sharing if whole)
        log.info(
            "sweep_finished",
            instance=key,
            incidents=len(rows),
            doubled=doubled,
            foreign=foreign,
            missing=missing,
            seconds=round(clock.monotonic() - started, 3),
        )


def _by_instance(routes: Iterable[Route]) -> dict[str, list[Route]]:
    """Return the routes that create at the same instance and table, by its name."""
    groups: dict[str, list[Route]] = defaultdict(list)
    for route in routes:
        if route.sink.guarded:
            groups[route.sink.guard_key()].append(route)
    return groups


def _review(store: Store, rows: list[Owned]) -> tuple[int, int]:
    """Report incidents that are doubled or that no record explains; return how many of each."""
    groups: dict[str, list[Owned]] = defaultdict(list)
    for row in rows:
        groups[row.correlation_id].append(row)
    with store.read() as connection:
        known = reviewing.known(connection, groups)
    doubled = foreign = 0
    for correlation_id, group in groups.items():
        sys_ids = [row.sys_id for row in sorted(group, key=lambda row: (row.created_at or "", row.sys_id))]
        if len(group) > 1:
            doubled += 1
            log.error("duplicate_found", correlation_id=correlation_id, sys_ids=sys_ids)
        if correlation_id not in known:
            foreign += 1
            log.error("foreign_found", correlation_id=correlation_id, sys_ids=sys_ids)
    return doubled, foreign


def _missing(store: Store, route: Route, rows: list[Owned], *, since: datetime, now: datetime) -> int:
    """Report delivered records whose incident is gone; they are never created again."""
    there = {row.sys_id for row in rows}
    with store.read() as connection:
        delivered = reviewing.delivered(connection, route.id, since=since + SETTLED, until=now - SETTLED)
    gone = [each for each in delivered if each.sys_id not in there]
    for each in gone:
        log.warning(
            "incident_missing",
            route=route.name,
            key=each.key,
            correlation_id=each.correlation_id,
            number=each.number,
            sys_id=each.sys_id,
        )
    return len(gone)


def forget(store: Store, clock: Clock, payloads: timedelta) -> None:
    """Delete the payloads and bodies of records that were finished longer ago than *payloads*."""
    total = 0
    while True:
        with store.write() as connection:
            count = reviewing.forget(connection, before=clock.now() - payloads)
        total += count
        if not count:
            break
    if total:
        log.info("retention_finished", payloads=total)
