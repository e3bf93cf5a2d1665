from __future__ import annotations

import pytest

from poller.clients.query import Query, check_table, chunks


def test_a_query_reads_as_it_was_built() -> None:
    query = (
        Query().equals("caller_id.user_name", "joe").in_("number", ["a", "b"]).starts_with("x", "s").ends_with("y", "e")
    )
    assert str(query.order_by("sys_id")) == "caller_id.user_name=joe^numberINa,b^xSTARTSWITHs^yENDSWITHe^ORDERBYsys_id"


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "bob^ORuser_name=admin",
        "x^NQy=1",
        "x^EQ",
        "a\nb",
        "a\0",
        "a\u2028",
        "javascript:gs.x()",
        " JavaScript:x",
        "\ud800",
    ],
)
def test_a_value_that_could_mean_something_else_is_refused(value: str) -> None:
    for build in (Query().equals, Query().starts_with, Query().ends_with):
        with pytest.raises(ValueError, match=r"value") as caught:
            build("user_name", value)
        assert not value.strip() or value not in str(caught.value)
    with pytest.raises(ValueError, match=r"value"):
        Query().in_("user_name", ["good", value])


def test_a_list_is_neither_empty_nor_split_by_a_comma() -> None:
    with pytest.raises(ValueError, match="empty list"):
        Query().in_("sys_id", [])
    with pytest.raises(ValueError, match="comma"):
        Query().in_("user_name", ["a,b"])


@pytest.mark.parametrize("name", ["", "A", "user_name=x^y", "../x", "a b", "a..b", ".a", "a.", "a%2f", "a?", "a\n"])
def test_a_column_is_a_column(name: str) -> None:
    with pytest.raises(ValueError, match="no column name"):
        Query().equals(name, "x")
    with pytest.raises(ValueError, match="no table name"):
        check_table(name or "a.b")


def test_lists_are_split_before_an_address_grows_too_long() -> None:
    assert [len(some) for some in chunks((str(n) for n in range(120)), most=50, characters=6000)] == [50, 50, 20]
    split = list(chunks(["é" * 100] * 30, most=50, characters=6000))
    assert sum(map(len, split)) == 30
    assert all(len(some) * 601 <= 6000 for some in split)
