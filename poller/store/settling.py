"""
Write what became of claims, all of a turn's in the one transaction that the dispatcher has begun (group commit).

Every write to a claimed delivery names its epoch: where an operator or another daemon has raised it, the write changes nothing
and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import BigInteger, Boolean, Connection, Integer, Text, bindparam, case, func, insert, select, update

from poller.lifecycle import Claim, Verdict
from poller.model import FINISHED, Operation, State
from poller.store.rows import upsert
from poller.store.together import Together, Value, write
from poller.tables import Time, attempts, deliveries, late_results, microseconds, records

d, r = deliveries.c, records.c


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A claim, what becomes of it, and when its attempt ran."""

    claim: Claim
    verdict: Verdict
    started: datetime
    ended: datetime


_SETTLED = Together(
    "settled",
    row=BigInteger(),
    at_epoch=Integer(),
    new_state=Text(),
    due=BigInteger(),
    safe=BigInteger(),
    cleared=Boolean(),
    why=Text(),
    frozen=Text(),
    remark=Text(),
    refused=Integer(),
    looked=Boolean(),
    omit=Boolean(),
)
_SETTLE = (
    update(deliveries)
    # The rows are to be found by their ids: the index of owners would be walked once for each of them.
    .where(d.id == _SETTLED.c.row, func.coalesce(d.owner, "") == bindparam("me"), d.epoch == _SETTLED.c.at_epoch)
    .values(
        state=_SETTLED.c.new_state,
        not_before=func.coalesce(_SETTLED.c.due, d.not_before),
        safe_after=case((_SETTLED.c.cleared, None), else_=func.coalesce(_SETTLED.c.safe, d.safe_after)),
        reason=_SETTLED.c.why,
        body=func.coalesce(_SETTLED.c.frozen, d.body),
        note=func.coalesce(_SETTLED.c.remark, d.note),
        refusals=d.refusals + _SETTLED.c.refused,
        lookups=case((_SETTLED.c.looked, d.lookups + 1), else_=0),
        omit_sys_id=_SETTLED.c.omit,
        owner=None,
        lease_until=None,
        changed_at=bindparam("at", type_=Time),
    )
)
_FINISHED = Together(
    "finished",
    row=BigInteger(),
    new_sys_id=Text(),
    new_number=Text(),
    created=Text(),
    why=Text(),
    over=Boolean(),
)
_FINISH = (
    update(records)
    .where(r.id == _FINISHED.c.row)
    .values(
        sys_id=func.coalesce(_FINISHED.c.new_sys_id, r.sys_id),
        number=func.coalesce(_FINISHED.c.new_number, r.number),
        created_at=func.coalesce(_FINISHED.c.created, r.created_at),
        settled_at=case((_FINISHED.c.over, bindparam("at", type_=Time)), else_=None),
        reason=_FINISHED.c.why,
    )
)
_TRIED = Together(
    "tried",
    delivery_id=BigInteger(),
    number=Integer(),
    intent=BigInteger(),
    started_at=BigInteger(),
    ended_at=BigInteger(),
    outcome=Text(),
    status=Integer(),
    transaction_id=Text(),
    excerpt=Text(),
)
_TRY = insert(attempts).from_select([column.name for column in _TRIED.c], select(*_TRIED.c))


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
    count = write(connection, _SETTLE, _SETTLED.batches(map(_settlement, settled)), me=owner, at=now)
    lost, vanished = ([], set()) if count == len(settled) else _lost(connection, settled)
    # By the epoch too: our own late result may come beside that of the claim that took its place.
    gone = {(each.claim.id, each.claim.epoch) for each in lost}
    kept = [each for each in settled if (each.claim.id, each.claim.epoch) not in gone]
    # What becomes of a reply never touches the record.
    done = [each for each in kept if each.claim.intent.operation is not Operation.REPLY]
    if done := [each for each in done if each.verdict.state in FINISHED | {State.DEAD}]:
        write(connection, _FINISH, _FINISHED.batches(map(_completion, done)), at=now)
    _owe_replies(connection, kept, replies, now)
    settled = [each for each in settled if each.claim.id not in vanished]
    tried = (_attempt(each) for each in settled if each.verdict.outcome is not None)
    write(connection, _TRY, _TRIED.batches(tried))
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


def _settlement(each: Settled) -> tuple[Value, ...]:
    verdict = each.verdict
    return (
        each.claim.id,
        each.claim.epoch,
        str(verdict.state),
        microseconds(verdict.not_before),
        microseconds(verdict.safe_after),
        verdict.cleared,
        verdict.reason,
        verdict.body,
        verdict.note,
        int(verdict.refused),
        verdict.looked,
        verdict.omit_sys_id or each.claim.omit_sys_id,
    )


def _completion(each: Settled) -> tuple[Value, ...]:
    receipt, verdict = each.verdict.receipt, each.verdict
    over = verdict.state in FINISHED
    if receipt is None:
        return each.claim.record_id, None, None, None, verdict.reason, over
    return each.claim.record_id, receipt.sys_id, receipt.number, receipt.created_at, verdict.reason, over


def _attempt(each: Settled) -> tuple[Value, ...]:
    evidence = each.verdict.evidence
    return (
        each.claim.id,
        each.claim.intent.attempt,
        each.claim.intent.number,
        microseconds(each.started),
        microseconds(each.ended),
        each.verdict.outcome,
        evidence.status,
        evidence.transaction_id,
        evidence.excerpt,
    )


def _lost(connection: Connection, settled: Sequence[Settled]) -> tuple[list[Settled], set[int]]:
    """Return whose claim is another's by now, and which deliveries are not there at all: the database was thrown back."""
    held = {each.claim.id: each for each in settled}
    rows = connection.execute(select(d.id, d.epoch).where(d.id.in_(held)))
    epochs = {row.id: row.epoch for row in rows}
    lost = [each for each in settled if epochs.get(each.claim.id) != each.claim.epoch]
    return lost, held.keys() - epochs.keys()
