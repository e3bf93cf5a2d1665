"""
What the instance's dictionary says of a table's columns: their kinds and lengths.

An incident extends a task, so most of its columns stand in the dictionary under ``task``. The dictionary may well be
hidden from the integration user: then what every instance is delivered with has to do. It is asked once for each table,
and again every day, since an admin may make a column longer.

Source: servicenow.md 4.1; the tables ``sys_dictionary`` and ``sys_db_object``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from poller.clients.query import Query
from poller.errors import BlockedError, TransientError
from poller.model import Fields

#: How long an answer is believed, in seconds: a good one, a refusal, and none at all.
GOOD: Final = 86_400.0
REFUSED: Final = 3600.0
FAILED: Final = 300.0
#: So many failures in a row, and work goes on without the dictionary.
PATIENCE: Final = 3

_ROW: Final = ("name", "element", "max_length", "internal_type", "reference")
#: Where a table's columns stand that are not its own, as a rule.
_PARENT: Final = "task"
_ANCESTORS: Final = tuple(f"{'super_class.' * depth}name" for depth in range(1, 5))


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column."""

    #: ``internal_type``: ``string``, ``reference``, ``journal_input``, ``integer`` …
    kind: str
    #: In characters; None: not known.
    length: int | None = None
    #: The table that a reference points into.
    reference: str = ""


def _references(**tables: str) -> dict[str, Column]:
    return {name: Column(kind="reference", length=32, reference=table) for name, table in tables.items()}


#: What every instance is delivered with, for the columns that incidents are mostly made of.
DELIVERED: Final[Mapping[str, Column]] = {
    "short_description": Column(kind="string", length=160),
    "description": Column(kind="string", length=4000),
    "work_notes": Column(kind="journal_input", length=4000),
    "comments": Column(kind="journal_input", length=4000),
    **_references(
        caller_id="sys_user",
        opened_by="sys_user",
        assigned_to="sys_user",
        assignment_group="sys_user_group",
        cmdb_ci="cmdb_ci",
        business_service="cmdb_ci_service",
        company="core_company",
        location="cmn_location",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What is known of some columns of a table; one that is not in there is not known at all."""

    by_name: Mapping[str, Column] = field(default_factory=dict)
    #: Columns that the table and all above it do not have. Only what is sure: elsewhere a column is merely not known.
    absent: frozenset[str] = frozenset()
    #: Why `DELIVERED` stands in for the dictionary; None: this is what the instance said.
    why: str | None = None


class Reader(Protocol):
    """What is needed of a ServiceNow client."""

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Return up to *limit* rows; see `poller.clients.servicenow`."""
        ...


class Dictionary:
    """
    The columns of one table.

    Args:
        names: The columns that are asked for.

        clock: Monotonic.
    """

    def __init__(
        self, reader: Reader, table: str, names: Collection[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = reader
        self._table = table
        self._names = tuple(dict.fromkeys(names))
        self._clock = clock
        # Held while asking: the first batches of a start come all at once, and one question will do.
        self._lock = threading.Lock()
        self._known = Columns()
        self._until = float("-inf")
        self._failures = 0

    def columns(self) -> Columns:
        """
        Return what is known, by the instance or else as delivered.

        Raises:
            TransientError: No proper answer, and for the first times.

            BlockedError: The credentials are refused: nothing else would be answered either.
        """
        with self._lock:
            if self._clock() >= self._until:
                self._known, life = self._read()
                self._until = self._clock() + life
            return self._known

    def _read(self) -> tuple[Columns, float]:
        try:
            found, absent = self._ask()
        except BlockedError as error:
            if error.evidence.status not in {400, 403, 404}:
                raise
            return self._delivered(str(error)), REFUSED
        except TransientError as error:
            self._failures += 1
            if self._failures < PATIENCE:
                raise
            return self._delivered(str(error)), FAILED
        self._failures = 0
        if not found:
            return self._delivered("sys_dictionary look-up: no row for any of our columns can be seen"), REFUSED
        return Columns(by_name=found, absent=absent), GOOD

    def _delivered(self, why: str) -> Columns:
        return Columns(by_name={name: DELIVERED[name] for name in self._names if name in DELIVERED}, why=why)

    def _ask(self) -> tuple[dict[str, Column], frozenset[str]]:
        """Return what is found, and what surely is not there."""
        tables = list(dict.fromkeys((self._table, _PARENT)))
        found = self._rows(tables, self._names)
        missing = [name for name in self._names if name not in found]
        if not missing:
            return found, frozenset()
        above = self._ancestors()
        if others := [name for name in above if name not in tables]:
            found |= self._rows(others, missing)
        # Where the tables above cannot be seen, a column may be one of theirs; an incident has a task above it, and no more.
        sure = bool(above) or self._table == "incident"
        return found, frozenset(name for name in missing if name not in found) if sure and found else frozenset()

    def _rows(self, tables: Sequence[str], names: Sequence[str]) -> dict[str, Column]:
        """Return *names* as the first of *tables* has them that has them at all."""
        limit = len(tables) * len(names) + 10
        query = Query().in_("name", tables).in_("element", names).order_by("sys_id")
        rows = self._reader.table_get("sys_dictionary", query, _ROW, limit)
        # So many were not asked for: the instance has dropped a condition, and the page may lack what was.
        rows = rows if len(rows) < limit else []
        found: dict[str, Column] = {}
        for table in reversed(tables):
            found |= {str(row["element"]): _column(row) for row in rows if _is(row, table, names)}
        return found

    def _ancestors(self) -> list[str]:
        """Return the tables that this one extends, nearest first; none where that cannot be seen."""
        try:
            rows = self._reader.table_get(
                "sys_db_object", Query().equals("name", self._table), ("name", *_ANCESTORS), 2
            )
        except (BlockedError, TransientError):
            return []
        mine = next((row for row in rows if row.get("name") == self._table), {})
        above = [mine.get(name) for name in _ANCESTORS]
        return [name for name in above if isinstance(name, str) and name]


def _is(row: Fields, table: str, names: Collection[str]) -> bool:
    return row.get("name") == table and row.get("element") in names


def _column(row: Fields) -> Column:
    length = str(row.get("max_length") or "")
    return Column(
        kind=str(row.get("internal_type") or ""),
        length=int(length) if length.isascii() and length.isdigit() and len(length) < 10 else None,
        reference=str(row.get("reference") or ""),
    )
