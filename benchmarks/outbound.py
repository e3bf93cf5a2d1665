"""
How fast messages go out: the real daemon beside bare clients that do the same sends with receipts, in the same run.

Rows of a SQLite table go out as XML by the sinks ``http`` and ``activemq``; the pace is counted from the first to the
last confirmation. The bare clients send the same bytes from as many threads, each waiting for its answer before the next:
``requests.Session().post`` to the same receiver, stomp-py with persistent messages and receipts to the same broker. They store
nothing, so a crash of theirs loses all; the daemon writes each intent and each outcome to its database and flushes it.

Judge by the ratio, daemon to bare, the middle one of nine rounds: both sides suffer from a slow or busy machine. It is to be
at least 0.5 for each. ActiveMQ is left out, loudly, where Debian's is not installed.

    python benchmarks/outbound.py [--records 2000] [--workers 8] [--rounds 9] [--json]
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import requests
import stomp  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
# The broker is the tests'; nothing of them is needed otherwise.
sys.path.insert(0, str(ROOT))

from tests import activemq  # noqa: E402

#: At least this part of the bare client's rate.
RATIO = 0.5
#: Seconds that the daemon may take for a round.
LONGEST = 300

#: Sends one body, and returns when it is confirmed.
Send = Callable[[int, bytes], None]
#: Opens a connection: how to send over it, how to close it.
Opened = Callable[[], tuple[Send, Callable[[], None]]]
Result = dict[str, float]

RECEIVER = """
import asyncio
class Receiver(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.data[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\\r\\n")[0])
            if len(self.data) < end + 4 + length:
                return
            self.data = self.data[end + 4 + length:]
            self.transport.write(b"HTTP/1.1 202 Accepted\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
async def main():
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

SETTINGS = """
[database]
url = "sqlite:///{folder}/poller.db"
[servicenow]
instance = "http://127.0.0.1:9"
correlation_prefix = "bench"
[servicenow.auth]
type = "none"
[routes.bench]
every = "1h"
first_run = "all"
max_new_per_hour = 0
[routes.bench.source]
type = "sql"
url = "sqlite:///{folder}/source.db"
query = "SELECT id, title, body FROM incidents"
key = "id"
[routes.bench.source.fields]
title = "title"
body = "body"
[routes.bench.sink]
{sink}
concurrency = {workers}
format = "xml"
root = "Incident"
[routes.bench.sink.fields]
"@number" = "{{{{ key }}}}"
Title = "{{{{ title }}}}"
Body = "{{{{ body }}}}"
"""

BODY = """<?xml version="1.0" encoding="UTF-8"?>
<Incident number="{number}"><Title>{title}</Title><Body>{body}</Body></Incident>
"""


def texts(number: int) -> tuple[str, str]:
    """Return title and body of an incident."""
    return f"Incident {number}", f"What happened to {number}. " * 40


def send_all(records: int, workers: int, opened: Opened) -> float:
    """Send from *workers* threads, each with what *opened* gives it; return sends a second."""
    rest, lock = iter(range(records)), threading.Lock()
    done: list[float] = []

    def work() -> None:
        send, close = opened()
        while True:
            with lock:
                number = next(rest, None)
            if number is None:
                break
            title, body = texts(number)
            send(number, BODY.format(number=number, title=title, body=body).encode())
            done.append(time.monotonic())
        close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if len(done) != records:
        raise SystemExit(f"bare: only {len(done)} of {records} sent")
    return (records - 1) / (max(done) - min(done))


def run_daemon(sink: str, records: int, workers: int) -> float:
    """Let the daemon send; return sends a second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with sqlite3.connect(folder / "source.db") as source:
            source.execute("CREATE TABLE incidents (id INTEGER PRIMARY KEY, title TEXT, body TEXT)")
            rows = [(number, *texts(number)) for number in range(records)]
            source.executemany("INSERT INTO incidents VALUES (?, ?, ?)", rows)
        source.close()
        settings = folder / "settings.toml"
        settings.write_text(SETTINGS.format(folder=folder, sink=sink, workers=workers), "utf-8")
        settings.chmod(0o600)
        told = _log_of_a_run(folder, settings, records)
    times = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in told]
    return (records - 1) / (max(times) - min(times))


def _log_of_a_run(folder: Path, settings: Path, records: int) -> list[dict[str, str]]:
    """Return the lines of all deliveries."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "poller", "run", "--settings", str(settings)], stdout=output, cwd=ROOT
        )
    try:
        until = time.monotonic() + LONGEST
        while log.read_bytes().count(b'"record_delivered"') < records and time.monotonic() < until:
            if process.poll() is not None:
                break
            time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    told = [line for line in lines if line["event"] == "record_delivered"]
    if len(told) != records:
        raise SystemExit(f"daemon: only {len(told)} of {records} delivered\n{log.read_text('utf-8')[-2000:]}")
    return told


@contextmanager
def receiver() -> Iterator[str]:
    """Run an HTTP receiver that accepts everything, in a process of its own; yield its address."""
    with subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/incidents"
        finally:
            process.kill()


def rounds(sink: str, opened: Opened, *, records: int, workers: int, count: int) -> Result:
    """Let daemon and bare client send in turn, so that a machine that slows down does so for both; the middle ratio counts."""
    send_all(200, workers, opened)
    found = [(run_daemon(sink, records, workers), send_all(records, workers, opened)) for _ in range(count)]
    daemon, bare = sorted(found, key=lambda pair: pair[0] / pair[1])[count // 2]
    return {"daemon_per_second": round(daemon, 1), "bare_per_second": round(bare, 1), "ratio": round(daemon / bare, 3)}


def measure_http(**how: int) -> Result:
    """Send to an HTTP receiver."""
    with receiver() as url:

        def opened() -> tuple[Send, Callable[[], None]]:
            session = requests.Session()
            session.trust_env = False

            def send(number: int, body: bytes) -> None:
                headers = {"Content-Type": "application/xml; charset=utf-8", "Idempotency-Key": str(number)}
                session.post(url, data=body, headers=headers, timeout=60).raise_for_status()

            return send, session.close

        return rounds(f'type = "http"\nurl = "{url}"', opened, **how)


class Receipts(stomp.ConnectionListener):  # type: ignore[misc]  # it has no types
    """Waits for receipts, as stomp-py leaves to its user."""

    def __init__(self) -> None:
        self._came = threading.Semaphore(0)

    def on_receipt(self, frame: object) -> None:
        """Be called by stomp-py."""
        self._came.release()

    def wait(self) -> None:
        """Return when there is one more."""
        if not self._came.acquire(timeout=60):
            raise SystemExit("bare: no receipt")


def measure_activemq(**how: int) -> Result:
    """Send to ActiveMQ: persistent messages, each with a receipt."""
    with activemq.broker() as broker:

        def opened() -> tuple[Send, Callable[[], None]]:
            connection = stomp.Connection12([("127.0.0.1", broker.port)], auto_content_length=False)
            receipts = Receipts()
            connection.set_listener("receipts", receipts)
            connection.connect(activemq.USER, activemq.PASSWORD, wait=True)

            def send(number: int, body: bytes) -> None:
                headers = {"persistent": "true", "receipt": str(number), "x-message-id": str(number)}
                connection.send("/queue/bare", body, content_type="application/xml", headers=headers)
                receipts.wait()

            return send, connection.disconnect

        account = f'username = "{activemq.USER}"\npassword = "{activemq.PASSWORD}"'
        sink = f'type = "activemq"\nurl = "{broker.url}"\ndestination = "/queue/daemon"\n{account}'
        return rounds(sink, opened, **how)


def main() -> None:
    """Measure, print, and exit with 1 where a ratio is too small."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=2000, help="each side sends so many a round")
    options.add_argument("--workers", type=int, default=8, help="connections, with one message on its way each")
    options.add_argument("--rounds", type=int, default=9, help="of which the middle ratio counts")
    options.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = options.parse_args()
    how = {"records": given.records, "workers": given.workers, "count": given.rounds}
    results = {"http": measure_http(**how)}
    if activemq.JAR.is_file():
        results["activemq"] = measure_activemq(**how)
    else:
        sys.stderr.write("ActiveMQ is not installed, so that half is NOT measured: apt-get install activemq\n")
    low = [name for name, found in results.items() if found["ratio"] < RATIO]
    if given.json:
        print(json.dumps({**how, "least_ratio": RATIO, "results": results}))
    else:
        for name, found in results.items():
            daemon, bare = found["daemon_per_second"], found["bare_per_second"]
            print(f"{name:9} daemon {daemon:7.1f}/s   bare {bare:7.1f}/s   ratio {found['ratio']:.2f}")
    if low:
        raise SystemExit(f"below {RATIO:g} of the bare client's rate: {', '.join(low)}")


if __name__ == "__main__":
    main()
