"""
After a database was lost or thrown back in time (guarantee 2.3, 8).

After kill -9, out of memory or a power cut nothing is done here: committed intents say what is in doubt. This is for the
case that commits themselves are missing: the mark file is ahead of the database or absent, or PostgreSQL is another one.
Then nothing is created until the instance has told whether it knows incidents of ours that are newer than our memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from poller import metrics
from poller.clock import Clock
from poller.errors import PollerError, TransientError
from poller.lifecycle import pause
from poller.logs import get_logger
from poller.route import Route
from poller.store import Store, intents, reviewing, standing
from poller.store.standing import RemoteStanding

log = get_logger()

REASON = "database_lost"
_SYSTEM = "postgresql_system"


def suspect(
    store: Store, clock: Clock, routes: Mapping[str, Route], mark: int | None, last: tuple[int, int] | None = None
) -> bool:
    """
    Hold every guarded route if commits may be missing; return whether `ask` has to follow.

    Args:
        mark: The intent number in the mark file, None where there is none.

        last: The delivery of that intent, and its epoch then.
    """
    with store.write() as connection:
        why = _why(connection, mark, last)
        if why is not None:
            hold(connection, routes, why, now=clock.now())
        return any(each.held_until is None for each in _held(connection, routes))


def hold(connection: Connection, routes: Mapping[str, Route], why: str, *, now: datetime) -> None:
    """Let no guarded route create anything until the instances were asked; what an operator has to lift stays his."""
    standings = standing.routes_standing(connection)
    for route in routes.values():
        was = standings[route.name]
        by_operator = was.held_reason not in {None, REASON} and was.held_until is None
        if route.sink.guarded and not by_operator:
            standing.hold_route(connection, route.id, REASON, f"{why}; asking the instance", now=now, until=None)


def _held(connection: Connection, routes: Mapping[str, Route]) -> list[standing.RouteStanding]:
    standings = standing.routes_standing(connection)
    guarded = [standings[route.name] for route in routes.values() if route.sink.guarded]
    return [each for each in guarded if each.held_reason == REASON]


def _why(connection: Connection, mark: int | None, last: tuple[int, int] | None) -> str | None:
    known = standing.fact(connection, _SYSTEM) is not None
    if _other_postgresql(connection):
        return "this is another PostgreSQL than before"
    if mark is None:
        # A further daemon, or one on another machine, has no file beside a PostgreSQL that others know.
        return None if known else "there is no mark file beside the database"
    newest = intents.newest_number(connection)
    if newest < mark:
        return f"the database ends at intent {newest}, and intent {mark} was once committed"
    if last is not None and mark > 0 and not intents.remembers(connection, *last):
        return f"the database does not know intent {mark}, which was once committed"
    return None


def _other_postgresql(connection: Connection) -> bool:
    """Return whether the server's identifier or timeline has changed since the last start."""
    if connection.dialect.name != "postgresql":
        return False
    try:
        with connection.begin_nested():
            query = "SELECT (SELECT system_identifier FROM pg_control_system()), (SELECT timeline_id FROM pg_control_checkpoint())"
            found = ":".join(map(str, connection.execute(text(query)).one()))
    except DBAPIError:
        return False  # a managed PostgreSQL may not tell; the mark file remains
    before = standing.fact(connection, _SYSTEM)
    standing.keep_fact(connection, _SYSTEM, found)
    return before is not None and before != found


def ask(store: Store, clock: Clock, routes: Mapping[str, Route]) -> bool:
    """
    Ask each instance for incidents of the last day, unless it wants to be left alone; return whether all have answered.

    None: the routes are released at once. Some: nothing is created until no request of the lost time can be alive, every
    record is looked up before it is sent, and a route on its baseline waits for an operator.
    """
    answered = True
    for route in routes.values():
        with store.read() as connection:
            was = standing.routes_standing(connection)[route.name]
            remote = standing.remote_standing(connection).get(route.sink.remote, RemoteStanding())
        if was.held_reason != REASON or was.held_until is not None:
            continue
        now = clock.now()
        if remote.failures and remote.paused_until is not None and remote.paused_until > now:
            answered = False
            continue
        try:
            rows = route.sink.owned(route.receiver.prefix, since=now - timedelta(days=1), most=1)
        except PollerError as error:
            _pause(store, clock, route, remote, error)
            answered = False
            continue
        with store.write() as connection:
            baseline = route.receiver.baseline and not was.baseline_done
            _decide(connection, clock, route, found=bool(rows), baseline=baseline)
            if remote.failures:
                standing.pause_remote(connection, route.sink.remote, RemoteStanding())
                log.info("remote_resumed", remote=route.sink.remote)
    return answered


def _pause(store: Store, clock: Clock, route: Route, was: RemoteStanding, error: PollerError) -> None:
    """Leave a remote alone that gave no proper answer, for as long as it asked or ever longer."""
    asked = error.retry_after if isinstance(error, TransientError) else None
    failures = was.failures + 1
    until = clock.now() + pause(failures, route.policy, asked)
    with store.write() as connection:
        now_is = RemoteStanding(paused_until=until, failures=failures, error=str(error))
        standing.pause_remote(connection, route.sink.remote, now_is)
    log.warning(
        "remote_paused", remote=route.sink.remote, error=str(error), failures=failures, due_at=until.isoformat()
    )


def _decide(connection: Connection, clock: Clock, route: Route, *, found: bool, baseline: bool) -> None:
    if not found:
        standing.release_route(connection, route.id)
        return
    now = clock.now()
    back = reviewing.distrust(connection, route.id, now=now, safe_after=now + route.policy.settle)
    standing.keep_fact(connection, standing.LOST, now.isoformat())
    until = None if baseline else now + route.policy.settle
    error = "the instance knows incidents of ours, and the database may have lost records of them"
    if baseline:
        error += "; this route has no finished baseline, so an operator decides: poller release " + route.name
    standing.hold_route(connection, route.id, REASON, error, now=now, until=until)
    metrics.held(route.name, REASON)
    seconds = None if until is None else round((until - now).total_seconds(), 1)
    log.error("database_lost", route=route.name, error=error, seconds=seconds, looked_up_again=back)
