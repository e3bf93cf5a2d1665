"""
The rows, tokens and tickets of a sandbox, in memory, journalled to a file when one is given.

The journal is one JSON array a line, ``[what, value]``, appended with one write before anybody hears of the
change; so it survives ``kill -9`` (not a power cut: nothing is synced). It is read back at start, where a torn
last line is cut off. Not SQLite: an insert would cost more than the rest of the call.
"""

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable

from poller.sandbox.encoded_query import Row
from poller.sandbox.options import Json
from poller.sandbox.tables import TABLES, Definition

Fields = dict[str, Json]


_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


class StateError(Exception):
    """The state file cannot be used; the text says why."""


class Journal:
    """An append-only file of JSON lines."""

    def __init__(self, path: str) -> None:
        """Open *path*, made if missing, for this process alone."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            message = f"cannot open {path}: {error.strerror}"
            raise StateError(message) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            message = f"{path} is in use by another sandbox"
            raise StateError(message) from error
        self._path = path
        self._lock = threading.Lock()
        self._open = True

    def replay(self) -> Iterable[tuple[str, Json]]:
        """Yield all that was written before, and cut off a line that was torn by a kill."""
        good = 0
        with open(self._path, "rb") as lines:  # noqa: PTH123 - a plain name is enough here
            for line in lines:
                try:
                    what, value = json.loads(line)
                except ValueError as error:
                    if line.endswith(b"\n"):
                        message = f"{self._path} is not a sandbox's state: bad line at byte {good}"
                        raise StateError(message) from error
                    break
                good += len(line)
                yield what, value
        os.ftruncate(self._file, good)

    def write(self, what: str, value: Json) -> None:
        """Append one entry."""
        line = _ENCODER.encode([what, value]).encode() + b"\n"
        with self._lock:
            if self._open:
                os.write(self._file, line)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._file)


class Table:
    """The rows of one table by sys_id; every value is a string."""

    def __init__(self, name: str, definition: Definition) -> None:
        self.name = name
        self.definition = definition
        self.rows: dict[str, Row] = {}
        self._visible_at: dict[str, float] = {}  # sys_id: monotonic time, for what cannot be read yet
        self._older: dict[str, Row] = {}  # sys_id: what is read of a changed row until then
        self._indexes: dict[str, dict[str, dict[str, None]]] = {column: {} for column in definition.indexed}

    def put(self, row: Row) -> None:
        """Add or replace *row*."""
        sys_id = row["sys_id"]
        before = self.rows.get(sys_id)
        self.rows[sys_id] = row
        for column, index in self._indexes.items():
            if before is not None:
                index.get(before[column].casefold(), {}).pop(sys_id, None)
            index.setdefault(row[column].casefold(), {})[sys_id] = None

    def remove(self, sys_id: str) -> None:
        """Take a row away, if it is there."""
        row = self.rows.pop(sys_id, None)
        for column, index in self._indexes.items():
            if row is not None:
                index.get(row[column].casefold(), {}).pop(sys_id, None)

    def all(self) -> list[Row]:
        """Return every row that can be queried."""
        return self._seen(list(self.rows.values()))

    def among(self, column: str, values: Iterable[str]) -> list[Row]:
        """Return the rows whose *column* is one of *values*, case aside."""
        if column == "sys_id":
            found = dict.fromkeys(value.casefold() for value in values)
        else:
            index = self._indexes[column]
            found = {}
            for value in values:
                found |= dict.fromkeys(list(index.get(value.casefold(), ())))
        return self._seen([row for sys_id in found if (row := self.rows.get(sys_id)) is not None])

    def _seen(self, rows: list[Row]) -> list[Row]:
        if not self._visible_at:
            return rows
        return [seen for row in rows if (seen := self.seen(row["sys_id"])) is not None]

    def delay(self, sys_id: str, duration: float, older: Row | None = None) -> None:
        """Let readers see *older*, or no row at all, for so many seconds."""
        if older is not None:
            self._older[sys_id] = older
        self._visible_at[sys_id] = time.monotonic() + duration

    def seen(self, sys_id: str) -> Row | None:
        """Return the row as readers see it by now; None where there is none yet."""
        if self._visible_at.get(sys_id, 0.0) > time.monotonic():
            return self._older.get(sys_id)
        self._visible_at.pop(sys_id, None)
        self._older.pop(sys_id, None)
        return self.rows.get(sys_id)


class Store:
    """Everything a sandbox remembers."""

    def __init__(self, path: str | None) -> None:
        """Open the state at *path*, or start empty in memory."""
        self.lock = threading.RLock()
        self.tables = {name: Table(name, definition) for name, definition in TABLES.items()}
        self.journal = Journal(path) if path else None
        self.seeded = False  # whether users and first tickets were made, perhaps in an earlier life
        self._numbers: dict[str, int] = {"incident": 10000}
        self._watchers: dict[str, Callable[[Row], None]] = {}
        self._readers: dict[str, Callable[[Json], None]] = {
            "seeded": self._read_seeded,
            "row": self._read_row,
            "gone": lambda value: self.tables[value[0]].remove(value[1]),
        }

    def reads(self, what: str, reader: Callable[[Json], None]) -> None:
        """Let *reader* have the journal's entries named *what*."""
        self._readers[what] = reader

    def watch(self, table: str, watcher: Callable[[Row], None]) -> None:
        """Let *watcher* have each row of *table* that is added or changed from now on; it must not take long."""
        self._watchers[table] = watcher

    def load(self) -> None:
        """Read the journal back; every reader must be known by now."""
        for what, value in self.journal.replay() if self.journal else ():
            self._readers[what](value)

    def write(self, what: str, value: Json) -> None:
        """Append an entry to the journal, if there is one."""
        if self.journal is not None:
            self.journal.write(what, value)

    def _read_seeded(self, value: Json) -> None:
        self.seeded = bool(value)

    def _read_row(self, value: Json) -> None:
        table, row, number = value
        self.tables[table].put(row)
        if number:
            self._numbers[table] = max(number, self._numbers[table])

    def mark_seeded(self) -> None:
        """Remember that the first users and tickets are made."""
        self.seeded = True
        self.write("seeded", value=True)

    def next_number(self, table: str) -> str:
        """Return the next number of *table*; it is used up whatever becomes of the insert."""
        with self.lock:
            count = self._numbers.get(table, 10000) + 1
            self._numbers[table] = count
        return f"{TABLES[table].prefix}{count:07d}"

    def insert(self, table: str, row: Row) -> bool:
        """Commit a new row; False, and nothing done, when its sys_id is taken."""
        with self.lock:
            if row["sys_id"] in self.tables[table].rows:
                return False
            self.write("row", [table, row, self._numbers.get(table, 0)])
            self.tables[table].put(row)
            self._tell(table, row)
        return True

    def replace(self, table: str, row: Row) -> None:
        """Commit a changed row."""
        with self.lock:
            self.write("row", [table, row, 0])
            self.tables[table].put(row)
            self._tell(table, row)

    def _tell(self, table: str, row: Row) -> None:
        if (watcher := self._watchers.get(table)) is not None:
            watcher(row)

    def remove(self, table: str, sys_id: str) -> bool:
        """Delete a row; False when there is none."""
        with self.lock:
            if sys_id not in self.tables[table].rows:
                return False
            self.write("gone", [table, sys_id])
            self.tables[table].remove(sys_id)
        return True

    def close(self) -> None:
        """Close the journal; what is changed afterwards is not kept."""
        if self.journal is not None:
            self.journal.close()


def new_sys_id() -> str:
    """Return a fresh sys_id, 32 hex digits."""
    return uuid.uuid4().hex
