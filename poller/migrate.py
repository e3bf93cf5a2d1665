"""
Bring a database to the schema of this release.

Importing Alembic costs half a second of CPU, so it happens only when a database holds an older schema. The newest revision is read from the
migration files, that of the database is asked in plain SQL, and an empty database gets its tables straight from `poller.tables`.
`tests/test_migrations.py` holds that both ways lead to the same schema.
"""

import ast
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, PrimaryKeyConstraint, String, Table, inspect, select, text

from poller.errors import DatabaseUnusable
from poller.tables import metadata

# Any number will do, as long as it never changes: two daemons that start together must ask for the same lock.
_ADVISORY_LOCK = 0x706F6C6C6572

# The table that Alembic would make itself.
_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


class SchemaError(DatabaseUnusable):
    """The database cannot be brought to the schema of this release."""


def migrations() -> Path:
    """Return the folder of migrations: inside the package where it was installed, beside it in a checkout."""
    package = Path(str(files("poller")))
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def upgrade(engine: Engine, *, folder: Path | None = None) -> bool:
    """
    Bring the database of *engine* to the newest revision in *folder*, all or nothing.

    Daemons that start together wait for each other.

    Returns:
        Whether there was anything to do.

    Raises:
        SchemaError: The database belongs to a newer release, or to something else.
    """
    folder = folder or migrations()
    revisions = _revisions(folder)
    with engine.connect() as connection:
        return _upgrade(connection, folder, revisions)


def pending(engine: Engine, *, folder: Path | None = None) -> list[str]:
    """
    Return the revisions that the database of *engine* still lacks, oldest first. Changes nothing.

    Raises:
        SchemaError: As for `upgrade`.
    """
    revisions = _revisions(folder or migrations())
    with engine.connect() as connection:
        return _missing(revisions, _current(connection))


def _upgrade(connection: Connection, folder: Path, revisions: list[str]) -> bool:
    with connection.begin():
        _lock(connection)
        current = _current(connection)
        if not _missing(revisions, current):
            return False
        if current is None and _is_empty(connection):
            _create(connection, revisions[-1])
            return True
    _migrate(connection, folder, revisions)
    return True


def _lock(connection: Connection) -> None:
    # On SQLite the transaction itself is the lock: it begins IMMEDIATE.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})


def _current(connection: Connection) -> str | None:
    """Return the revision that the database has."""
    if not inspect(connection).has_table(_VERSION.name):
        return None
    found = connection.scalars(select(_VERSION.c.version_num)).all()
    if len(found) > 1:
        raise SchemaError(f"the database claims several revisions at once: {', '.join(found)}")
    return found[0] if found else None


def _missing(revisions: list[str], current: str | None) -> list[str]:
    if current is None:
        return revisions
    if current not in revisions:
        raise SchemaError(
            f"the database has revision {current}, this release knows only up to {revisions[-1]}: "
            "it was used by a newer release; install that one, or restore the backup taken before it",
        )
    return revisions[revisions.index(current) + 1 :]


def _is_empty(connection: Connection) -> bool:
    inspector = inspect(connection)
    return not inspector.get_table_names() and not inspector.get_view_names()


def _create(connection: Connection, head: str) -> None:
    # Nothing is there, so there is no need to ask for each table.
    metadata.create_all(connection, checkfirst=False)
    _VERSION.create(connection, checkfirst=False)
    connection.execute(_VERSION.insert(), {"version_num": head})


def _migrate(connection: Connection, folder: Path, revisions: list[str]) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # A percent sign would be taken for interpolation.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    on_sqlite = connection.dialect.name == "sqlite"
    if on_sqlite:
        # Altering a table on SQLite means copying and dropping it, and a drop cascades to the rows that refer to it. The switch is
        # ignored within a transaction, so it goes to the driver before one begins.
        _sqlite_foreign_keys(connection, enforced=False)
    try:
        with connection.begin():
            _lock(connection)
            # Another daemon may have been quicker while nothing was locked.
            if _missing(revisions, _current(connection)):
                command.upgrade(config, "head")
            if on_sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).all()):
                raise SchemaError(
                    f"the migration would leave {len(broken)} rows that refer to nothing; nothing was changed"
                )
    finally:
        if on_sqlite:
            _sqlite_foreign_keys(connection, enforced=True)


def _sqlite_foreign_keys(connection: Connection, *, enforced: bool) -> None:
    driver = connection.connection.dbapi_connection
    if driver is not None:
        driver.cursor().execute(f"PRAGMA foreign_keys={'ON' if enforced else 'OFF'}")


def _revisions(folder: Path) -> list[str]:
    """
    Read the chain of revisions in *folder*, oldest first, without running the files.

    Raises:
        SchemaError: There are none, or they do not form one chain.
    """
    heads = [_head(file) for file in sorted((folder / "versions").glob("*.py"))]
    after = {head["down_revision"]: head["revision"] for head in heads}
    chain: list[str] = []
    revision = after.get(None)
    while revision is not None:
        chain.append(revision)
        revision = after.get(revision)
    if not chain or len(chain) != len(heads):
        raise SchemaError(f"the {len(heads)} migrations in {folder / 'versions'} do not form one chain")
    return chain


def _head(file: Path) -> Mapping[str, str | None]:
    """Return the assignments of `revision` and `down_revision` at the top of *file*."""
    found: dict[str, str | None] = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                found[name] = None if value is None else str(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)):
                found[name] = None if value is None else str(value)
            case _:
                pass
    if not found.get("revision") or "down_revision" not in found:
        raise SchemaError(f"{file} names no revision")
    return found
