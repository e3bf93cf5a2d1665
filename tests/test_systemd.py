"""systemd's protocol, on a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from poller.systemd import notify, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Stand in for systemd: a listening socket and the name it has in NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@poller-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1))
        listening.settimeout(5)
        yield listening, name


def test_a_message_arrives_as_one_datagram(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager

    assert notify("READY=1", "STATUS=3 routes – grün", environ={"NOTIFY_SOCKET": name})

    assert listening.recv(4096).decode() == "READY=1\nSTATUS=3 routes – grün"


def test_a_newline_in_a_status_does_not_become_an_assignment(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager

    assert notify("STATUS=blocked:\nMAINPID=1", environ={"NOTIFY_SOCKET": name})

    assert listening.recv(4096) == b"STATUS=blocked: MAINPID=1"


@pytest.mark.parametrize(
    "environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}]
)
def test_without_a_listener_nothing_is_sent_and_nothing_raised(environ: dict[str, str]) -> None:
    assert not notify("READY=1", environ=environ)


def test_a_listener_that_reads_nothing_does_not_block(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name)

        sent = [notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": name}) for _ in range(1000)]

    assert sent[0]
    assert not sent[-1]


def test_the_watchdog_interval_is_read() -> None:
    assert watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == timedelta(seconds=30)
    assert watchdog_interval({"WATCHDOG_USEC": "1500000"}) == timedelta(seconds=1.5)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "me"},
    ],
)
def test_a_watchdog_that_is_off_or_meant_for_another_process_is_none(environ: dict[str, str]) -> None:
    assert watchdog_interval(environ) is None
