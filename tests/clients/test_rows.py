from __future__ import annotations

from collections.abc import Sequence

import pytest

from poller.clients.query import Query
from poller.clients.rows import Incidents
from poller.errors import TransientError
from poller.model import Fields


class Careless:
    """An instance that answers with these rows, whatever it was asked."""

    def __init__(self, rows: list[Fields]) -> None:
        self.rows = rows

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        return self.rows[:limit]


def row(number: int, correlation_id: str) -> Fields:
    return {"sys_id": f"{number:032x}", "number": f"INC{number}", "correlation_id": correlation_id}


def test_a_row_that_was_not_asked_for_is_nobodys() -> None:
    foreign = [row(1, "t:0:other"), row(2, ""), row(3, "T:0:MINE"), {"sys_id": "4", "correlation_id": "t:0:mine"}]
    assert Incidents(Careless(foreign), "incident").by_correlation(["t:0:mine"]) == {"t:0:mine": []}


def test_a_page_as_long_as_its_limit_says_nothing() -> None:
    many = [row(number, "t:0:other") for number in range(200)]
    with pytest.raises(TransientError, match="nothing is known"):
        Incidents(Careless(many), "incident").by_correlation(["t:0:mine"])
