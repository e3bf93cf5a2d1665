"""Rows to `poller.model` and back: what more than one topic of the store needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from poller.model import Fields

T = TypeVar("T")

#: Rows a statement: SQLite allows 32,766 variables in one.
CHUNK = 500


def upsert(connection: Connection, table: Table) -> Any:  # noqa: ANN401  the two dialects' Insert share no type
    """Return an INSERT that knows ``on_conflict_do_nothing``, for the database at hand."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield *items* in lists of at most *size*."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def apart(items: Iterable[T], named: Callable[[T], tuple[str, str]], *, again: bool) -> Iterator[Sequence[T]]:
    """
    Yield *items* in lists of at most `CHUNK` in which no key comes twice.

    Args:
        named: Returns key and version.

        again: Later versions of a key follow in later lists: who has sent them does not send them again. Else the first stands,
            since the next poll finds what is current then.
    """
    rounds: list[list[T]] = [[]]
    last: dict[str, tuple[int, str]] = {}  # by key: its last round, and its version there
    for item in items:
        key, version = named(item)
        number, before = last.get(key, (-1, None))
        if number >= 0 and (not again or version == before):
            continue
        if number + 1 == len(rounds):
            rounds.append([])
        rounds[number + 1].append(item)
        last[key] = (number + 1, version)
    for each in rounds:
        yield from chunks(each)


def dump(fields: Fields) -> str:
    """Return *fields* as JSON text that both databases can keep."""
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))


def load(text: str | None) -> Fields:
    """Return the fields in *text*."""
    loaded: Fields = json.loads(text) if text else {}
    return loaded
