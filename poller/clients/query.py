"""
Encoded queries: the only way to make one.

An instance drops a condition that it does not understand and answers with whatever the rest matches, and ``^`` ends a
value with no way to write it otherwise. So every field name and value is looked at here, and what could be read in
another way than it was meant is refused.

Source: servicenow.md section 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,79}(\.[a-z][a-z0-9_]{0,79}){0,4}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_field(name: str) -> str:
    """
    Return *name*, a column or a dot-walk.

    Raises:
        ValueError: It is neither.
    """
    if not _FIELD.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no column name")
    return name


def check_table(name: str) -> str:
    """
    Return *name*, a table.

    Raises:
        ValueError: It is none.
    """
    if "." in name or not _FIELD.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no table name")
    return name


def check_value(value: str) -> str:
    """
    Return *value* if a query can carry it.

    Raises:
        ValueError: It is empty, or could be read otherwise than meant. The value itself is not in the text.
    """
    if not value.strip():
        raise ValueError("an empty value would match other rows than meant")
    if "^" in value:
        raise ValueError("a value with ^ would end its condition")
    if _CONTROL.search(value):
        raise ValueError("a value with a control character cannot be asked for")
    if value.lstrip().lower().startswith("javascript:"):
        raise ValueError("a value that begins with javascript: could be run")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("a value with half a character cannot be asked for") from None
    return value


class Query:
    """Conditions joined by AND. Each method returns a longer query."""

    __slots__ = ("_parts",)

    def __init__(self, parts: tuple[str, ...] = ()) -> None:
        self._parts = parts

    def __str__(self) -> str:
        return "^".join(self._parts)

    def __repr__(self) -> str:
        return f"Query({len(self._parts)} conditions)"

    def equals(self, field: str, value: str) -> Query:
        """Add ``field=value``. Most instances compare without regard to case."""
        return self._with(f"{check_field(field)}={check_value(value)}")

    def in_(self, field: str, values: Iterable[str]) -> Query:
        """Add ``fieldINa,b,c``; a value may hold no comma."""
        checked = [check_value(value) for value in values]
        if not checked:
            raise ValueError("an empty list would match other rows than meant")
        if any("," in value for value in checked):
            raise ValueError("a value with a comma cannot stand in a list")
        return self._with(f"{check_field(field)}IN{','.join(checked)}")

    def starts_with(self, field: str, value: str) -> Query:
        """Add ``fieldSTARTSWITHvalue``."""
        return self._with(f"{check_field(field)}STARTSWITH{check_value(value)}")

    def ends_with(self, field: str, value: str) -> Query:
        """Add ``fieldENDSWITHvalue``."""
        return self._with(f"{check_field(field)}ENDSWITH{check_value(value)}")

    def contains(self, field: str, value: str) -> Query:
        """Add ``fieldLIKEvalue``: the value stands somewhere in it."""
        return self._with(f"{check_field(field)}LIKE{check_value(value)}")

    def created_since(self, moment: datetime) -> Query:
        """Add ``sys_created_on>=…``; the instance compares UTC, to the second."""
        return self._with(f"sys_created_on>={moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}")

    def not_empty(self, field: str) -> Query:
        """Add ``fieldISNOTEMPTY``."""
        return self._with(f"{check_field(field)}ISNOTEMPTY")

    def asker(self, field: str) -> Query:
        """Add ``field=`` the user_name of whoever asks. The one script that is ever sent; hardened instances ignore it."""
        return self._with(f"{check_field(field)}=javascript:gs.getUserName()")

    def after(self, sys_id: str) -> Query:
        """Add ``sys_id>…``, to go on behind a page that was ordered by it."""
        return self._with(f"sys_id>{check_value(sys_id)}")

    def order_by(self, field: str) -> Query:
        """Add an ordering; rows of equal value come in any order."""
        return self._with(f"ORDERBY{check_field(field)}")

    def _with(self, part: str) -> Query:
        return Query((*self._parts, part))


def encoded_length(value: str) -> int:
    """Return how long *value* becomes in an address."""
    return len(quote(value, safe=":,", errors="replace"))


def chunks(values: Iterable[str], *, most: int, characters: int) -> Iterable[list[str]]:
    """Split *values* so that none of the lists makes an address too long."""
    held: list[str] = []
    size = 0
    for value in values:
        length = encoded_length(value) + 1
        if held and (len(held) >= most or size + length > characters):
            yield held
            held, size = [], 0
        held.append(value)
        size += length
    if held:
        yield held
