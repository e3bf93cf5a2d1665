"""
How routes and remotes stand: identity, checkpoint, backoff, blocks, holds, proofs of the guard, the hourly budget.

Everything that a restart must not forget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update

from poller.errors import SettingsError
from poller.guard import Proof
from poller.store.rows import upsert
from poller.tables import checkpoints, deliveries, facts, proofs, records, remotes, routes

PREFIX = "correlation_prefix"
#: Set once the database has lost commits: it does not know how every incident of ours was made.
LOST = "database_lost_at"


@dataclass(frozen=True, kw_only=True)
class RouteStanding:
    """One row of ``routes``."""

    id: int
    name: str
    identity: str
    baseline_done: bool
    succeeded_at: datetime | None
    refused_at: datetime | None
    blocked_until: datetime | None
    blocked_failures: int
    blocked_error: str | None
    held_reason: str | None
    held_error: str | None
    held_until: datetime | None

    @property
    def succeeded_since_refusal(self) -> bool:
        """Return whether a delivery went through since the last refusal."""
        return self.succeeded_at is not None and (self.refused_at is None or self.succeeded_at > self.refused_at)


@dataclass(frozen=True, kw_only=True)
class PollStanding:
    """One row of ``checkpoints``."""

    value: str | None
    not_before: datetime | None
    failures: int


@dataclass(frozen=True, kw_only=True)
class RemoteStanding:
    """One row of ``remotes``."""

    paused_until: datetime | None = None
    failures: int = 0
    error: str | None = None


def enter_route(connection: Connection, name: str, previously: str | None, *, now: datetime) -> RouteStanding:
    """
    Return the route's row, made at its first start; *previously* carries the identity over a renaming.

    Raises:
        SettingsError: The new and the old name both exist already.
    """
    row = _route(connection, name)
    if row is None and previously is not None:
        connection.execute(update(routes).where(routes.c.name == previously).values(name=name))
        row = _route(connection, name)
    if row is None:
        values = {"name": name, "identity": _free_identity(connection, name), "created_at": now}
        # Two daemons may start at once: the row is made by one of them, and found by both.
        connection.execute(upsert(connection, routes).on_conflict_do_nothing(), [values])
        row = _route(connection, name)
        assert row is not None  # noqa: S101  inserted above
    elif previously is not None and _route(connection, previously) is not None:
        raise SettingsError(
            [f"routes.{name}.previously: both {previously} and {name} have records; a route has one identity"]
        )
    connection.execute(upsert(connection, checkpoints).on_conflict_do_nothing(), [{"route_id": row.id, "failures": 0}])
    return row


def _free_identity(connection: Connection, name: str) -> str:
    # A new route that takes a name which another route was renamed from must not share its identity.
    taken = set(connection.execute(select(routes.c.identity)).scalars())
    identity, count = name, 1
    while identity in taken:
        count += 1
        identity = f"{name}~{count}"
    return identity


def _route(connection: Connection, name: str) -> RouteStanding | None:
    row = connection.execute(_ROUTES.where(routes.c.name == name)).mappings().first()
    return RouteStanding(**row) if row else None


_ROUTES = select(*(routes.c[name] for name in RouteStanding.__dataclass_fields__))


def routes_standing(connection: Connection) -> dict[str, RouteStanding]:
    """Return every route ever started, by name."""
    return {row["name"]: RouteStanding(**row) for row in connection.execute(_ROUTES).mappings()}


def fix_prefix(connection: Connection, prefix: str) -> None:
    """
    Keep the installation's name at its first use.

    Raises:
        SettingsError: It was changed while records exist: their incidents would not be recognised any more.
    """
    connection.execute(upsert(connection, facts).on_conflict_do_nothing(), [{"name": PREFIX, "value": prefix}])
    kept = fact(connection, PREFIX)
    if kept != prefix:
        if connection.execute(select(records.c.id).limit(1)).first():
            raise SettingsError(
                [
                    f'servicenow.correlation_prefix: is "{prefix}", but records were made under "{kept}"; it is never changed'
                ]
            )
        connection.execute(update(facts).where(facts.c.name == PREFIX).values(value=prefix))


def fact(connection: Connection, name: str) -> str | None:
    """Return what is true of this installation under *name*."""
    return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()


def facts_beginning(connection: Connection, beginning: str) -> set[str]:
    """Return the names of facts that begin so."""
    return set(connection.execute(select(facts.c.name).where(facts.c.name.startswith(beginning))).scalars())


def keep_fact(connection: Connection, name: str, value: str) -> None:
    """Keep what is true of this installation."""
    statement = upsert(connection, facts).on_conflict_do_update(index_elements=["name"], set_={"value": value})
    connection.execute(statement, [{"name": name, "value": value}])


# Polling.


def poll_standing(connection: Connection, route_id: int) -> PollStanding:
    """Return the checkpoint and the backoff of a route's polls."""
    c = checkpoints.c
    row = connection.execute(select(c.value, c.not_before, c.failures).where(c.route_id == route_id)).one()
    return PollStanding(value=row.value, not_before=row.not_before, failures=row.failures)


def poll_finished(connection: Connection, route_id: int, *, now: datetime) -> None:
    """Note a whole poll: no backoff any more, and the baseline is done."""
    connection.execute(
        update(checkpoints)
        .where(checkpoints.c.route_id == route_id)
        .values(polled_at=now, finished_at=now, not_before=None, failures=0, error=None)
    )
    connection.execute(
        update(routes).where(routes.c.id == route_id, routes.c.baseline_done.is_(False)).values(baseline_done=True)
    )


