"""
The source ``http``: polls any HTTP system that answers in JSON, XML or CSV.

A record that cannot be read becomes a `Malformed` and the rest goes on; a page that cannot be read moves nothing. The
checkpoint that is handed out belongs to the poll's last page, since newest-first lists are the norm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from poller.clients.http import Answer, HttpRemote
from poller.errors import BlockedError, Evidence, TransientError
from poller.formats import Document, ExpressionFault, FormatFault
from poller.model import Page
from poller.ports import Known, nothing_known
from poller.sources.asking import Asker
from poller.sources.checkpoints import Seen
from poller.sources.conditional import Unchanged
from poller.sources.details import Details
from poller.sources.http_settings import HttpSourceSettings
from poller.sources.pagers import Pager, Reply, Request
from poller.sources.queries import Queries, Query
from poller.sources.reading import Reader

__all__ = ["HttpSource", "HttpSourceSettings"]

_CHARSET = re.compile(r'charset\s*=\s*"?([A-Za-z0-9._:+-]{1,40})', re.IGNORECASE)
_OR_UNCHANGED = frozenset({200, 304})
_WHOLE = frozenset({200})


class HttpSource:
    """
    One external system, polled.

    Args:
        remote: Left out: a client of its own.

        now: Stands in for the answer's Date where there is none.
    """

    settings = HttpSourceSettings

    def __init__(
        self,
        settings: HttpSourceSettings,
        *,
        remote: HttpRemote | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._now = now
        self._documents = settings.open_format()
        self._reader = Reader(settings, self._documents)
        self._records = None if settings.records is None else self._documents.compile(settings.records)
        self._format = settings.checkpoint_reading()
        body = settings.body if isinstance(settings.body, (dict, list, str)) else None
        self._queries = Queries(method=settings.method, params=settings.params, body=body, paging=settings.paging)
        self._asker = Asker(settings, remote)
        self._details = Details(settings, self._asker, charset=_charset)
        self._unchanged = Unchanged()
        #: The root of this poll's documents that had records: an error text in XML has another, and no records.
        self._root: str | None = None

    def close(self) -> None:
        """Close the connections that are kept."""
        self._asker.close()

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        settings = self._settings
        self._root = None
        resumes = settings.paging.resumes
        # One that is left over from settings that had a checkpoint is nobody's.
        seen = self._seen(None if resumes or settings.checkpoint is None else checkpoint)
        handed = checkpoint if resumes or checkpoint is None else self._handed(checkpoint)
        if handed is None and not resumes:
            handed = settings.first_checkpoint
        pager = settings.paging.pager(Request(url=settings.url, bare=not settings.params), checkpoint, self._documents)
        request: Request | None = pager.first()
        first = self._queries.query(pager.first(), handed)
        conditions = self._unchanged.take(first, checkpoint)
        for number in range(settings.paging.max_pages):
            assert request is not None  # noqa: S101  the loop ends with the last page
            query = first if number == 0 else self._queries.query(request, handed)
            answer = self._ask(query, conditions if number == 0 else {})
            page, fault, request = self._page(answer, pager, seen, known)
            yield page
            if fault is not None:
                raise fault
            if request is None:
                # Only now is the last page committed.
                if number == 0:
                    self._unchanged.keep(first, checkpoint, answer)
                return
        raise TransientError(
            f"{self._asker.where} has more than {settings.paging.max_pages} pages, so this poll is not whole; "
            "ask for less at once, or raise paging.max_pages"
        )

    def _ask(self, query: Query, conditions: Mapping[str, str]) -> Answer:
        headers = {"Accept": self._documents.accept, **conditions}
        return self._asker.ask(query, headers, accepted=_OR_UNCHANGED if conditions else _WHOLE)

    def _page(
        self, answer: Answer, pager: Pager, seen: Seen, known: Known
    ) -> tuple[Page, TransientError | None, Request | None]:
        """Return the page, what is wrong with the way on, and the way on."""
        resumes = self._settings.paging.resumes
        if answer.status == 304:
            return Page(checkpoint=pager.checkpoint if resumes else seen.largest, last=True, resume=resumes), None, None
        document, rows = self._read(answer)
        read = self._reader.page(rows)
        refused = self._refused(seen, read.checkpoints, answer.date or self._now())
        # The way on is known before this page is given away: a page must not be the last and then have a fault.
        comparable = self._documents.comparable(rows)
        fault, request = self._after(
            pager, Reply(document=document.value, rows=comparable, link=answer.headers.get("link", ""))
        )
        records, gone = self._details.complete(read.records, known)
        page = Page(
            records=records,
            malformed=(*read.malformed, *gone),
            checkpoint=pager.checkpoint if resumes else seen.largest,
            last=fault is None and request is None,
            resume=resumes,
            refused=refused,
        )
        return page, fault, request

    def _seen(self, checkpoint: str | None) -> Seen:
        try:
            return Seen(self._format, checkpoint)
        except ValueError as error:
            raise BlockedError(f"the stored checkpoint is not understood: {error}; set it by poller rewind") from None

    def _handed(self, checkpoint: str) -> str:
        return checkpoint if self._settings.checkpoint is None else self._format.handed(checkpoint)

    def _refused(self, seen: Seen, values: list[object], answered: datetime) -> tuple[str, ...]:
        try:
            return seen.page(values, answered)
        except ValueError as error:
            raise BlockedError(
                f'"{self._settings.checkpoint}" gives no checkpoint that is understood: {error}; set checkpoint_format'
            ) from None

    def _after(self, pager: Pager, reply: Reply) -> tuple[TransientError | None, Request | None]:
        try:
            return None, pager.after(reply)
        except ExpressionFault as error:
            return TransientError(f"{self._asker.where}: paging: {error}"), None
        except TransientError as error:
            return TransientError(f"{self._asker.where}: {error}"), None

    def _read(self, answer: Answer) -> tuple[Document, list[object]]:
        """Return the document and its records."""
        try:
            document = self._documents.read(answer.body, self._settings.encoding or _charset(answer))
            rows = self._reader.rows(document, self._records)
        except (FormatFault, ExpressionFault) as error:
            raise self._broken(answer, str(error)) from None
        if rows:
            self._root = document.root
        elif self._root is not None and document.root != self._root:
            # It would pass for the empty page behind the last one.
            raise self._broken(answer, "it has no records, and another root than the answers that had")
        return document, rows

    def _broken(self, answer: Answer, why: str) -> TransientError:
        return TransientError(
            f"{self._asker.where} answered 200, but {why}; nothing of this page counts",
            evidence=Evidence(status=answer.status),
        )


def _charset(answer: Answer) -> str | None:
    stated = _CHARSET.search(answer.headers.get("content-type", ""))
    return stated[1] if stated else None
