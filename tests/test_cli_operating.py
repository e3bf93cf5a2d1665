"""What operators change from the shell."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import sqlite3
import subprocess
import urllib.request
from typing import Any

import pytest

from tests.cli_house import Place, one_line, polled, polled_once

__all__ = ["polled", "polled_once"]  # fixtures


def test_release_lifts_a_hold_and_is_kept_as_an_act(polled: Place) -> None:
    polled.database("UPDATE routes SET held_reason = 'lookup_blind', held_error = 'blind', held_at = 1")
    assert polled.poller("status", "--check").returncode == 1

    ended = polled.poller("release", "helpdesk", "--reason", "rights were given")

    assert ended.returncode == 0, ended.stderr
    assert polled.poller("status", "--check").returncode == 0
    with sqlite3.connect(polled.folder / "poller.db") as connection:
        (act,) = connection.execute("SELECT act, reason FROM acts").fetchall()
    connection.close()
    assert act == ("release", "held: lookup_blind; released: rights were given")


def test_release_says_what_is_wrong_in_one_line(polled: Place) -> None:
    for arguments, said in ((["nowhere"], "not known"), (["helpdesk"], "not held")):
        ended = polled.poller("release", *arguments)

        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert said in ended.stderr


# Records.


def buried(place: Place, *keys: str) -> Place:
    """Make dead letters of records, as an operator finds them."""
    for key in keys:
        place.database(
            "UPDATE deliveries SET state = 'dead', reason = 'no such user' "
            f"WHERE record_id = (SELECT id FROM records WHERE key = '{key}')"
        )
    return place


def states(place: Place) -> dict[str, str]:
    return {line["key"]: line["state"] for line in json.loads(place.poller("records", "--json").stdout)}


def test_retry_brings_a_dead_letter_back_and_explain_shows_it(polled: Place) -> None:
    ended = buried(polled, "1001").poller("retry", "helpdesk", "1001", "--reason", "the user is there now")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "helpdesk/1001: dead -> pending, prepared anew, past the caches\n"
    assert states(polled)["1001"] == "pending"
    explained = polled.poller("explain", "helpdesk", "1001").stdout
    assert re.search(
        r"^operator \S+: retry at \S+: was dead; reason given: the user is there now$", explained, re.MULTILINE
    )
    # What is there already is found, so that no second incident comes of it.
    assert polled.poller("once").returncode == 0
    assert states(polled)["1001"] == "delivered"


def test_skip_gives_up_all_of_a_state_and_leaves_the_others(polled: Place) -> None:
    ended = buried(polled, "1001", "1002").poller("skip", "helpdesk", "--state", "dead", "--reason", "spam")

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2 skipped\n", "")
    assert [key for key, state in states(polled).items() if state == "skipped"] == ["1002", "1001"]
    assert polled.poller("once").returncode == 0


def test_a_dry_run_tells_and_changes_nothing(polled: Place) -> None:
    before = states(buried(polled, "1001"))

    ended = polled.poller("skip", "helpdesk", "--state", "dead", "--reason", "spam", "--dry-run")

    assert ended.returncode == 0
    assert ended.stdout == "helpdesk/1001: would be: dead -> skipped, not delivered any more\n1 would be skipped\n"
    assert states(polled) == before


def test_machines_are_told_what_became_of_each_record(polled: Place) -> None:
    buried(polled, "1001")

    ended = polled.poller("retry", "helpdesk", "1001", "1002", "9999", "--reason", "r", "--json")

    told = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert (told["act"], told["route"], told["dry_run"]) == ("retry", "helpdesk", False)
    assert (told["done"], told["kept"], told["refused"]) == (1, 0, 2)
    assert {each["key"]: (each["was"], each["now"], each["answer"]) for each in told["records"]} == {
        "1001": ("dead", "pending", "done"),
        "1002": ("delivered", "delivered", "refused"),
        "9999": (None, None, "refused"),
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["retry", "helpdesk", "1001"], 2, "--reason"),
        (["retry", "helpdesk", "--reason", "r"], 2, "either KEYs or --state"),
        (["retry", "helpdesk", "1001", "--state", "dead", "--reason", "r"], 2, "either KEYs or --state"),
        (["retry", "helpdesk", "--state", "delivered", "--reason", "r"], 2, "takes one of dead, waiting"),
        (["skip", "helpdesk", "--state", "unknown", "--reason", "r"], 2, "takes one of dead, waiting"),
        (["skip", "helpdesk", "1001", "--reason", " "], 2, "say why"),
        (["retry", "nowhere", "1001", "--reason", "r"], 1, "route nowhere is not known"),
        (["rewind", "nowhere", "--to", "1"], 1, "route nowhere is not in the settings"),
        (["rewind", "helpdesk"], 2, "--to"),
    ],
)
def test_a_wrong_wish_is_one_line(polled_once: Place, arguments: list[str], code: int, said: str) -> None:
    ended = polled_once.poller(*arguments)

    assert ended.returncode == code
    assert said in one_line(ended.stderr)
    assert ended.stdout == ""


def test_many_are_acted_on_only_when_somebody_at_a_terminal_agrees(polled: Place) -> None:
    buried(polled, "1001")
    command = ("skip", "helpdesk", "--state", "dead", "--reason", "spam")

    assert "skip 1 record of route helpdesk in state dead? [y/N]" in at_terminal(polled, *command, answer="n\n")
    assert states(polled)["1001"] == "dead"
    at_terminal(polled, *command, answer="y\n")
    assert states(polled)["1001"] == "skipped"


def at_terminal(place: Place, *arguments: str, answer: str) -> str:
    """Run a command with a terminal before it; return what it showed."""
    ours, theirs = pty.openpty()
    command, given = place.command(*arguments)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, **given) as child:
        os.close(theirs)
        os.write(ours, answer.encode())
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 4096):
                shown += piece
        child.wait(30)
    os.close(ours)
    return shown.decode()


def test_a_reason_cannot_forge_what_explain_shows(polled: Place) -> None:
    reason = "one\ntwo\x1b[31m\u2028 three"
    assert buried(polled, "1001").poller("retry", "helpdesk", "1001", "--reason", reason).returncode == 0

    (line,) = [each for each in polled.poller("explain", "helpdesk", "1001").stdout.splitlines() if "operator" in each]

    assert line.endswith(r"was dead; reason given: one\x0atwo\x1b[31m\u2028 three")


# Rewind.


def with_checkpoint(place: Place, value: str = "2026-01-05T00:00:00Z") -> Place:
    place.write(place.text.replace("required = [", 'checkpoint = "updated_at"\nrequired = ['))
    place.database(f"UPDATE checkpoints SET value = '{value}'")
    return place


def test_rewind_sets_the_checkpoint_back_and_delivers_nothing_twice(polled: Place) -> None:
    ended = with_checkpoint(polled).poller("rewind", "helpdesk", "--to", "2026-01-01T00:00:00Z", "--reason", "lost")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "at 2026-01-01T00:00:00Z; it was to begin at 2026-01-05T00:00:00Z" in ended.stdout
    assert checkpoint(polled) == "2026-01-01T00:00:00Z"
    before = incidents(polled)
    assert polled.poller("once").returncode == 0
    assert incidents(polled) == before


def incidents(place: Place) -> int:
    with urllib.request.urlopen(f"{place.sandbox.servicenow_url}/sandbox/incidents") as answer:
        return len(json.loads(answer.read())["incidents"])


@pytest.mark.parametrize("beginning", ["", "beginning"])
def test_rewind_goes_back_to_the_beginning(polled: Place, beginning: str) -> None:
    ended = with_checkpoint(polled).poller("rewind", "helpdesk", "--to", beginning, "--json")

    assert json.loads(ended.stdout) == {
        "act": "rewind", "route": "helpdesk", "dry_run": False, "was": "2026-01-05T00:00:00Z", "now": None,
    }  # fmt: skip
    assert checkpoint(polled) is None


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("2026-01-06T00:00:00Z", "records between the two would never be seen"),
        ("2999-01-01T00:00:00Z", "lies in the future"),
        ("yesterday", "not understood"),
        ("2026-01-01\n", "characters that no checkpoint has"),
    ],
)
def test_rewind_refuses_what_would_lose_records_or_stop_polls(polled: Place, to: str, said: str) -> None:
    ended = with_checkpoint(polled).poller("rewind", "helpdesk", "--to", to)

    assert ended.returncode == 1
    assert said in one_line(ended.stderr)
    assert checkpoint(polled) == "2026-01-05T00:00:00Z"


def test_rewind_mends_a_checkpoint_that_is_not_understood(polled: Place) -> None:
    ended = with_checkpoint(polled, "garbage").poller("rewind", "helpdesk", "--to", "2026-01-01T00:00:00Z")

    assert ended.returncode == 0
    assert checkpoint(polled) == "2026-01-01T00:00:00Z"


def test_rewind_says_where_there_is_nothing_to_rewind(polled: Place) -> None:
    ended = polled.poller("rewind", "helpdesk", "--to", "2026-01-01T00:00:00Z")

    assert ended.returncode == 1
    assert "its source has no checkpoint" in one_line(ended.stderr)


def checkpoint(place: Place) -> Any:
    with sqlite3.connect(place.folder / "poller.db") as connection:
        ((value,),) = connection.execute("SELECT value FROM checkpoints").fetchall()
    connection.close()
    return value
