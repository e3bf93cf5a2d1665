"""
Rows that bear our correlation ids: asked for in batches, compared one by one, bound to the oldest.

Source: guarantee.md 2.2, 2.3 (3), (6), (10).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from poller.clients.answers import is_sys_id
from poller.clients.query import Query, chunks
from poller.errors import HeldError, TransientError
from poller.model import Difference, Fields, Owned, Receipt

#: What every look-up asks for.
COLUMNS: Final = ("sys_id", "number", "correlation_id", "correlation_display", "sys_created_on")
_MOST: Final = 50
_CHARACTERS: Final = 6000
_PAGE: Final = 1000
#: Written and never read back: an instance keeps their texts as rows of their own.
JOURNALS: Final = frozenset({"work_notes", "comments", "comments_and_work_notes"})


class Reader(Protocol):
    """What is needed of a ServiceNow client."""

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Return up to *limit* rows; see `poller.clients.servicenow`."""
        ...


class Incidents:
    """
    Look-ups in one table.

    Args:
        previously: Names that the route had before.
    """

    def __init__(self, reader: Reader, table: str, *, previously: Collection[str] = ()) -> None:
        self._reader = reader
        self._table = table
        self._previously = frozenset(previously)

    def probe(self, token: str) -> None:
        """
        Ask for a correlation id that nobody has; see whether the instance heeds our condition.

        Raises:
            HeldError: It gave rows all the same: no look-up can be trusted, so nothing may be created.

            TransientError, BlockedError: No proper answer.
        """
        if self._reader.table_get(self._table, Query().equals("correlation_id", f"poller-probe:{token}"), COLUMNS, 1):
            raise HeldError(
                f"{self._table} look-up: the instance ignored our condition on correlation_id and gave other rows; "
                "the integration user must be able to read that column",
                reason="canary",
                operator=False,
            )

    def by_correlation(self, ids: Iterable[str]) -> dict[str, list[Fields]]:
        """
        Return the rows of each correlation id, oldest first.

        Raises:
            TransientError, BlockedError: Not all is known.
        """
        return self._ask("correlation_id", {key: key for key in ids})

    def by_sys_id(self, wanted: Mapping[str, str]) -> dict[str, list[Fields]]:
        """Return the rows of each derived sys_id, under its correlation id."""
        return self._ask("sys_id", wanted)

    def owned(self, prefix: str, *, since: datetime, most: int) -> list[Owned]:
        """
        Return the rows that bear ids of this installation, by sys_id.

        Raises:
            TransientError, BlockedError: Not all is known.
        """
        found: list[Owned] = []
        query = Query().starts_with("correlation_id", f"{prefix}:").created_since(since)
        page = query
        while len(found) < most:
            limit = min(_PAGE, most - len(found))
            rows = self._reader.table_get(self._table, page.order_by("sys_id"), COLUMNS, limit)
            mine = [row for row in rows if is_sys_id(row.get("sys_id"))]
            # An instance may have dropped the condition: what does not bear our prefix is not ours.
            found += [_owned(row) for row in mine if str(row.get("correlation_id")).startswith(f"{prefix}:")]
            # Rows that we may not read are missing from a page, so only an empty one is the end.
            if not mine:
                break
            page = query.after(str(mine[-1]["sys_id"]))
        return found

    def known(
        self, wanted: Mapping[str, str], *, by_sys_id: bool, displays: Mapping[str, tuple[str, str]]
    ) -> dict[str, Receipt]:
        """
        Return what is there already.

        Args:
            wanted: Derived sys_ids by correlation id.

            by_sys_id: Ask by the primary key, which is always indexed; only where every row of ours has such a sys_id.

            displays: Route and key by correlation id.

        Raises:
            HeldError: A row bears our id and another record's name.

            TransientError, BlockedError: Not all is known.
        """
        rows = self.by_sys_id(wanted) if by_sys_id else self.by_correlation(wanted)
        found = {}
        for key, mine in rows.items():
            if mine:
                self.check_display(mine, *displays[key])
                found[key] = receipt(mine, key, None)
        return found

    def check_display(self, rows: Iterable[Fields], route: str, key: str) -> None:
        """
        Compare the names that rows bear with the record's.

        Raises:
            HeldError: Another one: two installations share a prefix, or somebody has written our ids.
        """
        names = {_plain(f"{name}/{key}") for name in (route, *self._previously)}
        for row in rows:
            there = _plain(str(row.get("correlation_display") or ""))
            # A column may be shorter than what was sent; one that cannot be read says nothing.
            if there and not any(name.startswith(there) or there.startswith(name) for name in names):
                raise HeldError(
                    f"{self._table} {row.get('number')}: bears the correlation_id of {route}/{key} "
                    "and another correlation_display; does another installation use this correlation_prefix?",
                    reason="collision",
                    operator=True,
                )

    def _ask(self, column: str, wanted: Mapping[str, str]) -> dict[str, list[Fields]]:
        """Ask in batches for *wanted*'s values; rows that were not asked for are ignored."""
        found: dict[str, list[Fields]] = {key: [] for key in wanted}
        keys = {value: key for key, value in wanted.items()}
        for some in chunks(keys, most=_MOST, characters=_CHARACTERS):
            limit = 2 * len(some) + 10
            rows = self._reader.table_get(self._table, Query().in_(column, some), COLUMNS, limit)
            if len(rows) >= limit:
                raise TransientError(f"{self._table} look-up: more rows than were asked for; nothing is known")
            for row in rows:
                key = keys.get(str(row.get(column)))
                if key is not None and is_sys_id(row.get("sys_id")):
                    found[key].append(row)
        for mine in found.values():
            mine.sort(key=lambda row: (str(row.get("sys_created_on") or ""), str(row["sys_id"])))
        return found


