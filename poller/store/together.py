"""
Rows that one statement writes all together: they travel as one JSON text, which the database takes apart.

With ``executemany``, sqlite3 lets go of the interpreter several times for each row, and a busy daemon waits for it each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import JSON, Column, Connection, Executable, Text, bindparam, cast, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

#: Rows a statement at most, and roughly the characters of its texts: a JSON text is a second copy of them.
_ROWS, _CHARACTERS = 500, 1 << 20

#: What a row is made of: whole numbers, truths, texts, and nothing.
Value = int | str | None


class Together:
    """
    Rows with the columns *types*, as a table that statements read from.

    In a statement, the columns are those of `c`; its parameters come from `batches`.
    """

    def __init__(self, name: str, **types: TypeEngine[Any]) -> None:
        self._parameter = name
        self._texts = [index for index, type_ in enumerate(types.values()) if isinstance(type_, Text)]
        rows = _Elements(bindparam(name, type_=Text)).table_valued(Column("value", JSON), name=f"{name}_json")
        parts = [
            cast(rows.c.value[index].as_string(), type_).label(each)
            for index, (each, type_) in enumerate(types.items())
        ]
        self.c = select(*parts).subquery(name).c

    def batches(self, rows: Iterable[Sequence[Value]]) -> Iterator[dict[str, str]]:
        """Yield the parameters of one statement after the other; *rows* have their values in the order of the columns."""
        batch: list[Sequence[Value]] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += sum(len(str(row[index])) for index in self._texts)
            if len(batch) == _ROWS or size > _CHARACTERS:
                yield self._given(batch)
                batch, size = [], 0
        if batch:
            yield self._given(batch)

    def _given(self, rows: list[Sequence[Value]]) -> dict[str, str]:
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        if "\\u0000" in text:
            # SQLite would end a text there, and PostgreSQL refuses it; the texts of records have none.
            text = json.dumps([_without_nul(row) for row in rows], ensure_ascii=False, separators=(",", ":"))
        return {self._parameter: text}


def write(connection: Connection, statement: Executable, batches: Iterable[dict[str, str]], **same: object) -> int:
    """Carry out *statement* for each batch of rows, with the *same* parameters; return how many rows it changed."""
    return sum(connection.execute(statement, batch | same).rowcount for batch in batches)


def _without_nul(row: Sequence[Value]) -> list[Value]:
    return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row]


class _Elements(FunctionElement[Any]):
    """The elements of a JSON array, one a row."""

    inherit_cache = True
    name = "elements"


@compiles(_Elements, "sqlite")
def _elements_sqlite(element: _Elements, compiler: SQLCompiler, **how: Any) -> str:  # noqa: ANN401
    return f"json_each({compiler.process(element.clauses, **how)})"


@compiles(_Elements, "postgresql")
def _elements_postgresql(element: _Elements, compiler: SQLCompiler, **how: Any) -> str:  # noqa: ANN401
    return f"json_array_elements(CAST({compiler.process(element.clauses, **how)} AS JSON))"
