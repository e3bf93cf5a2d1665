"""What the listings read, on both databases."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import event, insert, update

from poller.errors import UnknownOutcome
from poller.model import Malformed, Page
from poller.store import Store
from poller.store.lives import life
from poller.store.reading import (
    all_records,
    counts,
    kept_prefix,
    newest_records,
    oldest_waiting,
    route_lines,
    snapshot,
)
from poller.tables import acts, deliveries, records as records_table
from tests.fakes import last, records
from tests.house import House

HOSTILE = [
    "a\x1b[31mred",
    "line\nbreak",
    "ops^night",
    "\u202etxt.exe",
    "x" * 600,
    "zoë",
    "'; DROP TABLE records;--",
    " ",
]


def shown(store: Store, **asked: Any) -> dict[str, str]:
    with snapshot(store) as connection:
        return {line.key: line.state for line in newest_records(connection, **asked)}


def add_delivery(house: House, key: str, operation: str, state: str) -> None:
    """Add a later delivery to a record, as replies and updates will be."""
    record = next(row for row in house.rows(records_table) if row["key"] == key)
    now = house.clock.now()
    values = {"record_id": record["id"], "route_id": house.route.id, "operation": operation, "version": "2"}
    with house.store.write() as connection:
        connection.execute(insert(deliveries), [{**values, "state": state, "not_before": now, "changed_at": now}])


def test_a_record_shows_its_state_and_its_number(house: House) -> None:
    house.sink.dead_keys = {"2"}
    house.source.pages = [last("1", "2")]
    house.poll()
    house.turn()

    with snapshot(house.store) as connection:
        one, two = all_records(connection)

    assert (one.key, one.state, one.number, one.attempts, one.reason) == ("1", "delivered", "INC0000001", 1, None)
    assert one.settled_at is not None
    assert (two.key, two.state, two.number, two.attempts, two.reason) == ("2", "dead", None, 0, "user unknown")
    assert two.settled_at is None


def test_a_record_shows_its_first_unfinished_delivery(house: House) -> None:
    house.source.pages = [last("1", "2", "3")]
    house.poll()
    house.turn()
    add_delivery(house, "1", "reply", "pending")
    add_delivery(house, "2", "update", "dead")
    add_delivery(house, "2", "send", "pending")
    add_delivery(house, "3", "update", "skipped")

    expected = {"1": "replying", "2": "dead", "3": "delivered"}
    assert shown(house.store) == expected
    assert shown(house.store, state="replying") == {"1": "replying"}
    assert shown(house.store, state="pending") == {}
    with snapshot(house.store) as connection:
        assert counts(connection) == {"helpdesk": {"dead": 1, "replying": 1, "delivered": 1}}


def test_counts_agree_with_the_records_listed(store: Store) -> None:
    house = House(store, baseline=True)
    house.source.pages = [last("old1", "old2")]
    house.poll()
    house.sink.dead_keys = {"3"}
    house.source.pages = [last("1", "2", "3", "4")]
    house.poll()
    house.sink.script = [UnknownOutcome("no answer")]
    house.turn()

    states = list(shown(store).values())
    with snapshot(store) as connection:
        found = counts(connection)["helpdesk"]

    assert found == {state: states.count(state) for state in set(states)}
    assert found["skipped"] == 2


def test_listings_are_filtered_and_newest_first(house: House) -> None:
    house.source.pages = [last("1", "2", "3")]
    house.poll()

    assert list(shown(house.store, limit=2)) == ["3", "2"]
    assert list(shown(house.store, route="helpdesk", state="pending")) == ["3", "2", "1"]
    assert shown(house.store, route="other") == {}
    assert shown(house.store, state="dead") == {}


def test_the_oldest_waiting_record_is_neither_settled_nor_dead(house: House) -> None:
    house.sink.dead_keys = {"1"}
    house.source.pages = [last("1", "2")]
    house.poll()
    house.turn()
    house.clock.move(hours=1)
    house.source.pages = [last("3")]
    house.poll()

    with snapshot(house.store) as connection:
        assert oldest_waiting(connection) == {"helpdesk": house.clock.now()}


def test_routes_show_checkpoint_and_failures(house: House) -> None:
    house.source.pages = [last("1", checkpoint="2026-01-01T00:00:00Z")]
    house.poll()
    house.source.pages = [UnknownOutcome("the source is away")]
    house.poll()

    with snapshot(house.store) as connection:
        (line,) = route_lines(connection)
        prefix = kept_prefix(connection)

    assert (line.name, line.checkpoint, line.failures) == ("helpdesk", "2026-01-01T00:00:00Z", 1)
    assert line.error == "the source is away"
    assert line.polled_at == house.clock.now()
    assert prefix is None


def test_a_life_tells_each_attempt_and_act(house: House) -> None:
    house.source.pages = [last("1")]
    house.sink.script = [UnknownOutcome("no answer")]
    house.poll()
    house.turn()
    house.let(seconds=30)
    with house.store.write() as connection:
        row = {"at": house.clock.now(), "who": "ann", "act": "retry", "record_id": 1, "reason": "asked to"}
        connection.execute(insert(acts), [row])

    with snapshot(house.store) as connection:
        found = life(connection, "helpdesk", "1")
        missing = [life(connection, "helpdesk", "2"), life(connection, "other", "1")]

    assert found is not None
    assert missing == [None, None]
    assert found.record.state == "delivered"
    (delivery,) = found.deliveries
    assert delivery.tried[0].outcome == "unknown"
    assert all(attempt.ended_at for attempt in delivery.tried)
    assert [(act.who, act.act, act.reason) for act in found.acts] == [("ann", "retry", "asked to")]


def test_a_life_tells_what_could_not_be_read(house: House) -> None:
    house.source.pages = [
        Page(malformed=(Malformed(reason="no title", raw='{"id": 7}' + "x" * 9000, key="7"),), last=True)
    ]
    house.poll()

    with snapshot(house.store) as connection:
        found = life(connection, "helpdesk", "7")

    assert found is not None
    assert found.record.state == "dead"
    assert found.raw is not None
    assert found.raw.startswith('{"id": 7}')
    assert len(found.raw) == 4000


def test_hostile_keys_are_found_as_they_are(house: House) -> None:
    house.source.pages = [Page(records=records(*HOSTILE), last=True)]
    house.poll()

    assert set(shown(house.store)) == set(HOSTILE)
    with snapshot(house.store) as connection:
        assert all(life(connection, "helpdesk", key) for key in HOSTILE)


def test_ten_thousand_records_are_read_quickly_in_few_queries(house: House) -> None:
    house.source.pages = [Page(records=records(*map(str, range(10_000))), last=True)]
    house.poll()
    with house.store.write() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id % 3 == 0).values(state="delivered"))
    statements: list[str] = []
    event.listen(house.store.reader, "before_cursor_execute", lambda *given: statements.append(given[2]))

    began = time.monotonic()
    with snapshot(house.store) as connection:
        lines = sum(1 for _ in all_records(connection))
        found = counts(connection)["helpdesk"]
        oldest_waiting(connection)
        few = list(newest_records(connection, limit=5))
    seconds = time.monotonic() - began
    print(f"{seconds:.2f} s")

    assert lines == sum(found.values()) == 10_000
    assert len(few) == 5
    assert len([each for each in statements if each.startswith("SELECT ")]) <= 6
    assert seconds < 20


def test_a_listing_sees_one_state_while_others_write(house: House) -> None:
    house.source.pages = [Page(records=records(*map(str, range(1200))), last=True)]
    house.poll()

    with snapshot(house.store) as connection:
        lines = all_records(connection)
        first = next(lines)
        house.source.pages = [last("new", checkpoint="later")]
        house.poll()
        rest = [line.key for line in lines]
        (route,) = route_lines(connection)

    assert first.key == "0"
    assert len(rest) == 1199
    assert route.checkpoint is None
