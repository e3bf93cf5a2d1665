"""
JSON from strangers: bounded in depth, exact in numbers, and refused where it means two things at once.

The caller bounds the size. Numbers with a fraction keep their writing (`poller.formats.texts.Real`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from poller.formats.decoding import FormatFault, decode
from poller.formats.expressions import JmesPath, compile_expression
from poller.formats.interface import Expression
from poller.formats.texts import Real, storable, to_text

#: Deepest nesting of lists and objects.
MAX_DEPTH = 100
#: Longest integer that is a number; a longer one stays text. Python itself refuses to read 4,300 digits.
MAX_DIGITS = 1_000


def parse_json(body: bytes, encoding: str | None = None) -> object:
    """
    Return the value that *body* holds.

    Integers are exact, fractions are `Real`, text is as it came (`to_text` makes it storable).

    Args:
        encoding: What the server or the settings state; None: UTF-8.

    Raises:
        FormatFault: Not JSON, NaN or Infinity, a name twice in one object, or nested deeper than `MAX_DEPTH`.
    """
    text = decode(body, encoding)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
        )
    except RecursionError:
        raise FormatFault(f"it is nested deeper than {MAX_DEPTH}") from None
    except json.JSONDecodeError as error:
        start = text.lstrip()[:1]
        if start == "<":
            raise FormatFault("it is HTML or XML, not JSON") from None
        if not start:
            raise FormatFault("it is empty") from None
        cut = " (cut off?)" if error.pos >= len(text.rstrip()) else ""
        raise FormatFault(f"it is not JSON: {error.msg}, line {error.lineno} column {error.colno}{cut}") from None
    _shallow(value)
    return value


def json_text(value: object, *, limit: int) -> str:
    """Return *value* as JSON for a person to read, cut to *limit* characters, fit to be stored."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=to_text)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value))
    return storable(text[:limit])


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Readers disagree on which one counts, so whoever wrote it may mean the other.
        raise FormatFault("it has one name twice in an object")
    return found


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _fraction(text: str) -> Real | str:
    number = Real(text) if len(text) <= MAX_DIGITS else math.inf
    return number if isinstance(number, Real) and math.isfinite(number) else text


def _constant(name: str) -> object:
    raise FormatFault(f"it holds {name}, which is not JSON")


def _shallow(value: object) -> None:
    """Raise where *value* is nested too deeply. Level by level, without recursion."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if type(item) is dict:
                below += [inner for inner in item.values() if type(inner) is dict or type(inner) is list]
            elif type(item) is list:
                below += [inner for inner in item if type(inner) is dict or type(inner) is list]
        if not below:
            return
        level = below
    raise FormatFault(f"it is nested deeper than {MAX_DEPTH}")


@dataclass(frozen=True)
class JsonDocument:
    """One JSON document."""

    value: object
    root: str | None = None
    names: frozenset[str] | None = None

    def rows(self, expression: Expression | None = None) -> list[object]:
        rows = self.value if expression is None else expression.find(self.value)
        if not isinstance(rows, list):
            named = "the document" if expression is None else f'"{expression.text}"'
            raise FormatFault(f"{named} is no list of records")
        return rows


class JsonFormat:
    """JSON, and JMESPath into it. SQL rows and the rows of CSV are read by the same expressions."""

    name = "json"
    accept = "application/json"
    #: Whether an answer has anything besides its records, for paging to look into.
    whole = True

    def compile(self, text: str) -> JmesPath:
        return compile_expression(text)

    def read(self, body: bytes, encoding: str | None = None) -> JsonDocument:
        return JsonDocument(parse_json(body, encoding))

    def raw(self, row: object, limit: int) -> str:
        return json_text(row, limit=limit)

    def comparable(self, rows: list[object]) -> list[object]:
        return rows
