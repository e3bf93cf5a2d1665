"""What a scrape asks the database, how often, and what it costs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from poller import gauges, metrics
from poller.engine_room import EngineRoom
from poller.errors import TransientError
from poller.metrics import RouteFacts
from poller.model import Measured, Page, SourceRecord
from poller.once import run_once
from poller.route import Schedule
from poller.service import next_poll
from poller.settings import load
from poller.store.measuring import Measuring, finished_counts, finished_query, measured, unfinished_query
from tests.cli_house import Place, place
from tests.house import House
from tests.scraping import NOW, counting, counts, every, scraped, standing, value

__all__ = ["counting", "place"]

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


# What the database is asked.


def test_a_flood_of_scrapes_asks_the_database_once() -> None:
    asked: list[int] = []
    metrics.known({"helpdesk": every(30)}, ())

    def ask() -> Sequence[Measured]:
        asked.append(1)
        return [standing()]

    metrics.measure(ask)

    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda _: metrics.exposition()[0], range(200)))

    assert len(asked) == 1
    assert all(b'poller_records{route="helpdesk",state="pending"} 2.0' in body for body in bodies)


def test_a_database_that_hangs_holds_up_one_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [100.0]
    counts().standings.monotonic = lambda: moment[0]
    metrics.known({"helpdesk": every(30)}, ())
    metrics.measure(lambda: [standing()])
    assert value("poller_database_up") == 1
    begun, released = threading.Event(), threading.Event()

    def hang() -> Sequence[Measured]:
        begun.set()
        assert released.wait(60)
        return [standing()]

    metrics.measure(hang)
    moment[0] += 10
    held_up = threading.Thread(target=metrics.exposition)
    held_up.start()
    assert begun.wait(60)

    assert value("poller_database_up") == 1
    moment[0] += 30
    assert value("poller_database_up") == 0
    assert value("poller_records") == 0
    released.set()
    held_up.join(60)
    assert value("poller_database_up") == 1


def test_a_database_that_fails_is_shown_as_down() -> None:
    def fail() -> Sequence[Measured]:
        raise OperationalError("SELECT", {}, Exception("gone"))

    metrics.known({"helpdesk": every(30)}, ())
    metrics.measure(fail)

    assert value("poller_database_up") == 0
    assert "poller_records" not in scraped()


def test_ages_count_from_now() -> None:
    counts().standings.now = lambda: NOW + timedelta(seconds=100)
    metrics.known({"helpdesk": every(30), "pushed": RouteFacts()}, ())
    metrics.measure(
        lambda: [
            standing(oldest_at=NOW, checkpoint_at=NOW + timedelta(seconds=60), poll_failures=4),
            standing(route="pushed"),
        ]
    )

    assert value("poller_oldest_waiting_seconds", route="helpdesk") == 100
    assert value("poller_whole_poll_age_seconds", route="helpdesk") == 100
    assert value("poller_poll_overdue_seconds", route="helpdesk") == 70
    assert value("poller_checkpoint_age_seconds", route="helpdesk") == 40
    assert value("poller_poll_failures_in_a_row", route="helpdesk") == 4
    assert (("route", "pushed"),) not in scraped()["poller_whole_poll_age_seconds"]


def test_a_cron_line_says_when_a_poll_is_overdue() -> None:
    friday = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)

    assert next_poll(Schedule(cron="0 8 * * mon"), friday) == datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
    assert next_poll(Schedule(every=timedelta(minutes=5)), friday) == friday + timedelta(minutes=5)


def test_how_routes_stand_is_read_from_the_database(house: House) -> None:
    house.prove()
    house.clock.move(minutes=5)
    house.sink.script = [TransientError("later", retry_after=timedelta(hours=1), remote=True)]
    house.source.pages = [Page(records=(SourceRecord(key="1", version="1", fields={}),), last=True)]
    house.poll()
    waiting_since = house.clock.now()
    house.turn()
    house.clock.move(minutes=5)

    with house.store.read() as connection:
        (found,) = measured(connection, finished_counts(connection))

    assert found.states["waiting"] == 1
    assert found.states["delivered"] == 1
    assert found.oldest_at == waiting_since
    assert found.whole_poll_at == waiting_since


def test_what_is_finished_is_counted_beside_and_shown_soon(house: House) -> None:
    measuring = Measuring(house.store)
    assert [each.states.get("delivered") for each in measuring()] == [None]
    house.prove()
    measuring._again = 0.0

    assert any(measuring()[0].states.get("delivered") == 1 for _ in range(200))


@pytest.mark.parametrize("query", [unfinished_query(), finished_query()])
def test_the_questions_are_answered_from_the_index_alone(house: House, query: Any) -> None:
    if house.store.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL walks a small table whole")
    with house.store.read() as connection:
        text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
        plan = " ".join(row[-1] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text))

    assert "USING COVERING INDEX ix_deliveries_due (route_id=? AND state=?)" in plan
    assert "SCAN deliveries" not in plan


def test_a_route_that_a_reload_takes_away_ends_its_series(place: Place) -> None:
    settings = load(place.settings)
    room = EngineRoom(settings, place.settings)
    gauges.begin(room, settings, next_poll)
    assert run_once(room).all_delivered
    assert 'route="helpdesk"' in metrics.exposition()[0].decode()

    place.write(place.text.replace("[routes.helpdesk]", "[routes.helpdesk]\nenabled = false"))
    less = load(place.settings)
    room.use(less)
    gauges.renew(room, less, next_poll)

    assert 'route="helpdesk"' not in metrics.exposition()[0].decode()
    assert value("poller_calls_total") > 0
    room.close()
