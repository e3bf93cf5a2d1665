"""What a scrape shows: each thing that the counts speak of is let happen once, and read as Prometheus reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from poller import gauges, metrics
from poller.engine_room import EngineRoom
from poller.errors import BlockedError, PermanentError, TransientError, UnknownOutcome
from poller.metrics import RouteFacts
from poller.model import Measured, Page, SourceRecord
from poller.once import run_once
from poller.route import Schedule
from poller.service import next_poll
from poller.settings import load
from poller.store import Store
from poller.store.measuring import Measuring, finished_counts, finished_query, measured, unfinished_query
from tests.cli_house import Place, place
from tests.fakes import last
from tests.house import House
from tests.support import require_or_skip

__all__ = ["place"]

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    """Counts belong to the process: each test begins at zero."""
    metrics.start()
    yield
    metrics.stop()


def scraped() -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return what a scrape shows: by the name of the sample, its values by their labels."""
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    assert not found["poller_metrics_faults"][()]
    return found


def value(name: str, **labels: str) -> float:
    """Return the sum over all samples of *name* that have these labels; 0 where there are none."""
    samples = scraped().get(name, {})
    return sum(number for at, number in samples.items() if labels.items() <= dict(at).items())


def every(seconds: float) -> RouteFacts:
    return RouteFacts(next_poll=lambda after: after + timedelta(seconds=seconds))


def standing(**changes: Any) -> Measured:
    given = Measured(
        route="helpdesk", states={"pending": 2}, oldest_at=None, created_at=NOW, whole_poll_at=NOW, checkpoint_at=None,
        poll_failures=0, held=None, blocked=False,
    )  # fmt: skip
    return replace(given, **changes)


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


# What the database is asked.


def test_a_flood_of_scrapes_asks_the_database_once() -> None:
    asked: list[int] = []
    metrics.known({"helpdesk": every(30)}, ())
    metrics.measure(lambda: asked.append(1) or [standing()])

    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda _: metrics.exposition()[0], range(200)))

    assert len(asked) == 1
    assert all(b'poller_records{route="helpdesk",state="pending"} 2.0' in body for body in bodies)


def test_a_database_that_hangs_holds_up_one_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = metrics._counts
    assert counts is not None
    moment = [100.0]
    counts.standings.monotonic = lambda: moment[0]
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
    counts = metrics._counts
    assert counts is not None
    counts.standings.now = lambda: NOW + timedelta(seconds=100)
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


# Documents.


def test_the_table_of_metrics_is_complete() -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    section = page[page.index("## Metrics") : page.index("## Dead letters")]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    told = {name: row[1].strip() for row in rows for name in re.findall(r"`([a-z_]+)`", row[0])}

    assert told.keys() == shown_families()
    for name, labels in shown_labels().items():
        assert told[name].replace(",", "").split() == list(labels), name


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_what_alerts_and_dashboard_ask_for_is_shown(name: str) -> None:
    asked = set(re.findall(r"\b(?:poller|process)_[a-z_]+", "\n".join(expressions(name))))

    assert len(asked) > 5
    assert {re.sub(r"_(bucket|sum|count)$", "", each) for each in asked} <= shown_families()


def test_the_dashboard_shows_all_that_is_counted() -> None:
    asked = "\n".join(expressions("dashboard.json"))

    unseen = {name for name in shown_families() if name.startswith("poller_") and name not in asked}
    assert unseen <= {"poller_whole_poll_age_seconds", "poller_metrics_faults"}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads((DOCS / "dashboard.json").read_text("utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {variable["type"] for variable in board["templating"]["list"]} == {"datasource", "query"}
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in panels for target in panel["targets"])
    taken = [
        (at["x"] + x, at["y"] + y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["w"])
        for y in range(at["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_each_alert_names_a_command_that_there_is() -> None:
    from poller.cli import cli

    text = (DOCS / "alerts.yml").read_text("utf-8")
    for rule in text.split("- alert: ")[1:]:
        commands = re.findall(r"`poller ([a-z]+)", rule)
        assert commands, rule
        assert set(commands) <= cli.commands.keys()
        assert re.search(r"severity: (critical|warning|info) ", rule), rule


def test_prometheus_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool = shutil.which("promtool")
    require_or_skip(promtool, "promtool is missing: apt-get install prometheus")
    assert promtool

    for arguments in (["check", "rules", DOCS / "alerts.yml"], ["test", "rules", TESTS / "alerts.test.yml"]):
        ended = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_takes_the_exposition() -> None:
    promtool = shutil.which("promtool")
    require_or_skip(promtool, "promtool is missing: apt-get install prometheus")
    assert promtool
    metrics.known({"helpdesk": every(30)}, ())
    metrics.measure(lambda: [standing(held="canary")])

    given = metrics.exposition()[0].decode()
    ended = subprocess.run(
        [promtool, "check", "metrics"], input=given, capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def shown_families() -> set[str]:
    """Return the names in the exposition, those of counters with their ``_total``."""
    return set(re.findall(r"^# TYPE (\S+)", metrics.exposition()[0].decode(), re.MULTILINE))


def shown_labels() -> dict[str, tuple[str, ...]]:
    """Return the labels of each family that is declared with them."""
    counts = metrics._counts
    assert counts is not None
    found = {}
    for family in vars(counts).values():
        if names := getattr(family, "_labelnames", ()):
            found[family._name + ("_total" if family._type == "counter" else "")] = tuple(names)
    return found


def expressions(name: str) -> list[str]:
    """Return what is asked of Prometheus in a file of docs/."""
    text = (DOCS / name).read_text("utf-8")
    if name.endswith(".json"):
        return [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
    return re.findall(r"expr: (.*?)\n +(?:for|labels):", text, re.DOTALL)
