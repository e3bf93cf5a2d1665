"""
One turn of the dispatcher: settle what has finished, and claim what `due` has found.

All of it in the one transaction that the dispatcher has begun (group commit). Every later write to a claimed delivery
names its epoch: where an operator or another daemon has raised it, the write changes nothing and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from types import MappingProxyType

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Connection,
    Integer,
    Update,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)

from poller.lifecycle import Claim, Verdict
from poller.model import FINISHED, Operation, State
from poller.store.rows import upsert
from poller.tables import Time, attempts, deliveries, facts, late_results, records

INTENT = "intent"

d, r = deliveries.c, records.c


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A claim, what becomes of it, and when its attempt ran."""

    claim: Claim
    verdict: Verdict
    started: datetime
    ended: datetime


#: Rows that one statement changes at most.
_TOGETHER = 500
_ROW: BindParameter[int] = bindparam("row")
_ROWS: BindParameter[list[int]] = bindparam("rows", expanding=True)

_SETTLE = (
    update(deliveries)
    .where(d.owner == bindparam("me"), d.epoch == bindparam("at_epoch"))
    .values(
        state=bindparam("new_state"),
        not_before=func.coalesce(bindparam("due", type_=Time), d.not_before),
        safe_after=case(
            (bindparam("cleared", type_=Boolean), None),
            else_=func.coalesce(bindparam("safe", type_=Time), d.safe_after),
        ),
        reason=bindparam("why"),
        body=func.coalesce(bindparam("frozen"), d.body),
        note=func.coalesce(bindparam("remark"), d.note),
        refusals=d.refusals + bindparam("refused", type_=Integer),
        lookups=case((bindparam("looked", type_=Boolean), d.lookups + 1), else_=0),
        omit_sys_id=bindparam("omit"),
        owner=None,
        lease_until=None,
        changed_at=bindparam("at", type_=Time),
    )
)
_DONE = update(records).values(
    sys_id=func.coalesce(bindparam("new_sys_id"), r.sys_id),
    number=func.coalesce(bindparam("new_number"), r.number),
    created_at=func.coalesce(bindparam("created"), r.created_at),
    settled_at=bindparam("at", type_=Time),
    reason=bindparam("why"),
)
_SETTLE_ONE, _SETTLE_MANY = _SETTLE.where(d.id == _ROW), _SETTLE.where(d.id.in_(_ROWS))
_DONE_ONE, _DONE_MANY = _DONE.where(r.id == _ROW), _DONE.where(r.id.in_(_ROWS))


def settle(
    connection: Connection,
    owner: str,
    settled: Sequence[Settled],
    *,
    now: datetime,
    replies: Mapping[int, int] = MappingProxyType({}),
) -> list[Settled]:
    """
    Write what became of claims; return those whose claim had been lost meanwhile.

    A number that came in for a lost claim goes to ``late_results``: it shortens the other's doubt.

    Args:
        replies: By the id of a route, that of the one that delivers its replies: one is owed for each create.
    """
    if not settled:
        return []
    count = _write(connection, _SETTLE_ONE, _SETTLE_MANY, [_settlement(each, owner, now) for each in settled])
    lost, vanished = ([], set()) if count == len(settled) else _lost(connection, settled)
    gone = {each.claim.id for each in lost}
    kept = [each for each in settled if each.claim.id not in gone]
    # What becomes of a reply never touches the record.
    done = [each for each in kept if each.claim.intent.operation is not Operation.REPLY]
    if done := [each for each in done if each.verdict.state in FINISHED | {State.DEAD}]:
        _write(connection, _DONE_ONE, _DONE_MANY, [_completion(each, now) for each in done])
    _owe_replies(connection, kept, replies, now)
    settled = [each for each in settled if each.claim.id not in vanished]
    if tried := [_attempt(each) for each in settled if each.verdict.outcome is not None]:
        connection.execute(insert(attempts), tried)
    for each in lost:
        if each.verdict.receipt is not None and each.claim.id not in vanished:
            receipt = each.verdict.receipt
            values = {
                "delivery_id": each.claim.id,
                "sys_id": receipt.sys_id,
                "number": receipt.number,
                "arrived_at": now,
            }
            connection.execute(insert(late_results), [values])
            # Whoever has it now looks at once, and finds it.
            connection.execute(
                update(deliveries).where(d.id == each.claim.id, d.state == State.UNKNOWN).values(not_before=now)
            )
    return lost


def _write(connection: Connection, one: Update, many: Update, rows: Sequence[dict[str, object]]) -> int:
    """
    Write *rows*, at least one and of different ids each, and return how many there were.

    Those that are alike but for their id are written with one statement: for each row of an executemany sqlite3 lets go of the
    interpreter, and a busy daemon waits for it each time.
    """
    names = [name for name in rows[0] if name != "row"]
    like = itemgetter(*names)
    alike: dict[object, list[dict[str, object]]] = {}
    for row in rows:
        alike.setdefault(like(row), []).append(row)
    count, others = 0, []
    for group in alike.values():
        if len(group) == 1:
            others += group
            continue
        same = {name: group[0][name] for name in names}
        for start in range(0, len(group), _TOGETHER):
            ids = [row["row"] for row in group[start : start + _TOGETHER]]
            count += connection.execute(many, same | {"rows": ids}).rowcount
    if others:
        count += connection.execute(one, others).rowcount
    return count


