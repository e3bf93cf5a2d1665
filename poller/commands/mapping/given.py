"""
What answers in the place of the instance, so that a mapping test needs none: rows that stand in its file.

Our own queries are read here, of the few forms that `poller.clients.query` makes; a form that is not known finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from poller.clients.answers import Created
from poller.clients.dictionary import DELIVERED
from poller.clients.query import Query
from poller.clients.servicenow import ServiceNowClient, ServiceNowSettings
from poller.errors import BlockedError
from poller.model import Fields

_PART: Final = re.compile(r"([a-z][a-z0-9_.]*)(ISNOTEMPTY|STARTSWITH|ENDSWITH|IN|=)(.*)", re.DOTALL)
_NOBODY: Final = "0" * 32
_TESTS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "=": lambda stored, value: stored.casefold() == value.casefold(),
    "IN": lambda stored, value: stored.casefold() in value.casefold().split(","),
    "STARTSWITH": lambda stored, value: stored.casefold().startswith(value.casefold()),
    "ENDSWITH": lambda stored, value: stored.casefold().endswith(value.casefold()),
}


class Given(ServiceNowClient):
    """
    Speaks to nobody.

    Args:
        rows: What look-ups find, by table.

        lengths: Of columns, where they are not as delivered.
    """

    def __init__(
        self, settings: ServiceNowSettings, *, rows: Mapping[str, list[dict[str, str]]], lengths: Mapping[str, int]
    ) -> None:
        super().__init__(settings, connections=1)
        self._given = rows
        self._lengths = lengths

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Return the rows of the file that match *query*."""
        parts = [part for each in str(query).split("^") if (part := _PART.fullmatch(each))]
        if table == "sys_dictionary":
            return self._dictionary(parts)[:limit]
        found = [row for each in self._given.get(table, []) if (row := self._fitting(table, each, parts)) is not None]
        return found[:limit]

    def create(
        self,
        table: str,
        body: bytes,
        send_check: Callable[[], None] | None = None,
        *,
        fields: Sequence[str] = (),
    ) -> Created:
        raise BlockedError("nothing is sent here")

    def _fitting(self, table: str, row: Mapping[str, str], parts: Sequence[re.Match[str]]) -> Fields | None:
        """Return *row* with all that it was asked to have; None where it is another one."""
        columns = {column for each in self._given.get(table, []) for column in each}
        found: Fields = {"active": "true", **row}
        for part in parts:
            column, operator, value = part[1], part[2], part[3]
            if operator == "ISNOTEMPTY":
                continue
            if column not in columns and operator == "=":
                # No row of the file says; a condition that the settings add is taken for met.
                found[column] = value
            elif column not in row or not _TESTS[operator](row[column], value):
                return None
        return found

    def _dictionary(self, parts: Sequence[re.Match[str]]) -> list[Fields]:
        asked = {part[1]: part[3].split(",") for part in parts if part[2] == "IN"}
        tables, names = asked.get("name", []), asked.get("element", [])
        rows: list[Fields] = []
        # A file says nothing of columns that are not there; whether they are is what `poller check` asks the instance.
        for name in names if tables else ():
            column = DELIVERED.get(name)
            length = self._lengths.get(name, column.length if column else None)
            kind, reference = (column.kind, column.reference) if column else ("string", "")
            row = {"name": tables[0], "element": name, "internal_type": kind, "reference": reference}
            rows.append(row | {"max_length": "" if length is None else str(length)})
        return rows


class Known(Given):
    """The same, for look-ups of names that nobody has: it shows that the table could be read."""

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Return the rows of the file, or where any row would do, one of nobody."""
        found = super().table_get(table, query, fields, limit)
        if found or "ISNOTEMPTY" not in str(query):
            return found
        row: Fields = dict.fromkeys(fields, "poller-nobody") | {"sys_id": _NOBODY}
        for part in str(query).split("^"):
            if (met := _PART.fullmatch(part)) and met[2] == "=":
                row[met[1]] = met[3]
        return [row]
