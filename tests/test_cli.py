"""The command line from outside, as processes: what the commands answer."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from poller import __version__
from poller.commands import showing
from poller.commands.showing import clean, cut, span, table
from tests.cli_house import RFC3339, ROOT, Place, one_line, place, polled, polled_once

__all__ = ["place", "polled", "polled_once"]  # fixtures


# Help.


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom poller.cli import main\nmain(['--help'])\n"
        "print([name for name in ('sqlalchemy', 'pydantic', 'requests', 'structlog', 'jinja2') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )

    assert ended.stdout.splitlines()[-1] == "[]"


def test_help_lists_what_is_built_and_nothing_else(place: Place) -> None:
    ended = place.poller("--help")

    listed = re.findall(r"^  ([a-z]+)  ", ended.stdout.partition("Commands:")[2], re.MULTILINE)
    names = "run once check preview status records explain export retry skip rewind release client migrate sandbox demo"
    assert listed == sorted(names.split())
    assert ended.returncode == 0
    for name in listed:
        told = place.poller(name, "--help")
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.lower().startswith("usage: ")


def test_the_version_is_told(place: Place) -> None:
    assert place.poller("--version").stdout == f"poller {__version__}\n"


# once, export, records, explain.


def test_once_delivers_everything_and_export_tells_it(place: Place) -> None:
    ended = place.poller("once")

    assert ended.returncode == 0
    events = [json.loads(line)["event"] for line in ended.stdout.splitlines()]
    assert events.count("record_delivered") == 6
    assert one_line(ended.stderr) == "poller once: 6 delivered"

    exported = [json.loads(line) for line in place.poller("export").stdout.splitlines()]
    *records, route = exported
    names = "route key version state attempts correlation_id sys_id number first_seen settled_at reason"
    assert [list(record) for record in records] == [names.split()] * 6
    assert {record["state"] for record in records} == {"delivered"}
    assert all(
        RFC3339.fullmatch(record["first_seen"]) and RFC3339.fullmatch(record["settled_at"]) for record in records
    )
    assert route == {"route": "helpdesk", "checkpoint": None}

    again = place.poller("once")
    assert again.returncode == 0
    assert "record_delivered" not in again.stdout


def test_records_are_listed_for_people_and_machines(polled_once: Place) -> None:
    people = polled_once.poller("records").stdout.splitlines()
    machines = json.loads(polled_once.poller("records", "helpdesk", "--json").stdout)
    few = json.loads(polled_once.poller("records", "--json", "--limit", "2", "--state", "delivered").stdout)
    none = polled_once.poller("records", "--state", "dead", "--json")

    assert people[0].split()[:4] == ["ROUTE", "KEY", "STATE", "NUMBER"]
    assert len(people) == 7
    assert [record["key"] for record in machines] == ["1006", "1005", "1004", "1003", "1002", "1001"]
    assert few == machines[:2]
    assert (none.returncode, json.loads(none.stdout)) == (0, [])


def test_explain_tells_the_life_of_a_record(polled_once: Place) -> None:
    people = polled_once.poller("explain", "helpdesk", "1001")
    machines = json.loads(polled_once.poller("explain", "helpdesk", "1001", "--json").stdout)

    assert people.returncode == 0
    assert people.stdout.startswith("helpdesk / 1001: delivered\n")
    assert machines["number"] in people.stdout
    assert machines["sys_id"] in people.stdout
    (delivery,) = machines["deliveries"]
    (attempt,) = delivery["tried"]
    assert (attempt["outcome"], attempt["status"]) == ("delivered", 201)
    assert RFC3339.fullmatch(attempt["ended_at"])
    assert attempt["transaction_id"] in people.stdout


@pytest.mark.parametrize("key", ["nope", "\x1b[31m", "line\nbreak", "\u202e", "zoë", "' OR 1=1", "x" * 5000, "\udcff"])
def test_explaining_what_is_not_there_is_one_line(polled_once: Place, key: str) -> None:
    ended = polled_once.poller("explain", "helpdesk", "--", key)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert one_line(ended.stderr).isprintable()


def test_hostile_texts_reach_no_terminal(polled: Place) -> None:
    hostile = "a\x1b[31mb\nc\u202ed\x07"
    with sqlite3.connect(polled.folder / "poller.db") as connection:
        connection.execute("UPDATE records SET key = ?, reason = ? WHERE key = '1001'", (hostile, hostile))
        connection.execute("UPDATE deliveries SET reason = ?", (hostile,))
        connection.execute("UPDATE attempts SET excerpt = ?", (hostile,))
        connection.execute("UPDATE checkpoints SET value = ?, moved_at = 0", (hostile,))
    connection.close()

    for arguments in (["records"], ["explain", "helpdesk", hostile], ["status"]):
        ended = polled.poller(*arguments)
        assert ended.returncode == 0
        assert ended.stdout.replace("\n", "").isprintable()
        assert "\\x1b[31m" in ended.stdout
    assert hostile in [record["key"] for record in json.loads(polled.poller("records", "--json").stdout)]
    assert hostile in [json.loads(line).get("key") for line in polled.poller("export").stdout.splitlines()]


def test_answers_come_in_ascii_where_stdout_knows_no_more(polled: Place) -> None:
    polled.database("UPDATE records SET key = 'zoë' WHERE key = '1001'")

    ended = polled.poller("records", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert ended.returncode == 0
    assert "zo\\xeb" in ended.stdout
    assert polled.poller("check", PYTHONIOENCODING="ascii").stdout.isascii()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_fault(polled_once: Place, unbuffered: str) -> None:
    command, given = polled_once.command("export", PYTHONUNBUFFERED=unbuffered)
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, **given)
    os.close(writing)

    assert (ended.returncode, ended.stderr) == (141, b"")


# status.


def test_status_tells_how_everything_stands(polled_once: Place) -> None:
    people = polled_once.poller("status", "--check")
    machines = json.loads(polled_once.poller("status", "--json", "--check").stdout)

    assert people.returncode == 0
    assert people.stdout.startswith("helpdesk: http -> servicenow, every 5s\n")
    assert "check: ok" in people.stdout
    (route,) = machines["routes"]
    assert route["counts"] == {"delivered": 6}
    assert route["guard"]["in_force"] == "sys_id"
    assert (route["held"], route["blocked"], route["oldest_waiting"]) == (None, None, None)
    assert RFC3339.fullmatch(route["checkpoint"]["polled_at"])
    assert machines["check"] == {"ok": True, "problems": []}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE routes SET held_reason = 'canary', held_error = 'rows for nothing', held_at = 1", "held (canary)"),
        ("UPDATE deliveries SET state = 'dead' WHERE id = 1", "1 dead"),
        ("UPDATE deliveries SET state = 'waiting' WHERE id = 1", "the oldest record waits"),
    ],
)
def test_status_check_fails_where_a_person_is_needed(polled: Place, statement: str, said: str) -> None:
    polled.database(statement, "UPDATE records SET first_seen = 1")

    ended = polled.poller("status", "--check")
    machines = polled.poller("status", "--check", "--json")

    assert ended.returncode == machines.returncode == 1
    assert f"check: helpdesk: {said}" in ended.stdout
    assert not json.loads(machines.stdout)["check"]["ok"]
    assert polled.poller("status").returncode == 0


def test_young_work_is_not_old(polled: Place) -> None:
    polled.database("UPDATE deliveries SET state = 'waiting' WHERE id = 1")

    assert polled.poller("status", "--check").returncode == 0
    time.sleep(0.01)
    assert polled.poller("status", "--check", "--max-age", "1ms").returncode == 1


def ago(length: timedelta) -> int:
    """Return a moment as the database keeps it."""
    return int((datetime.now(UTC) - length).timestamp() * 1_000_000)


def overdue(place: Place, *arguments: str) -> list[str]:
    """Return what `status --check` says of polls that are missing; people and machines are told the same."""
    people = place.poller("status", "--check", *arguments)
    machines = place.poller("status", "--check", "--json", *arguments)

    told = json.loads(machines.stdout)
    problems: list[str] = told["check"]["problems"]
    assert people.returncode == machines.returncode == (1 if problems else 0)
    assert bool(problems) is bool(told["routes"][0]["overdue"])
    # The age goes on between the two.
    assert all(f"check: {problem.partition(' (')[0]}" in people.stdout for problem in problems)
    return problems


def test_a_source_that_fails_for_long_needs_a_person(polled: Place) -> None:
    polled.database(
        f"UPDATE checkpoints SET finished_at = {ago(timedelta(minutes=17))}, polled_at = {ago(timedelta(seconds=3))}, "
        "failures = 40, error = 'connection refused'"
    )

    (problem,) = overdue(polled)

    told = r"helpdesk: no good poll since \S+Z \(17m \d+s\): connection refused; poller check asks the source .*"
    assert re.fullmatch(told, problem)
    assert overdue(polled, "--max-age", "1h") == []
    assert polled.poller("status").returncode == 0


def test_a_daemon_that_is_not_there_to_poll_needs_a_person(polled: Place) -> None:
    gone = ago(timedelta(minutes=17))
    polled.database(f"UPDATE checkpoints SET finished_at = {gone}, polled_at = {gone}")

    (problem,) = overdue(polled)

    assert re.search(r"no try has ended since \S+Z; see whether the daemon runs", problem)
    # The error of its last try is not why nobody tries any more.
    polled.database(f"UPDATE checkpoints SET finished_at = {ago(timedelta(days=1))}, failures = 1, error = 'refused'")
    assert "see whether the daemon runs" in overdue(polled)[0]


def test_a_first_poll_that_never_ends_well_counts_from_the_first_start(polled: Place) -> None:
    polled.database(
        f"UPDATE checkpoints SET finished_at = NULL, polled_at = {ago(timedelta())}, failures = 9, error = 'refused'"
    )

    assert overdue(polled) == []
    polled.database(f"UPDATE routes SET created_at = {ago(timedelta(minutes=17))}")
    assert "helpdesk: no good poll ever, first started since" in overdue(polled)[0]


def test_a_route_that_is_off_or_was_never_started_misses_no_poll(polled: Place, place: Place) -> None:
    polled.database("UPDATE checkpoints SET finished_at = 1, polled_at = 1")
    assert overdue(polled)
    polled.write(polled.text.replace("[routes.helpdesk]", "[routes.helpdesk]\nenabled = false", 1))
    assert overdue(polled) == []

    place.settings.with_name("poller.db").unlink()
    assert place.poller("migrate").returncode == 0
    assert overdue(place) == []


def test_a_used_up_hour_is_shown_as_a_hold(place: Place) -> None:
    place.write(place.text.replace("# max_new_per_hour = 500", "max_new_per_hour = 2"))
    assert place.poller("once").returncode == 1

    (route,) = json.loads(place.poller("status", "--json").stdout)["routes"]

    assert route["held"]["reason"] == "flood"
    assert route["counts"]["delivered"] == 2


def test_listings_work_while_the_daemon_runs(place: Place) -> None:
    daemon = place.start("run")
    try:
        assert daemon.stdout is not None
        for line in daemon.stdout:
            if json.loads(line)["event"] == "record_delivered":
                break
        for arguments in (["status", "--json"], ["export"], ["records"], ["explain", "helpdesk", "1001"]):
            assert place.poller(*arguments).returncode == 0
        refused = place.poller("once")
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=40)

    assert refused.returncode == 75
    assert "in use by another poller" in one_line(refused.stderr)
    assert daemon.returncode == 0


# Words and columns.


def test_lengths_of_time_are_told_in_their_largest_units() -> None:
    assert [span(timedelta(seconds=each)) for each in (0, 5, 65, 3600, 90061, -1)] == [
        "0s",
        "5s",
        "1m 5s",
        "1h",
        "1d 1h",
        "0s",
    ]


def test_columns_are_aligned_also_with_wide_and_hostile_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[list[object]] = [["日本", "x"], ["e\u0301", "y"], ["\x1b[2J" + "long" * 30, None]]
    # Whatever reads a pipe has as much room as it likes.
    assert list(table(["A", "B"], rows))[3] == "\\x1b[2J" + "long" * 30
    monkeypatch.setattr(showing, "on_terminal", lambda: True)
    lines = list(table(["A", "B"], rows))

    assert [line.rstrip().endswith(("B", "x", "y", "..")) for line in lines] == [True] * 4
    assert lines[1] == "日本" + " " * 38 + "x"
    assert lines[2] == "e\u0301" + " " * 41 + "y"
    assert lines[3].startswith("\\x1b[2J")


def test_text_is_cut_and_made_harmless() -> None:
    assert cut("abcdef", 4) == "ab.."
    assert clean("a\r\n\x9b\ud800\ufeffb") == "a\\x0d\\x0a\\x9b\\ud800\\ufeffb"