def _owe_replies(connection: Connection, settled: Sequence[Settled], replies: Mapping[int, int], now: datetime) -> None:
    """Owe a reply for each incident that is known from now on, in the commit that makes it so."""
    rows = [
        {
            "record_id": each.claim.record_id,
            "route_id": replies[each.claim.route_id],
            "operation": str(Operation.REPLY),
            "version": each.claim.intent.version,
            "state": str(State.PENDING),
            "not_before": now,
            "changed_at": now,
        }
        for each in settled
        if each.claim.route_id in replies
        and each.claim.intent.operation is Operation.CREATE
        and each.verdict.state is State.DELIVERED
    ]
    if rows:
        connection.execute(upsert(connection, deliveries).on_conflict_do_nothing(), rows)


def _settlement(each: Settled, owner: str, now: datetime) -> dict[str, object]:
    verdict = each.verdict
    return {
        "row": each.claim.id,
        "me": owner,
        "at_epoch": each.claim.epoch,
        "new_state": str(verdict.state),
        "due": verdict.not_before,
        "safe": verdict.safe_after,
        "cleared": verdict.cleared,
        "why": verdict.reason,
        "frozen": verdict.body,
        "remark": verdict.note,
        "refused": int(verdict.refused),
        "looked": verdict.looked,
        "omit": verdict.omit_sys_id or each.claim.omit_sys_id,
        "at": now,
    }


def _completion(each: Settled, now: datetime) -> dict[str, object]:
    receipt = each.verdict.receipt
    return {
        "row": each.claim.record_id,
        "new_sys_id": receipt.sys_id if receipt else None,
        "new_number": receipt.number if receipt else None,
        "created": receipt.created_at if receipt else None,
        "at": now if each.verdict.state in FINISHED else None,
        "why": each.verdict.reason,
    }


def _attempt(each: Settled) -> dict[str, object]:
    evidence = each.verdict.evidence
    return {
        "delivery_id": each.claim.id,
        "number": each.claim.intent.attempt,
        "intent": each.claim.intent.number,
        "started_at": each.started,
        "ended_at": each.ended,
        "outcome": each.verdict.outcome,
        "status": evidence.status,
        "transaction_id": evidence.transaction_id,
        "excerpt": evidence.excerpt,
    }


def _lost(connection: Connection, settled: Sequence[Settled]) -> tuple[list[Settled], set[int]]:
    """Return whose claim is another's by now, and which deliveries are not there at all: the database was thrown back."""
    held = {each.claim.id: each for each in settled}
    rows = connection.execute(select(d.id, d.epoch).where(d.id.in_(held)))
    epochs = {row.id: row.epoch for row in rows}
    lost = [each for each in settled if epochs.get(each.claim.id) != each.claim.epoch]
    return lost, held.keys() - epochs.keys()


# Claiming.

_HOLD = update(deliveries).values(
    owner=bindparam("me"), epoch=bindparam("new_epoch"), lease_until=bindparam("lease", type_=Time), fresh=False
)
_HOLD_ONE, _HOLD_MANY = _HOLD.where(d.id == _ROW), _HOLD.where(d.id.in_(_ROWS))
_SEND = (
    update(deliveries)
    .where(d.id == bindparam("row"))
    .values(
        state=str(State.SENDING),
        owner=bindparam("me"),
        epoch=bindparam("new_epoch"),
        lease_until=bindparam("lease", type_=Time),
        attempts=bindparam("number", type_=Integer),
        lookups=0,
        intent=bindparam("intent_number", type_=Integer),
        guard=bindparam("in_force"),
        with_sys_id=bindparam("sending_sys_id"),
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
    if claims:
        rows = [{"row": c.id, "me": owner, "new_epoch": c.epoch, "lease": lease_until} for c in claims]
        _write(connection, _HOLD_ONE, _HOLD_MANY, rows)


def admit(connection: Connection, claims: Sequence[Claim], *, now: datetime) -> None:
    """Count records against the flood guard."""
    if claims:
        connection.execute(_ADMIT, [{"row": claim.id, "at": now} for claim in claims])


def commit_intents(
    connection: Connection, owner: str, claims: Sequence[Claim], *, now: datetime, lease_until: datetime
) -> None:
    """Write that each of *claims* may be on the wire from now on; they carry the raised epoch, attempt and intent number."""
    if claims:
        connection.execute(
            _SEND,
            [
                {
                    "row": claim.id,
                    "me": owner,
                    "new_epoch": claim.epoch,
                    "lease": lease_until,
                    "number": claim.intent.attempt,
                    "intent_number": claim.intent.number,
                    "in_force": str(claim.guard),
                    "sending_sys_id": claim.intent.with_sys_id,
                    "at": now,
                }
                for claim in claims
            ],
        )


def reserve_intents(connection: Connection, count: int) -> int:
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


def lock_intents(connection: Connection) -> None:
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


def newest_intent(connection: Connection) -> int:
    """Return the newest intent number that is committed."""
    return int(connection.execute(select(func.max(d.intent))).scalar() or 0)
