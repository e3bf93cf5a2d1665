"""The whole life of one record, but for its contents: what ``explain`` shows. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, or_, select

from poller.store.reading import RecordLine, line, record_lines
from poller.tables import acts, attempts, deliveries, payloads, records, routes

#: Raw text of a record that could not be read is shown up to this.
LONGEST_RAW = 4_000

d, r = deliveries.c, records.c


@dataclass(frozen=True, kw_only=True)
class AttemptLine:
    """One attempt at a delivery, and how it ended."""

    number: int
    started_at: datetime | None
    ended_at: datetime
    outcome: str
    status: int | None
    transaction_id: str | None
    excerpt: str | None


@dataclass(frozen=True, kw_only=True)
class DeliveryLine:
    """One delivery of a record, with all attempts."""

    operation: str
    version: str
    state: str
    attempts: int
    refusals: int
    reason: str | None
    note: str | None
    not_before: datetime
    safe_after: datetime | None
    guard: str | None
    with_sys_id: bool | None
    changed_at: datetime
    tried: tuple[AttemptLine, ...]


@dataclass(frozen=True, kw_only=True)
class ActLine:
    """What an operator did to the record, or to its whole route since it was first seen."""

    at: datetime
    who: str
    act: str
    whole_route: bool
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Life:
    """All that is known of one record, but for its contents."""

    record: RecordLine
    seen_version: str
    created_at: str | None
    #: Of a record that could not be read: the beginning of its text.
    raw: str | None
    deliveries: tuple[DeliveryLine, ...]
    acts: tuple[ActLine, ...]


def life(connection: Connection, route: str, key: str) -> Life | None:
    """Return all that is known of a record; None where there is no such record."""
    of_record = and_(routes.c.name == route, r.key == key)
    row = connection.execute(
        record_lines().add_columns(r.id, r.route_id, r.seen_version, r.created_at).where(of_record)
    ).first()
    if row is None:
        return None
    raw = select(func.substr(payloads.c.raw, 1, LONGEST_RAW)).where(
        payloads.c.record_id == row.id, payloads.c.version == row.version
    )
    return Life(
        record=line(row),
        seen_version=row.seen_version,
        created_at=row.created_at,
        raw=connection.execute(raw).scalar(),
        deliveries=_deliveries(connection, row.id),
        acts=tuple(ActLine(**each) for each in connection.execute(_acted(row)).mappings()),
    )


def _acted(row: Row[Any]) -> Select[Any]:
    c = acts.c
    on_route = and_(c.record_id.is_(None), c.route_id == row.route_id, c.at >= row.first_seen)
    whole_route = c.record_id.is_(None).label("whole_route")
    return select(c.at, c.who, c.act, whole_route, c.reason).where(or_(c.record_id == row.id, on_route)).order_by(c.id)


def _deliveries(connection: Connection, record_id: int) -> tuple[DeliveryLine, ...]:
    a = attempts.c
    tries = (
        select(a.delivery_id, *(a[name] for name in AttemptLine.__dataclass_fields__))
        .join(deliveries, d.id == a.delivery_id)
        .where(d.record_id == record_id)
        .order_by(a.id)
    )
    tried: dict[int, list[AttemptLine]] = {}
    for row in connection.execute(tries).mappings():
        line = AttemptLine(**{name: row[name] for name in AttemptLine.__dataclass_fields__})
        tried.setdefault(row["delivery_id"], []).append(line)
    names = [name for name in DeliveryLine.__dataclass_fields__ if name != "tried"]
    query = select(d.id, *(d[name] for name in names)).where(d.record_id == record_id).order_by(d.id)
    return tuple(
        DeliveryLine(**{name: row[name] for name in names}, tried=tuple(tried.get(row["id"], ())))
        for row in connection.execute(query).mappings()
    )
