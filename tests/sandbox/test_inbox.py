"""The vendor's inbox and the help desk's replies: what another system keeps of what it is sent."""

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.sandbox.conftest import Start

INBOX = "/vendor/inbox"


class Vendor:
    """Sends to an inbox, and looks into it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def send(self, body: bytes, *, method: str = "POST", path: str = INBOX, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.request(method, self.url + path, data=body, headers=named, timeout=10)

    def control(self, method: str, path: str, content: Any = None) -> requests.Response:
        answer = requests.request(method, self.url + path, json=content, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer

    def messages(self, after: int = 0) -> list[dict[str, Any]]:
        return list(self.control("GET", f"{INBOX}?after={after}").json()["messages"])


@pytest.fixture
def vendor(start: Start) -> Vendor:
    return Vendor(start().sandbox.helpdesk_url)


def test_what_is_sent_is_kept_with_its_head_and_every_byte(vendor: Vendor) -> None:
    body = "<a>ä</a>".encode() + b"\xff"

    answer = vendor.send(body, method="PUT", path=INBOX + "/INC1?x=y", Content_Type="application/xml", X_Trace="7")

    assert (answer.status_code, answer.json()) == (202, {"received": 1})
    (message,) = vendor.messages()
    assert (message["n"], message["method"], message["path"]) == (1, "PUT", INBOX + "/INC1?x=y")
    assert (message["headers"]["x-trace"], message["bytes"], message["answered"]) == ("7", len(body), 202)
    raw = vendor.control("GET", INBOX + "/1/body")
    assert (raw.content, raw.headers["Content-Type"]) == (body, "application/xml")
    assert vendor.control("GET", INBOX + "/1").json() == message


def test_a_repeat_is_kept_too_and_told_from_another_body(vendor: Vendor) -> None:
    answers = [vendor.send(body, Idempotency_Key="k") for body in (b"one", b"one", b"two")]
    vendor.send(b"one", Idempotency_Key="other")
    vendor.send(b"one")

    assert [answer.headers.get("Idempotency-Replayed", "") for answer in answers] == ["", "true", "true"]
    shown = [(message["repeat"], message["differs"]) for message in vendor.messages()]
    assert shown == [(0, False), (1, False), (2, True), (0, False), (0, False)]
    assert vendor.control("GET", INBOX).json()["repeats"] == 2


def test_it_is_emptied_and_the_numbers_go_on(vendor: Vendor) -> None:
    vendor.send(b"1")
    vendor.send(b"2")
    assert [message["n"] for message in vendor.messages(after=1)] == [2]

    assert vendor.control("DELETE", INBOX).json() == {"removed": 2}

    assert vendor.messages() == []
    assert vendor.send(b"3").json() == {"received": 3}
    assert requests.get(vendor.url + INBOX + "/1", timeout=10).status_code == 404


@pytest.mark.parametrize(
    ("fault", "status", "kept"),
    [("500", 500, 0), ("500_after", 500, 1), ("429", 429, 0), ("503", 503, 0), ("401", 401, 0), ("slow", 202, 1)],
)
def test_a_fault_answers_and_keeps_as_its_name_says(start: Start, fault: str, status: int, kept: int) -> None:
    caller = start()
    caller.switch(slow="20ms")
    vendor = Vendor(caller.sandbox.helpdesk_url)
    vendor.control("POST", "/sandbox/next", {"fault": fault, "path": INBOX})

    assert vendor.send(b"x").status_code == status
    assert [message["answered"] for message in vendor.messages()] == [status] * kept
    assert vendor.send(b"x").status_code == 202


@pytest.mark.parametrize(("fault", "kept"), [("lost_answer", 1), ("reset", 1), ("reset_before", 0)])
def test_an_answer_is_lost_after_or_before_the_message_is_kept(vendor: Vendor, fault: str, kept: int) -> None:
    vendor.control("POST", "/sandbox/faults", {f"inbox:{fault}": 1})

    with pytest.raises(requests.ConnectionError):
        vendor.send(b"x")

    assert [message["answered"] for message in vendor.messages()] == [0] * kept
    assert requests.get(vendor.url + "/api/tickets", timeout=10).status_code == 200


def test_it_may_want_a_key(start: Start) -> None:
    caller = start()
    vendor = Vendor(caller.sandbox.helpdesk_url)
    caller.switch(vendor_key="secret")

    assert vendor.send(b"x").status_code == 401
    assert vendor.send(b"x", Authorization="Bearer secret").status_code == 202
    assert vendor.send(b"x", X_Api_Key="secret").status_code == 202
    assert len(vendor.messages()) == 2


def test_it_survives_a_restart(start: Start, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    caller = start(state=state)
    vendor = Vendor(caller.sandbox.helpdesk_url)
    vendor.send(b"gone")
    vendor.control("DELETE", INBOX)
    vendor.send(b"\xfftwo", Idempotency_Key="k")
    requests.post(vendor.url + "/api/tickets/1001/links", json={"n": 1}, headers={"Idempotency-Key": "r"}, timeout=10)
    before = vendor.messages()
    caller.sandbox.stop()

    again = Vendor(start(state=state).sandbox.helpdesk_url)

    assert again.messages() == before
    assert again.control("GET", INBOX + "/2/body").content == b"\xfftwo"
    assert again.send(b"\xfftwo", Idempotency_Key="k").headers["Idempotency-Replayed"] == "true"
    assert again.control("GET", "/api/tickets/1001").json()["links"] == [{"n": 1}]


def test_a_reply_is_linked_once_for_each_key(vendor: Vendor) -> None:
    def reply(key: str, ticket: int = 1001) -> requests.Response:
        url = f"{vendor.url}/api/tickets/{ticket}/links"
        return requests.post(url, json={"incident": "INC1"}, headers={"Idempotency-Key": key}, timeout=10)

    assert [reply(key).status_code for key in ("a", "a", "b")] == [201, 201, 201]
    assert reply("a", 1002).status_code == 201

    assert vendor.control("GET", "/api/tickets/1001").json()["links"] == [{"incident": "INC1"}] * 2
    links = vendor.control("GET", "/sandbox/links").json()["links"]
    assert [(link["ticket"], link["key"], link["repeats"]) for link in links] == [
        (1001, "a", 1),
        (1001, "b", 0),
        (1002, "a", 0),
    ]


def test_a_changed_ticket_has_a_later_version_even_within_a_second(vendor: Vendor) -> None:
    versions = [vendor.control("GET", "/api/tickets/1006").json()["updated_at"]]
    for text in ("a", "b", "c"):
        changed = vendor.control("PATCH", "/api/tickets/1006", {"body": text}).json()
        versions.append(changed["updated_at"])

    assert sorted(set(versions)) == versions
    assert vendor.control("GET", "/api/tickets/1006").json()["body"] == "c"
    assert requests.patch(vendor.url + "/api/tickets/1006", json={"id": 7}, timeout=10).status_code == 400
    assert requests.patch(vendor.url + "/api/tickets/9", json={}, timeout=10).status_code == 404
