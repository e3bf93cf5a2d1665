"""
The settings of paging: how a list in several answers is read to its end.

A further type is one settings model here, one pager in `poller.sources.pagers`, and one line in `PagingSettings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from poller.formats import Format
from poller.sources.pagers import Counted, Cursored, Linked, Pager, Request, Single
from poller.values import Model

ExpressionText = Annotated[str, Field(min_length=1)]
ParamName = Annotated[str, Field(min_length=1, max_length=200)]
MaxPages = Annotated[int, Field(ge=1, description="more pages than this, and the poll counts as failed")]


class _Paging(Model):
    max_pages: MaxPages = 1000

    @property
    def resumes(self) -> bool:
        return False

    @property
    def place(self) -> str | None:
        """What templates call the place in the list: ``page``, ``offset`` or ``cursor``."""
        return None

    def expressions(self) -> Iterator[tuple[str, str]]:
        """Yield key and text of each expression; all of them look into the document."""
        yield from ()


class NoPaging(_Paging):
    """Everything is in one answer."""

    type: Literal["none"] = "none"

    def pager(self, request: Request, checkpoint: str | None, format: Format) -> Pager:
        return Single(request)


class LinkPaging(_Paging):
    """RFC 8288: the header ``Link`` with ``rel="next"``; to the same host only."""

    type: Literal["link"]

    def pager(self, request: Request, checkpoint: str | None, format: Format) -> Pager:
        return Linked(request, None)


class NextPaging(_Paging):
    """The document holds the address of the next page; of the same host only."""

    type: Literal["next"]
    next: Annotated[ExpressionText, Field(description="expression on the document, for the address of the next page")]

    def expressions(self) -> Iterator[tuple[str, str]]:
        yield "next", self.next

    def pager(self, request: Request, checkpoint: str | None, format: Format) -> Pager:
        return Linked(request, format.compile(self.next))


class PagePaging(_Paging):
    """Pages have numbers."""

    type: Literal["page"]
    param: Annotated[ParamName, Field(description="of the query; none where a template uses {{ page }}")] = "page"
    start: Annotated[int, Field(ge=0, description="number of the first page")] = 1
    size_param: Annotated[ParamName | None, Field(description="of the query, for the size of a page")] = None
    size: Annotated[int | None, Field(ge=1, description="how many records a page is to have")] = None

    @property
    def place(self) -> str:
        return "page"

    def pager(self, request: Request, checkpoint: str | None, format: Format) -> Pager:
        fixed = {} if self.size_param is None or self.size is None else {self.size_param: str(self.size)}
        return Counted(request, fixed, position=self.start, by_rows=False)


class OffsetPaging(_Paging):
    """Each request says how many records to leave out."""

    type: Literal["offset"]
    param: Annotated[ParamName, Field(description="of the query; none where a template uses {{ offset }}")] = "offset"
    size_param: Annotated[ParamName, Field(description="of the query, for the size of a page")] = "limit"
    size: Annotated[int, Field(ge=1, description="how many records a page is to have")] = 100
    total: Annotated[
        ExpressionText | None,
        Field(description="expression on the document: how many there are in all; left out: until a page is empty"),
    ] = None

    @property
    def place(self) -> str:
        return "offset"

    def expressions(self) -> Iterator[tuple[str, str]]:
        if self.total is not None:
            yield "total", self.total

    def pager(self, request: Request, checkpoint: str | None, format: Format) -> Pager:
        fixed = {self.size_param: str(self.size)}
        total = None if self.total is None else format.compile(self.total)
        return Counted(request, fixed, position=0, by_rows=True, total=total)


class CursorPaging(_Paging):
    """The document holds a text that leads to the next page."""

    type: Literal["cursor"]
    param: Annotated[ParamName | None, Field(description="of the query; none where a template uses {{ cursor }}")] = (
        None
    )
    cursor: Annotated[ExpressionText, Field(description="expression on the document, for what leads to the next page")]
    more: Annotated[
        ExpressionText | None,
        Field(description="expression on the document; left out: there is more as long as there is a cursor"),
    ] = None
    resume: Annotated[bool, Field(description="true: the last cursor is the next poll's checkpoint")] = False

    @property
    def resumes(self) -> bool:
        return self.resume

    @property
    def place(self) -> str:
        return "cursor"

    def expressions(self) -> Iterator[tuple[str, str]]:
        yield "cursor", self.cursor
        if self.more is not None:
            yield "more", self.more

    def pager(self, request: Request, checkpoint: str | None, format: Format) -> Pager:
        more = None if self.more is None else format.compile(self.more)
        resumed = checkpoint if self.resume else None
        return Cursored(request, resumed, cursor=format.compile(self.cursor), more=more, resume=self.resume)


PagingSettings = Annotated[
    NoPaging | LinkPaging | NextPaging | PagePaging | OffsetPaging | CursorPaging, Field(discriminator="type")
]
