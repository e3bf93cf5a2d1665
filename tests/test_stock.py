"""What was prepared is sent without being read again, and never otherwise than the database has it by then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from poller import lanes
from poller.lifecycle import Claim
from poller.model import Intent, Operation, Page, SourceRecord, State
from poller.stock import Stock
from poller.store import Store, due, reviving
from poller.store.standing import enter_route
from tests.fakes import HandClock
from tests.house import House
from tests.test_lost_commits import Failing

FEW = 4


@pytest.fixture
def house(store: Store, monkeypatch: pytest.MonkeyPatch) -> House:
    """A sink that is simply sent to again, over one connection, with few sends ahead of it."""
    monkeypatch.setattr(lanes, "AHEAD", FEW)
    return House.sending(store, concurrency=1)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ready deliveries each look into the database gave."""
    counts: list[int] = []
    claims = due.claims

    def counted(*args: Any, **how: Any) -> list[Claim]:
        found = claims(*args, **how)
        if args[3] is State.READY:
            counts.append(len(found))
        return found

    monkeypatch.setattr(due, "claims", counted)
    return counts


def keys(*numbers: int) -> list[str]:
    return [str(number) for number in numbers]


def see(house: House, wanted: Sequence[str], version: str = "1") -> None:
    records = tuple(SourceRecord(key=key, version=version, fields={}) for key in wanted)
    house.source.pages = [Page(records=records, last=True)]
    assert house.poll()


def prepare(house: House) -> None:
    """Turn until everything is prepared, and nothing is sent: the workers keep it back."""
    house.turn(1)
    house.executor.keeping = True
    house.turn(1)


def let_go(house: House) -> None:
    house.executor.keeping = False
    house.executor.release()
    house.turn(12)


def sent(house: House) -> list[str]:
    return [intent.key for intent in house.sink.posts]


def skip(house: House, key: str) -> None:
    wish = reviving.Wish(act="skip", route_id=house.route.id, reason="no longer needed")
    with house.store.read() as connection:
        found = reviving.with_keys(connection, house.route.id, [key])
    told = reviving.carry_out(house.store, wish, list(found.values()), house.clock.now)
    assert [one.now for one in told] == ["skipped"]


def test_a_lone_daemon_reads_nothing_twice(house: House, read: list[int]) -> None:
    see(house, keys(*range(12)))
    house.turn(12)

    assert sorted(sent(house), key=int) == keys(*range(12))
    assert sum(read) == (0 if house.store.sqlite_path else 12)


def test_what_an_operator_has_skipped_meanwhile_is_not_sent(house: House) -> None:
    see(house, keys(*range(12)))
    prepare(house)
    skip(house, "11")

    let_go(house)

    assert sorted(sent(house), key=int) == keys(*range(11))
    assert house.states()["11"] == "skipped"


def test_what_was_ready_before_this_process_goes_first(house: House) -> None:
    see(house, keys(100, 101))
    house.executor.keeping = True
    house.turn(1)
    house.executor.keeping = False
    house.executor.release()
    house.dispatcher.stop()
    house.turn(1)
    assert set(house.states().values()) == {"ready"}

    house.clock.move(seconds=1)
    house.dispatcher = house.dispatch()
    see(house, keys(*range(12)))
    house.turn(12)

    assert sorted(sent(house)[:2]) == keys(100, 101)
    assert len(sent(house)) == 14


def test_a_turn_that_the_database_forgot_loses_nothing_and_sends_nothing_twice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.dispatcher.IDLE", 0.0)
    failing = Failing(house.store)
    see(house, keys(*range(12)))
    house.turn(1)
    # This turn settles what was prepared, and would keep it.
    failing.plan = ["rolled back"]
    house.turn(1)
    assert set(house.states().values()) == {"pending"}
    house.turn(12)

    assert sorted(sent(house), key=int) == keys(*range(12))
    assert set(house.states().values()) == {"delivered"}


def test_what_was_prepared_under_another_name_of_its_route_is_sent_under_the_new_one(house: House) -> None:
    see(house, keys(*range(12)))
    prepare(house)
    with house.store.write() as connection:
        enter_route(connection, "service-desk", "helpdesk", now=house.clock.now())
    house.route = replace(house.route, name="service-desk")
    house.dispatcher.replace_routes({"service-desk": house.route})
    let_go(house)

    assert sorted(sent(house), key=int) == keys(*range(12))
    assert Counter(intent.route for intent in house.sink.posts) == {"helpdesk": FEW, "service-desk": 12 - FEW}


def test_more_than_the_largest_is_not_kept_and_nothing_is_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.claiming.Stock", lambda: Stock(largest=10))
    house.dispatcher = house.dispatch()
    see(house, keys(*range(12)))
    house.turn(12)

    assert sorted(sent(house), key=int) == keys(*range(12))


def claim(number: int, body: str) -> Claim:
    intent = Intent(
        route="bench",
        key=str(number),
        version="1",
        operation=Operation.SEND,
        body=body,
        correlation_id="",
        derived_sys_id="",
        attempt=0,
    )
    at = HandClock().now()
    return Claim(id=number, record_id=number, route_id=1, epoch=1, state=State.READY, intent=intent, first_seen=at)


def test_a_stock_gives_the_first_first_and_knows_what_it_holds() -> None:
    stock = Stock(largest=10)

    assert [stock.add(claim(number, "four")) for number in (1, 2, 3)] == [True, True, False]
    assert stock.count(1) == 2
    assert [one.id for one in stock.take(1, 1)] == [1]
    assert stock.add(claim(3, "eight888"[:6]))
    stock.drop(1, [2])
    assert [one.id for one in stock.take(1, 9)] == [3]
    assert stock.take(1, 9) == []
    assert stock.add(claim(4, "x" * 10))
    stock.clear()
    assert stock.count(1) == 0
    assert stock.add(claim(5, "x" * 10))
