"""F74, F75, S27, S52: what was answered 202 is there, whatever is killed, pushed again, or polled besides."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.ingress.daemon import Ingress, files
from tests.scenarios.world import SECRET, Sandbox, wait_for

pytestmark = pytest.mark.xdist_group("ingress_keeping")

SERVICENOW = """
[servicenow]
instance = "{instance}"
correlation_prefix = "pushed"
max_execution = "1s"
[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = "{secret}"
[maintenance]
lease = "1s"
"""
INCIDENTS = """
[routes.push]
max_new_per_hour = {most}
{more}
[routes.push.push]
key = "id"
version = "updated_at"
[routes.push.push.fields]
username = "requester.login"
title = "subject"
description = "body"
[routes.push.sink]
type = "servicenow"
"""
POLLED = """
every = "{every}"
first_run = "{first}"
[routes.push.source]
type = "http"
url = "{helpdesk}/api/tickets"
records = "tickets"
key = "id"
version = "updated_at"
[routes.push.source.fields]
username = "requester.login"
title = "subject"
description = "body"
"""


class Pushed(Ingress):
    """With an instance and a help desk."""

    def __init__(self, folder: Path, *, most: int = 0, polled: str = "", more: str = "") -> None:
        self.sandbox = Sandbox(folder)
        self.sandbox.start()
        polled = polled.replace("{helpdesk}", self.sandbox.helpdesk)
        super().__init__(
            folder,
            routes=INCIDENTS.format(most=most, more=more + polled) + files("other"),
            more=SERVICENOW.format(instance=self.sandbox.servicenow, secret=SECRET),
        )

    def close(self) -> None:
        super().close()
        self.sandbox.stop()

    def one_each(self, count: int) -> None:
        """Wait until there are so many incidents, and hold that each record has one."""
        wait_for(lambda: list(self.states().values()).count("delivered") >= count, f"{count} deliveries")
        rows = [row["correlation_id"] for row in self.sandbox.incidents() if row["correlation_id"]]
        assert len(rows) == len(set(rows)) == count


@pytest.fixture
def pushed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pushed]:
    made = Pushed(tmp_path, **getattr(request, "param", {}))
    try:
        yield made
        made.check_output()
    finally:
        made.close()


def ticket(number: int, title: str = "pushed", at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"id": number, "subject": title, "body": "b", "requester": {"login": "abel.tuter"}, "updated_at": at}


@pytest.mark.slow
def test_f74_whatever_was_answered_202_is_there_after_kill_9(pushed: Pushed) -> None:
    """Three times: four clients push without pause, the daemon is killed among them, and who got no answer pushes again."""
    accepted: set[str] = set()
    sent: set[str] = set()

    def client(number: int, end: threading.Event) -> None:
        while not end.is_set():
            number += 100
            sent.add(str(number))
            with contextlib.suppress(OSError, AssertionError, ValueError):
                if pushed.push(ticket(number)).status == 202:
                    accepted.add(str(number))

    for turn in range(3):
        pushed.start()
        pushed.token()
        end, before = threading.Event(), len(accepted)
        with ThreadPoolExecutor(4) as pool:
            for number in range(4):
                pool.submit(client, 1_000_000 * turn + number, end)
            wait_for(lambda before=before: len(accepted) >= before + 20, "twenty more")  # type: ignore[misc]
            pushed.daemon.kill()
            end.set()
        assert accepted <= set(pushed.stored())
    lost = sent - accepted
    pushed.start()
    for key in sorted(lost):
        assert pushed.push(ticket(int(key))).status == 202

    assert set(pushed.stored()) == sent
    assert len(pushed.stored()) == len(sent)
    pushed.one_each(len(sent))


def test_f74_nothing_is_answered_202_that_is_not_committed(pushed: Pushed) -> None:
    """Another process holds the database: whoever pushes is told to come again, or hears nothing, and then it is killed."""
    pushed.start()
    pushed.token()
    assert pushed.push(ticket(1)).status == 202
    with contextlib.closing(sqlite3.connect(pushed.folder / "poller.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(pushed.push, ticket(2))
            wait_for(lambda: pushed.said("database_failed") or waiting.done(), "it to be refused", 40)
            assert waiting.result().status == 503
            assert waiting.result().headers["retry-after"]
            killed = pool.submit(lambda: pushed.raw(whole(pushed, ticket(3))))
            wait_for(lambda: pushed.ask("GET", "/healthz").status == 200, "it")
            pushed.daemon.kill()
            assert killed.result() == []
        other.execute("ROLLBACK")
    pushed.start()

    assert pushed.stored() == ["1"]
    assert pushed.push(ticket(3)).status == 202
    pushed.one_each(2)


def whole(pushed: Ingress, value: Any) -> bytes:
    body = json.dumps(value).encode()
    return pushed.head("/routes/push/records", f"Content-Length: {len(body)}", "Connection: close") + b"\r\n" + body


def test_f74_s27_twice_and_out_of_order_is_one_record_and_one_incident(pushed: Pushed) -> None:
    pushed.start()
    first = pushed.push([ticket(1), ticket(2)])
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda number: pushed.push([ticket(number % 2 + 1)]).status, range(40)))
    pushed.one_each(2)
    # An answer that was lost, a replay of the very bytes, an older version.
    late = pushed.push([ticket(2), ticket(1), ticket(1, at="2025-01-01T00:00:00Z"), ticket(2)])

    assert set(again) == {202}
    assert [record["state"] for record in first.json["records"]] == ["pending", "pending"]
    assert [record["key"] for record in late.json["records"]] == ["2", "1"]
    assert all(record["number"].startswith("INC") for record in late.json["records"])
    assert len(pushed.stored()) == 2
    asked = pushed.record("1").json
    assert (asked["state"], asked["number"]) == ("delivered", late.json["records"][1]["number"])
    pushed.one_each(2)


@pytest.mark.parametrize("pushed", [{"more": 'on_change = "update"\n'}], indirect=True)
def test_f74_updates_that_come_out_of_order_never_go_back(pushed: Pushed) -> None:
    pushed.start()
    order = (3, 1, 5, 2, 4, 5, 1)
    for number in order:
        assert pushed.push(ticket(1, f"title {number}", f"2026-01-0{number}T00:00:00Z")).status == 202
        pushed.one_each(1)
    wait_for(lambda: incident(pushed)["short_description"] == "title 5", "the newest title")
    for number in order:
        pushed.push(ticket(1, f"title {number}", f"2026-01-0{number}T00:00:00Z"))

    pushed.push(ticket(2))
    pushed.one_each(2)
    assert incident(pushed)["short_description"] == "title 5"


def incident(pushed: Pushed) -> dict[str, Any]:
    return next(row for row in pushed.sandbox.incidents() if row["correlation_display"] == "push/1")


@pytest.mark.parametrize(
    "pushed", [{"polled": POLLED.format(every="200ms", first="all", helpdesk="{helpdesk}")}], indirect=True
)
def test_f75_pushed_and_polled_is_one_record_whichever_comes_first(pushed: Pushed) -> None:
    tickets = {each["id"]: each for each in pushed.sandbox.tickets()}
    pushed.start()
    # Pushed while they are being polled, again, and before they can be polled at all.
    for each in [*tickets.values(), *tickets.values()]:
        assert pushed.push(each).status == 202
    coming = max(tickets) + 1
    assert pushed.push(ticket(coming)).status == 202
    assert pushed.push([ticket(coming + 1)]).status == 202
    pushed.sandbox.grow(2)
    wait_for(lambda: len(pushed.said("poll_finished", route="push")) > 3, "some polls")
    pushed.one_each(len(tickets) + 2)

    assert sorted(pushed.stored()) == sorted(str(number) for number in [*tickets, coming, coming + 1])
    assert pushed.ask("POST", "/routes/push/poll", token=pushed.token()).status == 202


@pytest.mark.parametrize(
    "pushed", [{"polled": POLLED.format(every="1h", first="baseline", helpdesk="{helpdesk}")}], indirect=True
)
def test_a_record_that_the_baseline_skipped_is_delivered_once_it_is_pushed(pushed: Pushed) -> None:
    pushed.start()
    wait_for(lambda: pushed.said("poll_finished", route="push"), "the first poll")
    wanted, *others = pushed.sandbox.tickets()
    assert set(pushed.states().values()) == {"skipped"}
    got = pushed.push(wanted)
    pushed.one_each(1)

    assert got.json["records"][0]["state"] != "skipped"
    assert pushed.states()[str(wanted["id"])] == "delivered"
    assert list(pushed.states().values()).count("skipped") == len(others)


@pytest.mark.parametrize("pushed", [{"most": 5}], indirect=True)
def test_s51_s52_a_flood_of_new_keys_is_stored_and_held_and_other_routes_go_on(pushed: Pushed) -> None:
    pushed.start()
    got = pushed.push([ticket(number) for number in range(2000)])
    assert got.status == 202
    assert len(got.json["records"]) == 2000
    wait_for(lambda: pushed.said("route_held", route="push", reason="flood"), "the flood guard")
    # The same key in another route is another record.
    assert pushed.push({"id": "1", "version": "1", "title": "t"}, "other").status == 202
    wait_for(lambda: list(pushed.states("other").values()) == ["delivered"], "the other route")

    pushed.one_each(5)
    assert len(pushed.stored()) == 2000
    assert len(pushed.sandbox.creates()) == 5
