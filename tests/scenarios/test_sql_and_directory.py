"""
A table and a folder as sources, end to end: the real poller as a process, killed where it hurts, and the sandbox's incidents.

Nothing here imports product code; what counts is what stands at the instance in the end.
"""

import json
import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.scenarios.world import ROOT, ROUTE, World, wait_for, world

SQL = """\
type = "sql"
url = "sqlite:///{folder}/desk.db"
query = "SELECT * FROM tickets WHERE updated_at > :checkpoint"
key = "id"
version = "updated_at"
checkpoint = "updated_at"
first_checkpoint = "2000-01-01 00:00:00"
batch = 30

[routes.helpdesk.source.fields]
username = "login"
title = "subject"
description = "body"
"""

DIRECTORY = """\
type = "directory"
path = "{folder}/in"
settle = "0s"
{more}

[routes.helpdesk.source.fields]
username = "login"
title = "subject"
description = "body"
"""

#: Put before everything else, it kills the process that is about to move a file: all is committed, nothing is moved.
KILLER = """\
import os, pathlib, signal
plain = pathlib.Path.rename
def rename(path, target):
    if pathlib.Path(target).parent.name == "done":
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(path, target)
pathlib.Path.rename = rename
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def configure(place: World, source: str, more: str = "") -> None:
    """Write settings with another source than the help desk over HTTP."""
    place.configure()
    given = source.replace("{folder}", str(place.folder)).replace("{more}", more)
    text = place.settings.read_text("utf-8")
    changed = re.sub(
        r"(?s)(\[routes\.helpdesk\.source\]\n).*?(\[routes\.helpdesk\.sink\])",
        lambda found: f"{found[1]}{given}\n{found[2]}",
        text,
    )
    assert changed != text
    place.settings.write_text(changed, "utf-8")


def logins(place: World, count: int) -> list[str]:
    known = [user["user_name"] for user in place.sandbox.users() if re.fullmatch(r"[a-z.]+", user["user_name"])]
    return [known[number % len(known)] for number in range(count)]


def incidents(place: World) -> Counter[str]:
    """Return how many incidents there are for each key."""
    return Counter(row["correlation_display"].removeprefix(f"{ROUTE}/") for row in place.sandbox.incidents())


def _there(place: World, count: int) -> bool:
    return len(incidents(place)) >= count


def drop(place: World, name: str, content: bytes) -> None:
    """Put a file into the folder as a careful writer does: beside it, then renamed."""
    beside = place.folder / "in" / f".{name}"
    beside.write_bytes(content)
    beside.rename(place.folder / "in" / name)


def tickets(place: World, numbers: range) -> bytes:
    names = logins(place, numbers.stop)
    rows = [{"id": number, "login": names[number], "subject": f"No {number}", "body": "…"} for number in numbers]
    return json.dumps(rows).encode()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_f40_a_table_with_one_timestamp_on_ten_pages_becomes_one_incident_each_through_kills(place: World) -> None:
    configure(place, SQL)
    people = logins(place, 300)
    with closing(sqlite3.connect(place.folder / "desk.db")) as desk, desk:
        desk.execute(
            "CREATE TABLE tickets (id INTEGER PRIMARY KEY, login TEXT, subject TEXT, body TEXT, updated_at TEXT)"
        )
        desk.executemany(
            "INSERT INTO tickets VALUES (?, ?, ?, 'x', '2026-01-02 03:04:05')",
            [(number, people[number], f"No {number}") for number in range(300)],
        )
    for reached in (20, 120, 220):
        daemon = place.start()
        wait_for(partial(_there, place, reached), f"{reached} incidents")
        daemon.kill()
    with closing(sqlite3.connect(place.folder / "desk.db")) as desk, desk:
        desk.execute("INSERT INTO tickets VALUES (300, ?, 'late', 'x', '2026-01-02 03:00:00')", (people[0],))
    daemon = place.start()
    wait_for(lambda: len(incidents(place)) == 301, "the last incident")
    wait_for(lambda: {each["state"] for each in place.export()} == {"delivered"}, "every delivery to be settled")
    daemon.terminate()

    assert incidents(place) == Counter({str(number): 1 for number in range(301)})
    assert place.bad_lines() == []


@pytest.mark.parametrize("more", ['key = "id"', ""], ids=["key", "position"])
def test_f03_a_kill_between_commit_and_move_makes_no_second_incident(
    place: World, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(place, DIRECTORY, more)
    (place.folder / "in").mkdir()
    drop(place, "a.json", tickets(place, range(5)))
    (place.folder / "killer").mkdir()
    (place.folder / "killer" / "sitecustomize.py").write_text(KILLER)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(place.folder / "killer"))
        killed = place.once()
    left = names(place.folder / "in")
    committed = len(place.export())
    ended = place.once()

    assert killed == -signal.SIGKILL
    assert "a.json" in left
    assert committed == 5
    assert ended == 0
    assert names(place.folder / "in") == ["done", "failed"]
    # The name that was reserved for it as the kill came stays behind, empty.
    assert [path.name for path in (place.folder / "in" / "done").glob("a*") if path.stat().st_size] == ["a.json.1"]
    expected = [f"a.json:{number}" for number in range(1, 6)] if not more else [str(number) for number in range(5)]
    assert incidents(place) == Counter(dict.fromkeys(expected, 1))
    assert place.bad_lines() == []


def test_files_become_incidents_while_the_daemon_is_killed_again_and_again(place: World) -> None:
    configure(place, DIRECTORY, 'key = "id"\nglob = "*.json"')
    (place.folder / "in").mkdir()
    for turn in range(4):
        daemon = place.start()
        for number in range(turn * 10, turn * 10 + 10):
            drop(place, f"{number}.json", tickets(place, range(number * 3, number * 3 + 3)))
        drop(place, f"torn-{turn}.json", b'[{"id": 1')
        wait_for(partial(_there, place, turn * 30 + 5), "some incidents")
        daemon.kill()
    drop(place, "nobody.json", b'[{"id": "n", "login": "no.such.user", "subject": "x"}, {"subject": "no id"}]')
    daemon = place.start()
    wait_for(
        lambda: len(incidents(place)) == 120 and len(names(place.folder / "in")) == 2,
        "the last incident and the last file",
    )
    wait_for(
        lambda: Counter(each["state"] for each in place.export()) == {"delivered": 120, "dead": 2},
        "everything to be settled",
    )
    daemon.terminate()

    assert incidents(place) == Counter({str(number): 1 for number in range(120)})
    assert len(names(place.folder / "in" / "done")) == 41
    assert names(place.folder / "in" / "failed") == [f"torn-{turn}.json" for turn in range(4)]
    assert {line["file"] for line in place.events("file_failed")} == {f"torn-{turn}.json" for turn in range(4)}
    assert place.bad_lines() == []


def test_a_folder_that_cannot_be_written_to_is_a_failed_poll_in_clear_words(place: World) -> None:
    configure(place, DIRECTORY, 'key = "id"\ndone = "/proc/1/done"')
    (place.folder / "in").mkdir()
    drop(place, "a.json", tickets(place, range(2)))
    place.once()

    (failed,) = place.events("poll_failed")
    assert "the folder /proc/1/done cannot be made in /proc/1; let poller's user write to it" in failed["error"]
    assert incidents(place) == Counter()


def test_settings_of_both_are_checked_with_file_and_line(place: World) -> None:
    configure(place, SQL.replace("SELECT *", "DELETE").replace('key = "id"\n', ""))
    done = place.command("check", "--offline")
    configure(place, DIRECTORY, 'glob = "a/b"\ncolumns = 3')
    other = place.command("check", "--offline")

    assert done.returncode == other.returncode == 78
    assert re.search(
        r"settings\.toml:\d+: routes\.helpdesk\.source\.query: must begin with SELECT or WITH",
        done.stderr + done.stdout,
    )
    assert re.search(r"settings\.toml:\d+: routes\.helpdesk\.source\.key: is required", done.stderr + done.stdout)
    assert re.search(r"settings\.toml:\d+: routes\.helpdesk\.source\.glob: is about names", other.stderr + other.stdout)
    assert re.search(r"settings\.toml:\d+: routes\.helpdesk\.source\.columns: unknown key", other.stderr + other.stdout)
    assert os.sep + "desk.db" not in done.stdout


@pytest.mark.parametrize("name", ["sql", "directory"])
def test_the_settings_of_the_recipe_are_right(place: World, name: str) -> None:
    (block,) = re.findall(
        r"```toml\n(.*?)```", (ROOT / "docs" / "recipes" / f"{name}.md").read_text("utf-8"), re.DOTALL
    )
    place.configure()
    base = place.settings.read_text("utf-8").split("[routes.")[0]
    (place.folder / "db").write_text("a-password")
    place.settings.write_text(
        base + block.replace('credential = "helpdesk-db"', f'file = "{place.folder}/db"'), "utf-8"
    )

    done = place.command("check", "--offline")

    assert done.returncode == 0, done.stdout + done.stderr
