"""
The source ``servicenow``: rows of a table that match a query, as they come to match it or as they change.

Rows are stamped with the time at which their transaction writes, to the second, and are seen when it commits, which may be
minutes later. So the checkpoint is the time up to which nothing can come any more: what the instance's clock said when the
poll began, less its longest execution. Everything since then is read by each poll, and what is known is known. Pages go on
behind the last row, by its stamp and sys_id, never by offset: ten thousand rows may bear one stamp.

What changes without a new stamp (a scripted update, a row that comes to match by another table's change) is found by
reading everything that matches once a day.

Source: guarantee.md 2.5; servicenow.md sections 3 and 4.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, Protocol

from poller.clients.servicenow import ServiceNowSettings
from poller.errors import BlockedError
from poller.formats import fingerprint
from poller.model import Fields, Page, SourceRecord
from poller.ports import Known, nothing_known
from poller.sources.instants import SECOND
from poller.sources.servicenow_rows import Place, display, ends, leads_somewhere, placed, unplaced, value
from poller.sources.servicenow_settings import ServiceNowSourceSettings

__all__ = ["ServiceNowSource", "ServiceNowSourceSettings"]

#: Taken off besides: a Date has a grain of a second, and so has a stamp.
_GRAIN: Final = timedelta(seconds=2)
_STAMP: Final = "%Y-%m-%d %H:%M:%S"
_OURS: Final = ("sys_id", "sys_updated_on", "sys_mod_count")
#: Rows that are tried for the proof of the time zone; each may have changed meanwhile.
_TRIES: Final = 3
#: Pages in a row of which no row is shown to us, after which a poll does not go on.
_UNSEEN: Final = 50


class Client(Protocol):
    """What is needed of a ServiceNow client."""

    settings: ServiceNowSettings

    @property
    def skew_seconds(self) -> float: ...
    @property
    def skew_measured(self) -> bool: ...
    def table_page(
        self, table: str, query: str, fields: Sequence[str], limit: int, *, offset: int = 0, display: bool = False
    ) -> tuple[list[Fields], int | None]: ...


class ServiceNowSource:
    """
    One table, polled.

    Args:
        not_from: How the correlation_ids of rows begin that are left out.

        wall: Our wall clock, in seconds since 1970.
    """

    settings = ServiceNowSourceSettings

    def __init__(
        self,
        settings: ServiceNowSourceSettings,
        client: Client,
        *,
        not_from: Sequence[str] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._client = client
        self._not_from = tuple(not_from)
        self._wall = wall
        self._display = frozenset(settings.display)
        columns = [*_OURS, *settings.fields.values(), *(["correlation_id"] if not_from else [])]
        self._columns = tuple(dict.fromkeys(columns))
        self._proven_on: date | None = None

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        stood = since = self._since(checkpoint)
        if not self._proven:
            self._prove_zone(self._newest())
        # Before the first row is read: what commits while we page is stamped later than this, or read by the next poll.
        closed = self._closed()
        due = since is not None and closed is not None and self._due(since, closed)
        # While no row could be seen that proves how literals are read, none bounds the poll.
        if due or not self._proven:
            since = None
        held: list[Fields] = []
        for rows in self._pages(since):
            if held:
                yield self._page(held)
            held = rows
        marks = [moment for moment in (stood, closed) if moment is not None]
        mark = f"{max(marks):{_STAMP}}" if marks else None
        page = self._page(held + (self._stampless() if since is None else []))
        yield Page(records=page.records, malformed=page.malformed, checkpoint=mark, last=True)

    # Times.

    def _since(self, checkpoint: str | None) -> datetime | None:
        if checkpoint is None:
            return None
        try:
            # An operator may have written it with a zone, or as a day.
            mark = self._settings.checkpoint_reading().read(checkpoint)
            return datetime.fromtimestamp(int(mark.order // SECOND), UTC)
        except (ValueError, OverflowError):
            said = f'the stored checkpoint is no time such as "2026-11-24 01:02:03" (UTC), but {checkpoint[:40]!r}'
            raise BlockedError(f"{said}; set it by poller rewind") from None

    def _closed(self) -> datetime | None:
        """Return up to when nothing can come any more, by the instance's clock; None: it never told the time."""
        if not self._client.skew_measured:
            return None
        skew = timedelta(seconds=self._client.skew_seconds)
        theirs = datetime.fromtimestamp(self._wall(), UTC) - skew
        return (theirs - self._client.settings.max_execution - abs(skew) - _GRAIN).replace(microsecond=0)

    def _due(self, since: datetime, closed: datetime) -> bool:
        """Return whether all that matches is to be read: the checkpoint passes into another day, or whatever is set."""
        period = self._settings.reconcile.total_seconds()
        return since.timestamp() // period != closed.timestamp() // period

    @property
    def _proven(self) -> bool:
        """Whether the zone was proven today: where there is summer time, it may be UTC for half of a year."""
        return self._proven_on == self._today()

    def _today(self) -> date:
        return datetime.fromtimestamp(self._wall(), UTC).date()

    def _newest(self) -> list[Fields]:
        return self._ask("sys_updated_onISNOTEMPTY^ORDERBYDESCsys_updated_on", ["sys_id"], _TRIES)[0]

    def _prove_zone(self, rows: Sequence[Fields]) -> None:
        """
        Ask for one of *rows* by its own stamp, so that a literal is known to be read as it was written.

        Raises:
            BlockedError: It is read in another zone: rows would be missed. Or a column of the query is not seen.
        """
        for row in rows[-_TRIES:]:
            this = f"sys_id={value(row, 'sys_id')}"
            columns = dict.fromkeys(["sys_id", "sys_updated_on", *self._settings.queried()])
            stamps, _ = self._ask(this, list(columns), 1)
            self._check_queried(stamps)
            stamp = value(stamps[0], "sys_updated_on") if stamps else ""
            if stamp and self._ask(f"{this}^sys_updated_on={stamp}", ["sys_id"], 1)[0]:
                self._proven_on = self._today()
                return
        if rows:
            raise BlockedError(
                f"{self._settings.table}: a row is not found by its own sys_updated_on, so times in queries are read in "
                "another zone than UTC, or that column is hidden; set the time zone of the integration user to GMT"
            )

    def _check_queried(self, rows: Sequence[Fields]) -> None:
        """
        See that the columns of the query are there: a condition on any other is dropped, and the rest gives far more rows.

        Raises:
            BlockedError: One is not; what was never meant for the sink would be sent.
        """
        for column in self._settings.queried():
            # What lies behind an empty reference may be left out, although it is there.
            if any(column not in row and leads_somewhere(row, column) for row in rows):
                raise BlockedError(
                    f'{self._settings.table}: no row shows the column "{column}" of the query, so the instance may drop that '
                    "condition and give every row; correct query, or let the integration user read that column"
                )

    # Rows.

    def _ask(
        self, query: str, columns: Sequence[str], limit: int, *, offset: int = 0, display: bool = False
    ) -> tuple[list[Fields], int | None]:
        return self._client.table_page(self._settings.table, query, columns, limit, offset=offset, display=display)

    def _pages(self, since: datetime | None) -> Iterator[list[Fields]]:
        """Yield rows, oldest first, until there are no more."""
        place: Place | None = None
        offset, limit, total = 0, self._settings.page_size, None
        while offset < _UNSEEN * limit:
            query = self._query(since, place)
            rows, total = self._ask(query, self._columns, limit, offset=offset, display=bool(self._display))
            # Once stamps are known to be seen, a row without one is alone in that.
            shown = any(placed(row) for row in rows) or (bool(rows) and not self._proven)
            if shown:
                place = ends(self._settings.table, rows, place)
                if not self._proven:
                    self._prove_zone(rows)
            if rows:
                yield rows
            if self._is_last(rows, total, offset):
                return
            offset = 0 if shown else offset + limit
        raise BlockedError(
            f"{self._settings.table}: {total} rows match, and the instance hides {offset} of them in a row from us; let the "
            "integration user read what query asks for, or narrow query to what it may read"
        )

    def _stampless(self) -> list[Fields]:
        """Return rows that were never stamped, as imports may leave them, and that no page holds; at most a page of them."""
        query = self._bound(["sys_updated_onISEMPTY"]) + "^ORDERBYsys_id"
        rows, _ = self._ask(query, self._columns, self._settings.page_size, display=bool(self._display))
        # An instance that drops the condition gives all the others.
        return [row for row in rows if not value(row, "sys_updated_on")]

    def _is_last(self, rows: list[Fields], total: int | None, offset: int) -> bool:
        """Return whether no page follows. The limit counts before rows are hidden from us, and may be lowered."""
        limit = self._settings.page_size
        if not rows:
            return total is None or total <= offset + limit
        return total is not None and total <= offset + len(rows) < offset + limit

    def _query(self, since: datetime | None, place: Place | None) -> str:
        """Return what asks for the rows behind *place*, or else since then, or else for all that have a stamp."""
        if place is not None:
            ours = [f"sys_updated_on>{place.stamp}", f"sys_updated_on={place.stamp}^sys_id>{place.sys_id}"]
        else:
            ours = [f"sys_updated_on>={since:{_STAMP}}"] if since is not None else ["sys_updated_onISNOTEMPTY"]
        return self._bound(ours) + "^ORDERBYsys_updated_on^ORDERBYsys_id"

    def _bound(self, ours: Sequence[str]) -> str:
        """
        Return the admin's query with our conditions in each of its sets.

        ``^OR`` binds to the condition beside it alone, so what is added behind it holds for all of a set.
        """
        sets = [
            f"{theirs}^{condition}" if theirs else condition
            for theirs in self._settings.query.split("^NQ")
            for condition in ours
        ]
        return "^NQ".join(sets)

    def _page(self, rows: Sequence[Fields]) -> Page:
        theirs = [row for row in rows if not self._ours(row)]
        return Page(
            records=tuple(self._record(row) for row in theirs if placed(row)),
            malformed=tuple(unplaced(self._settings.table, row) for row in theirs if not placed(row)),
        )

    def _ours(self, row: Fields) -> bool:
        return bool(self._not_from) and value(row, "correlation_id").startswith(self._not_from)

    def _record(self, row: Fields) -> SourceRecord:
        fields: Fields = {
            name: display(row, column) if name in self._display else value(row, column)
            for name, column in self._settings.fields.items()
        }
        count = value(row, "sys_mod_count") or "0"
        return SourceRecord(
            key=value(row, "sys_id"),
            version=f"{count}-{fingerprint(fields)[:12]}",
            fields=fields,
            # Not the count: it may begin anew. What is seen last within a second counts.
            order=value(row, "sys_updated_on"),
        )
