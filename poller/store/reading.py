"""
What the listings show. Reads only.

A record shows the state of its first unfinished delivery, ``replying`` where that is a reply, else ``delivered`` or
``skipped``. Each listing is one query however many rows it has, and rows are streamed: memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, ScalarSelect, Select, and_, bindparam, case, exists, func, select

from poller.model import FINISHED, Operation, State
from poller.store.engine import Store
from poller.store.rows import chunks
from poller.store.standing import PREFIX
from poller.tables import checkpoints, deliveries, facts, records, routes

#: What a record shows while a reply is owed for it; no state of a delivery.
REPLYING = "replying"
#: What a record may show, in the order of its life.
SHOWN = (*(str(state) for state in State if state not in FINISHED), REPLYING, "delivered", "skipped")


_BATCH = 500
_FINISHED = tuple(str(state) for state in FINISHED)

d, r = deliveries.c, records.c


@dataclass(frozen=True, kw_only=True)
class RecordLine:
    """One record as listings show it."""

    route: str
    key: str
    version: str
    state: str
    attempts: int
    correlation_id: str
    sys_id: str | None
    number: str | None
    first_seen: datetime
    settled_at: datetime | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class RouteLine:
    """One route ever started, with its checkpoint."""

    id: int
    name: str
    created_at: datetime
    baseline_done: bool
    succeeded_at: datetime | None
    blocked_until: datetime | None
    blocked_failures: int
    blocked_error: str | None
    held_reason: str | None
    held_error: str | None
    held_at: datetime | None
    held_until: datetime | None
    checkpoint: str | None
    moved_at: datetime | None
    polled_at: datetime | None
    finished_at: datetime | None
    not_before: datetime | None
    failures: int
    error: str | None


@contextmanager
def snapshot(store: Store) -> Iterator[Connection]:
    """Begin a transaction in which every query sees the same state, however long the listing takes."""
    with store.read() as connection:
        if connection.dialect.name == "postgresql":
            # Changes this very connection, until it is given back.
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        yield connection


# Records.


def _shown() -> Any:  # noqa: ANN401  an expression
    state = case((and_(d.operation == Operation.REPLY, d.state.not_in(_FINISHED)), REPLYING), else_=d.state)
    return state.label("shown")


def record_lines() -> Select[Any]:
    """Return the query of `RecordLine`; each record is joined with the one delivery that it shows."""
    every = deliveries.alias("every")
    own = and_(every.c.record_id == r.id, every.c.operation != Operation.REPLY)
    tries = select(func.coalesce(func.sum(every.c.attempts), 0)).where(own).correlate(records).scalar_subquery()
    reason = case((d.state.in_(_FINISHED), r.reason), else_=func.coalesce(d.reason, r.reason))
    return (
        select(
            routes.c.name, r.key, r.version, _shown(), tries.label("tries"), r.correlation_id, r.sys_id, r.number,
            r.first_seen, r.settled_at, reason.label("why"),
        )
        .select_from(records)
        .join(routes, routes.c.id == r.route_id)
        .join(deliveries, d.id == shown_delivery())
    )  # fmt: skip


def shown_delivery() -> ScalarSelect[int]:
    """Return the id of the one delivery whose state a record shows, for a query of records."""
    every = deliveries.alias("every")
    rank = case((every.c.state.not_in(_FINISHED), 0), (every.c.state == State.DELIVERED, 1), else_=2)
    own = every.c.record_id == r.id
    return select(every.c.id).where(own).order_by(rank, every.c.id).limit(1).correlate(records).scalar_subquery()


def line(row: Row[Any]) -> RecordLine:
    """Return one row of `record_lines`."""
    return RecordLine(
        route=row.name,
        key=row.key,
        version=row.version,
        state=row.shown,
        attempts=row.tries,
        correlation_id=row.correlation_id,
        sys_id=row.sys_id,
        number=row.number,
        first_seen=row.first_seen,
        settled_at=row.settled_at,
        reason=row.why,
    )


def all_records(connection: Connection) -> Iterator[RecordLine]:
    """Yield every record, in the order they were first seen."""
    query = record_lines().order_by(r.id).execution_options(yield_per=_BATCH)
    for row in connection.execute(query):
        yield line(row)


def newest_records(
    connection: Connection, *, route: str | None = None, state: str | None = None, limit: int | None = None
) -> Iterator[RecordLine]:
    """
    Yield records, newest first.

    Args:
        state: One of `SHOWN`.
    """
    query = record_lines()
    if route is not None:
        query = query.where(routes.c.name == route)
    if state is not None:
        query = query.where(_shown() == state)
    query = query.order_by(r.id.desc()).limit(limit).execution_options(yield_per=_BATCH)
    for row in connection.execute(query):
        yield line(row)


# Built once: each push asks it, and building it costs more than all else that a push needs of SQLAlchemy.
_BY_KEY = record_lines().where(r.route_id == bindparam("of_route"), r.key.in_(bindparam("keys", expanding=True)))


def records_by_key(connection: Connection, route_id: int, keys: Collection[str]) -> dict[str, RecordLine]:
    """Return those of *keys* that are stored, by key."""
    found: dict[str, RecordLine] = {}
    for chunk in chunks(keys):
        for row in connection.execute(_BY_KEY, {"of_route": route_id, "keys": list(chunk)}):
            found[row.key] = line(row)
    return found


def kept_prefix(connection: Connection) -> str | None:
    """Return the installation's name that the records in the database were made under; None where there are none."""
    query = select(facts.c.value).where(facts.c.name == PREFIX, exists(select(r.id)))
    return connection.execute(query).scalar()


