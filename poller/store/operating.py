"""What operators do: each act is written with who did it and why, in the transaction that does it."""

from __future__ import annotations

import getpass
import os
from datetime import datetime

from sqlalchemy import Connection, insert, update

from poller.store import standing
from poller.store.standing import RouteStanding
from poller.tables import acts, checkpoints

#: Reasons are kept up to this, in characters.
LONGEST_REASON = 500


def release(connection: Connection, route: RouteStanding, reason: str | None, *, now: datetime) -> None:
    """Lift the hold of a route; what was written of it stays in the acts."""
    held = f"held: {route.held_reason}; released: {reason or 'no reason given'}"
    standing.release_route(connection, route.id)
    note(connection, "release", route.id, held, now=now)


def rewind(connection: Connection, route_id: int, value: str | None, reason: str | None, *, now: datetime) -> None:
    """
    Set the checkpoint of a route; a poll that is under way does not move it any more.

    Args:
        value: None: the route begins as if it had never polled. What is known stays known.
    """
    was = standing.poll_standing(connection, route_id).value
    connection.execute(update(checkpoints).where(checkpoints.c.route_id == route_id).values(value=value, moved_at=now))
    told = f"from {_named(was)} to {_named(value)}: {reason or 'no reason given'}"
    note(connection, "rewind", route_id, told, now=now)


def _named(checkpoint: str | None) -> str:
    return "the beginning" if checkpoint is None else checkpoint


def note(
    connection: Connection, act: str, route_id: int, reason: str, *, now: datetime, record_id: int | None = None
) -> None:
    """Write who did what, when and why."""
    values = {
        "at": now,
        "who": _who(),
        "act": act,
        "route_id": route_id,
        "record_id": record_id,
        "reason": reason[:LONGEST_REASON],
    }
    connection.execute(insert(acts), [values])


def _who() -> str:
    """Return the person behind sudo where there is one, else this user."""
    try:
        return (os.environ.get("SUDO_USER") or getpass.getuser())[:64]
    except (KeyError, OSError):  # a user without a name, in a container
        return str(os.getuid())
