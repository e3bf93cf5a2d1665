"""
One turn of the dispatcher: settle what has finished, take over what was orphaned, claim what is due.

All of it in the one transaction that the dispatcher has begun (group commit). Every later write to a claimed delivery
names its epoch: where an operator or another daemon has raised it, the write changes nothing and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Integer,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    select,
    type_coerce,
    update,
)

from poller.lifecycle import LONGEST_RETRY_AFTER, Claim, Verdict
from poller.model import FINISHED, Guard, Intent, Operation, Record, State
from poller.store.rows import chunks, load, upsert
from poller.tables import Time, attempts, deliveries, facts, late_results, payloads, records, routes

INTENT = "intent"
#: Longer than any backoff that is not a remote's wish.
LONGEST_BACKOFF = timedelta(hours=1)

d, r = deliveries.c, records.c


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A claim, what becomes of it, and when its attempt ran."""

    claim: Claim
    verdict: Verdict
    started: datetime
    ended: datetime


_SETTLE = (
    update(deliveries)
    .where(d.id == bindparam("row"), d.owner == bindparam("me"), d.epoch == bindparam("at_epoch"))
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
_DONE = (
    update(records)
    .where(r.id == bindparam("row"))
    .values(
        sys_id=func.coalesce(bindparam("new_sys_id"), r.sys_id),
        number=func.coalesce(bindparam("new_number"), r.number),
        created_at=func.coalesce(bindparam("created"), r.created_at),
        settled_at=bindparam("at", type_=Time),
        reason=bindparam("why"),
    )
)


def settle(connection: Connection, owner: str, settled: Sequence[Settled], *, now: datetime) -> list[Settled]:
    """
    Write what became of claims; return those whose claim had been lost meanwhile.

    A number that came in for a lost claim goes to ``late_results``: it shortens the other's doubt.
    """
    if not settled:
        return []
    result = connection.execute(_SETTLE, [_settlement(each, owner, now) for each in settled])
    lost, vanished = ([], set()) if result.rowcount == len(settled) else _lost(connection, settled)
    gone = {each.claim.id for each in lost}
    kept = [each for each in settled if each.claim.id not in gone]
    if done := [each for each in kept if each.verdict.state in FINISHED | {State.DEAD}]:
        connection.execute(_DONE, [_completion(each, now) for each in done])
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


# What is due.

_DELIVERY = (
    d.id,
    d.record_id,
    d.route_id,
    d.epoch,
    d.state,
    d.operation,
    d.version,
    d.body,
    d.attempts,
    d.refusals,
    d.lookups,
    d.safe_after,
    d.guard,
    d.with_sys_id,
    d.omit_sys_id,
    d.intent,
    d.fresh,
    r.key,
    r.correlation_id,
    r.first_seen,
)
_DUE = (
    select(*_DELIVERY)
    .join(records, r.id == d.record_id)
    .where(
        d.route_id == bindparam("route"),
        d.state == bindparam("in_state"),
        d.not_before <= bindparam("by", type_=Time),
        d.owner.is_(None),
    )
    .order_by(d.not_before, d.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(of=deliveries, skip_locked=True)
)
_DUE_WITH_BODY = _DUE.where(d.body.is_not(None))
_DUE_WITHOUT_BODY = _DUE.where(d.body.is_(None))
_DUE_WITH_FIELDS = _DUE_WITHOUT_BODY.add_columns(payloads.c.fields).join(
    payloads, and_(payloads.c.record_id == d.record_id, payloads.c.version == d.version)
)


def due(connection: Connection, route: str, route_id: int, state: State, *, now: datetime, limit: int) -> list[Claim]:
    """Return deliveries of *state* that are due, have their body, and nobody works on; oldest first."""
    query = _DUE_WITH_BODY if state is not State.UNKNOWN else _DUE
    rows = connection.execute(query, {"route": route_id, "in_state": str(state), "by": now, "most": limit})
    return [_claim(row, route) for row in rows]


def due_to_prepare(
    connection: Connection, route: str, route_id: int, state: State, *, now: datetime, limit: int
) -> list[tuple[Claim, Record, bool]]:
    """Return deliveries without a body that are due, with their records, and whether caches are to be passed by."""
    rows = connection.execute(
        _DUE_WITH_FIELDS, {"route": route_id, "in_state": str(state), "by": now, "most": limit}
    ).all()
    claims = [(_claim(row, route), row) for row in rows]
    return [
        (
            claim,
            Record(
                route=route,
                key=claim.intent.key,
                version=claim.intent.version,
                fields=load(row.fields),
                correlation_id=claim.intent.correlation_id,
                derived_sys_id=claim.intent.derived_sys_id,
                first_seen=claim.first_seen,
            ),
            bool(row.fresh),
        )
        for claim, row in claims
    ]


def _claim(row: Any, route: str) -> Claim:  # noqa: ANN401  the row of either query
    intent = Intent(
        route=route,
        key=row.key,
        version=row.version,
        operation=Operation(row.operation),
        body=row.body or "",
        correlation_id=row.correlation_id,
        derived_sys_id=row.correlation_id[-32:],
        attempt=row.attempts,
        with_sys_id=bool(row.with_sys_id),
        number=row.intent or 0,
    )
    return Claim(
        id=row.id,
        record_id=row.record_id,
        route_id=row.route_id,
        epoch=row.epoch,
        state=State(row.state),
        intent=intent,
        first_seen=row.first_seen,
        refusals=row.refusals,
        lookups=row.lookups,
        safe_after=row.safe_after,
        guard=Guard(row.guard) if row.guard else Guard.SETTLE,
        omit_sys_id=bool(row.omit_sys_id),
    )


def under_way(connection: Connection, route_ids: Sequence[int]) -> int:
    """Return how many creates of these routes are on the wire or in doubt."""
    return connection.execute(
        select(func.count())
        .select_from(deliveries)
        .where(d.route_id.in_(route_ids), d.state.in_((State.SENDING, State.UNKNOWN)))
    ).scalar_one()


# Claiming.

_HOLD = (
    update(deliveries)
    .where(d.id == bindparam("row"))
    .values(
        owner=bindparam("me"), epoch=bindparam("new_epoch"), lease_until=bindparam("lease", type_=Time), fresh=False
    )
)
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
        connection.execute(_HOLD, rows)


def admit(connection: Connection, claims: Sequence[Claim], *, now: datetime) -> None:
    """Count records against the flood guard."""
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


# Leases.


def renew(connection: Connection, owner: str, working: Sequence[int], *, lease_until: datetime) -> None:
    """Keep what this daemon works on."""
    for some in chunks(working):
        connection.execute(update(deliveries).where(d.id.in_(some), d.owner == owner).values(lease_until=lease_until))


def take_over(
    connection: Connection, *, now: datetime, everything: bool, mine: tuple[str, Sequence[int]] | None = None
) -> list[tuple[int, str, int]]:
    """
    Give back what nobody works on any more; return (route id, state, count) of each kind.

    What was ``sending`` becomes ``unknown``; the caller sets the wait by `doubt`. The epoch is raised, so that a late
    worker of the former owner changes nothing.

    Args:
        everything: Every claim, whoever holds it: this is the start of the only daemon on the file.

        mine: Instead: claims of this owner that are none of these deliveries (a commit whose answer was lost).
    """
    if mine is not None:
        owner, working = mine
        orphaned = and_(d.owner == owner, d.id.not_in(working))
    elif everything:
        orphaned = d.owner.is_not(None)
    else:
        orphaned = and_(d.owner.is_not(None), d.lease_until < bindparam("moment", now, type_=Time))
    rows = connection.execute(
        select(d.route_id, d.state, func.count()).where(orphaned).group_by(d.route_id, d.state)
    ).all()
    if rows:
        connection.execute(
            insert(attempts).from_select(
                ["delivery_id", "number", "intent", "started_at", "ended_at", "outcome", "excerpt"],
                select(
                    d.id,
                    d.attempts,
                    d.intent,
                    d.started_at,
                    type_coerce(literal(now, Time), Time),
                    literal("unknown"),
                    literal("the process ended before the outcome was known"),
                ).where(orphaned, d.state == State.SENDING),
            )
        )
        connection.execute(
            update(deliveries)
            .where(orphaned)
            .values(
                state=case((d.state == State.SENDING, str(State.UNKNOWN)), else_=d.state),
                # Marked for `doubt`: in doubt, and no wait set yet.
                safe_after=case((d.state == State.SENDING, None), else_=d.safe_after),
                reason=case(
                    (d.state == State.SENDING, "the process ended before the outcome was known"), else_=d.reason
                ),
                lookups=case((d.state == State.SENDING, 0), else_=d.lookups),
                not_before=now,
                owner=None,
                lease_until=None,
                epoch=d.epoch + 1,
                changed_at=now,
            )
        )
    return [(row[0], row[1], row[2]) for row in rows]


def look_first(connection: Connection, claims: Sequence[Claim], *, now: datetime) -> None:
    """Give back what was about to be sent to be looked up: an earlier attempt is in doubt, and the guard has changed since."""
    connection.execute(
        update(deliveries)
        .where(d.id.in_([claim.id for claim in claims]), d.owner.is_(None))
        .values(state=str(State.UNKNOWN), not_before=now, changed_at=now)
    )


def doubt(connection: Connection, route_id: int, *, safe_after: datetime) -> None:
    """Set until when copies of attempts that were just taken over may still be alive."""
    connection.execute(
        update(deliveries)
        .where(d.route_id == route_id, d.state == State.UNKNOWN, d.safe_after.is_(None))
        .values(safe_after=safe_after)
    )


_OWED = (State.PENDING, State.READY, State.WAITING, State.UNKNOWN)


def doubt_again(connection: Connection, route_id: int, *, safe_after: datetime) -> None:
    """
    Let every doubt of a route begin anew.

    At the start of a process: the wall clock may have been set since the waits were written, and only a wait that this
    process has seen begin is sure to last.
    """
    connection.execute(
        update(deliveries)
        .where(d.route_id == route_id, d.state.in_(_OWED), d.safe_after.is_not(None))
        .values(safe_after=safe_after)
    )


def clamp(connection: Connection, *, now: datetime) -> None:
    """Bring forward what lies further ahead than any wait can: the wall clock was set back between two runs."""
    for states, longest in (
        ((State.PENDING, State.READY), LONGEST_BACKOFF),
        ((State.WAITING, State.UNKNOWN), LONGEST_RETRY_AFTER),
    ):
        connection.execute(
            update(deliveries).where(d.state.in_(states), d.not_before > now + longest).values(not_before=now)
        )


def next_due(connection: Connection, route_ids: Sequence[int], *, now: datetime) -> tuple[bool, datetime | None]:
    """Return whether something is due now that nobody works on, and when the next thing comes due after now."""
    owed = and_(d.route_id.in_(route_ids), d.state.in_(_OWED), d.owner.is_(None))
    due_now = connection.execute(select(d.id).where(owed, d.not_before <= now).limit(1)).first() is not None
    return due_now, connection.execute(select(func.min(d.not_before)).where(owed, d.not_before > now)).scalar()


def unfinished(connection: Connection) -> dict[tuple[str, str], int]:
    """Return how many deliveries are in each state, by (route, state); finished ones too."""
    rows = connection.execute(
        select(routes.c.name, d.state, func.count())
        .join(routes, routes.c.id == d.route_id)
        .group_by(routes.c.name, d.state)
    )
    return {(row[0], row[1]): row[2] for row in rows}
