"""What operators do: each act is written with who did it and why, in the transaction that does it."""

from __future__ import annotations

import getpass
import os
from datetime import datetime

from sqlalchemy import Connection, insert

from poller.store import standing
from poller.store.standing import RouteStanding
from poller.tables import acts


def release(connection: Connection, route: RouteStanding, reason: str | None, *, now: datetime) -> None:
    """Lift the hold of a route; what was written of it stays in the acts."""
    held = f"held: {route.held_reason}; released: {reason or 'no reason given'}"
    standing.release_route(connection, route.id)
    values = {"at": now, "who": _who(), "act": "release", "route_id": route.id, "record_id": None, "reason": held}
    connection.execute(insert(acts), [values])


def _who() -> str:
    """Return the person behind sudo where there is one, else this user."""
    try:
        return (os.environ.get("SUDO_USER") or getpass.getuser())[:64]
    except (KeyError, OSError):  # a user without a name, in a container
        return str(os.getuid())
