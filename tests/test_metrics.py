"""What the counts tell: each thing that they speak of is let happen once, and read as Prometheus reads it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from poller import gauges, metrics
from poller.engine_room import EngineRoom
from poller.errors import BlockedError, PermanentError, TransientError, UnknownOutcome
from poller.metrics import RouteFacts
from poller.once import run_once
from poller.service import next_poll
from poller.settings import load
from poller.store import Store
from poller.store.measuring import Measuring, finished_counts, measured
from tests.cli_house import Place, place
from tests.fakes import last
from tests.house import House
from tests.scraping import counting, counts, every, scraped, standing, value

__all__ = ["counting", "place"]

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


# From outside.


def test_a_run_against_the_sandbox_is_counted(place: Place) -> None:
    settings = load(place.settings)
    room = EngineRoom(settings, place.settings)
    gauges.begin(room, settings, next_poll)

    assert run_once(room).all_delivered

    assert value("poller_polls_total", route="helpdesk", outcome="finished") == 1
    assert value("poller_polled_records_total", kind="new") == 6
    assert value("poller_poll_seconds_count", route="helpdesk") == 1
    assert value("poller_deliveries_total", operation="create", outcome="delivered", learnt="response") == 6
    assert value("poller_delivery_seconds_count", route="helpdesk") == 6
    assert value("poller_calls_total", remote="127.0.0.1", status="201") == 6
    assert value("poller_call_seconds_count", remote="127.0.0.1") == value("poller_calls_total")
    assert value("poller_token_fetches_total", remote="127.0.0.1", outcome="granted") == 1
    assert value("poller_connections_opened_total", remote="127.0.0.1") > 0
    assert value("poller_records", route="helpdesk", state="delivered") == 6
    assert value("poller_database_up") == 1
    assert value("poller_build_info") == 1
    assert value("poller_poll_overdue_seconds") == 0
    room.close()
    body = metrics.exposition()[0].decode()
    assert "INC00" not in body
    assert "abel" not in body


def test_calls_that_get_no_answer_and_tokens_that_are_refused_are_counted(place: Place) -> None:
    place.write(place.text.replace(place.sandbox.helpdesk_url, "http://127.0.0.1:9"))
    settings = load(place.settings)
    room = EngineRoom(settings, place.settings)
    gauges.begin(room, settings, next_poll)
    run_once(room, patience=timedelta(0))
    room.close()

    assert value("poller_calls_total", status="unsent") == 1
    assert value("poller_polls_total", route="helpdesk", outcome="failed") == 1


def test_only_hosts_of_the_settings_are_told_apart(place: Place) -> None:
    settings = load(place.settings)

    found = set(gauges.hosts(settings))
    metrics.known({}, found)
    metrics.called("evil.example", 200, 0.1)

    assert "127.0.0.1" in found
    assert value("poller_calls_total", remote="other", status="200") == 1


def test_without_a_daemon_nothing_is_counted_nor_imported() -> None:
    code = (
        "import sys, poller.route, poller.clients.http, poller.dispatcher; from poller import metrics\n"
        "metrics.polled('a', 'finished', 1.0, {}); metrics.called('h', 200, 1.0)\n"
        "assert metrics.exposition()[0] == b''; assert 'prometheus_client' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What can go wrong, each once.


def test_an_unknown_outcome_that_is_found_is_counted(house: House) -> None:
    house.prove()

    def lost(sink: Any, intent: Any) -> Exception:
        sink.commit(intent)
        return UnknownOutcome("cut")

    house.sink.script = [lost]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    assert value("poller_unknown_outcomes_total", cause="no_answer") == 1
    assert value("poller_deliveries_total", outcome="unknown") == 1
    house.let(seconds=2)

    assert value("poller_unknown_outcomes_ended_total", ended="lookup") == 1
    assert value("poller_deliveries_total", outcome="delivered", learnt="lookup") == 1
    assert value("poller_unknown_outcomes_ended_total") == value("poller_unknown_outcomes_total")


def test_an_unknown_outcome_that_is_sent_again_is_counted(house: House) -> None:
    house.prove_lookup()
    house.route = replace(house.route, guard_mode="settle")
    house.dispatcher = house.dispatch()
    house.sink.script = [UnknownOutcome("cut")]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()

    for _ in range(30):
        house.let(seconds=5)

    assert house.states()["1"] == "delivered"
    assert value("poller_unknown_outcomes_ended_total", ended="sent_again") == 1
    assert value("poller_unknown_outcomes_ended_total") == value("poller_unknown_outcomes_total")


def test_an_attempt_of_a_process_that_died_is_an_unknown_outcome(house: House) -> None:
    house.prove()
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    for _ in range(4):
        house.turn(2)
        if house.states()["1"] == "sending":
            break
        house.executor.release()
    assert house.states()["1"] == "sending"

    house.executor.keeping = False
    house.dispatcher = house.dispatch()
    # One of several daemons waits for the lease to end; a lone one takes over at its start.
    house.let(seconds=61)
    house.let(seconds=40)

    assert value("poller_unknown_outcomes_total", cause="taken_over") == 1
    assert value("poller_unknown_outcomes_ended_total") == 1


def test_dead_letters_are_counted(house: House) -> None:
    house.prove()
    house.sink.script = [PermanentError("no")]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()

    assert value("poller_deliveries_total", operation="create", outcome="dead") == 1
    with house.store.read() as connection:
        (route,) = measured(connection, finished_counts(connection))
    assert (route.states["dead"], route.states["delivered"], route.oldest_at) == (1, 1, None)


def test_holds_and_blocks_are_counted_and_shown(house: House) -> None:
    metrics.known({"helpdesk": every(30)}, ())
    metrics.measure(Measuring(house.store))
    house.sink.blind = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    assert value("poller_route_holds_total", route="helpdesk", reason="lookup_blind") == 1
    assert value("poller_route_held", route="helpdesk", reason="lookup_blind") == 1


def test_a_blocked_route_is_counted_and_shown(house: House) -> None:
    metrics.known({"helpdesk": every(30)}, ())
    metrics.measure(Measuring(house.store))
    house.sink.script = [BlockedError("403")]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()

    assert value("poller_route_blocks_total", route="helpdesk") == 1
    assert value("poller_route_blocked", route="helpdesk") == 1
    assert value("poller_deliveries_total", outcome="route_refused") == 1


def test_a_flood_that_is_held_back_is_counted(store: Store) -> None:
    house = House(store, max_new_per_hour=1)
    house.source.pages = [last("1", "2", "3")]
    house.poll()
    house.turn()

    assert value("poller_route_holds_total", route="helpdesk", reason="flood") == 1


def test_polls_that_fail_or_have_to_wait_are_counted(house: House) -> None:
    house.source.pages = [TransientError("down")]
    house.poll()
    house.poll()

    assert value("poller_polls_total", outcome="failed") == 1
    assert value("poller_polls_total", outcome="put_off") == 1
    assert value("poller_poll_seconds_count") == 1


def test_the_ingress_is_counted() -> None:
    metrics.known({"helpdesk": every(30)}, ())
    metrics.request_answered("/routes/{name}/records", 202, 0.01)
    metrics.refused("no_token")
    metrics.pushed("helpdesk", 3, 2, 1, 4)
    metrics.pushed("made-up", 1, 0, 0, 0)
    metrics.watch_connections(lambda: 7)

    assert value("poller_ingress_requests_total", endpoint="/routes/{name}/records", status="202") == 1
    assert value("poller_ingress_request_seconds_count") == 1
    assert value("poller_ingress_refusals_total", reason="no_token") == 1
    assert value("poller_pushes_total") == 1
    kinds = [value("poller_pushed_records_total", kind=kind) for kind in ("new", "known", "changed", "malformed")]
    assert kinds == [3, 2, 1, 4]
    assert value("poller_ingress_connections") == 7


def test_labels_stay_few_whatever_callers_say() -> None:
    for number in range(1000):
        metrics.request_answered(f"/{number}", number, 0.1)
        metrics.refused(f"reason {number}")
        metrics.called(f"host{number}", number, 0.1)
        metrics.polled(f"route{number}", "finished", 0.1, {})

    assert value("poller_ingress_requests_total") == 1000
    assert len(metrics.exposition()[0]) < 500_000
    assert len(scraped()["poller_ingress_refusals_total"]) <= 65


def test_counting_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    broken: Any = object()
    metrics.polled("helpdesk", "finished", broken, {})
    metrics.pushed("helpdesk", broken, 0, 0, 0)
    metrics.known(broken, ())

    assert b"poller_metrics_faults 3.0" in metrics.exposition()[0]


# Routes that come and go.


def test_the_series_of_a_route_that_is_removed_end() -> None:
    metrics.known({"helpdesk": every(30), "gone": every(30), "gone/reply": RouteFacts()}, ())
    metrics.measure(lambda: [standing(), standing(route="gone"), standing(route="gone/reply")])
    for name in ("helpdesk", "gone", "gone/reply"):
        metrics.attempted(name, "create", "delivered", "response")
        metrics.delivered(name, "create", 1.0)
    assert value("poller_deliveries_total", route="gone/reply") == 1
    assert value("poller_records", route="gone/reply") == 2

    metrics.known({"helpdesk": every(30)}, ())
    # Work that was under way ends later.
    metrics.attempted("gone", "create", "delivered", "response")

    assert 'route="gone' not in metrics.exposition()[0].decode()
    assert value("poller_deliveries_total", route="helpdesk") == 1


def test_later_versions_of_a_record_do_not_count_from_its_first_sighting() -> None:
    metrics.known({"all": RouteFacts(versions=True), "first": RouteFacts()}, ())
    for operation in ("create", "send", "update", "reply"):
        metrics.delivered("all", operation, 1e6)
        metrics.delivered("first", operation, 1.0)

    assert value("poller_delivery_seconds_count", route="all") == 1
    assert value("poller_delivery_seconds_count", route="first") == 2


def test_a_text_serves_for_a_moment_so_that_a_flood_costs_little() -> None:
    counts().rest = 1e9
    first = metrics.exposition()[0]
    metrics.refused("no_token")

    assert metrics.exposition()[0] is first
    counts()._again = 0.0
    assert value("poller_ingress_refusals_total") == 1
