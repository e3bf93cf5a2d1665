"""The business rule that calls out: rings and pushes, tokens, faults."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests

from poller.sandbox.options import Rule
from poller.sandbox.rules import FORGED
from tests.sandbox.conftest import Caller, Start
from tests.sandbox.test_command import get, running


class Receiver:
    """Hands out tokens, takes what is rung and pushed, and keeps all of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()
        self.tokens: list[dict[str, str]] = []
        self.life = 1800
        self.dead: set[str] = set()
        self.calls: list[tuple[str, str, bytes]] = []  # path, Authorization, body

    def token(self, form: dict[str, str], proof: str) -> tuple[int, Any]:
        if (form.get("client_secret") or proof) not in {"secret", "Basic " + base64.b64encode(b"sn:secret").decode()}:
            return 401, {"error": "invalid_client"}
        with self.lock:
            self.tokens.append(form)
            return 200, {"access_token": f"token-{len(self.tokens)}", "expires_in": self.life}

    def call(self, path: str, proof: str, body: bytes) -> tuple[int, Any]:
        with self.lock:
            self.calls.append((path, proof, body))
            known = {f"Bearer token-{n + 1}" for n in range(len(self.tokens))} - self.dead
        return (202 if proof in known or proof.startswith("Basic ") else 401), {}

    def pushed(self) -> list[dict[str, str]]:
        return [json.loads(body) for path, _, body in self.calls if path == "/push"]


class Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proof = self.headers.get("Authorization", "")
        if self.path == "/token":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            status, content = self.receiver.token(form, proof)
        else:
            status, content = self.receiver.call(self.path, proof, body)
        text = json.dumps(content).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Mine(Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    Mine.receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Mine.receiver
    server.shutdown()
    thread.join()
    server.server_close()


def rule(receiver: Receiver, **given: Any) -> Rule:
    keys = {"token_url": f"{receiver.url}/token", "client_id": "sn", "client_secret": "secret", "scope": "poll"}
    return Rule(**({"ring": [f"{receiver.url}/ring"], "push": [f"{receiver.url}/push"]} | keys | given))


def sent(caller: Caller, count: int) -> list[dict[str, Any]]:
    """Wait until so much was sent, and nothing waits."""
    until = time.monotonic() + 10
    while True:
        told: dict[str, Any] = caller.control("GET", "rules/sent")
        if len(told["sent"]) >= count and not told["waiting"]:
            return list(told["sent"])
        assert time.monotonic() < until, told
        time.sleep(0.01)


Ruled = Callable[..., Caller]


@pytest.fixture
def ruled(start: Start, receiver: Receiver) -> Ruled:
    return lambda **given: start(rule=rule(receiver, **given), seed=7)


def test_an_insert_and_an_update_ring_and_push(ruled: Ruled, receiver: Receiver) -> None:
    caller = ruled(fields=["number", "short_description", "sys_mod_count"])
    made = caller.create(short_description='say "hello"').json()["result"]
    sent(caller, 2)
    caller.control("POST", "change", {"number": made["number"], "fields": {"short_description": "two"}})
    told = sent(caller, 4)

    assert receiver.pushed() == [
        {"number": made["number"], "short_description": 'say "hello"', "sys_mod_count": "0"},
        {"number": made["number"], "short_description": "two", "sys_mod_count": "1"},
    ]
    assert [body for path, _, body in receiver.calls if path == "/ring"] == [b"{}", b"{}"]
    assert [one["status"] for one in told] == [202] * 4
    assert {one["sys_id"] for one in told} == {made["sys_id"]}
    assert caller.control("GET", "rules/sent?after=3")["sent"] == told[3:]


def test_one_token_serves_until_it_expires_or_is_refused(ruled: Ruled, receiver: Receiver) -> None:
    caller = ruled(push=[], resource="urn:us")
    for count in (1, 2, 3):
        caller.create(short_description="x")
        sent(caller, count)
    once = list(receiver.tokens)
    receiver.dead.add("Bearer token-1")
    caller.create(short_description="x")
    sent(caller, 4)

    assert len(once) == 1
    assert once[0] == {
        "grant_type": "client_credentials",
        "client_id": "sn",
        "client_secret": "secret",
        "scope": "poll",
        "resource": "urn:us",
    }
    assert len(receiver.tokens) == 2
    assert [proof for _, proof, _ in receiver.calls] == ["Bearer token-1"] * 4 + ["Bearer token-2"]


@pytest.mark.parametrize("given", [{"client_auth": "basic"}, {"auth": "basic"}])
def test_it_proves_itself_by_basic(ruled: Ruled, receiver: Receiver, given: dict[str, str]) -> None:
    caller = ruled(push=[], **given)
    caller.create(short_description="x")

    assert [one["status"] for one in sent(caller, 1)] == [202]
    assert all("client_secret" not in form for form in receiver.tokens)


def test_a_wrong_secret_sends_nothing_and_is_told(ruled: Ruled, receiver: Receiver) -> None:
    caller = ruled(client_secret="wrong", ring=[])
    caller.create(short_description="x")

    (told,) = sent(caller, 1)
    assert told["status"] == 0
    assert "answered 401" in told["error"]
    assert not receiver.calls


def test_a_receiver_that_is_away_gets_no_second_try(start: Start) -> None:
    away = Rule(ring=["http://127.0.0.1:9/ring"], auth="none")
    caller = start(rule=away)
    caller.create(short_description="x")

    (told,) = sent(caller, 1)
    assert told["error"].startswith("ConnectionRefusedError")


def test_only_incidents_that_match_call(ruled: Ruled, receiver: Receiver) -> None:
    caller = ruled(push=[], query="assignment_group.name=Vendor^active=true")
    caller.create(short_description="not yet")
    number = caller.create(short_description="x").json()["result"]["number"]
    caller.control("POST", "change", {"number": number, "fields": {"assignment_group": "Vendor"}})

    (told,) = sent(caller, 1)
    assert (told["number"], told["sys_mod_count"]) == (number, "1")


@pytest.mark.parametrize(
    ("fault", "kept", "statuses"),
    [
        ("lost", 0, [0]),
        ("twice", 2, [202, 202]),
        ("delayed", 1, [202]),
        ("deaf", 1, [0]),
    ],
)
def test_what_a_fault_does_to_a_push(
    ruled: Ruled, receiver: Receiver, fault: str, kept: int, statuses: list[int]
) -> None:
    caller = ruled(ring=[], delay=0.2, faults={fault: 1.0})
    caller.create(short_description="x")

    told = sent(caller, len(statuses))
    assert [one["status"] for one in told] == statuses
    assert {one["fault"] for one in told} == {fault}
    until = time.monotonic() + 5
    while len(receiver.calls) < kept and time.monotonic() < until:
        time.sleep(0.01)
    assert len(receiver.pushed()) == kept


def test_a_forged_one_comes_beside_the_right_one_and_with_no_token(ruled: Ruled, receiver: Receiver) -> None:
    caller = ruled(ring=[], faults={"push:forged": 1.0})
    caller.create(short_description="right")

    told = sent(caller, 2)
    assert sorted((one["forged"], one["status"]) for one in told) == [(False, 202), (True, 401)]
    assert sorted(one["short_description"] for one in receiver.pushed()) == [FORGED, "right"]
    assert len({one["sys_id"] for one in receiver.pushed()}) == 1


def test_a_garbled_one_is_no_json(ruled: Ruled, receiver: Receiver) -> None:
    caller = ruled(ring=[], faults={"garbled": 1.0})
    caller.create(short_description="x")
    sent(caller, 1)

    with pytest.raises(json.JSONDecodeError):
        receiver.pushed()


def test_delayed_ones_are_overtaken(ruled: Ruled, receiver: Receiver) -> None:
    caller = ruled(ring=[], delay=0.5, faults={"delayed": 0.5})
    for _ in range(20):
        caller.create(short_description="x")
    sent(caller, 20)

    numbers = [one["number"] for one in receiver.pushed()]
    assert sorted(numbers) != numbers
    assert len(set(numbers)) == 20


def test_it_is_set_and_shown_by_control(start: Start, receiver: Receiver) -> None:
    caller = start()
    caller.create(short_description="before")
    shown = caller.control("POST", "rules", {"ring": [f"{receiver.url}/ring"], "auth": "none", "delay": "500ms"})
    caller.create(short_description="after")
    sent(caller, 1)

    assert shown == caller.control("GET", "rules")
    assert shown["delay"] == 0.5
    assert caller.control("POST", "rules/faults", {"ring:lost": 0.25}) == {"ring:lost": 0.25}
    caller.control("POST", "reset", {})
    assert caller.control("GET", "rules/faults") == {}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"rings": []}, "unknown rings"),
        ({"ring": ["poller.example"]}, "http://"),
        ({"ring": ["http://127.0.0.1/ring"]}, "token_url"),
        ({"query": "colour=blue"}, "colour=blue"),
        ({"auth": "kerberos"}, "one of oauth"),
    ],
)
def test_what_makes_no_sense_is_refused(start: Start, wrong: dict[str, Any], why: str) -> None:
    caller = start()
    before = caller.control("GET", "rules")
    answer = requests.post(f"{caller.url}/sandbox/rules", json=wrong, timeout=10)

    assert answer.status_code == 400
    assert why in answer.json()["error"]
    assert caller.control("GET", "rules") == before


def test_the_command_line_takes_a_rule(receiver: Receiver) -> None:
    options = ["--rule-ring", f"{receiver.url}/ring", "--rule-token-url", f"{receiver.url}/token"]
    options += ["--rule-client-id", "sn", "--rule-client-secret", "secret", "--rule-fault", "twice=1"]
    with running(*options) as told:
        requests.post(f"{told['servicenow']}/sandbox/incidents", json={"short_description": "x"}, timeout=10)
        until = time.monotonic() + 10
        while len(get(f"{told['servicenow']}/sandbox/rules/sent")["sent"]) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)

    assert [path for path, _, _ in receiver.calls] == ["/ring", "/ring"]
