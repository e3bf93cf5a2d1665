"""Faults, limits and the ledger."""

import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
import requests

from poller.sandbox.faults import FAULTS
from tests.sandbox.conftest import Caller, Start


def until(condition: Callable[[], object]) -> None:
    """Wait for *condition*, at most ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("fault", "status", "rows"),
    [
        ("500_before_commit", 500, 0),
        ("500_after_commit", 500, 1),
        ("502_before_commit", 502, 0),
        ("502_after_commit", 502, 1),
        ("503", 503, 0),
        ("503_after_commit", 503, 1),
        ("504_before_commit", 504, 0),
        ("504_after_commit", 504, 1),
        ("202", 202, 0),
        ("202_after_commit", 202, 1),
        ("429", 429, 0),
        ("429_bare", 429, 0),
        ("html_200", 200, 0),
        ("html_200_after_commit", 200, 1),
        ("html_login_200", 200, 0),
        ("error_200", 200, 0),
        ("error_200_after_commit", 200, 1),
        ("result_and_error_200", 200, 1),
        ("poisoned_200", 200, 1),
        ("truncated_json", 201, 1),
        ("empty_201", 201, 1),
        ("redirect_302", 302, 0),
        ("redirect_307", 307, 0),
        ("token_expired", 401, 0),
        ("business_rule", 403, 0),
        ("data_policy", 403, 0),
        ("acl_insert", 403, 0),
        ("acl_api", 403, 0),
        ("no_resource", 400, 0),
        ("foreign_correlation_id", 201, 1),
        ("no_number_201", 201, 1),
        ("no_sys_id_201", 201, 1),
        ("wrong_types_201", 201, 1),
        ("duplicate_keys_201", 201, 1),
        ("nan_201", 201, 1),
        ("huge_int_201", 201, 1),
    ],
)
def test_a_fault_answers_and_commits_as_its_name_says(caller: Caller, fault: str, status: int, rows: int) -> None:
    answer = caller.create(fault=fault, correlation_id="k:1")

    assert answer.status_code == status
    assert len(caller.incidents()) == rows
    (entry,) = caller.creates()
    assert (entry["fault"], entry["committed"], entry["correlation_id"]) == (fault, bool(rows), "k:1")


@pytest.mark.parametrize(
    ("fault", "rows"), [("lost_answer", 1), ("reset_after", 1), ("cut_connection", 1), ("reset_before", 0)]
)
def test_a_connection_lost_is_lost_before_or_after_the_commit(caller: Caller, fault: str, rows: int) -> None:
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        caller.create(fault=fault)

    assert len(caller.incidents()) == rows


@pytest.mark.parametrize("fault", ["stall", "stall_after_commit", "late_commit_hang"])
def test_a_stalled_call_is_never_answered(caller: Caller, fault: str) -> None:
    with pytest.raises(requests.ReadTimeout):
        caller.session.post(
            caller.url + "/api/now/table/incident", json={}, headers={"X-Sandbox-Fault": fault}, timeout=0.2
        )


def test_a_late_commit_comes_when_the_client_is_gone(caller: Caller) -> None:
    caller.switch(hold_commits=True, late="0s")
    with pytest.raises(requests.ConnectionError):
        caller.create(fault="late_commit", correlation_id="k:1")
    assert caller.incidents() == []

    caller.switch(hold_commits=False)

    until(caller.incidents)
    until(lambda: len(caller.creates()) == 2)
    assert [(entry["kind"], entry["committed"]) for entry in caller.creates()] == [
        ("incident POST", False),
        ("late commit", True),
    ]


def test_a_held_insert_commits_although_its_client_left(caller: Caller) -> None:
    caller.switch(hold_commits=True)
    with pytest.raises(requests.ReadTimeout):
        caller.session.post(caller.url + "/api/now/table/incident", json={}, timeout=0.2)
    assert caller.incidents() == []

    caller.switch(hold_commits=False)

    until(caller.incidents)


def test_truncated_and_poisoned_json_do_not_parse(caller: Caller) -> None:
    caller.create()
    for fault in ("truncated_json", "poisoned_200"):
        answer = caller.call("GET", "incident", headers={"X-Sandbox-Fault": fault})
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r"."):
            answer.json()
    both = caller.call("GET", "incident", headers={"X-Sandbox-Fault": "result_and_error_200"}).json()
    assert set(both) == {"result", "error", "status"}


def test_dripped_answers_arrive_whole(caller: Caller) -> None:
    caller.switch(slow="50ms")

    assert caller.create(fault="slow_drip").status_code == 201


@pytest.mark.parametrize("fault", ["500_before_commit", "503", "429", "html_200", "truncated_json", "access_denied"])
def test_the_token_endpoint_fails_too(caller: Caller, fault: str) -> None:
    caller.control("POST", "next", {"path": "/oauth_token.do", "fault": fault})

    answer = caller.token()

    if answer.status_code == 200:
        with pytest.raises(ValueError, match=r"."):
            answer.json()
    assert caller.token().json()["access_token"]


def test_an_expired_token_is_dead_for_good(caller: Caller) -> None:
    assert caller.create(fault="token_expired").status_code == 401
    assert caller.create().status_code == 401
    caller.sign_in()
    assert caller.create().status_code == 201


def test_faults_are_ordered_for_the_next_calls_that_match(caller: Caller) -> None:
    caller.control(
        "POST", "next", {"method": "POST", "path": "/api/now/table/incident", "fault": "500_after_commit", "count": 2}
    )
    caller.control("POST", "next", {"method": "POST", "contains": "poison", "fault": "business_rule", "count": 1})

    assert caller.call("GET", "incident").status_code == 200
    assert [caller.create().status_code for _ in range(3)] == [500, 500, 201]
    assert [caller.create(short_description=title).status_code for title in ("good", "poison", "poison")] == [
        201,
        403,
        201,
    ]


def test_dice_repeat_by_seed(start: Start) -> None:
    def statuses(seed: int) -> list[int]:
        caller = start(seed=seed, faults={"create:500_before_commit": 0.5})
        caller.session.headers["Authorization"] = "Basic " + base64.b64encode(b"svc.poller:sandbox-password").decode()
        return [caller.create().status_code for _ in range(20)]

    first = statuses(1)

    assert set(first) == {201, 500}
    assert statuses(1) == first
    assert statuses(2) != first


def test_retry_after_is_what_the_switch_says(caller: Caller) -> None:
    for value in ("7", "-1", "later"):
        caller.switch(retry_after=value)
        assert caller.create(fault="429").headers["Retry-After"] == value
    caller.switch(retry_after="date")
    assert caller.create(fault="503").headers["Retry-After"].endswith(" GMT")
    caller.switch(retry_after="missing")
    assert "Retry-After" not in caller.create(fault="429").headers


def test_wrong_control_calls_say_why(caller: Caller) -> None:
    for name, content, word in (
        ("faults", {"bogus": 1}, "unknown fault"),
        ("faults", {"stall": 2}, "between 0 and 1"),
        ("next", {"fault": "bogus"}, "unknown fault"),
        ("switch", {"bogus": 1}, "unknown switch"),
        ("switch", {"latency": "soon"}, "not a duration"),
        ("switch", {"sys_id": "maybe"}, "honoured"),
        ("faults", [1], "expected an object"),
    ):
        answer = requests.post(f"{caller.url}/sandbox/{name}", json=content, timeout=10)
        assert answer.status_code == 400
        assert word in answer.json()["error"]
    assert requests.get(f"{caller.url}/sandbox/bogus", timeout=10).status_code == 404


def test_rules_by_content_refuse_one_record_only(caller: Caller) -> None:
    caller.switch(
        refuse=[
            {"field": "short_description", "contains": "poison", "status": 400, "message": "No", "detail": "thanks"}
        ]
    )

    assert caller.create(short_description="poison pill").json()["error"] == {"message": "No", "detail": "thanks"}
    assert caller.create(short_description="fine").status_code == 201


def test_conditions_are_dropped_on_chosen_columns_and_the_ledger_tells(caller: Caller) -> None:
    caller.create(correlation_id="a")
    caller.switch(drop_fields=["correlation_id"])

    assert len(caller.rows("incident", "correlation_id=other")) == 1

    last = caller.control("GET", "ledger")["entries"][-1]
    assert (last["query"], last["dropped"], last["rows"]) == ("correlation_id=other", ["correlation_id=other"], 1)


def test_calls_are_counted(caller: Caller) -> None:
    caller.control("DELETE", "counts")
    caller.create()
    caller.call("GET", "sys_user")

    assert caller.control("GET", "counts") == {"incident POST": 1, "sys_user GET": 1, "total": 2, "most_at_once": 1}


def at_once(count: int, call: Callable[[], int]) -> list[int]:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return statuses


def test_too_many_calls_at_once_get_a_bare_429(caller: Caller) -> None:
    caller.switch(semaphore=2, latency="300ms")
    headers = dict(caller.session.headers)

    statuses = at_once(
        4, lambda: requests.get(caller.url + "/api/now/table/sys_user", headers=headers, timeout=10).status_code
    )

    assert sorted(statuses) == [200, 200, 429, 429]


def test_a_shared_session_queues_and_then_accepts_without_doing(caller: Caller) -> None:
    caller.switch(session_queue=1, insert_delay="300ms")
    headers = {**caller.session.headers, "Cookie": "glide_session_store=ABC"}

    statuses = at_once(
        4,
        lambda: requests.post(caller.url + "/api/now/table/incident", json={}, headers=headers, timeout=10).status_code,
    )

    assert sorted(statuses) == [201, 201, 202, 202]
    assert len(caller.incidents()) == 2


def test_latency_is_slept_side_by_side(caller: Caller) -> None:
    caller.switch(latency="200ms")
    headers = dict(caller.session.headers)
    started = time.monotonic()

    at_once(
        8,
        lambda: requests.post(caller.url + "/api/now/table/incident", json={}, headers=headers, timeout=10).status_code,
    )

    assert 0.2 <= time.monotonic() - started < 1.2


def test_clients_that_abort_leave_no_trace(caller: Caller, capfd: pytest.CaptureFixture[str]) -> None:
    host, port = caller.url.removeprefix("http://").split(":")
    for sent in (
        b"",
        b"POST /api/now/ta",
        b"POST /api/now/table/incident HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        b"\x16\x03\x01 junk\r\n\r\n",
    ):
        for _ in range(5):
            sock = socket.create_connection((host, int(port)))
            sock.sendall(sent)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    assert caller.create().status_code == 201
    assert capfd.readouterr().err == ""


def test_long_request_lines_get_html(caller: Caller) -> None:
    answer = caller.call("GET", "incident?sysparm_query=" + "x" * 20_000)

    assert answer.status_code == 414
    assert answer.headers["Content-Type"] == "text/html"


def test_chunked_bodies_and_gzip(caller: Caller) -> None:
    caller.switch(gzip=True)

    answer = caller.call(
        "POST", "incident", data=iter([b'{"short_', b'description":"x"}']), headers={"Content-Type": "application/json"}
    )

    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.json()["result"]["short_description"] == "x"


def test_idle_connections_are_closed(start: Start) -> None:
    caller = start(idle=0.2)
    host, port = caller.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"GET /sandbox/counts HTTP/1.1\r\n\r\n")
        assert b"Keep-Alive: timeout=0.2" in sock.recv(65536)
        assert sock.recv(65536) == b""


def test_every_fault_has_a_line_of_help() -> None:
    assert all(fault.text and fault.kinds for fault in FAULTS.values())
    assert json.dumps(sorted(FAULTS))
