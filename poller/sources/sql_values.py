"""
The values of a database's rows as JSON values, which expressions and texts understand.

Numbers keep their writing, times become ISO 8601, bytes hexadecimal digits, arrays and JSON columns lists and objects. A
kind that is not known costs the one record, not the poll.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from poller.formats import Flawed, Real, json_text
from poller.sources.reading import MAX_RAW

#: Deepest nesting of arrays and JSON.
MAX_DEPTH = 100
#: Longest number with a fraction or an exponent; a longer one stays text.
_MAX_DIGITS = 400

_AS_TEXT = (
    UUID,
    timedelta,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


class _Unknown(Exception):
    """A value of a kind that has no text."""


def as_row(values: Mapping[str, Any]) -> dict[str, Any] | Flawed:
    """Return one row of JSON values, or why it is a dead letter."""
    row: dict[str, Any] = {}
    flaw = ""
    for name, value in values.items():
        try:
            row[name] = _plain(value, MAX_DEPTH)
        except _Unknown as error:
            flaw = flaw or f'the column "{name[:80]}" holds {error}; cast it in the query'
            row[name] = f"<{type(value).__name__}>"
    return Flawed(reason=flaw, raw=json_text(row, limit=MAX_RAW)) if flaw else row


def _plain(value: Any, depth: int) -> Any:  # noqa: ANN401  a JSON value of a driver's value
    if value is None or type(value) in {str, int, bool}:
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | float):
        return _number(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset | dict):
        return _several(value, depth - 1)
    if isinstance(value, Enum):
        return _plain(value.value, depth)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    raise _Unknown(f"a {type(value).__name__}, which has no text here")


def _several(value: Any, depth: int) -> Any:  # noqa: ANN401  see _plain
    if depth <= 0:
        raise _Unknown(f"lists or objects nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {str(name): _plain(part, depth) for name, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(part, depth) for part in value), key=str)
    return [_plain(part, depth) for part in value]


def _number(value: Decimal | float) -> object:
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, float):
        return Real(repr(value))
    if abs(value.adjusted()) > _MAX_DIGITS:
        return str(value)
    # An id in a column NUMERIC(10) is a whole number, whatever the driver makes of it.
    exponent = value.as_tuple().exponent
    return int(value) if isinstance(exponent, int) and exponent >= 0 else Real(format(value, "f"))
