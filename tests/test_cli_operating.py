"""What operators change from the shell."""

from __future__ import annotations

import sqlite3

from tests.cli_house import Place, polled, polled_once

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
