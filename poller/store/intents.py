"""
Take deliveries on, and write intents to send, in the one transaction of a turn of the dispatcher (group commit).

Each raises the delivery's epoch, which every later write to it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Connection, Integer, Text, bindparam, func, select, update

from poller.lifecycle import Claim
from poller.model import State
from poller.store.due import IN_TURN
from poller.store.rows import upsert
from poller.store.together import Together, write
from poller.tables import Time, deliveries, facts

INTENT = "intent"

d = deliveries.c

_HELD = Together("held", row=BigInteger(), new_epoch=Integer())
_HOLD = (
    update(deliveries)
    .where(d.id == _HELD.c.row)
    .values(owner=bindparam("me"), epoch=_HELD.c.new_epoch, lease_until=bindparam("lease", type_=Time), fresh=False)
)
_SENT = Together(
    "sent",
    row=BigInteger(),
    new_epoch=Integer(),
    number=Integer(),
    intent_number=BigInteger(),
    in_force=Text(),
    with_sys_id=Boolean(),
)
_SEND = (
    update(deliveries)
    .where(d.id == _SENT.c.row, d.epoch == _SENT.c.new_epoch - 1, d.owner.is_(None), IN_TURN)
    .values(
        state=str(State.SENDING),
        owner=bindparam("me"),
        epoch=_SENT.c.new_epoch,
        lease_until=bindparam("lease", type_=Time),
        attempts=_SENT.c.number,
        lookups=0,
        intent=_SENT.c.intent_number,
        guard=_SENT.c.in_force,
        with_sys_id=_SENT.c.with_sys_id,
        started_at=bindparam("at", type_=Time),
        changed_at=bindparam("at", type_=Time),
    )
)
_ADMIT = (
    update(deliveries)
    .where(d.id == bindparam("row"), d.admitted_at.is_(None))
    .values(admitted_at=bindparam("at", type_=Time))
)


def hold(connection: Connection, owner: str, claims: Sequence[Claim], *, lease_until: datetime) -> None:
    """Take deliveries on for a look-up or a preparation; *claims* already carry the raised epoch."""
    rows = ((claim.id, claim.epoch) for claim in claims)
    write(connection, _HOLD, _HELD.batches(rows), me=owner, lease=lease_until)


def admit(connection: Connection, claims: Sequence[Claim], *, now: datetime) -> None:
    """Count records against the flood guard."""
    if claims:
        connection.execute(_ADMIT, [{"row": claim.id, "at": now} for claim in claims])


def commit(
    connection: Connection, owner: str, claims: Sequence[Claim], *, now: datetime, lease_until: datetime
) -> list[Claim]:
    """
    Write that each of *claims* may be on the wire from now on; they carry the raised epoch, attempt and intent number.

    Returns:
        Those for which it is written: what an operator has changed since it was read is left as it is, and what is not
        its record's next any more.
    """
    rows = (
        (
            claim.id,
            claim.epoch,
            claim.intent.attempt,
            claim.intent.number,
            str(claim.guard),
            claim.intent.with_sys_id,
        )
        for claim in claims
    )
    if write(connection, _SEND, _SENT.batches(rows), me=owner, at=now, lease=lease_until) == len(claims):
        return list(claims)
    numbers = [claim.intent.number for claim in claims]
    written = set(connection.execute(select(d.intent).where(d.intent.in_(numbers), d.owner == owner)).scalars())
    return [claim for claim in claims if claim.intent.number in written]


def reserve(connection: Connection, count: int) -> int:
    """Return the first of *count* intent numbers that nobody else gets; they only ever grow."""
    raised = (
        update(facts)
        .where(facts.c.name == INTENT)
        .values(value=func.cast(func.cast(facts.c.value, BigInteger) + count, facts.c.value.type))
        .returning(facts.c.value)
    )
    value = connection.execute(raised).scalar()
    if value is None:
        # Two daemons may be the first at once: the row is made by one of them, and raised by both.
        connection.execute(upsert(connection, facts).on_conflict_do_nothing(), [{"name": INTENT, "value": "0"}])
        value = connection.execute(raised).scalar_one()
    return int(value) - count + 1


def lock(connection: Connection) -> None:
    """Let no other daemon commit an intent before this transaction has ended (PostgreSQL; on SQLite there is no other)."""
    connection.execute(select(facts.c.value).where(facts.c.name == INTENT).with_for_update())


def newest(connection: Connection) -> tuple[int, int, int]:
    """Return the newest intent number that is committed, with its delivery and epoch; zeros where there is none."""
    row = connection.execute(
        select(d.intent, d.id, d.epoch).where(d.intent.is_not(None)).order_by(d.intent.desc()).limit(1)
    ).first()
    return (row.intent, row.id, row.epoch) if row else (0, 0, 0)


def remembers(connection: Connection, delivery_id: int, epoch: int) -> bool:
    """Return whether the database knows a delivery at this epoch or a later one: a commit that was once made."""
    found = connection.execute(select(d.epoch).where(d.id == delivery_id)).scalar()
    return found is not None and found >= epoch


def newest_number(connection: Connection) -> int:
    """Return the newest intent number that is committed."""
    return int(connection.execute(select(func.max(d.intent))).scalar() or 0)
