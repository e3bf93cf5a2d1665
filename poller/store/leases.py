"""Leases and doubts: who works on what and for how long, and what becomes of it when nobody does any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, bindparam, case, func, insert, literal, select, type_coerce, update

from poller.lifecycle import LONGEST_RETRY_AFTER, Claim
from poller.model import State
from poller.store.rows import chunks
from poller.tables import Time, attempts, deliveries

d = deliveries.c

#: Longer than any backoff that is not a remote's wish.
LONGEST_BACKOFF = timedelta(hours=1)


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


#: The states of a delivery that is not finished and that nobody works on.
OWED = (State.PENDING, State.READY, State.WAITING, State.UNKNOWN)


def doubt_again(connection: Connection, route_id: int, *, safe_after: datetime) -> None:
    """
    Let every doubt of a route begin anew.

    At the start of a process: the wall clock may have been set since the waits were written, and only a wait that this
    process has seen begin is sure to last.
    """
    connection.execute(
        update(deliveries)
        .where(d.route_id == route_id, d.state.in_(OWED), d.safe_after.is_not(None))
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
