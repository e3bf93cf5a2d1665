"""Rows to `poller.model` and back: what more than one topic of the store needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
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


def dump(fields: Fields) -> str:
    """Return *fields* as JSON text that both databases can keep."""
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))


def load(text: str | None) -> Fields:
    """Return the fields in *text*."""
    loaded: Fields = json.loads(text) if text else {}
    return loaded
