"""
What a value looks like as text: in a template, in a record's fields, as a key, in a hash.

It imports nothing from the package, so that `formats` and `translate` agree by construction.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Self

#: Stands where a text held something that no database and no XML can hold: NUL, or half of a surrogate pair.
REPLACEMENT = "\ufffd"

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
#: Longest key in bytes of UTF-8: what an index of PostgreSQL can hold, with room for the rest of the row.
MAX_KEY = 2_000

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class KeyFault(ValueError):
    """A value that cannot be a key. ``str`` is one line that does not repeat the value."""


class Real(float):
    """
    A JSON number with a fraction or an exponent, which remembers how the source wrote it.

    `1.10` stays `1.10`, and it still compares as a number in an expression.
    """

    source: str

    def __new__(cls, source: str) -> Self:
        self = super().__new__(cls, source)
        self.source = source
        return self

    def __str__(self) -> str:
        return self.source

    def __reduce__(self) -> tuple[type[Real], tuple[str]]:
        return Real, (self.source,)


# JMESPath knows the types of values by their names.
Real.__name__ = "float"


def storable(text: str) -> str:
    """Return *text* with NUL and lone surrogates replaced by U+FFFD: PostgreSQL and UTF-8 can hold neither."""
    if "\x00" not in text and text.isascii():
        return text
    return _UNSTORABLE.sub(REPLACEMENT, text)


def to_text(value: object, *, limit: int | None = None) -> str:
    """
    Return *value* as text.

    Text as it is (see `storable`), nothing as "", booleans as ``true`` and ``false``, integers in decimal, other
    numbers as the source wrote them, times in ISO 8601, lists and objects as compact JSON.

    Args:
        limit: Most characters that JSON may take; more raises `OverflowError`.

    Raises:
        TypeError: It is none of these, such as a function.
    """
    if type(value) is str:
        return storable(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return storable(str.__str__(value))
    if isinstance(value, Real):
        return value.source
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (list, tuple, dict)):
        return storable(_json(value, limit))
    raise TypeError(f"a {type(value).__name__} is not text")


def key_text(value: object) -> str:
    """
    Return *value* as a record's key: text as it is, integers in decimal.

    JSON, CSV and push then agree on ``4711``. Nothing is repaired here, since two keys must never become one.

    Raises:
        KeyFault: It is neither, or it is empty, too long, or holds control characters or half a surrogate pair.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        raise KeyFault("the key is missing")
    if not isinstance(value, str):
        raise KeyFault(f"the key is {_kind(value)}; text or an integer is needed")
    if not value:
        raise KeyFault("the key is empty")
    if _CONTROL.search(value):
        raise KeyFault("the key holds a control character or half of a surrogate pair")
    if len(value.encode()) > MAX_KEY:
        raise KeyFault(f"the key is longer than {MAX_KEY} bytes")
    return value


def fingerprint(fields: Mapping[str, object]) -> str:
    """Return the SHA-256 of *fields*, whatever their order: the version of a record that has none of its own."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _kind(value: object) -> str:
    names = {bool: "a boolean", float: "a number with a fraction", Real: "a number with a fraction"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def _json(value: object, limit: int | None) -> str:
    if limit is None:
        return _ENCODER.encode(value)
    # Piece by piece: lists that hold each other ten times over grow without bound while being written out.
    pieces: list[str] = []
    size = 0
    for piece in _ENCODER.iterencode(value):
        size += len(piece)
        if size > limit:
            raise OverflowError(f"longer than {limit} characters")
        pieces.append(piece)
    return "".join(pieces)
