"""
Paging: which request comes after which answer. It sends nothing itself.

Every type ends on an empty page, and where the way leads back to a place already seen: nothing new is behind it. A page
more than needed is asked for rather than one less, since what is not read is lost. A further type is one settings model,
one pager, and one line in `PagingSettings`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from pydantic import AfterValidator, Field

from poller.errors import TransientError
from poller.formats import compile_expression, to_text
from poller.values import Model


def _compiles(text: str) -> str:
    compile_expression(text)
    return text


#: A JMESPath expression; what is wrong with it is told at load.
ExpressionText = Annotated[str, AfterValidator(_compiles)]
ParamName = Annotated[str, Field(min_length=1, max_length=200)]
MaxPages = Annotated[int, Field(ge=1, description="more pages than this, and the poll counts as failed")]

_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[\w!#$&+.^`|~*-]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s",;]*))?)*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_FALSE = frozenset({"", "false", "no", "0"})


class _Paging(Model):
    max_pages: MaxPages = 1000

    @property
    def resumes(self) -> bool:
        return False


class NoPaging(_Paging):
    """Everything is in one answer."""

    type: Literal["none"] = "none"

    def pager(self, request: Request, checkpoint: str | None) -> Pager:
        return _Single(request)


class LinkPaging(_Paging):
    """RFC 8288: the header ``Link`` with ``rel="next"``; to the same host only."""

    type: Literal["link"]

    def pager(self, request: Request, checkpoint: str | None) -> Pager:
        return _Linked(request, None)


class NextPaging(_Paging):
    """The document holds the address of the next page; of the same host only."""

    type: Literal["next"]
    next: ExpressionText

    def pager(self, request: Request, checkpoint: str | None) -> Pager:
        return _Linked(request, self.next)


class PagePaging(_Paging):
    """Pages have numbers."""

    type: Literal["page"]
    param: ParamName = "page"
    start: Annotated[int, Field(ge=0)] = 1
    size_param: ParamName | None = None
    size: Annotated[int, Field(ge=1)] | None = None

    def pager(self, request: Request, checkpoint: str | None) -> Pager:
        fixed = {} if self.size_param is None or self.size is None else {self.size_param: str(self.size)}
        return _Counted(request, self.param, fixed, position=self.start, by_rows=False, total=None)


class OffsetPaging(_Paging):
    """Each request says how many records to leave out."""

    type: Literal["offset"]
    param: ParamName = "offset"
    size_param: ParamName = "limit"
    size: Annotated[int, Field(ge=1)] = 100
    #: How many there are in all; left out: pages are asked for until one is empty.
    total: ExpressionText | None = None

    def pager(self, request: Request, checkpoint: str | None) -> Pager:
        fixed = {self.size_param: str(self.size)}
        return _Counted(request, self.param, fixed, position=0, by_rows=True, total=self.total)


class CursorPaging(_Paging):
    """The document holds a text that leads to the next page."""

    type: Literal["cursor"]
    param: ParamName
    cursor: ExpressionText
    #: Left out: there is more as long as there is a cursor.
    more: ExpressionText | None = None
    #: The last cursor is the next poll's checkpoint.
    resume: bool = False

    @property
    def resumes(self) -> bool:
        return self.resume

    def pager(self, request: Request, checkpoint: str | None) -> Pager:
        return _Cursored(request, self, checkpoint if self.resume else None)


PagingSettings = Annotated[
    NoPaging | LinkPaging | NextPaging | PagePaging | OffsetPaging | CursorPaging, Field(discriminator="type")
]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask."""

    url: str
    params: Mapping[str, str] = field(default_factory=dict)

    def with_params(self, params: Mapping[str, str]) -> Request:
        """Return the same with further *params*, which count more than those of the settings."""
        return Request(url=self.url, params={**self.params, **params})


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a pager sees of an answer."""

    document: object
    rows: list[object]
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


class _Single:
    checkpoint: str | None = None

    def __init__(self, request: Request) -> None:
        self._request = request

    def first(self) -> Request:
        return self._request

    def after(self, reply: Reply) -> Request | None:
        return None


class _Linked(_Single):
    def __init__(self, request: Request, next: str | None) -> None:
        super().__init__(request)
        self._next = None if next is None else compile_expression(next)
        self._seen = {request.url} if not request.params else set()
        self._url = request.url

    def after(self, reply: Reply) -> Request | None:
        if not reply.rows:
            return None
        link = next_link(reply.link) if self._next is None else self._next.text_of(reply.document)
        if not link:
            return None
        self._url = same_host(self._url, link)
        if self._url in self._seen:
            return None
        self._seen.add(self._url)
        return Request(url=self._url)


class _Counted(_Single):
    def __init__(
        self, request: Request, param: str, fixed: Mapping[str, str], *, position: int, by_rows: bool, total: str | None
    ) -> None:
        super().__init__(request)
        self._param, self._fixed, self._by_rows = param, fixed, by_rows
        self._total = None if total is None else compile_expression(total)
        self._position = position
        self._known: int | None = None
        self._rows: list[object] | None = None

    def first(self) -> Request:
        return self._request.with_params({**self._fixed, self._param: str(self._position)})

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


class _Cursored(_Single):
    def __init__(self, request: Request, settings: CursorPaging, checkpoint: str | None) -> None:
        super().__init__(request)
        self._settings = settings
        self._cursor = compile_expression(settings.cursor)
        self._more = None if settings.more is None else compile_expression(settings.more)
        self.checkpoint = checkpoint
        self._seen = {checkpoint}

    def first(self) -> Request:
        return self._request if self.checkpoint is None else self._at(self.checkpoint)

    def _at(self, cursor: str) -> Request:
        return self._request.with_params({self._settings.param: cursor})

    def after(self, reply: Reply) -> Request | None:
        found = self._cursor.find(reply.document)
        cursor = "" if found is False else to_text(found)
        if cursor and self._settings.resume:
            self.checkpoint = cursor
        if not reply.rows or not cursor or cursor in self._seen:
            return None
        if self._more is not None and not truthy(self._more.find(reply.document)):
            return None
        self._seen.add(cursor)
        return self._at(cursor)


def truthy(value: object) -> bool:
    """Return whether ``more`` says yes: absent, false, 0, empty and the texts ``false``, ``no``, ``0`` say no."""
    if isinstance(value, str):
        return value.strip().lower() not in _FALSE
    return bool(value)


def next_link(header: str) -> str | None:
    """Return the target of ``rel="next"`` in a ``Link`` header, None where there is none."""
    for target, attributes in _LINK.findall(header):
        found = _REL.search(attributes)
        if found and "next" in (found[1] or found[2] or "").lower().split():
            return str(target).strip()
    return None


def same_host(url: str, link: str) -> str:
    """
    Return *link*, relative to *url*, with the scheme and host of *url* itself.

    Behind a proxy, sources name themselves by http:// though they are asked by https://: the credentials stay on our
    address all the same.

    Raises:
        TransientError: It leads elsewhere. Nothing is asked there, and the poll is not whole.
    """
    try:
        ours, theirs = urlsplit(url), urlsplit(urljoin(url, link))
        elsewhere = _host(theirs) != _host(ours)
    except ValueError:
        elsewhere = True
        ours = theirs = urlsplit(url)
    if elsewhere:
        raise TransientError("the next page is said to be on another host; it was not asked")
    return urlunsplit((ours.scheme, ours.netloc, theirs.path, theirs.query, ""))


def _host(parts: SplitResult) -> tuple[str, int | None]:
    if parts.scheme not in _PORTS or parts.username is not None or parts.password is not None:
        raise ValueError("no address")
    # The usual port of http and https is one and the same place.
    return (parts.hostname or "").lower().rstrip("."), None if parts.port in (
        None,
        _PORTS[parts.scheme],
    ) else parts.port


def _whole(value: object) -> int | None:
    try:
        return int(to_text(value))
    except ValueError:
        return None
