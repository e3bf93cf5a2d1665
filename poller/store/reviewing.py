"""What maintenance asks of the records: which are known, which should be there, whose payloads may go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, exists, select, update

from poller.model import FINISHED, State
from poller.store.rows import CHUNK, chunks
from poller.tables import deliveries, payloads, records


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A record whose incident must be there."""

    key: str
    correlation_id: str
    sys_id: str
    number: str | None


def known(connection: Connection, correlation_ids: Iterable[str]) -> set[str]:
    """Return those of *correlation_ids* that a record has."""
    found: set[str] = set()
    for some in chunks(correlation_ids):
        query = select(records.c.correlation_id).where(records.c.correlation_id.in_(some))
        found.update(connection.execute(query).scalars())
    return found


def delivered(connection: Connection, route_id: int, *, since: datetime, until: datetime) -> list[Delivered]:
    """Return the records of a route that were settled within a time and have an incident."""
    c = records.c
    rows = connection.execute(
        select(c.key, c.correlation_id, c.sys_id, c.number).where(
            c.route_id == route_id, c.settled_at >= since, c.settled_at < until, c.sys_id.is_not(None)
        )
    )
    return [Delivered(key=r.key, correlation_id=r.correlation_id, sys_id=r.sys_id, number=r.number) for r in rows]


def forget(connection: Connection, *, before: datetime) -> int:
    """Delete some payloads of records finished before then, with the bodies made from them; return how many."""
    owed = exists().where(deliveries.c.record_id == records.c.id, deliveries.c.state.not_in(FINISHED))
    old = connection.execute(
        select(payloads.c.record_id, payloads.c.version)
        .join(records, records.c.id == payloads.c.record_id)
        .where(records.c.settled_at < before, payloads.c.stored_at < before, ~owed)
        .limit(CHUNK)
    ).all()
    for record_id, version in old:
        connection.execute(
            delete(payloads).where(and_(payloads.c.record_id == record_id, payloads.c.version == version))
        )
    ids = {row.record_id for row in old}
    if ids:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.record_id.in_(ids), deliveries.c.state.in_(FINISHED))
            .values(body=None)
        )
    return len(old)


def distrust(connection: Connection, route_id: int, *, now: datetime, safe_after: datetime) -> int:
    """
    Take back what this copy of a database believes of deliveries that are not finished; return how many.

    After a database was lost, what it believes unsent may have been sent, and what it knows of attempts may lack the
    last: the unsent are prepared anew with their pre-check, the others are in doubt from now on.
    """
    c = deliveries.c
    mine = and_(c.route_id == route_id, c.owner.is_(None))
    tried = connection.execute(
        update(deliveries)
        .where(mine, c.state.in_((State.READY, State.WAITING, State.UNKNOWN)), c.attempts > 0)
        .values(state=str(State.UNKNOWN), safe_after=safe_after, not_before=now, epoch=c.epoch + 1)
    )
    unsent = connection.execute(
        update(deliveries)
        .where(mine, c.state.in_((State.READY, State.WAITING)), c.attempts == 0)
        .values(state=str(State.PENDING), body=None, not_before=now, epoch=c.epoch + 1)
    )
    return tried.rowcount + unsent.rowcount
