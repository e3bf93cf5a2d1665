"""
The database as it stands: there, of this release, writable, made under this prefix, and what it has proven.

Looked at only: one that is not there yet is not made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, make_url, text

from poller.commands.checking.findings import Finding, fault, warning, well
from poller.commands.opening import reading
from poller.errors import DatabaseUnusable
from poller.guard import Proof, in_force
from poller.settings import Settings
from poller.store import Store, open_store, reading as listings
from poller.store.reading import snapshot
from poller.store.standing import proof, routes_standing
from poller.tables import metadata

_NAME: Final = "database"


@dataclass(kw_only=True)
class Remembered:
    """What the database remembers of routes; nothing where there is none yet."""

    checkpoints: dict[str, str | None] = field(default_factory=dict)
    #: The name that a route's identity was made from.
    identities: dict[str, str] = field(default_factory=dict)
    #: What is proven, by guard key.
    proofs: dict[str, Proof] = field(default_factory=dict)


def database(settings: Settings, remembered: Remembered, guard_keys: list[str]) -> Iterator[Finding]:
    """Look at the database; fill *remembered*."""
    try:
        with reading(settings) as store, snapshot(store) as connection:
            prefix = _remember(connection, remembered, guard_keys)
            unwritable = _unwritable(store, connection)
    except DatabaseUnusable as error:
        yield _unusable(settings, error)
        return
    wanted = settings.servicenow.correlation_prefix if settings.servicenow else prefix
    if prefix not in {None, wanted}:
        said = f'its records were made under correlation_prefix "{prefix}", the settings say "{wanted}"'
        yield fault(_NAME, said, "put the former one back; it is never changed")
    elif unwritable:
        yield fault(_NAME, unwritable, "run this as the user that the daemon runs as; else give it the right to write")
    else:
        yield well(_NAME, "there, with the schema of this release, and can be written")


def _remember(connection: Connection, remembered: Remembered, guard_keys: list[str]) -> str | None:
    remembered.checkpoints |= {line.name: line.checkpoint for line in listings.route_lines(connection)}
    remembered.identities |= {name: route.identity for name, route in routes_standing(connection).items()}
    remembered.proofs |= {key: proof(connection, key) for key in guard_keys}
    return listings.kept_prefix(connection)


def _unwritable(store: Store, connection: Connection) -> str:
    """Return why nothing can be written; "" where it can."""
    path = store.sqlite_path
    if path is not None:
        # SQLite writes beside its file too: the WAL, and ours the lock and the mark.
        missing = next((each for each in (path, path.parent) if not os.access(each, os.W_OK)), None)
        return f"{missing} cannot be written by this user" if missing else ""
    if connection.execute(text("SELECT pg_is_in_recovery()")).scalar():
        return "it is a standby, which is read-only"
    for name in metadata.tables:
        allowed = text("SELECT has_table_privilege(current_user, :name, 'INSERT, UPDATE')")
        if not connection.execute(allowed, {"name": name}).scalar():
            return f"the table {name} cannot be written by its user"
    return ""


def _unusable(settings: Settings, error: DatabaseUnusable) -> Finding:
    said = str(error)
    if "does not exist yet" in said:
        # How every installation begins.
        folder = Path(make_url(settings.database.url).database or "").parent
        if folder.is_dir() and os.access(folder, os.W_OK):
            return well(_NAME, said)
        return fault(_NAME, f"its folder {folder} is not there, or cannot be written", "make it, for the daemon's user")
    if "lacks" in said and _empty(settings):
        return well(_NAME, "there and empty: poller run, once or migrate makes its tables")
    if "lacks" in said:
        return warning(_NAME, said.partition(": ")[0], "back it up; poller run or migrate brings it to this release")
    return fault(_NAME, said, "see database.url, and that the server answers")


def _empty(settings: Settings) -> bool:
    store = open_store(settings.database.address())
    try:
        with store.read() as connection:
            return not inspect(connection).get_table_names()
    finally:
        store.close()


def guard(name: str, mode: str, known: Proof | None) -> Iterator[Finding]:
    """Say what keeps an unknown outcome from becoming a second incident, on one route."""
    now = in_force(mode, known or Proof())
    proving = "; until it is proven, one create at a time" if now.proving else ""
    yield well(f"guard of {name}", f"{now.guard}: {now.why}{proving}")
