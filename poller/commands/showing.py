"""
How answers are written: JSON for machines, aligned columns for people. Standard library only.

Keys, reasons and excerpts come from outside: whatever a terminal would obey, or a line would break at, is shown as an escape.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

#: Control characters, line ends, signs that turn the reading direction, lone surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def timestamp(at: datetime) -> str:
    """Return *at* as RFC 3339 in UTC: ``2026-01-02T03:04:05.678901Z``."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def brief(at: datetime | None) -> str:
    """Return *at* to the second, for columns; nothing where there is none."""
    return "" if at is None else f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def span(length: timedelta) -> str:
    """Return a length of time in its two largest units: ``3d 4h``, ``12m 5s``, ``0s``."""
    seconds = max(0, int(length.total_seconds()))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def as_json(value: object, *, indent: int | None = None) -> str:
    """Return *value* as JSON in ASCII: one line unless *indent* is given, whatever the text holds."""
    return json.dumps(value, default=_plain, indent=indent)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 3)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def say(line: str = "") -> None:
    """Write a line to stdout; what its encoding does not know is shown as an escape."""
    _write(sys.stdout, line)


def warn(line: str) -> None:
    """Write a line to stderr."""
    _write(sys.stderr, line)


def _write(stream: Any, line: str) -> None:  # noqa: ANN401  text streams share no writable type
    encoding = stream.encoding or "ascii"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def clean(text: object) -> str:
    """Return *text* in one line that no terminal obeys."""
    return _UNSEEN.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def on_terminal() -> bool:
    """Return whether stdout is a terminal, and not a file or a pipe."""
    return sys.stdout.isatty()


def width() -> int:
    """Return how many columns there are; 100 where nobody looks."""
    return shutil.get_terminal_size((100, 24)).columns if on_terminal() else 100


def columns_of(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(1 for char in text if unicodedata.combining(char))


def cut(text: str, size: int) -> str:
    """Return *text* in at most *size* columns, with dots where something is left out."""
    if columns_of(text) <= size:
        return text
    while text and columns_of(text) > size - 2:
        text = text[:-1]
    return text + ".."


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, most: int = 40) -> Iterator[str]:
    """
    Yield aligned lines; what is longer than its column is cut on a terminal, and nowhere else.

    Args:
        most: Columns that one cell may take; the last cell of a line takes what is left.
    """
    lines = [tuple(head), *(tuple(clean("" if cell is None else cell) for cell in row) for row in rows)]
    sizes = [min(most, max(columns_of(line[place]) for line in lines)) for place in range(len(head))]
    room = max(20, width() - sum(size + 2 for size in sizes[:-1]))
    sizes[-1] = min(max(columns_of(line[-1]) for line in lines), room)
    whole = not on_terminal()
    for line in lines:
        cells = [cell if whole else cut(cell, size) for cell, size in zip(line, sizes, strict=True)]
        yield "  ".join(
            cell + " " * (size - columns_of(cell)) for cell, size in zip(cells, sizes, strict=True)
        ).rstrip()
