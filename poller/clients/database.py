"""
A database that belongs to somebody else: one question at a time, read-only, and given up after a while.

Every poll has a connection of its own, so that nothing of theirs is held in between. Where the database can (SQLite,
PostgreSQL), the transaction itself refuses to write; elsewhere the account has to. Values are bound, never written into
the query.

Source: SQLAlchemy 2.1 "Working with Engines and Connections", the PostgreSQL manual, appendix A (SQLSTATE), SQLite's URI file names.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, NotSupportedError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from poller.clients.database_url import SQLITE
from poller.errors import BlockedError, PollerError, TransientError

#: Steps of SQLite's machine between two looks at the clock; some milliseconds.
_STEPS = 100_000

_NO_ENTRY = re.compile(
    r"authentication failed|password|access denied|login failed|invalid username|ORA-01017|no pg_hba"
    r"|(role|database) \S+ does not exist|unknown database",
    re.IGNORECASE,
)
_SQLITE_QUERY = re.compile(
    r"no such|syntax error|incomplete input|ambiguous|wrong number|misuse|unrecognized|readonly|not a database",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of an answer."""

    #: Their names as the database gives them.
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]


class ForeignDatabase:
    """
    One database, asked with a connection of its own each time.

    Args:
        url: SQLAlchemy's, password included; never shown.

        password: What is never to stand in an error text.

        timeout: Longest wait for a lock and, on SQLite and PostgreSQL, for an answer.

        batch: Rows in memory at once.
    """

    def __init__(self, url: str, *, password: str, timeout: timedelta, connect_timeout: timedelta, batch: int) -> None:
        self._url = make_url(url)
        self._password = password
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._batch = batch
        self.dialect = self._url.get_backend_name()
        host = f"{self._url.host}/" if self._url.host else ""
        self._where = f"{self.dialect} {host}{self._url.database or ''}"

    def ask(self, query: str, parameters: Mapping[str, object]) -> Iterator[Batch]:
        """
        Yield the answer to *query*, at least one batch, which may be empty.

        Args:
            query: One statement, with ``:name`` for each of *parameters*.

        Raises:
            TransientError: Not reached, locked, too slow, or lost on the way.

            BlockedError: The query, the account or the database's name is wrong; only a person can mend it.
        """
        with self._connected() as connection:
            try:
                yield from self._answer(connection, query, parameters)
            except DBAPIError as error:
                raise self._sorted(error) from None
            except (SQLAlchemyError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
                raise BlockedError(f"{self._where}: the answer cannot be read ({type(error).__name__})") from None

    def _answer(self, connection: Connection, query: str, parameters: Mapping[str, object]) -> Iterator[Batch]:
        if self.dialect == "postgresql":
            limit = str(max(1, int(self._timeout.total_seconds() * 1000)))
            connection.execute(text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": limit})
        options = {"stream_results": True, "yield_per": self._batch}
        result = connection.execute(text(query), parameters, execution_options=options)
        columns = tuple(result.keys())
        empty = True
        for part in result.partitions(self._batch):
            empty = False
            yield Batch(columns=columns, rows=[dict(zip(columns, row, strict=True)) for row in part])
        if empty:
            yield Batch(columns=columns, rows=[])

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        engine = self._engine()
        connection = self._connect(engine)
        try:
            if self.dialect == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            yield connection
        finally:
            # A connection that is lost cannot roll back, and what was read is read.
            with suppress(SQLAlchemyError):
                connection.close()
            engine.dispose()

    def _connect(self, engine: Engine) -> Connection:
        try:
            return engine.connect()
        except DBAPIError as error:
            raise self._unreachable(error) from None
        except (SQLAlchemyError, OSError, ValueError, TypeError) as error:
            raise BlockedError(f"{self._where} cannot be reached with this url ({type(error).__name__})") from None

    def _engine(self) -> Engine:
        if self.dialect == "sqlite":
            return create_engine(SQLITE, poolclass=NullPool, creator=self._open_file)
        arguments: dict[str, Any] = {}
        if self.dialect == "postgresql":
            arguments["connect_timeout"] = max(2, round(self._connect_timeout.total_seconds()))
        return create_engine(self._url, poolclass=NullPool, connect_args=arguments)

    def _open_file(self) -> sqlite3.Connection:
        path = Path(self._url.database or "")
        if not path.is_file():
            raise BlockedError(f"{self._where} does not exist, or this user cannot see it")
        seconds = self._timeout.total_seconds()
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, timeout=seconds, check_same_thread=False
        )
        connection.execute("PRAGMA query_only=ON")
        # One value that is not UTF-8 would otherwise end the whole poll.
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        until = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        return connection

    # What went wrong, and what happens next.

    def _unreachable(self, error: DBAPIError) -> PollerError:
        said = self._said(error)
        if _NO_ENTRY.search(said):
            return BlockedError(f"{self._where} lets nobody in: {said}; check user, password and database of url")
        return TransientError(f"{self._where} cannot be reached: {said}", remote=True)

    def _sorted(self, error: DBAPIError) -> PollerError:
        state = getattr(error.orig, "sqlstate", None) or ""
        said = self._said(error)
        if state == "57014" or said == "interrupted":
            seconds = self._timeout.total_seconds()
            return TransientError(
                f"{self._where} gave no answer within {seconds:g} s; make the query cheaper, or raise timeout"
            )
        if state == "42P18" or " of parameter " in said:
            # PostgreSQL finds the type of a parameter from its first place, and IS NULL has none.
            said += "; write CAST(:checkpoint AS timestamptz), or whatever type it has"
        if state == "25006" or "readonly database" in said:
            return BlockedError(f"{self._where}: the query would write, and a source only reads: {said}")
        if self._faulty(error, state, said):
            return BlockedError(f"{self._where} refuses the query: {said}")
        return TransientError(f"{self._where} gave no answer: {said}", remote=error.connection_invalidated)

    def _faulty(self, error: DBAPIError, state: str, said: str) -> bool:
        """Return whether the query itself is at fault, or what its account may see."""
        if self.dialect == "sqlite" and _SQLITE_QUERY.search(said):
            return True
        if state:
            return state[:2] in {"22", "42", "28", "0A", "3D", "3F", "21"}
        return isinstance(error, ProgrammingError | DataError | NotSupportedError)

    def _said(self, error: DBAPIError) -> str:
        """Return the database's own words in one line, without the password and without any value of a row."""
        found = error.orig
        state = getattr(found, "sqlstate", None) or ""
        if isinstance(error, DataError) or state.startswith("22"):
            # These quote the value that does not fit.
            return f"a value does not fit its type ({state or type(found).__name__}); cast it in the query"
        words = getattr(getattr(found, "diag", None), "message_primary", None) or str(found)
        line = "".join(letter if letter.isprintable() else " " for letter in words)
        if self._password:
            line = line.replace(self._password, "**********")
        return " ".join(line.split())[:300]
