"""
What is due: deliveries that somebody should work on now, oldest first, and when the next one comes.

What is due is one walk of the index ``ix_deliveries_due`` a state; nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, and_, bindparam, exists, func, or_, select

from poller.identity import message_id
from poller.lifecycle import Claim
from poller.model import FINISHED, Guard, Intent, Operation, Record, State
from poller.store.leases import OWED
from poller.store.rows import load
from poller.tables import Time, deliveries, payloads, records, routes

d, r = deliveries.c, records.c

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
_earlier = deliveries.alias("earlier")
#: Deliveries of one record go strictly in order, and a dead letter stops those behind it. A reply stops none and waits for
#: none: it is owed once its incident is known.
IN_TURN = or_(
    d.operation == Operation.REPLY,
    ~exists().where(
        _earlier.c.record_id == d.record_id,
        _earlier.c.id < d.id,
        _earlier.c.operation != Operation.REPLY,
        _earlier.c.state.not_in([str(state) for state in FINISHED]),
    ),
)
_IS_DUE = (
    d.route_id == bindparam("route"),
    d.state == bindparam("in_state"),
    d.not_before <= bindparam("by", type_=Time),
    d.owner.is_(None),
    IN_TURN,
)
_DUE = (
    select(*_DELIVERY)
    .join(records, r.id == d.record_id)
    .where(*_IS_DUE)
    .order_by(d.not_before, d.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(of=deliveries, skip_locked=True)
)
_DUE_WITH_BODY = _DUE.where(d.body.is_not(None))
_COUNT = select(func.count()).select_from(
    select(d.id).where(*_IS_DUE, d.body.is_not(None)).limit(bindparam("most", type_=Integer)).subquery()
)
_DUE_WITHOUT_BODY = _DUE.where(d.body.is_(None))
_DUE_WITH_FIELDS = _DUE_WITHOUT_BODY.add_columns(payloads.c.fields, r.sys_id, r.number).join(
    payloads, and_(payloads.c.record_id == d.record_id, payloads.c.version == d.version)
)


def claims(
    connection: Connection, route: str, route_id: int, state: State, *, now: datetime, limit: int
) -> list[Claim]:
    """Return deliveries of *state* that are due, have their body, and nobody works on; oldest first."""
    query = _DUE_WITH_BODY if state is not State.UNKNOWN else _DUE
    rows = connection.execute(query, {"route": route_id, "in_state": str(state), "by": now, "most": limit})
    return [_claim(row, route) for row in rows.all()]


def more_than(connection: Connection, route_id: int, state: State, count: int, *, now: datetime) -> bool:
    """Return whether more than *count* deliveries of *state* are due as `claims` would return them."""
    found = connection.execute(
        _COUNT, {"route": route_id, "in_state": str(state), "by": now, "most": count + 1}
    ).scalar_one()
    return int(found) > count


def to_prepare(
    connection: Connection, route: str, route_id: int, state: State, *, now: datetime, limit: int
) -> list[tuple[Claim, Record, bool]]:
    """Return deliveries without a body that are due, with their records, and whether caches are to be passed by."""
    rows = connection.execute(
        _DUE_WITH_FIELDS, {"route": route_id, "in_state": str(state), "by": now, "most": limit}
    ).all()
    found = [(_claim(row, route), row) for row in rows]
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
                operation=claim.intent.operation,
                sys_id=row.sys_id,
                number=row.number,
                message_id=claim.intent.message_id,
            ),
            bool(row.fresh),
        )
        for claim, row in found
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
        message_id=message_id(row.correlation_id, row.operation, row.version),
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
        .where(
            d.route_id.in_(route_ids),
            d.state.in_((State.SENDING, State.UNKNOWN)),
            d.operation == Operation.CREATE,
        )
    ).scalar_one()


def next_due(connection: Connection, route_ids: Sequence[int], *, now: datetime) -> tuple[bool, datetime | None]:
    """Return whether something is due now that nobody works on, and when the next thing comes due after now."""
    owed = and_(d.route_id.in_(route_ids), d.state.in_(OWED), d.owner.is_(None))
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
