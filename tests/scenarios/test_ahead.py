"""Sends that are claimed ahead of free connections: never more in flight than allowed, none begun after a stop."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.scenarios.world import ROOT, Process, wait_for
from tests.test_service import Manager

RECORDS, CONNECTIONS, AHEAD = 240, 3, 48
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
type = "http"
url = "{url}"
concurrency = 3
"""


class Receiver(ThreadingHTTPServer):
    """Holds each request until it is let go."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.open = threading.Event()
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.came: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        title = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["title"]
        with self.server.lock:
            self.server.came[title] += 1
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        self.server.open.wait(60)
        with self.server.lock:
            self.server.now -= 1
        self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.open.set()
        made.shutdown()


def states(folder: Path) -> Counter[str]:
    database = sqlite3.connect(folder / "poller.db")
    try:
        return Counter(state for (state,) in database.execute("SELECT state FROM deliveries"))
    except sqlite3.OperationalError:  # not made yet, or just being written
        return Counter()
    finally:
        database.close()


def daemon(folder: Path, **environment: str) -> Process:
    command = [sys.executable, "-m", "poller", "run", "--settings", str(folder / "settings.toml")]
    return Process(command, folder / "daemon.out", cwd=ROOT, environment={**os.environ, **environment})


def test_f63_what_is_claimed_ahead_waits_for_a_connection_and_is_not_begun_after_a_stop(
    receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "inbox").mkdir()
    tickets = [{"id": str(number), "title": f"t{number}"} for number in range(RECORDS)]
    (tmp_path / "inbox" / "all.json").write_text(json.dumps(tickets))
    url = f"http://127.0.0.1:{receiver.server_address[1]}/in"
    (tmp_path / "settings.toml").write_text(SETTINGS.format(url=url))
    manager = Manager(tmp_path / "notify")
    one = daemon(tmp_path, NOTIFY_SOCKET=str(manager.path))
    try:
        wait_for(lambda: states(tmp_path)["sending"] == AHEAD * CONNECTIONS, "the lane to fill")
        wait_for(lambda: receiver.now == CONNECTIONS, "all connections to be used")
        one.send(signal.SIGTERM)
        wait_for(lambda: manager.times("STOPPING=1"), "word of its end")
        receiver.open.set()
        assert one.wait() == 0
    finally:
        one.kill()
        manager.close()
    begun = sum(receiver.came.values())
    assert begun < AHEAD * CONNECTIONS
    assert states(tmp_path)["delivered"] == begun
    assert states(tmp_path)["sending"] == states(tmp_path)["unknown"] == 0

    another = daemon(tmp_path)
    try:
        wait_for(lambda: states(tmp_path)["delivered"] == RECORDS, "all of them")
    finally:
        another.kill()
    assert receiver.most == CONNECTIONS
    assert receiver.came == Counter({f"t{number}": 1 for number in range(RECORDS)})
