"""The command line from outside, as processes: answers, exit codes, and one clear line for whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poller import __version__
from poller.commands.showing import clean, cut, span, table
from poller.sandbox import Options, Sandbox

ROOT = Path(__file__).parents[1]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

Ended = subprocess.CompletedProcess[str]


class Place:
    """A folder with settings, and a sandbox to go with it."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        text = (ROOT / "settings.toml").read_text("utf-8")
        text = text.replace("http://127.0.0.1:18080", sandbox.servicenow_url)
        self.text = text.replace("http://127.0.0.1:18081", sandbox.helpdesk_url)
        self.settings = folder / "settings.toml"
        self.write(self.text)

    def write(self, text: str) -> None:
        self.settings.write_text(text, "utf-8")
        self.settings.chmod(0o600)

    def command(self, *arguments: str, **environment: str) -> tuple[list[str], dict[str, Any]]:
        inherited = {name: value for name, value in os.environ.items() if name != "POLLER_SETTINGS"}
        given = {"cwd": self.folder, "env": {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environment}}
        return [sys.executable, "-m", "poller", *arguments], given

    def poller(self, *arguments: str, **environment: str) -> Ended:
        command, given = self.command(*arguments, **environment)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **given)
        assert "Traceback" not in ended.stdout + ended.stderr
        return ended

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command, given = self.command(*arguments)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given)

    def database(self, *statements: str) -> None:
        with sqlite3.connect(self.folder / "poller.db") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Sandbox(Options()) as sandbox:
        yield Place(tmp_path, sandbox)


@pytest.fixture
def polled(place: Place) -> Place:
    assert place.poller("once").returncode == 0
    return place


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.strip()


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
    assert listed == sorted(
        ["run", "once", "check", "status", "records", "explain", "export", "migrate", "sandbox", "demo"]
    )
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


def test_records_are_listed_for_people_and_machines(polled: Place) -> None:
    people = polled.poller("records").stdout.splitlines()
    machines = json.loads(polled.poller("records", "helpdesk", "--json").stdout)
    few = json.loads(polled.poller("records", "--json", "--limit", "2", "--state", "delivered").stdout)
    none = polled.poller("records", "--state", "dead", "--json")

    assert people[0].split()[:4] == ["ROUTE", "KEY", "STATE", "NUMBER"]
    assert len(people) == 7
    assert [record["key"] for record in machines] == ["1006", "1005", "1004", "1003", "1002", "1001"]
    assert few == machines[:2]
    assert (none.returncode, json.loads(none.stdout)) == (0, [])


def test_explain_tells_the_life_of_a_record(polled: Place) -> None:
    people = polled.poller("explain", "helpdesk", "1001")
    machines = json.loads(polled.poller("explain", "helpdesk", "1001", "--json").stdout)

    assert people.returncode == 0
    assert people.stdout.startswith("helpdesk / 1001: delivered\n")
    assert machines["number"] in people.stdout
    assert machines["sys_id"] in people.stdout
    (delivery,) = machines["deliveries"]
    (attempt,) = delivery["tried"]
    assert (attempt["outcome"], attempt["status"]) == ("delivered", 201)
    assert RFC3339.fullmatch(attempt["ended_at"])
    assert attempt["transaction_id"] in people.stdout


@pytest.mark.parametrize("key", ["nope", "\x1b[31m", "line\nbreak", "‮", "zoë", "' OR 1=1", "x" * 5000, "\udcff"])
def test_explaining_what_is_not_there_is_one_line(polled: Place, key: str) -> None:
    ended = polled.poller("explain", "helpdesk", "--", key)

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
def test_a_reader_that_goes_away_is_no_fault(polled: Place, unbuffered: str) -> None:
    command, given = polled.command("export", PYTHONUNBUFFERED=unbuffered)
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, **given)
    os.close(writing)

    assert (ended.returncode, ended.stderr) == (141, b"")


# status.


