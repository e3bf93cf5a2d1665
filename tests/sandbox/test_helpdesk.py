"""The stand-in help desk."""

import time
from typing import Any

import pytest
import requests

from tests.sandbox.conftest import Start


class Desk:
    """Calls a help desk."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(path if path.startswith("http") else self.url + path, timeout=10, **more)

    def post(self, path: str, content: Any) -> requests.Response:
        return self.session.post(self.url + path, json=content, timeout=10)

    def ids(self, path: str) -> list[int]:
        return [ticket["id"] for ticket in self.get(path).json()["tickets"]]


@pytest.fixture
def desk(start: Start) -> Desk:
    return Desk(start().sandbox.helpdesk_url)


def test_a_fresh_desk_has_six_tickets_of_people_the_instance_knows(start: Start) -> None:
    caller = start()
    tickets = Desk(caller.sandbox.helpdesk_url).get("/api/tickets").json()["tickets"]

    logins = {user["user_name"] for user in caller.control("GET", "users")["users"]}
    assert [ticket["id"] for ticket in tickets] == [1001, 1002, 1003, 1004, 1005, 1006]
    assert {ticket["requester"]["login"] for ticket in tickets} <= logins
    assert "ops^night" in {ticket["requester"]["login"] for ticket in tickets}
    assert all(ticket["subject"] and ticket["body"] and ticket["updated_at"].endswith("Z") for ticket in tickets)


def test_every_way_of_paging_gives_every_ticket_once(desk: Desk) -> None:
    desk.post("/sandbox/tickets", {"count": 94, "users": ["ops^night", "a,b"]})
    everything = desk.ids("/api/tickets")
    assert len(set(everything)) == 100

    assert [one for page in range(1, 5) for one in desk.ids(f"/api/tickets?page={page}&per_page=30")] == everything

    linked, url = [], "/api/tickets/link?per_page=30"
    while url:
        answer = desk.get(url)
        linked += [ticket["id"] for ticket in answer.json()["tickets"]]
        url = answer.links.get("next", {}).get("url", "")
    assert linked == everything

    by_offset: list[int] = []
    while len(by_offset) < desk.get("/api/tickets/offset?limit=1").json()["total"]:
        by_offset += desk.ids(f"/api/tickets/offset?offset={len(by_offset)}&limit=30")
    assert by_offset == everything

    by_cursor, cursor, more = [], "", True
    while more:
        content = desk.get(f"/api/tickets/cursor?limit=30&cursor={cursor}").json()
        by_cursor += [ticket["id"] for ticket in content["tickets"]]
        cursor, more = content["next_cursor"], content["has_more"]
    assert by_cursor == everything


def test_since_keeps_what_was_updated_at_or_after_it(desk: Desk) -> None:
    desk.session.delete(desk.url + "/sandbox/tickets", timeout=10)
    for minute in (1, 2, 3):
        desk.post("/sandbox/tickets", {"id": minute, "updated_at": f"2026-01-02T03:0{minute}:00Z"})

    assert desk.ids("/api/tickets?since=2026-01-02T03:02:00Z") == [2, 3]
    assert desk.ids("/api/tickets/cursor?since=2026-01-02T03:02:00Z") == [2, 3]


def test_an_unchanged_list_is_a_304(desk: Desk) -> None:
    etag = desk.get("/api/tickets").headers["ETag"]

    assert desk.get("/api/tickets", headers={"If-None-Match": etag}).status_code == 304
    desk.post("/sandbox/tickets", {"subject": "another"})
    assert desk.get("/api/tickets", headers={"If-None-Match": etag}).status_code == 200


def test_replies_are_recorded(desk: Desk) -> None:
    answer = desk.session.post(
        desk.url + "/api/tickets/1001/links", json={"number": "INC1"}, headers={"Idempotency-Key": "x"}, timeout=10
    )

    assert answer.status_code == 201
    assert desk.post("/api/tickets/99/links", {}).status_code == 404
    (link,) = desk.get("/sandbox/links").json()["links"]
    assert (link["ticket"], link["key"], link["content"]) == (1001, "x", {"number": "INC1"})


def test_faults_of_the_source(desk: Desk) -> None:
    desk.post("/sandbox/next", {"fault": "500", "page": 2})

    assert desk.get("/api/tickets?page=1&per_page=3").status_code == 200
    assert desk.get("/api/tickets?page=2&per_page=3").status_code == 500
    assert desk.get("/api/tickets?page=2&per_page=3").status_code == 200
    desk.post("/sandbox/faults", {"truncated_json": 1})
    with pytest.raises(ValueError, match=r"."):
        desk.get("/api/tickets").json()
    desk.post("/sandbox/reset", {})
    for fault, status in (("html_200", 200), ("503", 503), ("401", 401)):
        assert desk.get("/api/tickets", headers={"X-Sandbox-Fault": fault}).status_code == status
    assert desk.get("/sandbox/calls").json()["calls"][-1]["fault"] == "401"
    assert desk.get("/api/tickets?page=0").status_code == 400
    assert desk.get("/api/tickets/cursor?cursor=bogus").status_code == 400


def test_a_desk_grows(start: Start) -> None:
    desk = Desk(start(grow=0.02, tickets=0).sandbox.helpdesk_url)

    end = time.monotonic() + 10
    while len(desk.ids("/api/tickets")) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_desk_may_want_a_key(start: Start) -> None:
    caller = start()
    desk = Desk(caller.sandbox.helpdesk_url)
    caller.switch(helpdesk_key="secret")

    assert desk.get("/api/tickets").status_code == 401
    assert desk.get("/api/tickets", headers={"Authorization": "Bearer secret"}).status_code == 200
