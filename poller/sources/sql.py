"""
The source ``sql``: polls a query in any database that SQLAlchemy speaks to.

It only reads. The query says which rows are wanted, ``:checkpoint`` in it where the last whole poll ended; here is only
decided what a row becomes. Everything about connections and errors is in `poller.clients.database`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from poller.errors import BlockedError
from poller.formats import open_format
from poller.model import Page
from poller.ports import Known, nothing_known
from poller.sources.checkpoints import Seen
from poller.sources.column_checkpoints import bound
from poller.sources.reading import Reader
from poller.sources.sql_query import uses_checkpoint
from poller.sources.sql_settings import SqlSourceSettings
from poller.sources.sql_values import as_row

if TYPE_CHECKING:
    from poller.clients.database import Batch, ForeignDatabase

__all__ = ["SqlSource", "SqlSourceSettings"]


class SqlSource:
    """
    One query, polled.

    Args:
        now: No value later than this moves the checkpoint.
    """

    settings = SqlSourceSettings

    def __init__(self, settings: SqlSourceSettings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        rows = open_format("json")
        self._reader = Reader(settings, rows)
        self._format = settings.checkpoint_reading()
        named = {"key": settings.key, "version": settings.version, "checkpoint": settings.checkpoint}
        named |= {f"fields.{name}": text for name, text in settings.fields.items()}
        #: Column -> the setting that needs it.
        self._needed = {
            column: name
            for name, text in named.items()
            if text is not None and (column := rows.compile(text).column) is not None
        }

    def close(self) -> None:
        """Nothing is kept between two polls."""

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        seen = self._seen(checkpoint)
        database = self._database()
        held: Page | None = None
        for batch in database.ask(self._settings.query, self._parameters(checkpoint, database.dialect)):
            # Only the one behind it tells whether a page is the last.
            if held is not None:
                yield held
            held = self._page(batch, seen)
        assert held is not None  # noqa: S101  an answer without rows is one empty batch
        yield Page(
            records=held.records, malformed=held.malformed, refused=held.refused, checkpoint=seen.largest, last=True
        )

    def _database(self) -> ForeignDatabase:
        # SQLAlchemy takes half a second to load; whoever only reads settings need not wait for it.
        from poller.clients.database import ForeignDatabase

        settings = self._settings
        try:
            password = "" if settings.password is None else settings.password.reveal()
            address = settings.address()
        except OSError as error:
            raise BlockedError(f"secret file {error.filename} cannot be read: {error.strerror}") from None
        return ForeignDatabase(
            address,
            password=password,
            timeout=settings.timeout,
            connect_timeout=settings.connect_timeout,
            batch=settings.batch,
        )

    def _parameters(self, checkpoint: str | None, dialect: str) -> Mapping[str, object]:
        if not uses_checkpoint(self._settings.query):
            return {}
        text = self._settings.first_checkpoint if checkpoint is None else self._format.handed(checkpoint)
        return {"checkpoint": None if text is None else bound(text, dialect)}

    def _seen(self, checkpoint: str | None) -> Seen:
        try:
            return Seen(self._format, checkpoint if self._settings.checkpoint is not None else None)
        except ValueError as error:
            raise BlockedError(f"the stored checkpoint is not understood: {error}; set it by poller rewind") from None

    def _page(self, batch: Batch, seen: Seen) -> Page:
        self._check_columns(batch.columns)
        read = self._reader.page([as_row(row) for row in batch.rows])
        try:
            refused = seen.page(read.checkpoints, self._now())
        except ValueError as error:
            raise BlockedError(
                f'"{self._settings.checkpoint}" gives no checkpoint that is understood: {error}; set checkpoint_format'
            ) from None
        return Page(records=read.records, malformed=read.malformed, checkpoint=seen.largest, refused=refused)

    def _check_columns(self, columns: tuple[str, ...]) -> None:
        """Raise where the query gives other columns than the settings speak of: each row would be a dead letter."""
        listed = ", ".join(columns)[:300]
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise BlockedError(
                f'the query gives the column "{twice[0]}" twice; name them apart with AS; it gives: {listed}'
            )
        for column, setting in self._needed.items():
            if column not in columns:
                raise BlockedError(f'{setting}: the query gives no column "{column}"; it gives: {listed}')
