"""Rows that travel as one JSON text come out of both databases as they went in."""

from __future__ import annotations

import pytest
from sqlalchemy import BigInteger, Boolean, Integer, Text, select

from poller.store import Store, together
from poller.store.together import Together

ROWS = [
    (1, 2**62, True, "plain"),
    (2, None, False, None),
    (3, 0, None, ""),
    (4, -1, True, "quotes \" ' \\ and \\u0000 spelt out, ✓ \U0001f600 \u2028\n\t\x01"),
    (5, 5, False, '["[1]",{"a":null}]'),
]


@pytest.fixture
def some() -> Together:
    return Together("some", row=Integer(), big=BigInteger(), truth=Boolean(), text=Text())


def out(store: Store, some: Together, rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    with store.read() as connection:
        return [
            tuple(row)
            for given in some.batches(rows)  # type: ignore[arg-type]
            for row in connection.execute(select(*some.c).order_by(some.c.row), given)
        ]


def test_what_goes_in_comes_out(store: Store, some: Together) -> None:
    assert out(store, some, list(ROWS)) == ROWS


def test_a_nul_neither_ends_a_text_nor_the_statement(store: Store, some: Together) -> None:
    assert out(store, some, [(1, 1, True, "a\0b\\u0000")]) == [(1, 1, True, "a\ufffdb\\u0000")]


def test_many_rows_and_large_texts_are_more_than_one_statement(
    store: Store, some: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_ROWS", 3)
    monkeypatch.setattr(together, "_CHARACTERS", 10)
    rows: list[tuple[object, ...]] = [(number, 1, True, "x" * (number == 1) * 11) for number in range(8)]

    assert len(list(some.batches(rows))) == 3  # type: ignore[arg-type]
    assert out(store, some, rows) == rows
    assert list(some.batches([])) == []
