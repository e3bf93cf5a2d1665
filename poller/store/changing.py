"""
What is owed for another version of a record that is known: an update of its row, or one more message.

Updates collapse to the newest: older ones that nobody has sent yet are skipped, since only the last state counts. Messages
do not: every version that was observed is owed. Either waits for what is owed for the record already.

Source: guarantee.md 2.3 (12), 2.5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from poller.model import Operation, State
from poller.store.rows import chunks, upsert
from poller.tables import deliveries, payloads, records

r, d = records.c, deliveries.c

SUPERSEDED = "a newer version came before it was sent"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One version of a record, as it came."""

    version: str
    state: State
    #: JSON; None: it could not be read.
    fields: str | None = None
    raw: str | None = None
    reason: str | None = None
    note: str | None = None


def owe_changes(
    connection: Connection, route_id: int, operation: Operation, changes: Mapping[int, Change], *, now: datetime
) -> None:
    """
    Owe a delivery for each new version.

    Args:
        operation: `Operation.UPDATE` or `Operation.SEND`.

        changes: By the record's id.
    """
    for ids in chunks(changes):
        wanted = set(ids)
        if operation is Operation.UPDATE:
            wanted = _with_a_row(connection, ids)
            _supersede(connection, wanted, now)
        called = names(connection, {each: changes[each].version for each in wanted}, operation)
        for record_id in sorted(wanted):
            _owe(connection, route_id, operation, record_id, called[record_id], changes[record_id], now)


def _with_a_row(connection: Connection, record_ids: Collection[int]) -> set[int]:
    """Return those of *record_ids* that have an incident or will have one: a skipped record is not updated."""
    query = select(d.record_id).where(
        d.record_id.in_(record_ids), d.operation == Operation.CREATE, d.state != State.SKIPPED
    )
    return set(connection.execute(query).scalars())


def _supersede(connection: Connection, record_ids: Collection[int], now: datetime) -> None:
    """Skip older updates that are surely not on the wire, dead letters included."""
    unsent = (State.PENDING, State.READY, State.WAITING, State.DEAD)
    connection.execute(
        update(deliveries)
        .where(
            d.record_id.in_(record_ids),
            d.operation == Operation.UPDATE,
            d.state.in_(unsent),
            d.owner.is_(None),
            d.safe_after.is_(None),
        )
        .values(state=str(State.SKIPPED), reason=SUPERSEDED, epoch=d.epoch + 1, changed_at=now)
    )


def names(connection: Connection, versions: Mapping[int, str], operation: str) -> dict[int, str]:
    """
    Return under which version each delivery of a record is kept, by the record's id.

    A record that goes back to what it was before comes with a version that was delivered once: it is owed all the same.
    """
    query = select(d.record_id, d.version, func.count().over(partition_by=d.record_id).label("many")).where(
        d.record_id.in_(versions), d.operation.in_((operation, Operation.CREATE))
    )
    called = dict(versions)
    for row in connection.execute(query).all():
        if row.version == versions[row.record_id]:
            called[row.record_id] = f"{row.version}~{row.many}"
    return called


def _owe(
    connection: Connection,
    route_id: int,
    operation: Operation,
    record_id: int,
    version: str,
    change: Change,
    now: datetime,
) -> None:
    payload = {"record_id": record_id, "version": version, "fields": change.fields, "raw": change.raw, "stored_at": now}
    connection.execute(upsert(connection, payloads).on_conflict_do_nothing(), [payload])
    delivery = {
        "record_id": record_id,
        "route_id": route_id,
        "operation": str(operation),
        "version": version,
        "state": str(change.state),
        "reason": change.reason,
        "note": change.note,
        "not_before": now,
        "changed_at": now,
    }
    connection.execute(insert(deliveries), [delivery])
    connection.execute(update(records).where(r.id == record_id).values(version=version))
