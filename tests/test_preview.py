"""``poller preview`` from outside, as a process: what would be posted, beside what was; nothing is written anywhere."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.cli_house import Ended, Place, one_line, place, polled, polled_once
from tests.scenarios.world import call

__all__ = ["place", "polled", "polled_once"]  # fixtures


def previewed(place: Place, *arguments: str) -> dict[str, Any]:
    ended = place.poller("preview", "helpdesk", "--json", *arguments)
    assert ended.stderr == ""
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def writes(place: Place, after: int = 0) -> set[str]:
    entries = call("GET", f"{place.sandbox.servicenow_url}/sandbox/ledger?after={after}")["entries"]
    return {f"{each['method']} {each['kind']}" for each in entries if each["method"] != "GET"}


def entries(place: Place) -> int:
    return len(call("GET", f"{place.sandbox.servicenow_url}/sandbox/ledger")["entries"])


def add_ticket(place: Place, **ticket: Any) -> None:
    made = {"subject": "A ticket", "body": "Its text", "requester": {"login": "abel.tuter"}, **ticket}
    call("POST", f"{place.sandbox.helpdesk_url}/sandbox/tickets", [made])


def block(ended: Ended, key: str) -> list[str]:
    """Return the lines about one record."""
    lines = ended.stdout.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"helpdesk / {key}"))
    return lines[start : lines.index("", start)]


def test_what_would_be_posted_is_shown_field_by_field(place: Place) -> None:
    ended = place.poller("preview", "helpdesk", "--limit", "2")

    assert (ended.returncode, ended.stderr) == (0, "")
    head, caller, title, text, *ours = block(ended, "1001")
    assert head.endswith(": would be posted")
    assert caller.split()[0] == "caller_id"
    assert re.fullmatch(r"  +caller_id +[a-z.]+ -> [0-9a-f]{32}  \(exact\)", caller)
    assert title.split(maxsplit=1) == ["short_description", "Printer on the 3rd floor prints blank pages"]
    assert text.split()[0] == "description"
    assert [line.split()[0] for line in ours] == ["correlation_id", "correlation_display"]
    assert ended.stdout.endswith("2 would be posted. Nothing was written.\nNext: poller once helpdesk, or poller run\n")


def test_it_is_what_then_is_posted(place: Place) -> None:
    shown = previewed(place)
    assert place.poller("once").returncode == 0

    incidents = call("GET", f"{place.sandbox.servicenow_url}/sandbox/incidents")["incidents"]
    there = {row["correlation_id"]: row for row in incidents}
    assert len(there) == len(shown["records"]) == 6
    for record in shown["records"]:
        row = there[record["body"]["correlation_id"]]
        assert {name: row[name] for name in record["body"]} == record["body"]


def test_nothing_is_written_where_nothing_is_yet(place: Place) -> None:
    before = digests(place.folder)

    place.poller("preview", "helpdesk")

    assert digests(place.folder) == before
    assert writes(place) == {"POST token"}


def test_nothing_is_written_where_all_is_known(polled: Place) -> None:
    before, after = digests(polled.folder), entries(polled)

    ended = polled.poller("preview", "helpdesk")

    assert ended.returncode == 0
    assert "6 known" in ended.stdout
    assert digests(polled.folder) == before
    assert writes(polled, after) <= {"POST token"}


def test_a_known_record_stands_beside_what_was_posted(polled: Place) -> None:
    polled.database(
        "UPDATE deliveries SET body = json_set(body, '$.short_description', 'Another title') WHERE id = 1",
        "UPDATE deliveries SET body = json_remove(body, '$.description') WHERE id = 2",
    )
    ended = polled.poller("preview", "helpdesk")
    told = previewed(polled)["records"]

    head, *lines = block(ended, "1001")
    assert "known, delivered as INC" in head
    assert [line for line in lines if line.startswith("  ~ short_description")]
    assert [line for line in lines if line.strip() == "was  Another title"]
    assert [line for line in block(ended, "1002") if line.startswith("  + description")]
    assert block(ended, "1003")[-1].strip() == "the same as was posted"
    assert [each["differing"] for each in told[:3]] == [{"short_description": "changed"}, {"description": "new"}, {}]
    assert told[0]["before"]["short_description"] == "Another title"
    assert told[0]["number"].startswith("INC")


def test_an_incident_that_the_database_does_not_know_would_only_be_bound(polled: Place) -> None:
    (polled.folder / "poller.db").unlink()

    told = previewed(polled)

    assert told["counts"] == {"there": 6}
    assert all(each["number"].startswith("INC") and each["body"]["short_description"] for each in told["records"])
    assert not (polled.folder / "poller.db").exists()


def test_one_record_is_found_by_its_key_whatever_the_checkpoint(polled: Place) -> None:
    polled.database("UPDATE checkpoints SET value = '2999-01-01T00:00:00Z'")
    polled.write(
        polled.text.replace('# checkpoint = "updated_at" ', 'checkpoint = "updated_at" ').replace(
            '# params = { since = "{{ checkpoint }}" } ', 'params = { since = "{{ checkpoint }}" } '
        )
    )
    nothing, one = previewed(polled), previewed(polled, "--key", "1004")

    assert (nothing["records"], nothing["checkpoint"]) == ([], "2999-01-01T00:00:00Z")
    assert "--key" in nothing["next"]
    assert [each["key"] for each in one["records"]] == ["1004"]


def test_what_a_baseline_would_skip_is_said_to_be_skipped(place: Place) -> None:
    place.write(place.text.replace('first_run = "all"', 'first_run = "baseline"'))

    assert previewed(place)["counts"] == {"baseline": 6}


def test_what_cannot_be_delivered_is_told_with_its_reason(place: Place) -> None:
    add_ticket(place, requester={"login": "nobody.at.all"})

    ended = place.poller("preview", "helpdesk")
    told = previewed(place)

    assert ended.returncode == 1
    assert "cannot be delivered: caller_id: the user named by the record is unknown to sys_user" in ended.stdout
    # The name itself stands on the operator's terminal alone: no reason that is kept or logged holds it.
    assert 'unknown to sys_user (user_name); it gives "nobody.at.all"' in ended.stdout
    assert [each["given"] for each in told["records"]][-1] == {"caller_id": "nobody.at.all"}
    assert not any("nobody.at.all" in (each["reason"] or "") for each in told["records"])
    assert told["counts"] == {"create": 6, "undeliverable": 1}
    assert "mend the record or routes.helpdesk" in told["next"]


def test_what_a_map_has_nothing_for_is_shown(place: Place) -> None:
    urgency = 'urgency = { from = "{{ title }}", map = { high = "1" } }\n'
    place.write(place.text.replace('short_description = "{{ title }}"', urgency + 'short_description = "{{ title }}"'))
    add_ticket(place, subject="HIGH")

    ended = place.poller("preview", "helpdesk")

    assert "urgency: map has nothing for the record's value, and there is no default; it gives \"" in ended.stdout
    (line,) = [line for line in ended.stdout.splitlines() if line.split()[:1] == ["urgency"]]
    assert line.split() == ["urgency", "HIGH", "->", "1", "(mapped)"]


def test_what_cannot_be_read_is_told_with_its_reason(place: Place) -> None:
    add_ticket(place, subject="")

    ended = place.poller("preview", "helpdesk")

    assert ended.returncode == 1
    assert "cannot be read: the required field title is missing" in ended.stdout
    assert "6 would be posted, 1 cannot be read." in ended.stdout


@pytest.mark.parametrize("machine", [False, True])
def test_a_poll_that_fails_is_told(place: Place, machine: bool) -> None:
    place.write(place.text.replace(place.sandbox.helpdesk_url, "http://127.0.0.1:9"))

    ended = place.poller("preview", "helpdesk", *(["--json"] if machine else []))

    assert (ended.returncode, ended.stderr) == (1, "")
    if machine:
        assert json.loads(ended.stdout)["error"].startswith("poll: 127.0.0.1")
    else:
        assert "failed: poll: 127.0.0.1" in ended.stdout
        assert ended.stdout.splitlines()[-1] == "Next: poller check, which says what is wrong and what to do"


def test_look_ups_that_fail_are_told(place: Place) -> None:
    place.write(place.text.replace('client_secret = "sandbox-secret"', 'client_secret = "another"'))

    ended = place.poller("preview", "helpdesk")

    assert ended.returncode == 1
    assert "failed: look-ups: " in ended.stdout


def test_a_secret_that_stands_in_a_record_is_neither_shown_nor_saved(place: Place) -> None:
    add_ticket(place, id=9001, body="my key is sandbox-secret, in base64 c2FuZGJveC1zZWNyZXQ=")

    shown = place.poller("preview", "helpdesk", "--key", "9001")
    machine = place.poller("preview", "helpdesk", "--key", "9001", "--json")
    saved = place.poller("preview", "helpdesk", "--key", "9001", "--save", "one.toml")

    assert "my key is **********" in shown.stdout
    for ended in (shown, machine, saved):
        assert "sandbox-secret" not in ended.stdout + ended.stderr
        assert "c2FuZGJveC1zZWNyZXQ" not in ended.stdout + ended.stderr
    assert saved.returncode == 1
    assert "Not saved to one.toml: the record, or what would be posted, holds a secret" in saved.stdout
    assert not (place.folder / "one.toml").exists()


def test_hostile_texts_reach_no_terminal(place: Place) -> None:
    add_ticket(place, id=9002, subject="a\x1b[31mred\u202e", body="line\nbreak\x07")

    ended = place.poller("preview", "helpdesk", "--key", "9002")

    assert ended.stdout.replace("\n", "").isprintable()
    assert "\\x1b[31m" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "'nowhere' is not in the settings; routes: helpdesk"),
        (["helpdesk", "--limit", "0"], "--limit"),
        (["helpdesk", "--save", "settings.toml"], "settings.toml is there already"),
        ([], "missing argument 'ROUTE'"),
    ],
)
def test_a_wrong_call_is_one_line(place: Place, arguments: list[str], said: str) -> None:
    ended = place.poller("preview", *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in one_line(ended.stderr)


def test_a_saved_record_is_readable_by_its_owner_alone(place: Place) -> None:
    ended = place.poller("preview", "helpdesk", "--save", "one.toml")

    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-2:] == ["Saved to one.toml", "Next: poller check --offline --tests ."]
    assert stat.S_IMODE((place.folder / "one.toml").stat().st_mode) == 0o600
