"""What is known of a table's columns, whatever the instance lets us see of its dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from poller.clients.dictionary import DELIVERED, FAILED, GOOD, REFUSED, Column, Dictionary
from poller.clients.query import Query
from poller.errors import BlockedError, Evidence, PollerError, TransientError
from poller.model import Fields

Answer = Callable[[str, str], list[Fields]]


class Instance:
    """Answers as it is told, and counts."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        self.asked.append((table, str(query)))
        return self.answer(table, str(query))[:limit]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def row(name: str, element: str, kind: str = "string", length: str = "40", reference: str = "") -> Fields:
    return {"name": name, "element": element, "internal_type": kind, "max_length": length, "reference": reference}


def refusing(error: PollerError) -> Answer:
    def answer(_table: str, _query: str) -> list[Fields]:
        raise error

    return answer


def refused(status: int) -> BlockedError:
    return BlockedError(f"{status}: no", evidence=Evidence(status=status))


def test_a_column_of_the_table_itself_comes_before_that_of_what_it_extends() -> None:
    rows = [row("task", "a", length="10"), row("incident", "a", length="20"), row("task", "b", "reference", "32", "t")]
    instance = Instance(lambda _table, _query: rows)

    found = Dictionary(instance, "incident", ["a", "b"]).columns()

    assert found.why is None
    assert found.by_name == {
        "a": Column(kind="string", length=20),
        "b": Column(kind="reference", length=32, reference="t"),
    }
    assert instance.asked == [("sys_dictionary", "nameINincident,task^elementINa,b^ORDERBYsys_id")]


def test_what_stands_further_up_is_asked_for_by_the_tables_ancestors() -> None:
    def answer(table: str, query: str) -> list[Fields]:
        if table == "sys_db_object":
            return [{"name": "u_x", "super_class.name": "u_y", "super_class.super_class.name": "u_z"}]
        return [row("u_z", "b")] if "u_y,u_z" in query else [row("u_x", "a")]

    found = Dictionary(Instance(answer), "u_x", ["a", "b"]).columns()

    assert found.by_name.keys() == {"a", "b"}


def test_it_is_asked_for_again_after_a_day() -> None:
    clock, instance = Clock(), Instance(lambda _table, _query: [row("incident", "a")])
    dictionary = Dictionary(instance, "incident", ["a"], clock=clock)

    for now in (0.0, GOOD - 1, GOOD, GOOD + 1):
        clock.now = now
        dictionary.columns()

    assert len(instance.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        refusing(refused(403)),
        refusing(refused(400)),
        lambda _table, _query: [],
        # Conditions that were dropped: a full page of anything.
        lambda _table, _query: [row("problem", f"x{n}") for n in range(1000)],
        lambda _table, _query: [row("problem", "description", length="9")],
    ],
)
def test_where_it_cannot_be_read_columns_are_as_delivered_and_it_is_known_why(answer: Answer) -> None:
    clock, instance = Clock(), Instance(answer)
    dictionary = Dictionary(instance, "incident", ["description", "u_x"], clock=clock)

    found = dictionary.columns()

    assert found.by_name == {"description": DELIVERED["description"]}
    assert found.why
    asked = len(instance.asked)
    dictionary.columns()
    assert len(instance.asked) == asked
    clock.now = REFUSED
    dictionary.columns()
    assert len(instance.asked) > asked


def test_refused_credentials_are_everybodys_business() -> None:
    with pytest.raises(BlockedError):
        Dictionary(Instance(refusing(refused(401))), "incident", ["a"]).columns()


def test_a_dictionary_that_always_fails_stops_no_record_for_ever() -> None:
    clock = Clock()
    dictionary = Dictionary(Instance(refusing(TransientError("500"))), "incident", ["description"], clock=clock)

    for _ in range(2):
        with pytest.raises(TransientError):
            dictionary.columns()

    assert dictionary.columns().by_name == {"description": DELIVERED["description"]}
    clock.now = FAILED
    assert dictionary.columns().why == "500"


@pytest.mark.parametrize(
    ("given", "length"), [("160", 160), ("", None), ("many", None), ("-1", None), ("9" * 30, None)]
)
def test_an_odd_length_is_not_known(given: str, length: int | None) -> None:
    found = Dictionary(
        Instance(lambda _table, _query: [row("incident", "a", length=given)]), "incident", ["a"]
    ).columns()

    assert found.by_name["a"].length == length
