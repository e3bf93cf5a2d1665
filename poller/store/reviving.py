"""
``retry`` and ``skip`` of records: the delivery that a record shows gets the state that `acts` decides.

Each write raises the epoch, so that a worker's late result changes nothing. A daemon may work on the same rows meanwhile:
a transaction takes many of them only where nobody else has a hand on them, and waits for one at a time otherwise, so that
it can never stand in a circle of waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, join, select, update

from poller import acts
from poller.acts import Answer, Contents, Decision, Found
from poller.model import FINISHED, State
from poller.store.engine import Store
from poller.store.operating import note
from poller.store.reading import shown_delivery
from poller.store.rows import chunks
from poller.tables import deliveries, payloads, records

d, r, p = deliveries.c, records.c, payloads.c

#: Each act by its name.
DECIDE: dict[str, Callable[[Found], Decision]] = {"retry": acts.retried, "skip": acts.skipped}
#: Records a transaction: few enough that a daemon on the same file hardly waits.
_TOGETHER = 100


@dataclass(frozen=True, kw_only=True)
class Told:
    """What became of one record."""

    key: str
    was: str | None
    now: str | None
    answer: Answer
    said: str


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What an operator wants."""

    #: ``retry`` or ``skip``.
    act: str
    route_id: int
    reason: str
    #: Only of records whose delivery is in this state by then; None: whatever it is.
    state: State | None = None


def with_keys(connection: Connection, route_id: int, keys: Sequence[str]) -> dict[str, int]:
    """Return the ids of the records with these keys, by key, in the order given; unknown ones are left out."""
    found: dict[str, int] = {}
    for some in chunks(keys):
        query = select(r.key, r.id).where(r.route_id == route_id, r.key.in_(some))
        found.update({row.key: row.id for row in connection.execute(query)})
    return {key: found[key] for key in keys if key in found}


def in_state(connection: Connection, route_id: int, state: State) -> list[int]:
    """Return the ids of the records that show *state*, oldest first."""
    query = _SHOWING.with_only_columns(r.id).where(r.route_id == route_id, d.state == state).order_by(r.id)
    return list(connection.execute(query).scalars())


def foresee(connection: Connection, wish: Wish, record_ids: Sequence[int]) -> Iterator[Told]:
    """Yield what `carry_out` would do; changes nothing."""
    for some in chunks(record_ids):
        for row in _rows(connection, wish, some):
            decision = DECIDE[wish.act](_found(row))
            yield _told(row, decision)


def carry_out(store: Store, wish: Wish, record_ids: Sequence[int], now: Callable[[], datetime]) -> Iterator[Told]:
    """Act on each record and yield what became of it; what is yielded is committed."""
    for some in chunks(record_ids, _TOGETHER):
        with store.write() as connection:
            free = _lock(connection, some, skip_locked=True)
            told = _act(connection, wish, free, now())
        yield from told
        for one in (each for each in some if each not in free):
            with store.write() as connection:
                told = _act(connection, wish, _lock(connection, [one], skip_locked=False), now())
            yield from told


_SHOWING = select(
    r.id, r.key, r.route_id, r.number, d.id.label("delivery"), d.state, d.owner, d.safe_after,
    (p.record_id.is_not(None)).label("kept"), p.fields.is_not(None).label("readable"), p.raw.is_not(None).label("raw"),
).select_from(
    join(records, deliveries, d.id == shown_delivery()).outerjoin(
        payloads, and_(p.record_id == r.id, p.version == d.version)
    )
)  # fmt: skip


def _lock(connection: Connection, record_ids: Sequence[int], *, skip_locked: bool) -> list[int]:
    """
    Lock records with all their deliveries; return which (SQLite: all, it has one writer at a time).

    Args:
        skip_locked: Leave out what another transaction has locked; else wait for it.
    """
    every = connection.execute(select(d.id, d.record_id).where(d.record_id.in_(record_ids))).all()
    locked = set(
        connection.execute(
            select(d.id).where(d.record_id.in_(record_ids)).order_by(d.id).with_for_update(skip_locked=skip_locked)
        ).scalars()
    )
    taken = {row.record_id for row in every if row.id not in locked}
    free = select(r.id).where(r.id.in_(record_ids), r.id.not_in(taken)).order_by(r.id)
    return list(connection.execute(free.with_for_update(skip_locked=skip_locked)).scalars())


def _rows(connection: Connection, wish: Wish, record_ids: Sequence[int]) -> Sequence[Row[Any]]:
    query = _SHOWING.where(r.id.in_(record_ids)).order_by(r.id)
    if wish.state is not None:
        query = query.where(d.state == wish.state)
    return connection.execute(query).all()


def _act(connection: Connection, wish: Wish, record_ids: Sequence[int], now: datetime) -> list[Told]:
    told = []
    for row in _rows(connection, wish, record_ids):
        decision = DECIDE[wish.act](_found(row))
        if decision.state is not None:
            _change(connection, row, decision.state, wish.reason, now)
        elif decision.look_now:
            connection.execute(
                update(deliveries).where(d.id == row.delivery, d.not_before > now).values(not_before=now)
            )
        if decision.state is not None or decision.look_now:
            reason = f"was {row.state}; reason given: {wish.reason}"
            note(connection, wish.act, row.route_id, reason, now=now, record_id=row.id)
        told.append(_told(row, decision))
    return told


def _found(row: Row[Any]) -> Found:
    contents = Contents.THERE if row.readable else Contents.UNREADABLE if row.raw else Contents.FORGOTTEN
    return Found(
        state=State(row.state),
        claimed=row.owner is not None,
        safe_after=row.safe_after,
        contents=contents,
        number=row.number,
    )


def _told(row: Row[Any], decision: Decision) -> Told:
    becomes = row.state if decision.state is None else str(decision.state)
    return Told(key=row.key, was=row.state, now=becomes, answer=decision.answer, said=decision.said)


def _change(connection: Connection, row: Row[Any], state: State, reason: str, now: datetime) -> None:
    """Write the new state; a skipped record is settled, a revived one is not any more."""
    skipped = state is State.SKIPPED
    values: dict[str, object] = {
        "state": str(state),
        "not_before": now,
        "owner": None,
        "lease_until": None,
        "epoch": d.epoch + 1,
        "changed_at": now,
    }
    if state is State.PENDING:
        values |= {"body": None, "note": None, "reason": None, "refusals": 0, "lookups": 0, "fresh": True}
    connection.execute(update(deliveries).where(d.id == row.delivery).values(**values))
    owed = select(d.id).where(d.record_id == row.id, d.state.not_in(FINISHED)).limit(1)
    settled = now if skipped and connection.execute(owed).first() is None else None
    values = {"settled_at": settled, "reason": reason if skipped else None}
    connection.execute(update(records).where(r.id == row.id).values(**values))
