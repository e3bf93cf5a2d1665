"""``release`` and ``rewind``: what an operator changes of a whole route while the daemon goes on."""

from __future__ import annotations

from datetime import UTC, datetime

from poller.commands.opening import read_settings, reading
from poller.commands.showing import as_json, clean, say, warn
from poller.settings import Settings
from poller.settings.rewinding import checkpoint
from poller.store import Store, operating
from poller.store.standing import poll_standing, routes_standing

#: What stands for no checkpoint at all.
BEGINNING = ("", "beginning")


def moment(store: Store) -> datetime:
    """Return the time by which the daemon counts: the database's, or this machine's."""
    return store.now() or datetime.now(UTC)


def release(settings_option: str | None, name: str, reason: str | None, *, machine: bool) -> int:
    """Lift the hold of a route; the daemon goes on within a second."""
    _, settings = read_settings(settings_option)
    with reading(settings) as store, store.write() as connection:
        route = routes_standing(connection).get(name)
        if route is None:
            warn(clean(f"poller release: route {name} is not known; poller status lists the routes"))
            return 1
        if route.held_reason is None:
            warn(f"poller release: route {name} is not held; nothing was changed")
            return 1
        operating.release(connection, route, clean(reason) if reason else None, now=moment(store))
    if machine:
        say(as_json({"act": "release", "route": name, "was": route.held_reason}))
    else:
        say(f"route {name} released; it was held: {route.held_reason}")
    return 0


def rewind(settings_option: str | None, name: str, to: str, reason: str | None, *, dry_run: bool, machine: bool) -> int:
    """Set the checkpoint of a route back; the next poll begins there. What is known stays known."""
    _, settings = read_settings(settings_option)
    with reading(settings) as store, store.write() as connection:
        route = routes_standing(connection).get(name)
        if route is None or name not in settings.routes:
            where = "has never been started" if name in settings.routes else "is not in the settings"
            warn(clean(f"poller rewind: route {name} {where}; poller status lists the routes"))
            return 1
        stored = poll_standing(connection, route.id).value
        now = moment(store)
        try:
            value = _wanted(settings, name, to, stored, now)
        except ValueError as error:
            warn(clean(f"poller rewind: route {name} cannot go to {to!r}: {error}; nothing was changed"))
            return 1
        if not dry_run:
            operating.rewind(connection, route.id, value, clean(reason) if reason else None, now=now)
    if machine:
        say(as_json({"act": "rewind", "route": name, "dry_run": dry_run, "was": stored, "now": value}))
        return 0
    would = "would begin" if dry_run else "begins"
    say(clean(f"the next poll of route {name} {would} {_from(value)}; it was to begin {_from(stored)}"))
    say("what is known stays known: no record is delivered again")
    return 0


def _wanted(settings: Settings, name: str, to: str, stored: str | None, now: datetime) -> str | None:
    return None if to in BEGINNING else checkpoint(settings.routes[name], to, stored=stored, now=now)


def _from(value: str | None) -> str:
    return "at the beginning" if value is None else f"at {value}"