# Routes.


def route_lines(connection: Connection) -> list[RouteLine]:
    """Return every route ever started, in the order of their first starts."""
    c, p = routes.c, checkpoints.c
    query = (
        select(
            c.id, c.name, c.created_at, c.baseline_done, c.succeeded_at, c.blocked_until, c.blocked_failures,
            c.blocked_error, c.held_reason, c.held_error, c.held_at, c.held_until, p.value.label("checkpoint"),
            p.moved_at, p.polled_at, p.finished_at, p.not_before, func.coalesce(p.failures, 0).label("failures"), p.error,
        )
        .join(checkpoints, p.route_id == c.id, isouter=True)
        .order_by(c.id)
    )  # fmt: skip
    return [RouteLine(**row) for row in connection.execute(query).mappings()]


def counts(connection: Connection) -> dict[str, dict[str, int]]:
    """Return how many records of each route show which state; reads one row only of what is unfinished or skipped."""
    found: dict[str, dict[str, int]] = {}
    for name, state, count in connection.execute(_unfinished_counts()):
        found.setdefault(name, {})[state] = count
    skipped = {row[0]: row[1] for row in connection.execute(_skipped_counts())}
    total = (
        select(routes.c.name, func.count())
        .select_from(records)
        .join(routes, routes.c.id == r.route_id)
        .group_by(routes.c.name)
    )
    for name, count in connection.execute(total):
        states = found.setdefault(name, {})
        states["skipped"] = skipped.get(name, 0)
        states["delivered"] = count - sum(states.values())
    order = {state: place for place, state in enumerate(SHOWN)}
    return {
        name: {state: states[state] for state in sorted(states, key=lambda each: order.get(each, 99)) if states[state]}
        for name, states in found.items()
    }


def _first_unfinished() -> Any:  # noqa: ANN401  a condition
    other = deliveries.alias("other")
    earlier = exists().where(other.c.record_id == d.record_id, other.c.state.not_in(_FINISHED), other.c.id < d.id)
    return and_(d.state.in_([str(state) for state in State if state not in FINISHED]), ~earlier)


def _unfinished_counts() -> Select[Any]:
    shown = _shown()
    return (
        select(routes.c.name, shown, func.count())
        .select_from(deliveries)
        .join(records, r.id == d.record_id)
        .join(routes, routes.c.id == r.route_id)
        .where(_first_unfinished())
        .group_by(routes.c.name, shown)
    )


def _skipped_counts() -> Select[Any]:
    other = deliveries.alias("other")
    more = exists().where(other.c.record_id == d.record_id, other.c.state != State.SKIPPED)
    return (
        select(routes.c.name, func.count(d.record_id.distinct()))
        .select_from(deliveries)
        .join(records, r.id == d.record_id)
        .join(routes, routes.c.id == r.route_id)
        .where(d.state == State.SKIPPED, ~more)
        .group_by(routes.c.name)
    )


def dead_replies(connection: Connection) -> dict[str, int]:
    """Return by route how many replies are dead letters; their records show ``replying``, since the incidents are there."""
    query = (
        select(routes.c.name, func.count())
        .select_from(deliveries)
        .join(records, r.id == d.record_id)
        .join(routes, routes.c.id == r.route_id)
        .where(d.state == State.DEAD, d.operation == Operation.REPLY)
        .group_by(routes.c.name)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def oldest_waiting(connection: Connection) -> dict[str, datetime]:
    """Return by route when the oldest record was first seen that is neither settled nor dead."""
    waiting = [str(state) for state in State if state not in FINISHED and state is not State.DEAD]
    query = (
        select(routes.c.name, func.min(r.first_seen))
        .select_from(deliveries)
        .join(records, r.id == d.record_id)
        .join(routes, routes.c.id == r.route_id)
        .where(d.state.in_(waiting))
        .group_by(routes.c.name)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
