"""
What is counted in the database for metrics. Reads only.

Two questions apart, since they cost differently. What is unfinished is a walk of the index ``ix_deliveries_due`` over the
few rows that somebody still has to work on, and does not grow with what was ever delivered. What is finished is a count of
all of it, from the same index and without touching a row: half a second for 1,000,000 on SQLite (``benchmarks/scrape.py``),
too long for a scrape. So it is counted beside, in a thread of its own and for a hundredth of the time at most, and what is
shown lags behind accordingly. Totals kept beside the rows would be one more thing to write in each turn, and could drift.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select
from sqlalchemy.exc import SQLAlchemyError

from poller.model import FINISHED, Measured, State
from poller.store.engine import Store
from poller.store.reading import route_lines
from poller.tables import deliveries, payloads, records, routes

d, r, p = deliveries.c, records.c, payloads.c

_UNFINISHED = tuple(str(state) for state in State if state not in FINISHED)
_FINISHED = tuple(str(state) for state in FINISHED)


#: Counting what is finished takes at most this part of the time.
SHARE = 0.01
#: How long the first answer waits for that count, and each later one, in seconds.
FIRST, LATER = 2.0, 0.05


class Measuring:
    """
    Tells how the routes stand, as often as asked.

    Args:
        store: Read from, by the asking thread and one more.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._finished: dict[int, dict[str, int]] = {}
        self._again = 0.0
        self._counting: threading.Thread | None = None

    def __call__(self) -> list[Measured]:
        """
        Return how each route ever started stands. What is finished may be a little old, and is left out until counted.

        Raises:
            SQLAlchemyError: The database does not answer.
        """
        first = self._counting is None
        if time.monotonic() >= self._again and (self._counting is None or not self._counting.is_alive()):
            self._counting = threading.Thread(target=self._count, name="finished counts", daemon=True)
            self._counting.start()
        if self._counting is not None:
            self._counting.join(FIRST if first else LATER)
        with self._store.read() as connection:
            return measured(connection, self._finished)

    def _count(self) -> None:
        started = time.monotonic()
        # The asking thread meets the same fault, and tells it.
        with suppress(SQLAlchemyError), self._store.read() as connection:
            self._finished = finished_counts(connection)
        took = time.monotonic() - started
        self._again = started + took + took / SHARE


@dataclass(kw_only=True)
class _Owed:
    """What is unfinished of one route."""

    states: dict[str, int] = field(default_factory=dict)
    #: The delivery that was owed first and is not dead; ids only ever grow.
    first: int | None = None


def measured(connection: Connection, finished: Mapping[int, Mapping[str, int]]) -> list[Measured]:
    """
    Return how each route ever started stands, those of replies (``NAME/reply``) too.

    Args:
        finished: As `finished_counts` gave it, now or some time ago.
    """
    owed = _owed(connection)
    oldest = _oldest(connection, [each.first for each in owed.values() if each.first is not None])
    return [
        Measured(
            route=line.name,
            states={**dict.fromkeys(_UNFINISHED, 0), **finished.get(line.id, {}), **owed.get(line.id, _Owed()).states},
            oldest_at=oldest.get(line.id),
            created_at=line.created_at,
            whole_poll_at=line.finished_at,
            checkpoint_at=line.moved_at,
            poll_failures=line.failures,
            held=line.held_reason,
            blocked=line.blocked_until is not None,
        )
        for line in route_lines(connection)
    ]


def finished_counts(connection: Connection) -> dict[int, dict[str, int]]:
    """Return by the route's id how many deliveries are ``delivered`` and ``skipped``: grows with all there ever were."""
    found: dict[int, dict[str, int]] = {}
    for route_id, state, count in connection.execute(finished_query()):
        found.setdefault(route_id, {})[state] = count
    return found


def finished_query() -> Select[Any]:
    """Return the query of `finished_counts`; a test looks at its plan."""
    return _by_state(_FINISHED, func.count())


def unfinished_query() -> Select[Any]:
    """Return the query of what is unfinished: route id, state, count, smallest delivery id."""
    return _by_state(_UNFINISHED, func.count(), func.min(d.id))


def _by_state(states: tuple[str, ...], *columns: Any) -> Select[Any]:  # noqa: ANN401  expressions
    # The routes are named, so that the index is entered once for each of them and state; without, SQLite walks all of it.
    return (
        select(d.route_id, d.state, *columns)
        .where(d.route_id.in_(select(routes.c.id)), d.state.in_(states))
        .group_by(d.route_id, d.state)
    )


def _owed(connection: Connection) -> dict[int, _Owed]:
    found: dict[int, _Owed] = {}
    for route_id, state, count, first in connection.execute(unfinished_query()):
        owed = found.setdefault(route_id, _Owed())
        owed.states[state] = count
        if state != State.DEAD:
            owed.first = first if owed.first is None else min(owed.first, first)
    return found


def _oldest(connection: Connection, ids: list[int]) -> dict[int, datetime]:
    """Return by the route's id when that version was first seen: a change to an old record is not old itself."""
    query = (
        select(d.route_id, func.coalesce(p.stored_at, r.first_seen))
        .join(records, r.id == d.record_id)
        .join(payloads, and_(p.record_id == d.record_id, p.version == d.version), isouter=True)
        .where(d.id.in_(ids))
    )
    return {row[0]: row[1] for row in connection.execute(query)} if ids else {}
