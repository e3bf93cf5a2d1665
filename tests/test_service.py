"""The daemon as a process, beside a sandbox process, speaking to a real notify socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from poller.route import Schedule
from poller.service import START_JITTER, trigger
from tests.scenarios.world import ROOT, SECRET, Fields, Process, Sandbox, call, free_port, wait_for

HEAD = """
[database]
url = "sqlite:///poller.db"
[servicenow]
instance = "{instance}"
correlation_prefix = "service"
max_execution = "1s"
[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = "{secret}"
[retry]
base = "200ms"
cap = "1s"
[log]
level = "debug"
"""
ROUTE = """
[routes.{name}]
every = "{every}"
first_run = "all"
[routes.{name}.source]
type = "http"
url = "{url}"
records = "tickets"
key = "id"
[routes.{name}.source.fields]
username = "requester.login"
title = "subject"
description = "body"
[routes.{name}.sink]
type = "servicenow"
"""


class Manager:
    """Stands in for systemd: collects what arrives at the notify socket, with the time of its arrival."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.got: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                self.got.append((time.monotonic(), data.decode()))

    def times(self, word: str) -> list[float]:
        """Return when messages came that hold this assignment."""
        return [at for at, text in self.got if word in text.split("\n")]

    def close(self) -> None:
        self._socket.close()


class House:
    """A folder with settings, a sandbox, a manager, and the daemons that ran on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "settings.toml"
        self.manager = Manager(folder / "notify")
        self.sandbox = Sandbox(folder, "--retry-after", "3600", "--slow", "2s")
        self.daemons: list[Process] = []

    def write(self, *routes: tuple[str, str, str], head: str | None = None, instance: str | None = None) -> None:
        """Write the settings: routes as (name, every, URL)."""
        text = (head or HEAD).format(instance=instance or self.sandbox.servicenow, secret=SECRET)
        text += "".join(ROUTE.format(name=name, every=every, url=url) for name, every, url in routes)
        # Beside and renamed, as editors do.
        beside = self.folder / "settings.new"
        beside.write_text(text)
        beside.chmod(0o600)
        beside.rename(self.settings)

    def one_route(self, every: str = "300ms") -> None:
        self.write(("helpdesk", every, self.tickets()))

    def tickets(self, route: str = "helpdesk") -> str:
        """Return the URL of a route; each its own, so that calls can be told apart."""
        return f"{self.sandbox.helpdesk}/api/tickets?route={route}"

    def spawn(self, **environment: str) -> Process:
        known = {name: value for name, value in os.environ.items() if not name.startswith("POLLER_")}
        settings = ["run", "--settings", str(self.settings)]
        return Process(
            [sys.executable, "-m", "poller", *settings],
            self.folder / f"daemon-{len(list(self.folder.glob('daemon-*.out')))}.out",
            cwd=ROOT,
            environment={**known, "NOTIFY_SOCKET": str(self.manager.path), **environment},
        )

    def start(self, **environment: str) -> Process:
        """Start a daemon and wait until it says that it is ready."""
        before = len(self.manager.times("READY=1"))
        daemon = self.spawn(**environment)
        self.daemons.append(daemon)
        wait_for(lambda: daemon.ended is not None or len(self.manager.times("READY=1")) > before, "READY=1", 30)
        assert daemon.ended is None, daemon.errors() + daemon.text()
        return daemon

    def said(self, event: str, daemon: Process | None = None) -> list[Fields]:
        """Return the lines with this name, of the last daemon or of that one."""
        lines = (daemon or self.daemons[-1]).text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line for line in found if line["event"] == event]

    def until(self, event: str, count: int = 1, seconds: float = 30, **having: Any) -> Fields:
        """Wait until a line was said so often, and return the last one."""

        def those() -> list[Fields]:
            return [line for line in self.said(event) if having.items() <= line.items()]

        wait_for(lambda: len(those()) >= count, f"{count} × {event} {having or ''}", seconds)
        return those()[-1]

    def add_ticket(self) -> None:
        ticket = {"subject": "one more", "requester": {"login": "abel.tuter"}}
        call("POST", f"{self.sandbox.helpdesk}/sandbox/tickets", ticket)

    def fault(self, name: str, *, side: str = "servicenow", **more: Any) -> None:
        call("POST", f"{getattr(self.sandbox, side)}/sandbox/next", {"fault": name, **more})

    def polls(self, route: str = "helpdesk") -> int:
        """Return how often the help desk was asked for a route."""
        calls: list[Fields] = call("GET", f"{self.sandbox.helpdesk}/sandbox/calls")["calls"]
        return sum(f"route={route}" in json.dumps(one) for one in calls)

    def delivered(self, count: int, seconds: float = 30) -> None:
        """Wait until the daemons have delivered so many; each has one incident, and there are no others."""

        def known() -> set[str]:
            return {line["key"] for daemon in self.daemons for line in self.said("record_delivered", daemon)}

        wait_for(lambda: len(known()) >= count, f"{count} deliveries", seconds)
        correlated = [row["correlation_id"] for row in self.sandbox.incidents() if row["correlation_id"]]
        assert len(correlated) == len(set(correlated)) == count

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.ended is None:
                daemon.send(signal.SIGCONT)
                daemon.kill()
        self.sandbox.stop()
        self.manager.close()

    def check_output(self) -> None:
        """Hold that every line of every daemon was a JSON object, and that nothing else was written."""
        for daemon in self.daemons:
            assert daemon.errors() == ""
            # The very last line of a killed daemon may be torn.
            for line in (line for line in daemon.text().splitlines(keepends=True) if line.endswith("\n")):
                assert {"timestamp", "level", "event"} <= json.loads(line).keys()
                assert SECRET not in line


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    try:
        made.sandbox.start()
        yield made
        made.check_output()
    finally:
        made.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[House]:
    """The same without a sandbox, for daemons that do not come so far."""
    made = House(tmp_path)
    yield made
    made.close()


# Ready, and the end.


def test_it_is_ready_without_any_remote_and_works_when_they_come(house: House) -> None:
    house.one_route()
    house.sandbox.stop()
    daemon = house.start()

    ((_, first), *_) = house.manager.got
    assert first.split("\n")[0] == "READY=1"
    assert first.split("\n")[1].startswith("STATUS=1 routes")
    house.until("poll_failed")
    assert [line["event"] for line in map(json.loads, daemon.text().splitlines()[:2])][:1] == ["service_started"]
    assert house.said("service_ready")[0]["routes"] == ["helpdesk"]

    house.sandbox.start()
    house.delivered(6)


def test_it_is_ready_while_only_servicenow_is_down_and_polls_all_the_same(house: House) -> None:
    house.write(("helpdesk", "300ms", house.tickets()), instance=f"http://127.0.0.1:{free_port()}")
    daemon = house.start()

    assert house.until("poll_finished")["new"] == 6
    # Nobody can say yet whether this database is new or was lost, so nothing is created.
    assert house.until("remote_paused")["failures"] == 1
    assert not house.said("record_dead")
    assert daemon.terminate() == 0


def test_sigterm_lets_what_is_under_way_end_and_takes_nothing_new(house: House) -> None:
    house.one_route()
    house.fault("slow", method="POST", path="/api/now/table/incident")
    daemon = house.start()
    # The row is made, its answer is two seconds away; the guard lets one create out at a time until it is proven.
    wait_for(house.sandbox.incidents, "the first incident")
    polls = house.polls()
    daemon.send(signal.SIGTERM)
    wait_for(lambda: house.manager.times("STOPPING=1"), "STOPPING=1", 5)
    assert daemon.ended is None
    assert daemon.wait(20) == 0

    assert len(house.said("record_delivered")) == 1
    assert house.said("record_delivered")[0]["learnt"] == "response"
    (line,) = house.said("service_stopped")
    assert (line["signal"], line["unfinished"]) == ("SIGTERM", 0)
    assert len(house.sandbox.incidents()) == 1
    assert house.polls() <= polls + 1
    # The next one has nothing in doubt.
    house.start()
    house.delivered(6)
    assert not house.said("deliveries_taken_over")


def test_what_does_not_end_is_left_to_the_next_start(house: House) -> None:
    """SIGKILL comes while a create is on the wire, as after TimeoutStopSec."""
    house.one_route()
    house.fault("slow", method="POST", path="/api/now/table/incident")
    daemon = house.start()
    wait_for(house.sandbox.incidents, "the first incident")
    daemon.kill()
    house.start()

    house.until("deliveries_taken_over", state="sending", count=1)
    house.delivered(6)
    assert [line["learnt"] for line in house.said("record_delivered")].count("lookup") == 1
    assert not house.said("route_held")


def test_kill_after_kill_goes_on(house: House) -> None:
    house.one_route()
    call("POST", f"{house.sandbox.helpdesk}/sandbox/tickets", {"count": 60})

    def enough(number: int) -> bool:
        return len(house.sandbox.incidents()) >= number

    for number in (5, 20, 45):
        daemon = house.start()
        wait_for(partial(enough, number), f"{number} incidents")
        daemon.kill()
    house.start()
    wait_for(lambda: len(house.sandbox.incidents()) >= 66, "66 incidents")
    wait_for(lambda: exported(house) == ["delivered"] * 66, "every record to be delivered")

    correlated = [row["correlation_id"] for row in house.sandbox.incidents()]
    assert len(correlated) == len(set(correlated)) == 66


def exported(house: House) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"file:{house.folder}/poller.db?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM deliveries")]


# The watchdog.


@pytest.mark.slow
def test_the_watchdog_is_fed_while_work_goes_on_and_not_when_the_dispatcher_is_stuck(house: House) -> None:
    house.one_route()
    house.start(WATCHDOG_USEC="2000000")
    house.delivered(6)
    feed = "WATCHDOG=1"
    wait_for(lambda: len(house.manager.times(feed)) >= 6, "the watchdog to be fed", 10)
    times = house.manager.times(feed)
    assert max(later - earlier for earlier, later in pairwise(times)) < 1.5

    # Another process takes the database and does not let it go: no turn can be committed.
    with contextlib.closing(sqlite3.connect(house.folder / "poller.db", isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout=20000")
        other.execute("BEGIN EXCLUSIVE")
        house.add_ticket()
        assert house.until("daemon_stuck", seconds=45)["parts"] == ["dispatcher"]
        fed, failed = len(house.manager.times(feed)), len(house.said("database_failed"))
        assert failed
        # Up to the next attempt at the database, which waits ten seconds for it.
        house.until("database_failed", count=failed + 1)
        assert len(house.manager.times(feed)) == fed
        assert len(house.said("daemon_stuck")) == 1
        other.execute("ROLLBACK")

    # Nothing was lost by it, and it goes on by itself.
    wait_for(lambda: len(house.manager.times(feed)) > fed + 2, "the watchdog to be fed again")
    house.delivered(7)


def test_without_a_watchdog_it_sends_none(house: House) -> None:
    house.one_route()
    house.start()
    house.delivered(6)

    assert not house.manager.times("WATCHDOG=1")


# What cannot start.


def test_a_second_daemon_on_the_file_ends_at_once_and_the_first_is_undisturbed(house: House) -> None:
    house.one_route()
    first = house.start()
    house.delivered(6)
    second = house.spawn()

    assert second.wait(20) == 75
    assert second.text() == ""
    (line,) = second.errors().splitlines()
    assert "in use by another poller" in line
    assert "Traceback" not in line
    assert len(house.manager.times("READY=1")) == 1
    assert first.ended is None
    assert not house.said("database_failed")
    house.add_ticket()
    house.delivered(7)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('every = "300ms"', 'every = "soon"', "routes.helpdesk.every"),
        ('first_run = "all"', "", "routes.helpdesk"),
        ("[log]", '[log]\ncolour = "red"', "log.colour"),
        ('every = "300ms"', 'cron = "* * * * 1-5"', "routes.helpdesk.cron"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_78(bare: House, old: str, new: str, says: str) -> None:
    bare.one_route()
    bare.settings.write_text(bare.settings.read_text().replace(old, new))
    daemon = bare.spawn()

    assert daemon.wait(20) == 78
    (line,) = (daemon.errors() + daemon.text()).splitlines()
    assert "settings.toml:" in line
    assert says in line
    assert not bare.manager.got


@pytest.mark.parametrize("how", ["junk", "folder", "readonly", "nowhere"])
def test_a_database_that_cannot_be_used_is_one_line_and_exit_75(bare: House, how: str) -> None:
    bare.one_route()
    database = bare.folder / "poller.db"
    if how == "junk":
        database.write_bytes(b"junk" * 5000)
    elif how == "folder":
        database.mkdir()
    elif how == "readonly":
        # Nobody may write a file of /proc, root neither.
        bare.write(
            ("helpdesk", "1s", bare.tickets()), head=HEAD.replace("sqlite:///poller.db", "sqlite:////proc/version")
        )
    else:
        bare.write(("helpdesk", "1s", bare.tickets()), head=HEAD.replace("sqlite:///", "sqlite:///no/such/folder/"))
    daemon = bare.spawn()

    assert daemon.wait(20) == 75
    (line,) = (daemon.errors() + daemon.text()).splitlines()
    assert "database" in line
    assert not bare.manager.got


# Settings, again.


def test_sighup_makes_changed_new_and_removed_routes_take_effect(house: House) -> None:
    house.write(("idle", "1h", house.tickets("idle")), ("going", "300ms", house.tickets("going")))
    daemon = house.start()
    house.until("poll_finished", route="idle")
    house.until("poll_finished", count=2, route="going")

    house.write(("idle", "300ms", house.tickets("idle")), ("fresh", "1h", house.tickets("fresh")))
    daemon.send(signal.SIGHUP)
    line = house.until("settings_reloaded")
    assert set(line["changed"]) == {"routes.idle", "routes.going", "routes.fresh"}
    # A changed interval counts from now, a new route is polled at once, a removed one not any more.
    house.until("poll_finished", route="fresh")
    house.until("poll_finished", count=4, route="idle")
    gone = house.polls("going")
    house.until("poll_finished", count=8, route="idle")
    assert house.polls("going") == gone
    assert house.polls("fresh") == 1
    # systemd is told the beginning and the end of it.
    order = [word for _, text in house.manager.got for word in text.split("\n") if word in ("READY=1", "RELOADING=1")]
    assert order == ["READY=1", "RELOADING=1", "READY=1"]
    assert any("MONOTONIC_USEC=" in text for _, text in house.manager.got if "RELOADING=1" in text)


def test_wrong_settings_are_refused_and_the_last_good_ones_stay(house: House) -> None:
    house.one_route()
    daemon = house.start()
    house.delivered(6)
    good = house.settings.read_text()
    wrong = [
        (
            good.replace('every = "300ms"', 'every = "soon"\nevry = "1s"'),
            ["routes.helpdesk.every", "routes.helpdesk.evry"],
        ),
        (good[: len(good) // 2] + "[[[", ["settings.toml"]),
        (good.replace('"sqlite:///poller.db"', '"sqlite:///other.db"'), ["database"]),
        (good.replace('correlation_prefix = "service"', 'correlation_prefix = "other"'), ["correlation_prefix"]),
        ("", ["routes"]),
    ]
    for number, (text, says) in enumerate(wrong, 1):
        house.settings.write_text(text)
        daemon.send(signal.SIGHUP)
        problems = house.until("settings_refused", count=number)["problems"]
        for word in says:
            assert any(word in problem for problem in problems), problems
    house.settings.unlink()
    daemon.send(signal.SIGHUP)
    house.until("settings_refused", count=len(wrong) + 1)

    assert not house.said("settings_reloaded")
    house.add_ticket()
    house.delivered(7)
    house.settings.write_text(good)
    daemon.send(signal.SIGHUP)
    assert house.until("settings_reloaded")["changed"] == []


def test_a_storm_of_sighup_is_one_or_few_readings_and_the_last_state_counts(house: House) -> None:
    house.one_route()
    daemon = house.start()
    house.until("poll_finished")
    for number in range(200):
        if number == 199:
            house.write(("last", "1h", house.tickets("last")))
        daemon.send(signal.SIGHUP)

    house.until("settings_reloaded", changed=["routes.helpdesk", "routes.last"])
    house.until("poll_finished", route="last")
    assert len(house.said("settings_reloaded")) < 100
    assert not house.said("crashed")
    assert daemon.terminate() == 0


# When it polls.


class Desk:
    """An external system that answers when it is told to."""

    def __init__(self) -> None:
        self.answering = threading.Event()
        self.calls = self.open = self.most_open = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._listener.accept()[0],), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            with self._lock:
                self.calls += 1
                self.open += 1
                self.most_open = max(self.most_open, self.open)
            self.answering.wait(60)
            with self._lock:
                self.open -= 1
            body = b'{"tickets": []}'
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)

    def close(self) -> None:
        self.answering.set()
        self._listener.close()


def test_a_slow_route_neither_overlaps_itself_nor_holds_up_another(house: House) -> None:
    with contextlib.closing(Desk()) as desk:
        house.write(("slow", "200ms", desk.url), ("fast", "200ms", house.tickets("fast")))
        house.start()
        wait_for(lambda: desk.calls == 1, "the slow poll")
        house.until("poll_finished", count=8, route="fast")
        house.delivered(6)
        assert (desk.calls, desk.most_open) == (1, 1)

        desk.answering.set()
        house.until("poll_finished", count=3, route="slow")
        assert desk.most_open == 1
        # A poll that goes on is nothing to warn about.
        assert not house.said("third_party")


def test_polls_missed_while_it_stood_still_are_made_up_for_once(house: House) -> None:
    house.one_route("250ms")
    daemon = house.start()
    house.until("poll_finished", count=3)
    daemon.send(signal.SIGSTOP)
    stopped = time.monotonic()
    wait_for(lambda: time.monotonic() - stopped > 3, "three seconds of standstill")
    before = house.polls()
    daemon.send(signal.SIGCONT)
    woken = time.monotonic()
    wait_for(lambda: house.polls() >= before + 4, "four more polls")

    # Twelve were missed; four more take their time all the same.
    assert time.monotonic() - woken > 0.5
    assert house.polls() - before <= 2 + (time.monotonic() - woken) / 0.25


def test_the_first_poll_comes_at_once_whatever_the_interval(house: House) -> None:
    house.write(("helpdesk", "7d", house.tickets()))
    house.start()

    house.until("poll_finished", seconds=5)
    house.delivered(6)


def test_the_pause_that_a_source_asked_for_outlives_a_restart(house: House) -> None:
    house.one_route("200ms")
    house.fault("503", side="helpdesk", count=1)
    daemon = house.start()
    line = house.until("poll_failed")
    due = datetime.fromisoformat(line["due_at"])
    assert timedelta(minutes=58) < due - datetime.now(UTC) <= timedelta(hours=1)
    house.until("poll_skipped")
    daemon.kill()
    house.start()

    house.until("poll_skipped", count=4)
    assert house.polls() == 1
    assert not house.said("poll_finished")


# What other libraries say.

ELSEWHERE = """
import logging, sys, threading, time, warnings

def speak():
    while "poller.service" not in sys.modules:
        time.sleep(0.02)
    time.sleep(0.3)
    warnings.warn("an old thing\\nin two lines", DeprecationWarning)
    warnings.warn('a "quoted" thing \\x1b[31m', UserWarning)
    logging.getLogger("elsewhere").error("it said %r", {"a": 1})
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("elsewhere").exception("with\\ntraceback")
    raise ValueError("nobody caught this")

if sys.argv[0] == "-m":
    warnings.simplefilter("always")
    threading.Thread(target=speak, daemon=True).start()
"""


def test_what_other_libraries_say_is_a_line_of_json_too(house: House) -> None:
    (house.folder / "sitecustomize.py").write_text(ELSEWHERE)
    house.one_route()
    house.start(PYTHONPATH=str(house.folder))
    house.until("crashed")
    house.delivered(6)

    said = json.dumps(house.said("third_party"))
    for word in ("an old thing", "quoted", "it said", "with\\\\ntraceback", "ZeroDivisionError"):
        assert word.replace("\\\\n", "\\n") in said or word in said
    assert "ValueError" in json.dumps(house.said("crashed"))
    house.check_output()


# Triggers.


def following(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    found = trigger(schedule)
    times: list[datetime] = []
    last: datetime | None = None
    now = after
    for _ in range(count):
        last = found.get_next_fire_time(last, now)
        assert last is not None
        times.append(last)
        now = last + timedelta(microseconds=1)
    return times


@pytest.mark.parametrize("day", ["mon", "tue", "wed", "thu", "fri", "sat", "sun"])
def test_a_day_is_the_day_it_is_called(day: str) -> None:
    times = following(Schedule(cron=f"0 8 * * {day}"), datetime(2026, 1, 1, tzinfo=UTC), 3)

    assert {f"{at:%a}".lower() for at in times} == {day}
    assert [later - earlier for earlier, later in pairwise(times)] == [timedelta(days=7)] * 2


def test_working_days_are_from_monday_to_friday() -> None:
    times = following(Schedule(cron="*/30 8-9 * * mon-fri"), datetime(2026, 1, 1, tzinfo=UTC), 40)

    assert {at.weekday() for at in times} == {0, 1, 2, 3, 4}
    assert {(at.hour, at.minute) for at in times} == {(8, 0), (8, 30), (9, 0), (9, 30)}


def test_cron_counts_in_the_zone_it_is_given() -> None:
    schedule = Schedule(cron="0 8 * * mon-fri", timezone="Europe/Berlin")

    # The clocks go forward in the night to Sunday, 29 March.
    friday, monday = following(schedule, datetime(2026, 3, 27, tzinfo=UTC), 2)
    assert isinstance(trigger(schedule), CronTrigger)
    assert (friday.astimezone(UTC).hour, monday.astimezone(UTC).hour) == (7, 6)
    assert monday.astimezone(ZoneInfo("Europe/Berlin")).hour == 8


def test_an_interval_is_jittered_at_its_start_only() -> None:
    starts = set()
    for _ in range(50):
        now = datetime.now(UTC)
        found = trigger(Schedule(every=timedelta(seconds=100)))
        assert isinstance(found, IntervalTrigger)
        first = found.get_next_fire_time(None, now)
        second = found.get_next_fire_time(first, first)
        assert timedelta(seconds=99) < first - now <= timedelta(seconds=100 * (1 + START_JITTER) + 1)
        assert second - first == timedelta(seconds=100)
        starts.add(round((first - now).total_seconds(), 1))
    assert len(starts) > 10
