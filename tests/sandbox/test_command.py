"""The sandbox as a process: start, restart, TLS, wrong arguments."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from poller.sandbox import Options, Sandbox, StateError
from poller.sandbox.options import seconds
from tests.sandbox.conftest import Caller

COMMAND = [sys.executable, "-m", "poller.sandbox"]


@contextlib.contextmanager
def running(*arguments: object, end: signal.Signals = signal.SIGTERM, code: int = 0) -> Iterator[dict[str, Any]]:
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(end)
            rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (code, "", "")


def create(url: str, **fields: str) -> dict[str, Any]:
    answer = requests.post(
        url + "/api/now/table/incident",
        json=fields,
        auth=("svc.poller", "sandbox-password"),
        timeout=10,
        allow_redirects=False,
    )
    assert answer.status_code == 201
    return dict(answer.json()["result"])


def get(url: str) -> Any:
    return requests.get(url, timeout=10).json()


def test_it_prints_one_line_and_ends_on_a_signal() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with running("--tickets", 2, end=number) as told:
            assert set(told) == {"servicenow", "helpdesk", "client_id", "client_secret"}
            assert len(get(told["helpdesk"] + "/api/tickets")["tickets"]) == 2


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_everything_survives_a_restart(tmp_path: Path, end: signal.Signals, code: int) -> None:
    state = tmp_path / "state"
    with running("--state", state, "--users", 3, end=end, code=code) as told:
        first = create(told["servicenow"], correlation_id="k:1")
        token = requests.post(
            told["servicenow"] + "/oauth_token.do",
            data={
                "grant_type": "client_credentials",
                "client_id": told["client_id"],
                "client_secret": told["client_secret"],
            },
            timeout=10,
        ).json()["access_token"]
        requests.post(told["helpdesk"] + "/sandbox/tickets", json={"subject": "new"}, timeout=10)
        ledger = get(told["servicenow"] + "/sandbox/ledger")["entries"]
    with state.open("ab") as file:
        file.write(b'["row",["incident",{"torn')

    with running("--state", state) as told:
        headers = {"Authorization": f"Bearer {token}"}
        rows = requests.get(told["servicenow"] + "/api/now/table/incident", headers=headers, timeout=10).json()[
            "result"
        ]
        assert [row["sys_id"] for row in rows] == [first["sys_id"]]
        assert create(told["servicenow"])["number"] == "INC0010002"
        assert len(get(told["helpdesk"] + "/api/tickets")["tickets"]) == 7
        assert get(told["servicenow"] + "/sandbox/ledger")["entries"][: len(ledger)] == ledger
        assert "user0003" in {user["user_name"] for user in get(told["servicenow"] + "/sandbox/users")["users"]}


def test_the_ledger_is_also_a_file(tmp_path: Path) -> None:
    with running("--ledger", tmp_path / "ledger") as told:
        create(told["servicenow"], correlation_id="k:1")

    (entry,) = map(json.loads, (tmp_path / "ledger").read_text().splitlines())
    assert (entry["correlation_id"], entry["committed"]) == ("k:1", True)


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = Options(certificate=str(tmp_path / "certificate.pem"), key=str(tmp_path / "key.pem"))

    with Sandbox(options) as sandbox:
        caller = Caller(sandbox, verify=str(tmp_path / "ca.pem"))
        caller.sign_in()
        assert caller.url.startswith("https://")
        assert caller.create().headers["Location"].startswith(caller.url)
        with pytest.raises(requests.ConnectionError):
            caller.create(fault="lost_answer")
        assert len(caller.incidents()) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--latency", "soon"], "not a duration"),
        (["--fault", "bogus=1"], "unknown fault"),
        (["--fault", "token:late_commit=1"], "unknown fault"),
        (["--fault", "stall=2"], "between 0 and 1"),
        (["--fault", "stall=0.9", "--fault", "503=0.9"], "more than 1"),
        (["--port", "70000"], "65535"),
        (["--sys-id", "maybe"], "--sys-id"),
        (["--key", "k.pem"], "go together"),
        (["--bogus"], "--bogus"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments: list[str], word: str) -> None:
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=20)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert word in ended.stderr


def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments in (["--port", str(taken.getsockname()[1])], ["--state", str(tmp_path)]):
            ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=20)
            assert (ended.returncode, ended.stdout) == (1, "")
            assert ended.stderr.count("\n") == 1


def test_a_state_is_one_sandboxes_own(tmp_path: Path) -> None:
    options = Options(state=str(tmp_path / "state"))
    with Sandbox(options), pytest.raises(StateError, match="in use"):
        Sandbox(options)
    (tmp_path / "other").write_text("not a state\n")
    with pytest.raises(StateError, match="bad line"):
        Sandbox(Options(state=str(tmp_path / "other")))


def test_help_names_faults_and_endpoints() -> None:
    text = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout

    assert all(word in text for word in ("lost_answer", "/sandbox/ledger", "/api/tickets/cursor", "--invalid-query"))


@pytest.mark.parametrize(
    ("command", "name"),
    [(COMMAND, "python -m poller.sandbox"), ([sys.executable, "-m", "poller", "sandbox"], "poller sandbox")],
)
def test_usage_and_errors_name_what_was_started(command: list[str], name: str) -> None:
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout
    wrong = subprocess.run([*command, "--bogus"], capture_output=True, text=True, check=False, timeout=20)

    assert told.startswith(f"usage: {name} [")
    assert "curl -u svc.poller:sandbox-password http://HOST:PORT/api/now/table/sys_user_group\n" in told
    assert wrong.stderr.startswith(f"{name}: ")


def test_durations_are_read_as_written() -> None:
    assert [seconds(text) for text in ("150ms", "10s", "30m", "1h", "2", 0.5)] == [0.15, 10, 1800, 3600, 2, 0.5]
