"""The daemon and its commands beside a real ActiveMQ: settings that are read again, a blocked broker, faulty set-ups."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.activemq import PASSWORD, USER, Broker, broker, free_port, put, require, taken
from tests.clients.stomp_stub import CONNECTED, Deaf, Frame, kind, stub
from tests.scenarios.world import ROOT, Process, wait_for

pytestmark = pytest.mark.activemq

SETTINGS = """
[database]
url = "sqlite:///poller.db"

[routes.out]
every = "200ms"
first_run = "all"

[routes.out.source]
type = "directory"
path = "inbox"
format = "json"
key = "id"
settle = "0s"

[routes.out.source.fields]
title = "title"

[routes.out.sink]
type = "activemq"
url = "{url}"
destination = "{queue}"
username = "{user}"
password = {{ file = "broker-password" }}
receipt_timeout = "{receipt}"

[routes.out.sink.fields]
title = "{{{{ title }}}}"

[retry]
base = "100ms"
cap = "1s"
"""
TAKING = """
[database]
url = "sqlite:///poller.db"

[routes.in]
every = "200ms"
first_run = "all"

[routes.in.source]
type = "activemq"
url = "{url}"
destination = "{queue}"
username = "{user}"
password = {{ file = "broker-password" }}
receipt_timeout = "{receipt}"

[routes.in.source.fields]
title = "title"

[routes.in.sink]
type = "directory"
path = "outbox"
"""


@pytest.fixture(scope="module")
def mq() -> Iterator[Broker]:
    require()
    with broker() as made:
        yield made


class House:
    """A folder with settings, an inbox and a daemon."""

    def __init__(self, folder: Path, url: str, queue: str) -> None:
        self.folder = folder
        self.queue = queue
        self.url = url
        self.daemon: Process | None = None
        for name in ("inbox", "outbox"):
            (folder / name).mkdir()
        self.write()

    def write(self, text: str = SETTINGS, *, user: str = USER, password: str = PASSWORD, receipt: str = "5s") -> None:
        (self.folder / "broker-password").write_text(password)
        (self.folder / "broker-password").chmod(0o600)
        settings = self.folder / "settings.toml"
        settings.write_text(text.format(url=self.url, queue=self.queue, user=user, receipt=receipt))
        settings.chmod(0o600)

    def start(self) -> Process:
        self.daemon = Process(
            [sys.executable, "-m", "poller", "run", "--settings", str(self.folder / "settings.toml")],
            self.folder / "daemon.out", cwd=ROOT, environment=None,
        )  # fmt: skip
        self.until("service_ready", 1)
        return self.daemon

    def drop(self, number: int) -> None:
        beside = self.folder / "new"
        beside.write_text(json.dumps([{"id": str(number), "title": f"fire {number}"}]))
        beside.rename(self.folder / "inbox" / f"{number}.json")

    def said(self, event: str) -> int:
        assert self.daemon
        return self.daemon.text().count(f'"{event}"')

    def until(self, event: str, count: int) -> None:
        wait_for(lambda: self.said(event) >= count, f"{count} times {event}")

    def check(self, *command: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, *(command or ("-m", "poller", "check")), "--settings", str(self.folder / "settings.toml")],
            capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        )  # fmt: skip
        assert "Traceback" not in ended.stdout + ended.stderr
        return ended


@pytest.fixture
def house(tmp_path: Path, mq: Broker) -> Iterator[House]:
    made = House(tmp_path, mq.url, mq.queue())
    yield made
    if made.daemon is not None and made.daemon.ended is None:
        made.daemon.kill()


def connections(pid: int, port: int) -> int:
    """Return how many connections a process has to a port of this machine."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(each.readlink()))
        except FileNotFoundError:
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in inodes for row in rows)


def test_settings_that_are_read_again_leave_no_connection_and_no_thread_behind(house: House, mq: Broker) -> None:
    daemon = house.start()
    house.drop(0)
    house.until("record_delivered", 1)
    threads = len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))
    for number in range(1, 9):
        daemon.send(signal.SIGHUP)
        house.until("settings_reloaded", number)
        house.drop(number)
        house.until("record_delivered", number + 1)

    # The last routes have one connection, which has a reader and a heart.
    wait_for(lambda: connections(daemon.pid, mq.port) == 1, "one connection")
    # And a worker for each of the four messages that may be on their way.
    wait_for(lambda: len(list(Path(f"/proc/{daemon.pid}/task").iterdir())) <= threads + 4, "no more threads")
    assert sorted(frame.headers["poller-key"] for frame in taken(mq, house.queue)) == [str(n) for n in range(9)]
    assert daemon.terminate() == 0
    assert daemon.errors() == ""


