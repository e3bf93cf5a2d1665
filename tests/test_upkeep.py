"""What maintenance finds and forgets, and what follows a lost database, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from poller import recovery, upkeep
from poller.errors import TransientError, UnknownOutcome
from poller.marks import Mark
from poller.model import Malformed, Owned, Page
from poller.store import Store, intents, standing
from poller.store.reviewing import known
from poller.tables import attempts, deliveries, payloads, records, routes
from tests.fakes import FakeSink, last, records as some
from tests.house import House

THIRTY_DAYS = timedelta(days=30)
Said = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    """What was logged under a name."""
    caplog.set_level("DEBUG")

    def find(event: str) -> list[dict[str, Any]]:
        found = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        return [line for line in found if line.get("event") == event]

    return find


def deliver(house: House, *keys: str) -> None:
    house.source.pages = [last(*keys)]
    house.poll()
    house.turn(8)
    assert {house.states()[key] for key in keys} == {"delivered"}


class Rows:
    """Stands in for `FakeSink.owned`: its own rows, and what else the instance has."""

    def __init__(self, sink: FakeSink) -> None:
        self.more: list[Owned] = []
        self.error: Exception | None = None
        self.asked: list[tuple[str, datetime, int]] = []
        self._own = sink.owned
        sink.owned = self  # type: ignore[method-assign]

    def __call__(self, prefix: str, *, since: datetime, most: int) -> list[Owned]:
        self.asked.append((prefix, since, most))
        if self.error is not None:
            raise self.error
        return [*self._own(prefix, since=since, most=most), *self.more]


def sweep(house: House) -> None:
    upkeep.sweep(house.store, house.clock, {"helpdesk": house.route})


# The sweep.


def test_a_sweep_where_all_is_well_finds_nothing(house: House, said: Said) -> None:
    deliver(house, "1", "2")
    house.let(minutes=6)
    sweep(house)

    (line,) = said("sweep_finished")
    assert (line["incidents"], line["doubled"], line["foreign"], line["missing"]) == (2, 0, 0, 0)
    assert not said("duplicate_found")
    assert not said("foreign_found")
    assert not said("incident_missing")


def test_a_doubled_incident_is_reported_oldest_first_and_nothing_is_deleted(house: House, said: Said) -> None:
    deliver(house, "1", "2")
    rows = Rows(house.sink)
    (correlation_id, bound), _ = house.sink.rows.items()
    rows.more = [
        Owned(sys_id="f" * 32, correlation_id=correlation_id, created_at="2026-01-02 03:04:06"),
        Owned(sys_id="e" * 32, correlation_id=correlation_id, created_at="2026-01-02 03:04:06"),
        Owned(sys_id="d" * 32, correlation_id=correlation_id, created_at="2026-01-02 03:04:04"),
    ]
    before = house.rows(records)
    sweep(house)

    (line,) = said("duplicate_found")
    assert line["correlation_id"] == correlation_id
    assert line["sys_ids"] == ["d" * 32, bound, "e" * 32, "f" * 32]
    assert said("sweep_finished")[0]["doubled"] == 1
    # The record stays bound as it was, and the instance is only read.
    assert house.rows(records) == before
    assert len(house.sink.posts) == 2
    assert rows.asked[0][0] == "test"


def test_an_incident_that_no_record_explains_is_reported(house: House, said: Said) -> None:
    deliver(house, "1")
    Rows(house.sink).more = [Owned(sys_id="f" * 32, correlation_id="test:00000000:" + "0" * 32)]
    sweep(house)

    (line,) = said("foreign_found")
    assert (line["correlation_id"], line["sys_ids"]) == ("test:00000000:" + "0" * 32, ["f" * 32])
    assert said("sweep_finished")[0]["foreign"] == 1
    assert not said("duplicate_found")


def test_an_incident_that_is_gone_is_reported_and_never_made_again(house: House, said: Said) -> None:
    deliver(house, "1", "2")
    gone = house.rows(records)[0]
    del house.sink.rows[gone["correlation_id"]]
    sweep(house)
    # It may only not be visible yet.
    assert not said("incident_missing")

    house.let(minutes=6)
    sweep(house)
    house.let(minutes=1)
    house.poll()
    house.turn()

    (line,) = said("incident_missing")
    assert (line["key"], line["sys_id"]) == (gone["key"], gone["sys_id"])
    assert len(house.sink.posts) == 2
    assert house.states() == {"1": "delivered", "2": "delivered"}


def test_what_lies_before_the_window_is_not_missed(house: House, said: Said) -> None:
    deliver(house, "1")
    house.sink.rows.clear()
    house.let(hours=25)
    sweep(house)

    assert not said("incident_missing")


def test_a_sweep_that_read_less_than_all_misses_nothing(
    house: House, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(house, "1", "2")
    house.let(minutes=6)
    monkeypatch.setattr(upkeep, "MOST", 1)
    sweep(house)

    assert said("sweep_finished")[0]["incidents"] == 1
    assert not said("incident_missing")


def test_a_sweep_without_an_answer_is_told_and_ends_nothing(house: House, said: Said) -> None:
    deliver(house, "1")
    rows = Rows(house.sink)
    rows.error = TransientError("503", remote=True)
    sweep(house)

    assert said("sweep_failed")[0]["error"] == "503"
    assert not said("sweep_finished")


def test_routes_at_one_instance_are_read_once_together(house: House, said: Said) -> None:
    deliver(house, "1")
    with house.store.write() as connection:
        row = standing.enter_route(connection, "other", None, now=house.clock.now())
    other = replace(
        house.route, name="other", receiver=replace(house.route.receiver, route_id=row.id, identity="other")
    )
    rows = Rows(house.sink)
    upkeep.sweep(house.store, house.clock, {"helpdesk": house.route, "other": other})

    assert len(rows.asked) == 1
    assert not said("foreign_found")


def test_an_incident_gone_is_missed_whichever_route_made_it(house: House, said: Said) -> None:
    with house.store.write() as connection:
        row = standing.enter_route(connection, "other", None, now=house.clock.now())
    other = replace(
        house.route, name="other", receiver=replace(house.route.receiver, route_id=row.id, identity="other")
    )
    both = {"helpdesk": house.route, "other": other}
    house.dispatcher.replace_routes(both)
    house.source.pages = [last("1")]
    for route in both.values():
        route.poll(house.store, house.clock)
    house.dispatcher.wake()
    house.turn(12)
    assert [row["state"] for row in house.rows(deliveries)] == ["delivered"] * 2
    house.sink.rows.clear()
    house.let(minutes=6)

    upkeep.sweep(house.store, house.clock, both)

    assert sorted(line["route"] for line in said("incident_missing")) == ["helpdesk", "other"]
    assert said("sweep_finished")[0]["missing"] == 2


# Forgetting.


def forget(house: House) -> None:
    upkeep.forget(house.store, house.clock, THIRTY_DAYS)


def test_payloads_of_finished_records_go_and_keys_and_numbers_stay(store: Store, said: Said) -> None:
    house = House(store, concurrency=600)
    deliver(house, "first")
    deliver(house, *map(str, range(1099)))
    rows = house.rows(records)
    house.let(days=31)
    forget(house)

    assert house.rows(payloads) == []
    assert house.rows(records) == rows
    assert all(row["number"] and row["sys_id"] for row in rows)
    assert {row["body"] for row in house.rows(deliveries)} == {None}
    assert said("retention_finished")[0]["payloads"] == 1100
    # Seen again, they are known.
    house.source.pages = [last(*(row["key"] for row in rows))]
    house.poll()
    house.turn()
    assert len(house.sink.posts) == 1100


def test_nothing_goes_before_its_time(house: House, said: Said) -> None:
    deliver(house, "1")
    house.let(days=29)
    forget(house)

    assert len(house.rows(payloads)) == 1
    assert not said("retention_finished")


def test_what_is_still_owed_or_dead_keeps_its_payload(house: House) -> None:
    house.sink.dead_keys = {"dead"}
    house.source.pages = [
        Page(records=some("dead", "owed", "done"), malformed=(Malformed(reason="cut", raw="{"),), last=True)
    ]
    house.poll()
    house.turn()
    assert house.states()["dead"] == "dead"
    with house.store.write() as connection:
        owed = select(records.c.id).where(records.c.key == "owed").scalar_subquery()
        connection.execute(update(deliveries).where(deliveries.c.record_id == owed).values(state="waiting"))
        connection.execute(update(routes).values(held_reason="canary"))
    house.let(days=400)
    forget(house)

    keys = {row["id"]: row["key"] for row in house.rows(records)}
    kept = {keys[row["record_id"]] for row in house.rows(payloads)}
    assert {"dead", "owed"} <= kept
    assert any(key.startswith("malformed:") for key in kept)
    assert "done" not in kept


def test_skipped_records_are_forgotten_too(store: Store) -> None:
    house = House(store, baseline=True)
    house.source.pages = [last("1", "2")]
    house.poll()
    assert set(house.states().values()) == {"skipped"}
    house.let(days=31)
    forget(house)

    assert house.rows(payloads) == []
    assert len(house.rows(records)) == 2


# A lost database.


def held(house: House) -> tuple[str | None, datetime | None]:
    (row,) = house.rows(routes)
    return row["held_reason"], row["held_until"]


def suspect(house: House, mark: int | None, delivery_id: int | None = None, epoch: int = 0) -> bool:
    """Start anew with this mark, as `EngineRoom.begin` does."""
    newest_of = None if delivery_id is None else (delivery_id, epoch)
    lost = recovery.suspect(house.store, house.clock, {"helpdesk": house.route}, mark, newest_of)
    house.dispatcher = house.dispatch()
    return lost


def ask(house: House) -> bool:
    answered = recovery.ask(house.store, house.clock, {"helpdesk": house.route})
    house.dispatcher.look_anew()
    return answered


def newest(house: House) -> int:
    with house.store.read() as connection:
        return intents.newest_number(connection)


def test_a_mark_that_fits_is_no_reason_to_wait(house: House) -> None:
    deliver(house, "1")

    assert not suspect(house, newest(house))
    assert not suspect(house, newest(house) - 1)
    assert held(house) == (None, None)


def test_a_killed_process_is_no_lost_database(house: House) -> None:
    """After kill -9 the committed intents say what is in doubt: nothing else waits."""
    deliver(house, "1")
    house.source.pages = [last("2")]
    house.executor.keeping = True
    house.poll()
    house.turn()
    house.executor.release()
    house.turn()
    assert house.states()["2"] == "sending"

    assert not suspect(house, newest(house))
    assert held(house) == (None, None)
    # On PostgreSQL another daemon may be at work: its lease has to end first.
    house.let(seconds=61 if house.store.sqlite_path is None else 0)
    house.turn()
    assert house.states()["2"] == "unknown"
    assert house.outcomes().count("unknown") == 1


def test_a_mark_ahead_of_the_database_holds_the_route_until_the_instance_has_answered(house: House, said: Said) -> None:
    rows = Rows(house.sink)
    rows.error = TransientError("503", remote=True)

    assert suspect(house, 7)
    assert held(house) == ("database_lost", None)
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    assert not ask(house)
    house.let(hours=5)
    assert not ask(house)

    # Polling goes on, and nothing is created.
    assert house.states() == {"1": "pending"}
    assert house.sink.posts == []
    assert held(house) == ("database_lost", None)

    rows.error = None
    assert not ask(house)  # it was asked in vain just now, and is left alone for a while
    house.clock.move(hours=1)
    assert ask(house)
    assert held(house) == (None, None)
    house.turn(8)
    assert house.states() == {"1": "delivered"}
    assert not said("database_lost")
    prefix, since, most = rows.asked[-1]
    assert (prefix, most) == ("test", 1)
    assert house.clock.now() - since >= timedelta(days=1)


@pytest.mark.parametrize("forgotten", ["the delivery", "its last claim"])
def test_a_database_that_has_caught_up_and_does_not_know_the_marked_intent_is_noticed(
    house: House, forgotten: str
) -> None:
    """Thrown back, it may have given away as many numbers again by the time anybody looks."""
    deliver(house, "1")
    (row,) = house.rows(deliveries)

    assert not suspect(house, newest(house), row["id"], row["epoch"])
    if forgotten == "the delivery":
        assert suspect(house, newest(house), row["id"] + 1, 1)
    else:
        assert suspect(house, newest(house), row["id"], row["epoch"] + 1)
    assert held(house) == ("database_lost", None)


def test_the_hold_of_a_restart_before_the_answer_is_not_forgotten(house: House) -> None:
    assert suspect(house, 7)

    # By now the mark file has been written anew, with the number that the database has.
    assert suspect(house, newest(house))
    assert held(house) == ("database_lost", None)


def test_incidents_that_the_database_does_not_know_are_adopted_and_not_made_again(house: House, said: Said) -> None:
    deliver(house, "1", "2", "3")
    mark = newest(house)
    # The database of before: it knows only the first, and believes the second unsent and frozen.
    with house.store.write() as connection:
        wanted = select(records.c.id).where(records.c.key != "1").scalar_subquery()
        connection.execute(attempts.delete())
        connection.execute(
            update(deliveries)
            .where(deliveries.c.record_id.in_(wanted))
            .values(state="ready", attempts=0, intent=None, safe_after=None)
        )
        connection.execute(
            update(records).where(records.c.key != "1").values(sys_id=None, number=None, settled_at=None)
        )
        gone = select(records.c.id).where(records.c.key == "3").scalar_subquery()
        connection.execute(deliveries.delete().where(deliveries.c.record_id == gone))
        connection.execute(payloads.delete().where(payloads.c.record_id == gone))
        connection.execute(records.delete().where(records.c.key == "3"))

    assert suspect(house, mark)
    assert ask(house)
    assert held(house) == ("database_lost", house.clock.now() + timedelta(seconds=20))
    assert said("database_lost")[0]["looked_up_again"] == 1
    house.poll()
    for _ in range(19):
        house.let(seconds=1)
    # Until no request of the lost time can be alive, nothing is looked up and nothing is sent.
    assert house.states() == {"1": "delivered", "2": "pending", "3": "pending"}
    assert len(house.sink.posts) == 3

    for _ in range(3):
        house.let(seconds=1)
    assert house.states() == {"1": "delivered", "2": "delivered", "3": "delivered"}
    assert len(house.sink.posts) == 3
    # What is new from now on is created as ever.
    deliver(house, "4")
    assert held(house) == (None, None)


def test_a_request_of_the_lost_time_that_commits_late_is_found(house: House) -> None:
    deliver(house, "1")
    house.source.pages = [last("2")]
    house.sink.script = [UnknownOutcome("lost")]
    house.poll()
    house.turn()
    on_its_way = house.sink.posts[-1]
    mark = newest(house)
    with house.store.write() as connection:
        connection.execute(attempts.delete())
        wanted = select(records.c.id).where(records.c.key == "2").scalar_subquery()
        connection.execute(
            update(deliveries)
            .where(deliveries.c.record_id == wanted)
            .values(state="ready", attempts=0, intent=None, safe_after=None, owner=None)
        )
    suspect(house, mark)
    ask(house)
    house.let(seconds=15)
    house.sink.commit(on_its_way)
    house.let(seconds=6)
    house.turn()

    assert house.states()["2"] == "delivered"
    assert len(house.sink.posts) == 2


def test_a_route_on_its_baseline_waits_for_an_operator(store: Store, said: Said) -> None:
    house = House(store, baseline=True)
    house.sink.rows["test:00000000:" + "0" * 32] = "f" * 32

    assert suspect(house, 7)
    assert ask(house)
    house.source.pages = [last("1")]
    house.poll()
    house.let(days=2)

    assert held(house) == ("database_lost", None)
    assert "poller release helpdesk" in said("database_lost")[0]["error"]


def test_a_route_whose_baseline_is_done_needs_no_operator(store: Store) -> None:
    house = House(store, baseline=True)
    house.source.pages = [last("1")]
    house.poll()
    house.sink.rows["test:00000000:" + "0" * 32] = "f" * 32

    suspect(house, 7)
    ask(house)

    assert held(house)[1] is not None


def test_the_first_start_of_all_asks_once_and_goes_on(house: House, tmp_path: Path) -> None:
    mark = Mark(tmp_path / "mark")
    rows = Rows(house.sink)
    assert mark.read() is None

    assert suspect(house, None)
    assert ask(house)
    assert held(house) == (None, None)
    deliver(house, "1")
    (row,) = house.rows(deliveries)
    mark.write(row["intent"], row["id"], row["epoch"])
    kept = mark.read()
    assert kept is not None
    assert not suspect(house, *kept)
    assert len(rows.asked) == 1
    mark.close()


def test_the_mark_file_is_small_and_its_owners_alone(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "mark")
    for number in (10**12, 3, 10**9):
        mark.write(number, number + 1, 7)
        assert mark.read() == (number, number + 1, 7)
    mark.close()
    assert (tmp_path / "mark").stat().st_mode & 0o777 == 0o600
    for text in ("what\n", "", "1\n", "1 2 3 4\n"):
        (tmp_path / "mark").write_text(text)
        assert mark.read() is None
    # A disk that refuses is not worth stopping for.
    Mark(tmp_path / "nowhere" / "mark").write(1, 1, 1)
    Mark(None).write(1, 1, 1)


@pytest.mark.postgres
def test_another_postgresql_is_noticed(postgres_url: str, said: Said) -> None:
    from poller.migrate import upgrade
    from poller.store import open_store

    store = open_store(postgres_url)
    upgrade(store.engine)
    house = House(store)
    deliver(house, "1")
    assert not suspect(house, newest(house))
    with store.write() as connection:
        assert standing.fact(connection, "postgresql_system")
        standing.keep_fact(connection, "postgresql_system", "another:1")

    assert suspect(house, newest(house))
    (row,) = house.rows(routes)
    assert "another PostgreSQL" in row["held_error"]
    store.close()


def test_known_takes_any_number_of_ids(house: House) -> None:
    deliver(house, "1")
    ids = [f"x{number}" for number in range(1200)]

    with house.store.read() as connection:
        assert known(connection, [*ids, *house.sink.rows]) == set(house.sink.rows)
