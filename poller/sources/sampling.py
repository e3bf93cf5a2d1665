"""
One record as text, and back: what mapping tests are made of.

`raw_settings` turns a source's settings into those of a source that gives the text of its records; `read_sample` reads such a
text as the source itself would, without asking anybody.
"""

from __future__ import annotations

from typing import Any, Final

from poller.formats import FormatFault, open_format
from poller.model import Page
from poller.sources.reading import Reader

#: A required field that is always empty, so that each record is kept with its text, as a dead letter is. An empty text is
#: written so in JMESPath and in XPath, and asks for no column that a table might not have.
_FIELD: Final = "poller_sample"
_EMPTY: Final = "''"


def raw_settings(settings: Any) -> Any:  # noqa: ANN401  of any source
    """Return *settings* under which no record can be read, so that a page holds the text of each."""
    changed: dict[str, object] = {"fields": {_FIELD: _EMPTY}, "required": (_FIELD,)}
    if hasattr(settings, "detail"):
        changed["detail"] = ()
    return settings.model_copy(update=changed)


def sample_format(settings: Any) -> str:  # noqa: ANN401  of any source
    """Return what the text of a record is in: rows of tables are shown as JSON."""
    return "xml" if getattr(settings, "format", "json") == "xml" else "json"


def read_sample(settings: Any, text: str, format: str) -> Page:  # noqa: ANN401  of any source
    """
    Return the one record in *text*, as the source would give it.

    Args:
        format: ``json`` for one object, ``xml`` for one element, ``csv`` for a header row and one row.

    Raises:
        ValueError: It is not one record in that format, or not in the source's kind of format; one line.
    """
    own = settings.open_format() if hasattr(settings, "open_format") else open_format("json")
    if (own.name == "xml") != (format == "xml"):
        raise ValueError(f"the source's records are {own.name}, this sample is {format}")
    try:
        rows = _rows(settings, text, format)
    except FormatFault as error:
        raise ValueError(f"it cannot be read as {format}: {error}") from None
    if len(rows) != 1:
        raise ValueError(f"one record was expected, {len(rows)} came")
    read = Reader(settings, own).page(rows)
    return Page(records=read.records, malformed=read.malformed, last=True)


def _rows(settings: Any, text: str, format: str) -> list[object]:  # noqa: ANN401  of any source
    delimiter = getattr(settings, "delimiter", None) if format == "csv" else None
    namespaces = getattr(settings, "namespaces", None) if format == "xml" else None
    document = open_format(format, namespaces=namespaces, delimiter=delimiter).read(text.encode())
    return document.rows() if format == "csv" else [document.value]
