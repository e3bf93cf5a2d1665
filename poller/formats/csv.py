"""
CSV from strangers: the header row names the columns, and each further row is a record.

A row with more or fewer cells than the header is one dead letter. Quotes that do not add up break the whole page, since
nobody can tell where the next record begins. Texts such as ``=cmd|…`` are data: nothing here or behind it evaluates them.

Source: RFC 4180, and Python's csv module.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from poller.formats.decoding import FormatFault, decode
from poller.formats.expressions import JmesPath, compile_expression
from poller.formats.interface import Expression, Flawed
from poller.formats.json import json_text

#: Most columns.
MAX_COLUMNS = 2_000
#: Longest text of a cell.
MAX_CELL = 1_000_000
_MAX_RAW = 64_000

# Of the whole process, and lower than a long text. Here a cell is measured by itself, so that it costs one record.
csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True)
class CsvDocument:
    """One table."""

    names: frozenset[str]
    _rows: list[object]
    #: The last row has too few cells.
    torn: bool = False
    value: object = None
    root: str | None = None

    def rows(self, expression: Expression | None = None) -> list[object]:
        if expression is not None:
            raise FormatFault("CSV has no place to look for records: each row is one")
        return self._rows


class CsvFormat:
    """
    CSV, and JMESPath on each row, which is an object of texts: ``subject``, ``"Ticket ID"``.

    Args:
        delimiter: One character; None: a comma.

    Raises:
        ValueError: The delimiter cannot be one.
    """

    name = "csv"
    accept = "text/csv"
    whole = False

    def __init__(self, delimiter: str | None = None) -> None:
        self._delimiter = check_delimiter(delimiter or ",")

    def compile(self, text: str) -> JmesPath:
        return compile_expression(text)

    def read(self, body: bytes, encoding: str | None = None) -> CsvDocument:
        text = decode(body, encoding)
        beginning = text.lstrip()[:1]
        if not beginning:
            raise FormatFault("it is empty; a header row was expected")
        if beginning == "<" or (beginning in "{[" and re.match(r'\s*(\[\s*)?(\{\s*"|\])', text)):
            raise FormatFault(f"it is {'HTML or XML' if beginning == '<' else 'JSON'}, not CSV")
        try:
            table = self._table(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            raise FormatFault(f"it is not CSV: {_words(error)}") from None
        if table.torn and text[-1] not in "\r\n":
            raise FormatFault("it ends in the middle of a row (cut off?)")
        return table

    def raw(self, row: object, limit: int) -> str:
        return json_text(row, limit=limit)

    def comparable(self, rows: list[object]) -> list[object]:
        return rows

    def _table(self, lines: Iterator[list[str]]) -> CsvDocument:
        header = next((line for line in lines if any(line)), [])
        names = _names(header)
        kept = [(index, name) for index, name in enumerate(names) if name]
        rows: list[object] = []
        short = False
        for line in lines:
            if not any(line):
                continue
            short = len(line) < len(names)
            if len(line) != len(names):
                reason = f"the row has {len(line)} cells, and the header row {len(names)}"
                rows.append(Flawed(reason=reason, raw=_line(line)))
            elif max(map(len, line)) > MAX_CELL:
                rows.append(Flawed(reason=f"a cell is longer than {MAX_CELL} characters", raw=_line(line)))
            else:
                rows.append({name: line[index] for index, name in kept})
        return CsvDocument(frozenset(name for _, name in kept), rows, torn=short)


def check_delimiter(delimiter: str) -> str:
    r"""
    Return *delimiter* if it can be one.

    Raises:
        ValueError: It is not one character such as ``;`` or ``\t``.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n\x00\ufeff':
        raise ValueError(r'is one character, such as ";" or "\t"')
    return delimiter


def _names(header: list[str]) -> list[str]:
    if len(header) > MAX_COLUMNS:
        raise FormatFault(f"its header row has more than {MAX_COLUMNS} columns")
    # A delimiter at the end of each row makes a column without a name; nobody can ask for it.
    names = [name.strip() for name in header]
    named = [name for name in names if name]
    if len({*named}) != len(named):
        raise FormatFault("its header row has one name twice")
    return names


def _line(cells: list[str]) -> str:
    return json_text([cell[:_MAX_RAW] for cell in cells[:MAX_COLUMNS]], limit=_MAX_RAW)


def _words(error: csv.Error) -> str:
    said = str(error)
    if "unexpected end" in said:
        return "a quoted cell does not end (cut off?)"
    return "text stands behind a closing quote" if "expected after" in said else "its quotes do not add up"
