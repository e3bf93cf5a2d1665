"""Look-ups, mapped values and long texts with the real daemon: what new staff, groups and endless titles come to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.world import ROUTE, Fields, World, call, wait_for, world

NEWCOMER = {"requester": {"login": "new.hire"}, "subject": "no desk", "body": "text"}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    """A world without tickets."""
    with world(tmp_path, None, "--tickets", "0") as made:
        yield made


def waiting(here: World) -> list[Fields]:
    return [one for one in here.export() if one["state"] == "waiting"]


def configure_wait(here: World, *, patience: str = "1h") -> None:
    here.configure(sink=f'unknown_user = {{ policy = "wait", for = "{patience}", every = "500ms" }}')


def test_a_user_who_comes_later_is_found_and_gets_exactly_one_incident_whatever_was_killed(here: World) -> None:
    configure_wait(here)
    here.sandbox.add_tickets(NEWCOMER, {"requester": {"login": "abel.tuter"}, "subject": "other", "body": "x"})
    daemon = here.start()
    here.delivered(1)
    wait_for(lambda: len(here.events("record_waiting")) >= 2, "a second look")
    # Waiting survives kill -9, before the user is there and after.
    daemon.kill()
    assert [one["attempts"] for one in waiting(here)] == [0]
    daemon = here.start()
    wait_for(lambda: '"record_waiting"' in daemon.text(), "a look after the restart")
    here.sandbox.add_users({"user_name": "new.hire"})
    daemon.kill()
    here.start()
    export = here.settled()

    assert {one["state"] for one in export} == {"delivered"}
    assert not any(here.check(export=export).values())
    assert len(here.sandbox.creates()) == 2


def test_a_user_who_never_comes_is_a_dead_letter_when_the_time_is_over(here: World) -> None:
    configure_wait(here, patience="2s")
    here.sandbox.add_tickets(NEWCOMER)
    here.start()
    (one,) = here.settled()

    assert (one["state"], one["attempts"]) == ("dead", 0)
    assert "is unknown to sys_user (user_name); it has been waited for" in one["reason"]
    assert "new.hire" not in one["reason"]
    assert len(here.events("record_waiting")) >= 2
    assert not here.sandbox.creates()


def test_waiting_uses_up_no_attempts_and_stops_nobody_else(here: World) -> None:
    configure_wait(here)
    here.sandbox.add_tickets(NEWCOMER)
    here.start()
    # More looks than `attempts` allows refusals.
    wait_for(lambda: len(here.events("record_waiting")) > 13, "fourteen looks")
    here.sandbox.add_tickets({"requester": {"login": "abel.tuter"}, "subject": "other", "body": "x"})
    here.delivered(1)

    assert len(waiting(here)) == 1


def test_groups_mapped_values_and_long_titles_arrive_and_explain_says_how(here: World) -> None:
    here.configure(
        sink="""
[routes.helpdesk.sink.fields]
caller_id = { user = "{{ username }}", by = ["user_name", "email"] }
short_description = "{{ title }}"
description = "{{ description }}"
assignment_group = { lookup = "sys_user_group", by = "name", value = "{{ description }}", unknown = "omit" }
urgency = { from = "{{ title[:1] }}", map = { A = "1", b = "2" }, default = "3" }
"""
    )
    title = "A title that goes on 🙂 " * 20
    given = [("wendy.wu", title, "network"), ("Wendy.Wu@example.com", "bb", "Nobody's"), ("wendy.wu", "cc", "Database")]
    here.sandbox.add_tickets(
        *({"requester": {"login": login}, "subject": subject, "body": body} for login, subject, body in given)
    )
    here.start()
    export = here.settled()
    rows = {row["correlation_display"]: row for row in here.sandbox.incidents()}
    first, second, third = (rows[f"{ROUTE}/{one['key']}"] for one in sorted(export, key=lambda one: int(one["key"])))

    assert len({row["caller_id"] for row in rows.values()}) == 1
    assert [row["urgency"] for row in (first, second, third)] == ["1", "2", "3"]
    assert first["assignment_group"]
    assert second["assignment_group"] == ""
    assert third["assignment_group"] not in {first["assignment_group"], ""}
    assert len(first["short_description"]) <= 160
    assert first["short_description"].endswith(" … [cut]")
    assert first["description"] == f"network\n\n[short_description] {title}"
    explained = here.command("explain", ROUTE, min((one["key"] for one in export), key=int)).stdout
    for line in ("caller_id: found", "assignment_group: found in other spelling", "urgency: mapped"):
        assert line in explained
    assert "short_description: cut to 160 of " in explained
    assert len(here.events("text_cut")) == 1
    # The dictionary is read once in the process, each table asked once for the whole batch.
    counts = here.sandbox.counts()
    assert counts["sys_dictionary GET"] == 1
    assert counts["sys_user_group GET"] <= 3


def test_a_table_that_cannot_be_read_blocks_the_route_buries_nobody_and_heals(here: World) -> None:
    here.configure()
    here.sandbox.switch(unreadable_fields=["sys_user.user_name"])
    here.sandbox.add_tickets({"requester": {"login": "abel.tuter"}, "subject": "one", "body": "x"})
    here.start()
    wait_for(lambda: here.events("route_blocked"), "route_blocked")
    assert {one["state"] for one in here.export()} == {"pending"}
    here.sandbox.switch(unreadable_fields=[])
    export = here.settled()

    assert {one["state"] for one in export} == {"delivered"}
    assert not any(here.check(export=export).values())
    assert "no row can be seen that shows user_name" in here.events("route_blocked")[0]["error"]
    assert call("GET", f"{here.sandbox.servicenow}/sandbox/counts")["incident POST"] == 1
