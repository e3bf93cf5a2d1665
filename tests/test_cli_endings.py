"""The command line from outside, as processes: exit codes, and one clear line for whatever is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_house import Place, one_line, place, polled, polled_once

__all__ = ["place", "polled", "polled_once"]  # fixtures


# On a terminal.


@pytest.mark.parametrize("both", [False, True])
def test_once_shows_how_far_it_is_on_a_terminal(place: Place, both: bool) -> None:
    ours, theirs = pty.openpty()
    command, given = place.command("once", TERM="xterm")
    once = subprocess.Popen(command, stdout=theirs if both else subprocess.DEVNULL, stderr=theirs, **given)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:
        pass  # how a terminal says that nobody has it open any more
    os.close(ours)

    assert once.wait(timeout=40) == 0
    assert b"]  6 of 6  100%" in shown
    assert shown.endswith(b"\r\x1b[Kpoller once: 6 delivered\r\n")
    assert (b"record_delivered" in shown) is both


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
def test_a_wrong_call_is_one_line(polled_once: Place, arguments: list[str], said: str) -> None:
    ended = polled_once.poller(*arguments)

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
