"""The table of formats: what ``format`` in the settings stands for."""

from __future__ import annotations

from collections.abc import Mapping

from poller.formats.csv import CsvFormat
from poller.formats.interface import Format
from poller.formats.json import JsonFormat
from poller.formats.plain import TextFormat
from poller.formats.xml import XmlFormat

#: What ``format`` of a source may be; ``text`` is for follow-up requests alone.
FORMATS = ("json", "xml", "csv")


def open_format(name: str, *, namespaces: Mapping[str, str] | None = None, delimiter: str | None = None) -> Format:
    """
    Return the format of that name.

    Args:
        name: One of `FORMATS`, or ``text``.

        namespaces: XML only: prefix -> URI, for expressions.

        delimiter: CSV only; None: a comma.

    Raises:
        ValueError: A namespace or the delimiter is impossible; one line.
    """
    if name == "json":
        return JsonFormat()
    if name == "xml":
        return XmlFormat(namespaces)
    if name == "csv":
        return CsvFormat(delimiter)
    if name == "text":
        return TextFormat()
    raise ValueError(f"unknown format; known: {', '.join(FORMATS)}")
