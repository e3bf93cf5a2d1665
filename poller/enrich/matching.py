"""
Is a row what was asked for.

Pure: a name and rows in, one answer out. An instance compares loosely (case, accents, trailing blanks) and may have dropped
the condition altogether, so every row is held against the name here. Exact before other case; two left are ambiguous.

Source: guarantee.md 2.3 (2).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from poller.clients.answers import is_sys_id
from poller.model import Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What became of one name."""

    #: None: unknown.
    sys_id: str | None
    #: ``exact``, ``folded`` (other case or composition), ``ambiguous``, ``inactive``, ``unknown``.
    how: str


UNKNOWN: Final = Found(sys_id=None, how="unknown")
AMBIGUOUS: Final = Found(sys_id=None, how="ambiguous")
INACTIVE: Final = Found(sys_id=None, how="inactive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Where names are looked for."""

    table: str
    #: Columns, tried in turn for what is still unknown.
    by: tuple[str, ...]
    #: What a row must have besides: columns and their values.
    where: tuple[tuple[str, str], ...] = ()
    #: A row whose ``active`` is false is not taken.
    active: bool = False

    def columns(self, column: str) -> list[str]:
        """Return what to ask for, to compare rows by *column*."""
        wanted = ["sys_id", column, *(name for name, _ in self.where)]
        return list(dict.fromkeys([*wanted, "active"] if self.active else wanted))


def clean(name: str) -> str:
    """Return *name* without white space around it, in composed form."""
    return unicodedata.normalize("NFC", name).strip()


def folded(name: str) -> str:
    """Return *name* so that those of other case or composition are equal."""
    return unicodedata.normalize("NFC", clean(name).casefold())


def fits(row: Fields, question: Question) -> bool:
    """Return whether *row* can be told apart and has what *question* wants besides the name."""
    return is_sys_id(row.get("sys_id")) and all(
        folded(text(row, column)) == folded(value) for column, value in question.where
    )


def text(row: Fields, column: str) -> str:
    """Return the text in *column*; "" where it is empty, missing or no text."""
    value = row.get(column)
    return value if isinstance(value, str) else ""


def match(name: str, rows: Iterable[Fields], column: str, question: Question) -> Found:
    """Return which of *rows* is *name*: an exact one before those of other case; two left are ambiguous."""
    exact: dict[str, Fields] = {}
    other: dict[str, Fields] = {}
    wanted, alike = clean(name), folded(name)
    for row in rows:
        value = clean(text(row, column))
        if not fits(row, question):
            continue
        if value == wanted:
            exact[row["sys_id"]] = row
        elif folded(value) == alike:
            other[row["sys_id"]] = row
    for how, alternatives in (("exact", exact), ("folded", other)):
        if alternatives:
            # Whoever is inactive is still the one that was meant: no other takes the place.
            left = [sys_id for sys_id, row in alternatives.items() if not (question.active and _idle(row))]
            if len(left) == 1:
                return Found(sys_id=left[0], how=how)
            return AMBIGUOUS if left else INACTIVE
    return UNKNOWN


def _idle(row: Fields) -> bool:
    return text(row, "active").lower() == "false"