def test_f69_a_broker_that_takes_nothing_holds_up_neither_polls_nor_memory(tmp_path: Path) -> None:
    def deaf(frame: Frame) -> bytes:
        if frame.command == "CONNECT":
            return CONNECTED
        raise Deaf

    with stub(deaf) as broker:
        house = House(tmp_path, broker.url, "/queue/q")
        house.write(receipt="1s")
        daemon = house.start()
        try:
            house.drop(0)
            house.until("record_unknown", 1)
            memory, polls = _memory(daemon.pid), house.said("poll_finished")
            for number in range(1, 200):
                house.drop(number)
            house.until("poll_finished", polls + 20)
            wait_for(lambda: not list((tmp_path / "inbox").glob("*.json")), "all files to be taken")
            # The broker as a whole is waited for: what waits lies in the database.
            grown = _memory(daemon.pid) - memory
            broker.answer = kind
            house.until("record_delivered", 200)
        finally:
            daemon.kill()
    assert grown < 10_000_000
    assert len({frame.headers["x-message-id"] for frame in broker.sent}) == 200
    assert len({frame.raw.partition(b"\n\n")[2] for frame in broker.sent}) == 200


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """What is wrong, and what `poller check` says of it: the cause, the remedy."""

    settings: str
    user: str = USER
    password: str = PASSWORD
    down: bool = False
    says: tuple[str, str]


FAULTY = {
    f"{what}-{edge}": Faulty(settings=text, says=(cause, remedy), **more)
    for edge, text, place in (("sink", SETTINGS, "routes.out.sink"), ("source", TAKING, "routes.in.source"))
    for what, more, cause, remedy in (
        ("down", {"down": True}, "no connection: connection refused", f"see {place}"),
        ("wrong-password", {"password": "not-this-one"}, "refuses us; check username, password", f"see {place}"),
        (
            "no-rights",
            {"user": "reader"},
            "refuses us; check username, password, and the user's rights",
            f"see {place}",
        ),
    )
}


@pytest.mark.parametrize("faulty", FAULTY.values(), ids=FAULTY)
def test_check_names_what_is_wrong_with_a_broker_and_what_to_do(faulty: Faulty, mq: Broker, tmp_path: Path) -> None:
    house = House(tmp_path, f"stomp://127.0.0.1:{free_port()}" if faulty.down else mq.url, mq.queue())
    house.write(faulty.settings, user=faulty.user, password=faulty.password)

    ended = house.check()

    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert [line for line in said.splitlines() if all(words in line for words in faulty.says)], said
    assert faulty.password not in said


@pytest.mark.parametrize("settings", [SETTINGS, TAKING], ids=["sink", "source"])
def test_check_finds_a_broker_that_is_well_and_sends_and_takes_nothing(house: House, mq: Broker, settings: str) -> None:
    put(mq, house.queue, b'{"title": "one"}')
    house.write(settings)

    ended = house.check()

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [frame.body for frame in taken(mq, house.queue)] == [b'{"title": "one"}']


@pytest.mark.parametrize("settings", [SETTINGS, TAKING], ids=["sink", "source"])
@pytest.mark.parametrize("command", ["check", "run", "once"])
def test_without_stomp_py_nothing_starts_and_what_to_install_is_said(
    tmp_path: Path, command: str, settings: str
) -> None:
    house = House(tmp_path, "stomp://127.0.0.1:1", "/queue/q")
    house.write(settings)
    missing = "import sys; sys.modules['stomp'] = None; from poller.cli import main; sys.exit(main())"

    ended = house.check("-c", missing, command)

    assert ended.returncode == 78, ended.stdout + ended.stderr
    assert 'pip install "incident-poller[activemq]"' in ended.stderr
    assert ".url: " in ended.stderr
