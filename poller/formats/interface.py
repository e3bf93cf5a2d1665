"""
What every format offers, whatever it looks like: documents, rows, expressions into both.

A further format is one module that carries out `Format`, and one line in `poller.formats.opening`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class ExpressionFault(ValueError):
    """An expression does not fit a value. ``str`` is one line without the value's text."""


class Expression(Protocol):
    """One expression, compiled: JMESPath for JSON, CSV and SQL rows, XPath 1.0 for XML."""

    @property
    def text(self) -> str:
        """As it stands in the settings."""
        ...

    @property
    def column(self) -> str | None:
        """The one column of a table that it needs; None where that cannot be said."""
        ...

    def find(self, document: object) -> Any:  # noqa: ANN401  any JSON value
        """
        Return what it finds in *document*: a JSON value (of XML: text, number or boolean), None for nothing.

        Args:
            document: A `Document.value`, or one of its rows.

        Raises:
            ExpressionFault: It does not fit the value.
        """
        ...

    def text_of(self, document: object) -> str:
        """Return what it finds as text, "" for nothing; see `poller.formats.to_text` and `find`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Flawed:
    """Stands among the rows for one that cannot be read. It is a dead letter, and the others go on."""

    #: One line, without the row's text.
    reason: str
    raw: str


class Document(Protocol):
    """One answer, one file, one message: read whole."""

    @property
    def value(self) -> object:
        """What paging expressions look into; None for CSV, which has nothing but rows."""
        ...

    @property
    def root(self) -> str | None:
        """The name of the document's root, where the format has such a thing: two kinds of answer differ in it."""
        ...

    @property
    def names(self) -> frozenset[str] | None:
        """The columns that a header row states; None where the format has no header."""
        ...

    def rows(self, expression: Expression | None = None) -> list[object]:
        """
        Return the records, each fit for `Expression.find`; some may be `Flawed`.

        Args:
            expression: ``records`` of the settings; None: the JSON document itself, the children of the XML root,
                every row of CSV.

        Raises:
            FormatFault | ExpressionFault: There is no list of records.
        """
        ...


class Format(Protocol):
    """How documents of one kind are read."""

    name: str
    #: The header ``Accept``.
    accept: str
    #: Whether a document is more than its rows, so that paging can look into it.
    whole: bool

    def compile(self, text: str) -> Expression:
        """
        Compile *text*, once.

        Raises:
            ValueError: One line that says what is wrong with it; unknown functions and wrong argument counts included.
        """
        ...

    def read(self, body: bytes, encoding: str | None = None) -> Document:
        """
        Return the document that *body* holds. The caller bounds its size.

        Args:
            encoding: What the settings state, else what the server states; None: what the document itself says, else UTF-8.

        Raises:
            FormatFault: It is not one, or it is dangerous.
        """
        ...

    def raw(self, row: object, limit: int) -> str:
        """Return *row* for a person to read, at most *limit* characters, fit to be stored: what a dead letter keeps."""
        ...

    def comparable(self, rows: list[object]) -> Sequence[object]:
        """Return what tells the rows of one page from those of another by ``==``."""
        ...
