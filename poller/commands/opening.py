"""Settings and database for the commands that only look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from poller.errors import DatabaseUnusable
from poller.migrate import pending
from poller.settings import Settings, find_settings, load
from poller.store import Store, open_store


def read_settings(option: str | None) -> tuple[Path, Settings]:
    """
    Return the settings file and what it says.

    Raises:
        SettingsError: It is not there, or wrong.
    """
    path = find_settings(option).absolute()
    return path, load(path)


@contextmanager
def reading(settings: Settings) -> Iterator[Store]:
    """
    Open the database to look at it; also while the daemon runs, and without changing anything.

    Raises:
        DatabaseUnusable: It is not there yet, or has another schema.
    """
    address = settings.database.address()
    _exists(address)
    store = open_store(address)
    try:
        # Through the reader: on SQLite the other engine would queue behind the daemon's writes.
        missing = pending(store.reader)
        if missing:
            raise DatabaseUnusable(f"the database lacks {len(missing)} migrations of this release: poller migrate")
        yield store
    finally:
        store.close()


def _exists(address: str) -> None:
    """Refuse to make an empty file only because somebody looked."""
    try:
        parsed = make_url(address)
    except ArgumentError as error:
        raise DatabaseUnusable("database.url: cannot be read") from error
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise DatabaseUnusable(f"database {parsed.database} does not exist yet: poller run, once or migrate makes it")