def test_status_tells_how_everything_stands(polled: Place) -> None:
    people = polled.poller("status", "--check")
    machines = json.loads(polled.poller("status", "--json", "--check").stdout)

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


# Endings.


def test_a_record_for_a_stranger_is_dead_and_once_says_so(place: Place) -> None:
    place.write(place.text.replace('username = "requester.login"', 'username = "id"'))

    ended = place.poller("once")

    assert ended.returncode == 1
    assert "6 dead" in one_line(ended.stderr)
    states = {record["state"] for record in json.loads(place.poller("records", "--json").stdout)}
    assert states == {"dead"}


def test_once_with_a_source_that_is_away_says_so(place: Place) -> None:
    place.write(place.text.replace(place.sandbox.helpdesk_url, "http://127.0.0.1:9"))

    ended = place.poller("once")

    assert ended.returncode == 1
    assert "poll failed: helpdesk" in one_line(ended.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_once_ends_in_order_when_asked_to(place: Place, number: signal.Signals) -> None:
    place.sandbox.switches.latency = 0.5
    once = place.start("once")
    assert once.stdout is not None
    for line in once.stdout:
        if json.loads(line)["event"] == "poll_finished":
            break
    once.send_signal(number)
    _, told = once.communicate(timeout=40)

    assert once.returncode == 1
    assert f"stopped by {number.name}" in one_line(told)
    states = {record["state"] for record in json.loads(place.poller("records", "--json").stdout)}
    assert "sending" not in states


@pytest.mark.parametrize("command", ["run", "once", "check", "status", "records", "export", "migrate"])
def test_wrong_settings_are_told_line_by_line(place: Place, command: str) -> None:
    place.write(place.text.replace("every =", "evry =").replace('first_run = "all"', 'first_run = "some"'))

    ended = place.poller(command)

    assert (ended.returncode, ended.stdout) == (78, "")
    lines = ended.stderr.splitlines()
    assert len(lines) >= 2
    assert all(re.match(r"settings\.toml:\d+: ", line) for line in lines)


@pytest.mark.parametrize("command", [["run"], ["once"], ["status"], ["explain", "helpdesk", "1"]])
def test_settings_that_are_not_there_are_told(place: Place, command: list[str]) -> None:
    ended = place.poller(*command, "--settings", "nowhere.toml")

    assert (ended.returncode, ended.stdout) == (78, "")
    assert "nowhere.toml" in one_line(ended.stderr)


@pytest.mark.parametrize("command", [["status"], ["records"], ["export"], ["explain", "helpdesk", "1"]])
def test_looking_makes_no_database(place: Place, command: list[str]) -> None:
    ended = place.poller(*command)

    assert (ended.returncode, ended.stdout) == (75, "")
    assert "does not exist yet" in one_line(ended.stderr)
    assert list(place.folder.glob("poller.db*")) == []


@pytest.mark.parametrize("command", ["run", "once", "migrate", "status", "export"])
def test_a_file_that_is_no_database_is_told(place: Place, command: str) -> None:
    (place.folder / "poller.db").write_text("not a database " * 100)

    ended = place.poller(command)

    assert ended.returncode == 75
    assert "database" in one_line(ended.stderr)


@pytest.mark.parametrize("command", ["status", "export", "migrate", "run"])
def test_a_database_of_a_newer_release_is_told(polled: Place, command: str) -> None:
    polled.database("UPDATE alembic_version SET version_num = 'from_the_future'")

    ended = polled.poller(command)

    assert ended.returncode == 75
    assert "newer release" in one_line(ended.stderr)


def test_migrate_makes_the_database_and_then_has_nothing_to_do(place: Place) -> None:
    first, second = place.poller("migrate"), place.poller("migrate")

    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout != second.stdout
    assert place.poller("status").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["oncee"], "no such command"),
        (["once", "nowhere"], "'nowhere' is not in the settings; enabled routes: helpdesk"),
        (["records", "--state", "lost"], "no state 'lost'"),
        (["records", "nowhere"], "no route 'nowhere'"),
        (["records", "--limit", "0"], "--limit"),
        (["status", "--check", "--max-age", "soon"], "--max-age 'soon'"),
        (["explain", "helpdesk"], "missing argument 'KEY'"),
        (["export", "--no"], "no such option"),
    ],
)
def test_a_wrong_call_is_one_line(polled: Place, arguments: list[str], said: str) -> None:
    ended = polled.poller(*arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in one_line(ended.stderr)


def test_a_fault_of_ours_is_one_line_that_says_where_to_look(place: Place, tmp_path: Path) -> None:
    code = (
        "import sys\nimport poller.settings\n"
        "def broken(path): raise ZeroDivisionError('what a secret-word')\n"
        "poller.settings.load = broken\nfrom poller.cli import main\nsys.exit(main(['status']))"
    )
    _, given = place.command(TMPDIR=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **given)

    assert (ended.returncode, ended.stdout) == (70, "")
    (file,) = tmp_path.glob("poller-crashed-*.txt")
    assert str(file) in one_line(ended.stderr)
    assert "ZeroDivisionError" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


# check.


def test_check_asks_each_remote_and_changes_nothing(place: Place) -> None:
    offline = place.poller("check", "--offline")
    ended = place.poller("check")

    assert (offline.returncode, offline.stderr) == (0, "")
    assert one_line(offline.stdout).startswith("settings OK: settings.toml, 1 route: helpdesk")
    assert (ended.returncode, ended.stderr) == (0, "")
    marks = [line[0] for line in ended.stdout.splitlines()[1:]]
    assert set(marks) == {"✓"}
    assert "6 records on the first page" in ended.stdout
    assert not (place.folder / "poller.db").exists()


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ('client_secret = "sandbox-secret"', 'client_secret = "wrong"', "✗ token"),
        ('records = "tickets"', 'records = "nothing"', "✗ source of helpdesk"),
    ],
)
def test_check_says_which_remote_is_not_well(place: Place, was: str, now: str, said: str) -> None:
    place.write(place.text.replace(was, now))

    ended = place.poller("check")

    assert ended.returncode == 1
    assert said in ended.stdout
    assert "wrong" not in ended.stdout + ended.stderr


