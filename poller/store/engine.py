"""
Open the database, with durability that the guarantee may rest on.

SQLite: WAL, ``synchronous=FULL``, ``BEGIN IMMEDIATE``; one daemon a file, held by a lock on a file beside it.
PostgreSQL: psycopg 3, ``synchronous_commit`` forced on; several daemons may share it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from poller.errors import DatabaseUnusable

#: How long a writer waits for another process on the same SQLite file, in milliseconds.
SQLITE_BUSY_MS = 10_000
#: SQLITE_IOERR, SQLITE_CORRUPT, SQLITE_NOTADB. An fsync that failed once must not be tried again.
_BROKEN = frozenset({10, 11, 26})


class Store:
    """
    One open database.

    Args:
        engine: Its transactions are for writing; on SQLite they take the write lock when they begin.

        reader: For listings; its transactions do not queue behind writers.
    """

    def __init__(self, engine: Engine, reader: Engine) -> None:
        self.engine = engine
        self.reader = reader
        #: Who claims: this process, and no other before or after it.
        self.owner = f"{socket.gethostname()[:20]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._lock: IO[str] | None = None
        # SQLite has one writer, and lets others ask again after pauses that grow to 100 ms; within a process they queue here.
        self._writing = threading.Lock() if self.sqlite_path is not None else None

    @property
    def sqlite_path(self) -> Path | None:
        """Return the database file, None where it is not SQLite."""
        return Path(self.engine.url.database or "") if self.engine.dialect.name == "sqlite" else None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Begin a transaction that is committed at the end of the block, or wholly undone."""
        if self._writing is None:
            with self.engine.begin() as connection:
                yield connection
            return
        if not self._writing.acquire(timeout=SQLITE_BUSY_MS / 1000):
            # Somebody else has the file: each in the queue would wait for it all over again.
            raise OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))
        try:
            with self.engine.begin() as connection:
                yield connection
        finally:
            self._writing.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Begin a transaction that sees one state of the database."""
        with self.reader.connect() as connection:
            yield connection

    def now(self) -> datetime | None:
        """Return the time by the database's own clock, None where it has none but this machine's (SQLite)."""
        if self.sqlite_path is not None:
            return None
        with self.read() as connection:
            found: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return found.astimezone(UTC)

    def take(self) -> None:
        """
        Become the one daemon on this SQLite file; nothing to do on PostgreSQL.

        Raises:
            DatabaseUnusable: Another daemon has it.
        """
        path = self.sqlite_path
        if path is None:
            return
        lock_path = path.with_name(path.name + ".lock")
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            lock = os.fdopen(descriptor, "a+", encoding="utf-8")
        except OSError as error:
            raise DatabaseUnusable(f"lock file {lock_path.name} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            who = lock.read().strip() or "unknown"
            lock.close()
            raise DatabaseUnusable(
                f"database {path.name} is in use by another poller (pid {who}); stop that one first"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def alive(self) -> bool:
        """Return whether the database answers; what the watchdog asks."""
        try:
            with self.read() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def close(self) -> None:
        """Let go of every connection and of the file."""
        self.engine.dispose()
        if self.reader is not self.engine:
            self.reader.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def open_store(url: str, *, password: str | None = None) -> Store:
    """
    Open the database at *url*, creating a SQLite file that is not there.

    Args:
        url: ``sqlite:///file`` or ``postgresql+psycopg://user@host/db``.

        password: Put into the URL; it is never shown.

    Raises:
        DatabaseUnusable: It cannot be reached, or not with the durability that is needed.
    """
    try:
        parsed = make_url(url)
        if password is not None:
            parsed = parsed.set(password=password)
        if parsed.get_backend_name() == "sqlite":
            store = _open_sqlite(parsed.render_as_string(hide_password=False), Path(parsed.database or ""))
        else:
            engine = create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=20)
            event.listen(engine, "connect", _durable_postgresql)
            store = Store(engine, engine)
        with store.read() as connection:
            connection.execute(text("SELECT 1"))
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise DatabaseUnusable(f"database.url: {first_line(error)}") from error
    except DBAPIError as error:
        raise DatabaseUnusable(f"database cannot be used: {first_line(error)}") from error
    except OSError as error:
        raise DatabaseUnusable(f"database cannot be used: {error.strerror}: {error.filename}") from error
    return store


def _open_sqlite(url: str, path: Path) -> Store:
    if not path.parent.is_dir():
        raise DatabaseUnusable(f"database folder {path.parent} does not exist")
    arguments: dict[str, Any] = {"check_same_thread": False}
    engine = create_engine(url, connect_args=arguments)
    reader = create_engine(url, connect_args=arguments)
    for each in (engine, reader):
        event.listen(each, "connect", _durable_sqlite)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    event.listen(reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    # The file holds people's texts: readable by its owner alone, and so are its WAL and lock.
    if not path.exists():
        path.touch(mode=0o600)
    return Store(engine, reader)


def _durable_sqlite(dbapi: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401  sqlite3's connection is untyped here
    # The driver must not open transactions of its own: it would begin them deferred, and lose concurrent updates.
    dbapi.isolation_level = None
    for pragma in (f"busy_timeout={SQLITE_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        dbapi.execute("PRAGMA " + pragma)
    if (
        dbapi.execute("PRAGMA journal_mode").fetchone()[0] != "wal"
        or dbapi.execute("PRAGMA synchronous").fetchone()[0] < 2
    ):
        raise DatabaseUnusable("SQLite refuses WAL with synchronous=FULL here (a network file system?)")


def _durable_postgresql(dbapi: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401
    with dbapi.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
        cursor.execute("SET TIME ZONE 'UTC'")
    dbapi.commit()


def first_line(error: BaseException) -> str:
    """Return what a database error says, on one line and without SQLAlchemy's additions."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return next(iter(str(said).strip().splitlines()), type(error).__name__)


def is_broken(error: BaseException) -> bool:
    """Return whether SQLite says that its file or disk is damaged: going on could only make it worse."""
    code = getattr(error.orig, "sqlite_errorcode", 0) if isinstance(error, DBAPIError) else 0
    return code & 0xFF in _BROKEN
