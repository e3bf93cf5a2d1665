"""
Can what an instance says about a table be believed.

An instance drops a condition that it does not understand, leaves out a column that we may not read, and hides rows
without a word. Each looks like "no such name", and would bury every record. So whenever an answer is odd, two harmless
questions tell a fault of the set-up from a name that is not there; the answer to them is believed for an hour.

Source: servicenow.md section 3 (user look-up recipe); guarantee.md 0 (4).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from poller.clients.query import Query
from poller.enrich.matching import Question, fits, text
from poller.errors import BlockedError
from poller.logs import get_logger
from poller.model import Fields

log = get_logger()

#: How long a good answer is believed, in seconds.
BELIEVED: Final = 3600.0
#: Rows that are looked at for one that shows its value: some people's may be hidden from us.
_SAMPLE: Final = 10


class Reader(Protocol):
    """What the enricher needs of a ServiceNow client."""

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Return up to *limit* rows; see `poller.clients.servicenow`."""
        ...


class Trust:
    """
    Remembers for a while what was proven.

    Args:
        clock: Monotonic.
    """

    def __init__(self, reader: Reader, clock: Callable[[], float]) -> None:
        self._reader = reader
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[object, float] = {}
        self._told: set[str] = set()

    def seen(self, question: Question) -> None:
        """Note that a row was found by its name: the table can be read."""
        self._believe(question)

    def readable(self, question: Question) -> None:
        """
        Make sure that the table shows rows with a name at all, before anything is taken for unknown.

        Raises:
            BlockedError: It shows none.

            TransientError: No proper answer.
        """
        if self._believed(question):
            return
        for column in question.by:
            query = conditions(Query().not_empty(column), question)
            rows = self._reader.table_get(question.table, query.order_by("sys_id"), question.columns(column), _SAMPLE)
            if any(text(row, column) and fits(row, question) for row in rows):
                self._believe(question)
                return
        besides = "".join(f" and {column} = {value[:80]}" for column, value in question.where)
        raise BlockedError(
            f"{question.table} look-up: no row can be seen that shows {' or '.join(question.by)}{besides}; "
            "check these names, and that the integration user may read the table and its columns"
        )

    def heeded(self, table: str, column: str) -> None:
        """
        Make sure that a condition on *column* is heeded: a value that nobody has finds nobody.

        Raises:
            BlockedError: It found somebody.

            TransientError: No proper answer.
        """
        if self._believed((table, column)):
            return
        query = Query().equals(column, f"poller-probe:{secrets.token_hex(16)}")
        if self._reader.table_get(table, query, ["sys_id"], 1):
            raise BlockedError(
                f"{table} look-up: the instance ignored our condition on {column} and gave other rows; "
                "check the column's name, and that the integration user may read it"
            )
        self._believe((table, column))

    def hidden_active(self, table: str) -> None:
        """Tell once that ``active`` is not shown, so that nobody can be taken for inactive."""
        with self._lock:
            told = table in self._told
            self._told.add(table)
        if not told:
            log.warning("column_hidden", table=table, column="active")

    def forget(self) -> None:
        """Believe nothing any more."""
        with self._lock:
            self._until.clear()

    def _believed(self, what: object) -> bool:
        with self._lock:
            return self._clock() < self._until.get(what, float("-inf"))

    def _believe(self, what: object) -> None:
        with self._lock:
            self._until[what] = self._clock() + BELIEVED


def conditions(query: Query, question: Question) -> Query:
    """Return *query* with what *question* wants besides the name."""
    for column, value in question.where:
        query = query.equals(column, value)
    return query
