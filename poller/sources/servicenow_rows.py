"""Rows of a ServiceNow table: their columns as texts, where a page of them ends, and those that have no place in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from poller.clients.answers import is_sys_id
from poller.errors import BlockedError, TransientError
from poller.formats import to_text
from poller.model import Fields, Malformed
from poller.sources.reading import MAX_RAW


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Where a row stands in its table, and so where a page ends."""

    stamp: str
    sys_id: str


def placed(row: Fields) -> bool:
    """Return whether a row shows what pages are told apart by."""
    return len(value(row, "sys_updated_on")) == len("2026-11-24 01:02:03") and is_sys_id(value(row, "sys_id"))


def ends(table: str, rows: Sequence[Fields], before: Place | None) -> Place:
    """
    Return where a page ends.

    Raises:
        TransientError: It is not what was asked for; going on would miss rows.

        BlockedError: No row shows what pages are told apart by.
    """
    places = [Place(stamp=value(row, "sys_updated_on"), sys_id=value(row, "sys_id")) for row in rows if placed(row)]
    if not places:
        raise BlockedError(f"{table}: sys_id or sys_updated_on is hidden; let the integration user read them")
    if sorted(places) != places or (before is not None and places[0] <= before):
        raise TransientError(f"{table}: the instance gave other rows, or in another order, than asked")
    return places[-1]


def unplaced(table: str, row: Fields) -> Malformed:
    """Return the dead letter of a row without a place: nobody could say whether it has changed."""
    sys_id = value(row, "sys_id")
    return Malformed(
        reason=f"{table}: the row has no sys_updated_on, or hides it or its sys_id; save it once there, or let the "
        "integration user read them, and the next daily reading takes it",
        raw=json.dumps(row, ensure_ascii=False, sort_keys=True)[:MAX_RAW],
        key=sys_id if is_sys_id(sys_id) else None,
    )


def value(row: Fields, column: str) -> str:
    """Return a column as text; one that is hidden from us, or empty, is empty."""
    found = row.get(column)
    if isinstance(found, dict):
        found = found.get("value")
    return "" if found is None else to_text(found)


def display(row: Fields, column: str) -> str:
    """Return what people see in a column, as text."""
    found = row.get(column)
    shown = found.get("display_value") if isinstance(found, dict) else found
    return "" if shown is None else to_text(shown)


def leads_somewhere(row: Fields, column: str) -> bool:
    """Return whether a dot-walk leads somewhere in *row*; a column of the table itself does."""
    reference, dot, _ = column.rpartition(".")
    return not dot or bool(value(row, reference))
