"""
Updates of rows that we made: a changed record changes its incident, as far as the settings say.

A PATCH of plain columns may be repeated; one that appends to a journal may not, so each such text ends with a mark that
tells whether it has arrived. Before each attempt the row is looked at: one that is closed, gone, or not ours is left
alone, and one that is as it should be is not written to. So a row that looks right after an attempt in doubt was made so
by that attempt, and no copy of it can come later and undo a newer update.

Source: guarantee.md 2.3 (12), F41, F79.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from poller.clients.dictionary import Column
from poller.clients.query import Query
from poller.clients.rows import JOURNALS, differences
from poller.clients.servicenow import ServiceNowClient
from poller.errors import BlockedError, PermanentError, RefusedError
from poller.model import Fields, Intent, Prepared, Ready, Receipt, Record, Undeliverable
from poller.sinks.lengths import cut, limit
from poller.sinks.servicenow_bodies import Bodies
from poller.sinks.servicenow_settings import ServiceNowSinkSettings

#: What stands in every body, and is nothing to be changed.
_IDENTITY: Final = ("correlation_id", "correlation_display")
#: Where the rest of a long text may go: a note harms nothing, while a description that is not sent belongs to others.
_ADDABLE: Final = ("work_notes",)
#: More journal rows than this never bear one mark.
_NOTES: Final = 20


class Updates:
    """
    Updates of one route.

    Args:
        settings: ``[routes.NAME.sink]``.
    """

    def __init__(self, settings: ServiceNowSinkSettings, client: ServiceNowClient) -> None:
        self._client = client
        self._table = settings.table
        self._unless = settings.unless
        self._bodies = Bodies(settings.for_updates(), client, addable=_ADDABLE)

    def prepare(self, batch: Sequence[Record], *, now: datetime, fresh: bool) -> list[Prepared]:
        """
        Return what is to be sent for each record, in their order.

        Raises:
            TransientError, BlockedError: About the whole batch.
        """
        there = [record for record in batch if record.sys_id]
        made = iter(self._bodies.render(there, now=now, fresh=fresh) if there else [])
        columns = self._bodies.dictionary.columns().by_name if there else {}
        return [_frozen(record, next(made), columns) if record.sys_id else _nothing() for record in batch]

    def deliver(self, intent: Intent, check: Callable[[], None]) -> Receipt:
        """
        Change the row, once; see `poller.ports.Sink.deliver`.

        Args:
            check: Called right before the first byte of the PATCH; raises to stop.
        """
        sys_id, columns = _opened(intent)
        row, total = self._row(sys_id, ("correlation_id", *(name for name, _ in self._unless), *columns))
        if row is None:
            return self._unseen(total)
        if str(row.get("correlation_id") or "") != intent.correlation_id:
            raise PermanentError(f"{self._table}: the row does not bear our correlation_id, so it is not changed")
        if why := self._left_alone(row):
            return Receipt(learnt="lookup", unneeded=why)
        if JOURNALS.isdisjoint(columns) and not differences(columns, row):
            return Receipt(learnt="lookup")
        return self._send(sys_id, columns, check)

    def _send(self, sys_id: str, columns: Mapping[str, str], check: Callable[[], None]) -> Receipt:
        try:
            changed = self._client.update(self._table, sys_id, json.dumps(columns).encode(), check, fields=(*columns,))
        except RefusedError as error:
            row, total = self._row(sys_id, ()) if error.evidence.status == 404 else ({}, None)
            if row is None:
                return self._unseen(total)
            raise
        except PermanentError as error:
            # No insert was refused here: whatever the words are, they are about this record.
            raise PermanentError(str(error), evidence=error.evidence) from error
        return Receipt(learnt="response", differences=differences(columns, changed.row), evidence=changed.evidence)

    def find(self, intent: Intent) -> Receipt | None:
        """
        Return a receipt if the change is there now.

        Raises:
            TransientError | BlockedError: The question got no proper answer.
        """
        sys_id, columns = _opened(intent)
        row, total = self._row(sys_id, tuple(name for name in columns if name not in JOURNALS))
        if row is None:
            # A row that is hidden is told of by the next attempt, and not here, where others are asked about as well.
            return _gone() if total == 0 else None
        if not JOURNALS.isdisjoint(columns):
            return Receipt(learnt="lookup") if self._noted(sys_id, _mark(intent.message_id)) else None
        return Receipt(learnt="lookup") if not differences(columns, row) else None

    def _noted(self, sys_id: str, mark: str) -> bool:
        """
        Return whether a journal text with our mark is there.

        Where the journal is hidden from us none is seen, and an attempt whose answer was lost is made again: at least once.
        """
        query = Query().equals("element_id", sys_id).contains("value", mark)
        try:
            rows = self._client.table_get("sys_journal_field", query, ("element_id", "value"), _NOTES)
        except BlockedError as error:
            if error.evidence.status not in {403, 404}:
                raise
            return False
        return any(row.get("element_id") == sys_id and mark in str(row.get("value") or "") for row in rows)

    def _row(self, sys_id: str, columns: Sequence[str]) -> tuple[Fields | None, int | None]:
        """Return the row as far as we see it, and how many there are whether we see them or not; None: not told."""
        wanted = tuple(dict.fromkeys(("sys_id", *columns)))
        rows, total = self._client.table_page(self._table, str(Query().equals("sys_id", sys_id)), wanted, 2)
        return next((row for row in rows if row.get("sys_id") == sys_id), None), total

    def _unseen(self, total: int | None) -> Receipt:
        if total == 0:
            return _gone()
        # Rights that were taken away must not look like incidents that were deleted: their updates would be skipped.
        raise RefusedError(
            f"{self._table}: the incident is hidden from the integration user, so it is not changed; let it read the row"
        )

    def _left_alone(self, row: Fields) -> str | None:
        for name, _ in self._unless:
            if name not in row:
                raise BlockedError(
                    f"{self._table}: the integration user does not see {name}, so update_unless cannot be kept; "
                    "let it read that column"
                )
        if not self._unless:
            return None
        met = all(str(row[name] or "").casefold() == value.casefold() for name, value in self._unless)
        told = "^".join(f"{name}={value}" for name, value in self._unless)
        return f"the incident is as update_unless says ({told})" if met else None


def _frozen(record: Record, answer: Prepared, known: Mapping[str, Column]) -> Prepared:
    if not isinstance(answer, Ready):
        return answer
    columns: dict[str, Any] = {name: text for name, text in json.loads(answer.body).items() if name not in _IDENTITY}
    end = f"\n[poller {_mark(record.message_id)}]"
    for name in JOURNALS & columns.keys():
        # A mark that the instance cuts off would never be found again.
        most = limit(known.get(name))
        columns[name] = (cut(columns[name], most - len(end)) if most else columns[name]) + end
    return Ready(body=json.dumps({"sys_id": record.sys_id, "columns": columns}), note=answer.note)


def _nothing() -> Prepared:
    return Undeliverable(reason="there is no incident to be updated")


def _gone() -> Receipt:
    return Receipt(learnt="lookup", unneeded="the incident is gone")


def _opened(intent: Intent) -> tuple[str, Mapping[str, str]]:
    body = json.loads(intent.body)
    return str(body["sys_id"]), body["columns"]


def _mark(message_id: str) -> str:
    """Return what the journal text of one delivery bears, and no other of its record."""
    return message_id[-16:]
