"""``release``: what an operator changes while the daemon goes on."""

from __future__ import annotations

from datetime import UTC, datetime

from poller.commands.opening import read_settings, reading
from poller.commands.showing import say, warn
from poller.store import operating
from poller.store.standing import routes_standing


def release(settings_option: str | None, name: str, reason: str | None) -> int:
    """Lift the hold of a route; the daemon goes on within a second."""
    _, settings = read_settings(settings_option)
    with reading(settings) as store, store.write() as connection:
        route = routes_standing(connection).get(name)
        if route is None:
            warn(f"poller release: route {name} is not known; poller status lists the routes")
            return 1
        if route.held_reason is None:
            warn(f"poller release: route {name} is not held; nothing was changed")
            return 1
        operating.release(connection, route, reason, now=datetime.now(UTC))
    say(f"route {name} released; it was held: {route.held_reason}")
    return 0
