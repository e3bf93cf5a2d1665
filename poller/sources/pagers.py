"""
Pagers: which request comes after which answer. They send nothing themselves.

Every type ends on an empty page, and where the way leads back to a place already seen: nothing new is behind it. A page
more than needed is asked for rather than one less, since what is not read is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from poller.formats import Expression, to_text
from poller.sources.links import next_link, same_host

_FALSE = frozenset({"", "false", "no", "0"})


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask for one page."""

    url: str
    #: A link says all: nothing is put on it.
    link: bool = False
    #: The settings have no params, so that a link to the url leads back to the first page.
    bare: bool = False
    #: The pager's own: the size of a page.
    sizes: Mapping[str, str] = field(default_factory=dict)
    #: Where in the list: what templates see as ``page``, ``offset`` or ``cursor``; None where there is no place yet.
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a pager sees of an answer."""

    #: `poller.formats.Document.value`.
    document: object
    #: The records, as ``Format.comparable`` gives them.
    rows: Sequence[object]
    #: The header ``Link``, several joined by commas; "" where there is none.
    link: str


class Pager(Protocol):
    """The way through the pages of one poll."""

    #: With ``resume``: the cursor that the next poll begins with.
    checkpoint: str | None

    def first(self) -> Request: ...

    def after(self, reply: Reply) -> Request | None:
        """
        Return the next request, None after the last page.

        Raises:
            TransientError: The way on cannot be followed; the poll is not whole.
        """
        ...


class Single:
    """One page is all there is."""

    checkpoint: str | None = None

    def __init__(self, request: Request) -> None:
        self._request = request

    def first(self) -> Request:
        return self._request

    def after(self, reply: Reply) -> Request | None:
        return None


class Linked(Single):
    """Each page says where the next one is: in the header ``Link``, or in the document."""

    def __init__(self, request: Request, next: Expression | None) -> None:
        super().__init__(request)
        self._next = next
        self._seen = {request.url} if request.bare else set()
        self._url = request.url

    def after(self, reply: Reply) -> Request | None:
        if not reply.rows:
            return None
        link = next_link(reply.link) if self._next is None else self._next.text_of(reply.document).strip()
        if not link:
            return None
        self._url = same_host(self._url, link)
        if self._url in self._seen:
            return None
        self._seen.add(self._url)
        return Request(url=self._url, link=True)


class Counted(Single):
    """Pages or records are counted."""

    def __init__(
        self,
        request: Request,
        sizes: Mapping[str, str],
        *,
        position: int,
        by_rows: bool,
        total: Expression | None = None,
    ) -> None:
        super().__init__(request)
        self._sizes, self._total, self._by_rows = sizes, total, by_rows
        self._position = position
        self._known: int | None = None
        self._rows: Sequence[object] | None = None

    def first(self) -> Request:
        return replace(self._request, sizes=self._sizes, place=str(self._position))

    def after(self, reply: Reply) -> Request | None:
        total = None if self._total is None else _whole(self._total.find(reply.document))
        before, self._known = self._known, total
        if total is not None and before is not None and total < before and self._position:
            # What left the list while it is being read has moved the rest forward: step back, or that is never seen.
            self._position = max(0, self._position - (before - total))
            self._rows = None
            return self.first()
        # A source that knows no such parameter, or stays at its last page, gives the same page for ever.
        if not reply.rows or reply.rows == self._rows:
            return None
        self._rows = reply.rows
        self._position += len(reply.rows) if self._by_rows else 1
        return None if total is not None and self._position >= total else self.first()


class Cursored(Single):
    """Each page holds the cursor that leads to the next."""

    def __init__(
        self,
        request: Request,
        checkpoint: str | None,
        *,
        cursor: Expression,
        more: Expression | None,
        resume: bool,
    ) -> None:
        super().__init__(request)
        self._resume, self._cursor, self._more = resume, cursor, more
        self.checkpoint = checkpoint
        self._seen = {checkpoint}

    def first(self) -> Request:
        return replace(self._request, place=self.checkpoint)

    def after(self, reply: Reply) -> Request | None:
        found = self._cursor.find(reply.document)
        cursor = "" if found is False else to_text(found).strip()
        if cursor and self._resume:
            self.checkpoint = cursor
        if not reply.rows or not cursor or cursor in self._seen:
            return None
        if self._more is not None and not truthy(self._more.find(reply.document)):
            return None
        self._seen.add(cursor)
        return replace(self._request, place=cursor)


def truthy(value: object) -> bool:
    """Return whether ``more`` says yes: absent, false, 0, empty and the texts ``false``, ``no``, ``0`` say no."""
    if isinstance(value, str):
        return value.strip().lower() not in _FALSE
    return bool(value)


def _whole(value: object) -> int | None:
    try:
        return int(to_text(value).strip())
    except ValueError:
        return None