def _owned(row: Fields) -> Owned:
    return Owned(
        sys_id=str(row["sys_id"]),
        correlation_id=str(row["correlation_id"]),
        number=str(row.get("number") or "") or None,
        created_at=str(row.get("sys_created_on") or "") or None,
    )


def receipt(rows: Sequence[Fields], correlation_id: str, sent_sys_id: str | None) -> Receipt:
    """Return the receipt for rows of one correlation id, oldest first: that one is bound."""
    oldest = rows[0]
    sys_id = str(oldest["sys_id"])
    return Receipt(
        learnt="lookup",
        sys_id=sys_id,
        number=str(oldest.get("number") or "") or None,
        created_at=str(oldest.get("sys_created_on") or "") or None,
        altered=altered(oldest, correlation_id),
        duplicates=tuple(str(row["sys_id"]) for row in rows[1:]),
        sys_id_honoured=None if sent_sys_id is None else sys_id == sent_sys_id,
    )


def altered(row: Fields, correlation_id: str) -> str | None:
    """Return the row's correlation id where it is not *correlation_id*, "" where it has none; None: it is."""
    there = row.get("correlation_id")
    there = there if isinstance(there, str) else ""
    return None if there == correlation_id else there


def differences(sent: Mapping[str, object], row: Fields) -> tuple[Difference, ...]:
    """Return which fields came back otherwise than they were sent; never their texts."""
    found = []
    for name, value in sent.items():
        if name in JOURNALS:
            continue
        there = row.get(name)
        if isinstance(there, dict):
            there = there.get("value")
        before, after = _lines(value), _lines(there)
        if before == after:
            continue
        kind = "missing" if not after else "cut" if before.startswith(after) else "changed"
        found.append(Difference(field=name, kind=kind))
    return tuple(found)


def _lines(value: object) -> str:
    return "" if value is None else str(value).replace("\r\n", "\n").strip()


def _plain(text: str) -> str:
    """Letters and digits alone: what an instance may do to blanks and signs is no collision."""
    return "".join(character for character in text[:100] if character.isalnum())
