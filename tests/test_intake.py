"""What is pushed, as the ledger sees it: beside polls, behind a baseline, many at once, and where the database refuses."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from poller.errors import TransientError
from poller.intake import Intake
from poller.model import Page, SourceRecord
from poller.store import Store
from poller.tables import deliveries, records
from tests.house import House
from tests.test_changes import page, see, sent


def versions(store: Store, state: str) -> list[str]:
    query = select(deliveries.c.version).where(deliveries.c.state == state).order_by(deliveries.c.id)
    with store.read() as connection:
        return list(connection.execute(query).scalars())


def intake(house: House) -> Intake:
    return Intake(house.store, house.clock, lambda: {house.route.name: house.route})


@pytest.fixture
def sending(store: Store) -> House:
    """Every version is a message of its own, and the first poll skips what is there."""
    return House.sending(store, baseline=True)


def test_a_record_that_the_baseline_skipped_is_delivered_once_it_is_pushed(sending: House) -> None:
    see(sending, page("1", "a"))
    (kept,) = intake(sending).push("helpdesk", page("1", "a"))

    sending.turn(12)

    assert kept.state == "pending"
    assert sent(sending) == [("1", "a")]


def test_a_version_that_is_owed_behind_a_skipped_one_can_be_pushed_too(sending: House) -> None:
    see(sending, page("1", "a"), page("1", "b"))

    for _ in range(2):
        intake(sending).push("helpdesk", page("1", "b"))
    sending.turn(12)

    assert sent(sending) == [("1", "b")]


def test_a_newer_version_that_is_pushed_goes_behind_what_is_owed(sending: House) -> None:
    see(sending, page("1", "a"), page("1", "b"))

    intake(sending).push("helpdesk", page("1", "c"))
    sending.turn(12)

    assert sent(sending) == [("1", "b"), ("1", "c")]


def test_many_at_once_are_all_answered_and_each_is_there(house: House) -> None:
    gate = threading.Barrier(16)
    taking = intake(house)

    def push(number: int) -> str:
        if number < 16:
            gate.wait(10)
        (kept,) = taking.push("helpdesk", page(str(number % 200), "a"))
        return kept.key

    with ThreadPoolExecutor(16) as pool:
        answered = list(pool.map(push, range(400)))

    with house.store.read() as connection:
        stored = set(connection.execute(select(records.c.key)).scalars())
    assert stored == set(answered) == {str(number) for number in range(200)}


class Refusing(Store):
    """A store that refuses transactions."""

    def __init__(self, store: Store, refuses: Any) -> None:
        super().__init__(store.engine, store.reader)
        self._refuses = refuses

    @contextmanager
    def write(self) -> Any:
        with super().write() as connection:
            yield connection
            if self._refuses(connection):
                raise OperationalError("commit", {}, Exception("the disk is full"))


def test_whoever_waits_hears_of_a_database_that_refuses_and_nothing_of_it_counts(house: House) -> None:
    taking = Intake(Refusing(house.store, lambda _: True), house.clock, lambda: {"helpdesk": house.route})

    def push(number: int) -> str:
        try:
            taking.push("helpdesk", page(str(number), "a"))
        except TransientError as error:
            return str(error)
        return "stored"

    with ThreadPoolExecutor(8) as pool:
        told = set(pool.map(push, range(40)))

    assert told == {"the database does not take it now"}
    with house.store.read() as connection:
        assert connection.execute(select(records.c.key)).all() == []


def test_one_page_that_is_refused_takes_no_other_with_it(house: House) -> None:
    def poisoned(connection: Connection) -> bool:
        return "poison" in connection.execute(select(records.c.key)).scalars().all()

    taking = Intake(Refusing(house.store, poisoned), house.clock, lambda: {"helpdesk": house.route})

    def push(key: str) -> bool:
        try:
            taking.push("helpdesk", page(key, "a"))
        except TransientError:
            return False
        return True

    keys = ["poison", *(str(number) for number in range(30))]
    with ThreadPoolExecutor(16) as pool:
        told = dict(zip(keys, pool.map(push, keys), strict=True))

    assert [key for key, well in told.items() if not well] == ["poison"]
    with house.store.read() as connection:
        assert set(connection.execute(select(records.c.key)).scalars()) == set(keys) - {"poison"}


def test_the_same_key_twice_at_once_is_two_versions_in_order(sending: House) -> None:
    taking = intake(sending)
    taking.push("helpdesk", Page(records=(SourceRecord(key="1", version="a", fields={}),)))
    taking.push("helpdesk", Page(records=(SourceRecord(key="1", version="b", fields={}),)))

    sending.turn(12)

    assert sent(sending) == [("1", "a"), ("1", "b")]
    assert versions(sending.store, "delivered") == ["a", "b"]