def poll_failed(connection: Connection, route_id: int, error: str, *, now: datetime, until: datetime) -> None:
    """Note a poll that broke off: not again before *until*."""
    connection.execute(
        update(checkpoints)
        .where(checkpoints.c.route_id == route_id)
        .values(polled_at=now, not_before=until, failures=checkpoints.c.failures + 1, error=error)
    )


# Delivering.


def write_route(connection: Connection, before: RouteStanding, after: RouteStanding, *, held_at: datetime) -> None:
    """Write what has changed in how a route stands; the rest may be newer in the database than here."""
    names = [each.name for each in fields(RouteStanding)]
    changed = {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
    if "held_reason" in changed or "held_until" in changed:
        changed["held_at"] = None if after.held_reason is None else held_at
    if changed:
        connection.execute(update(routes).where(routes.c.id == after.id).values(**changed))


def hold_route(
    connection: Connection, route_id: int, reason: str, error: str, *, now: datetime, until: datetime | None
) -> None:
    """Let the route create nothing: until a moment, or (None) until somebody lifts the hold."""
    connection.execute(
        update(routes)
        .where(routes.c.id == route_id)
        .values(held_reason=reason, held_error=error, held_at=now, held_until=until)
    )


def release_route(connection: Connection, route_id: int) -> None:
    """Lift a hold."""
    connection.execute(
        update(routes)
        .where(routes.c.id == route_id)
        .values(held_reason=None, held_error=None, held_at=None, held_until=None)
    )


def admitted_since(connection: Connection, route_id: int, since: datetime) -> int:
    """Return how many records the flood guard has let through since then."""
    return connection.execute(
        select(func.count())
        .select_from(deliveries)
        .where(deliveries.c.route_id == route_id, deliveries.c.admitted_at > since)
    ).scalar_one()


def remote_standing(connection: Connection) -> dict[str, RemoteStanding]:
    """Return how each remote stands that ever failed."""
    c = remotes.c
    rows = connection.execute(select(c.name, c.paused_until, c.failures, c.error))
    return {
        row.name: RemoteStanding(paused_until=row.paused_until, failures=row.failures, error=row.error) for row in rows
    }


def pause_remote(connection: Connection, name: str, standing: RemoteStanding) -> None:
    """Keep how a remote stands."""
    values = {"paused_until": standing.paused_until, "failures": standing.failures, "error": standing.error}
    statement = upsert(connection, remotes).on_conflict_do_update(index_elements=["name"], set_=values)
    connection.execute(statement, [{"name": name, **values}])


def spend(connection: Connection, name: str, wanted: int, per_hour: int, *, now: datetime) -> int:
    """
    Return how many of *wanted* requests the hourly budget of a remote allows now, and count them.

    A token bucket in the database, shared by every process. Its burst is a twentieth of the hour's budget and is taken
    off the refill, so that no window of an hour sees more than *per_hour*.
    """
    # On PostgreSQL several daemons spend from one bucket: each waits here for the other's turn to end.
    connection.execute(upsert(connection, remotes).on_conflict_do_nothing(), [{"name": name, "failures": 0}])
    tokens = _tokens(connection, name, per_hour, now)
    allowed = max(0, min(wanted, math.floor(tokens)))
    values = {"tokens": tokens - allowed, "filled_at": now}
    connection.execute(update(remotes).where(remotes.c.name == name).values(**values))
    return allowed


def give_back(connection: Connection, name: str, requests: int) -> None:
    """Count *requests* less than `spend` has allowed; a negative number: more."""
    connection.execute(update(remotes).where(remotes.c.name == name).values(tokens=remotes.c.tokens + requests))


def _tokens(connection: Connection, name: str, per_hour: int, now: datetime) -> float:
    burst = max(1.0, per_hour / 20)
    rate = max(per_hour - burst, 0.5) / 3600
    row = connection.execute(
        select(remotes.c.tokens, remotes.c.filled_at).where(remotes.c.name == name).with_for_update()
    ).first()
    if row is None or row.tokens is None or row.filled_at is None:
        return burst
    elapsed = max(0.0, (now - row.filled_at).total_seconds())
    return float(min(burst, row.tokens + elapsed * rate))


def clamp(connection: Connection, *, now: datetime, longest: timedelta) -> None:
    """Bring forward waits that lie further ahead than any can: the wall clock was set back between two runs."""
    for column in (checkpoints.c.not_before, routes.c.blocked_until, routes.c.held_until, remotes.c.paused_until):
        statement = update(column.table).where(column > now + longest).values({column.name: now})
        connection.execute(statement)


# What is proven of an instance.


def proof(connection: Connection, name: str) -> Proof:
    """Return what is proven of an instance, table and user."""
    c = proofs.c
    row = connection.execute(select(c.sys_id, c.lookup, c.why).where(c.name == name)).first()
    return Proof() if row is None else Proof(sys_id=row.sys_id, lookup=row.lookup, why=row.why)


def keep_proof(connection: Connection, name: str, found: Proof, *, now: datetime) -> None:
    """Keep what is proven."""
    values = {"sys_id": found.sys_id, "lookup": found.lookup, "why": found.why, "changed_at": now}
    statement = upsert(connection, proofs).on_conflict_do_update(index_elements=["name"], set_=values)
    connection.execute(statement, [{"name": name, **values}])