def test_check_sees_an_instance_that_drops_conditions(place: Place) -> None:
    place.poller("once")
    place.sandbox.switches.drop_fields = ["correlation_id"]

    ended = place.poller("check")

    assert ended.returncode == 1
    assert "✗ table incident" in ended.stdout


def test_check_sees_a_prefix_that_was_changed(polled: Place) -> None:
    polled.write(polled.text.replace('correlation_prefix = "demo"', 'correlation_prefix = "other"'))

    ended = polled.poller("check")

    assert ended.returncode == 1
    assert '✗ database: its records were made under correlation_prefix "demo"' in ended.stdout


# Words and columns.


def test_lengths_of_time_are_told_in_their_largest_units() -> None:
    from datetime import timedelta

    assert [span(timedelta(seconds=each)) for each in (0, 5, 65, 3600, 90061, -1)] == [
        "0s",
        "5s",
        "1m 5s",
        "1h",
        "1d 1h",
        "0s",
    ]


def test_columns_are_aligned_also_with_wide_and_hostile_cells() -> None:
    lines = list(table(["A", "B"], [["日本", "x"], ["e\u0301", "y"], ["\x1b[2J" + "long" * 30, None]]))

    assert [line.rstrip().endswith(("B", "x", "y", "..")) for line in lines] == [True] * 4
    assert lines[1] == "日本" + " " * 38 + "x"
    assert lines[2] == "e\u0301" + " " * 41 + "y"
    assert lines[3].startswith("\\x1b[2J")


def test_text_is_cut_and_made_harmless() -> None:
    assert cut("abcdef", 4) == "ab.."
    assert clean("a\r\n\x9b\ud800\ufeffb") == "a\\x0d\\x0a\\x9b\\ud800\\ufeffb"
