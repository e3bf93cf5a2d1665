"""
How many pushes a second are taken, each answered only after a durable commit, beside the same server answering a constant.

A daemon process on SQLite (``synchronous=FULL``), a load process on N keep-alive connections with a token of the embedded end
point, small JSON bodies, a key of its own for each. In turn, several times in one run: ``POST /routes/bench/records`` and
``GET /healthz``, which reads nothing and stores nothing; the ratio of the medians is judged. Quotas are set out of reach.

Nothing is delivered meanwhile, since the instance is down: every record waits. With ``--delivering`` a sandbox takes the records
while more are pushed, which competes for the interpreter and the database.

    python benchmarks/push.py [--seconds 4] [--rounds 3] [--connections 32] [--delivering] [--json]
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

#: At least this part of the constant's rate.
RATIO = 0.15

SETTINGS = """
[database]
url = "sqlite:///{folder}/poller.db"
[servicenow]
instance = "{servicenow}"
correlation_prefix = "bench"
[servicenow.auth]
type = "client_credentials"
client_id = "{client_id}"
client_secret = "{client_secret}"
[server]
listen = "127.0.0.1:{port}"
requests_per_minute = 0
[routes.bench]
max_new_per_hour = 0
[routes.bench.push]
key = "id"
[routes.bench.push.fields]
username = "requester"
title = "subject"
description = "body"
[routes.bench.sink]
type = "servicenow"
"""

BODY = '{"id": "@KEY@", "requester": "abel.tuter", "subject": "Disk full on db1", "body": "93 % of /var used, growing"}'


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def instance(folder: Path, delivering: bool) -> Iterator[dict[str, str]]:  # noqa: FBT001  the command line's switch
    """Run a sandbox, or none at all; yield its address and client."""
    if not delivering:
        yield {"servicenow": f"http://127.0.0.1:{free_port()}", "client_id": "poller", "client_secret": "none"}
        return
    command = [sys.executable, "-m", "poller.sandbox", "--state", str(folder / "sandbox.state"), "--tickets", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def daemon(folder: Path, port: int, where: dict[str, str]) -> Iterator[str]:
    """Run the daemon; yield a token of its own end point."""
    settings = folder / "settings.toml"
    settings.write_text(SETTINGS.format(folder=folder, port=port, **where), encoding="utf-8")
    settings.chmod(0o600)
    poller = [sys.executable, "-m", "poller"]
    add = [
        *poller,
        "client",
        "add",
        "load",
        "--scope",
        "records:write",
        "--write",
        "--json",
        "--settings",
        str(settings),
    ]
    made = json.loads(subprocess.run(add, check=True, capture_output=True, text=True).stdout)
    text = settings.read_text("utf-8")
    settings.write_text(text.replace("[server.clients.load]", "[server.clients.load]\nrequests_per_minute = 100000000"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*poller, "run", "--settings", str(settings)], stdout=log)
    try:
        yield token(port, "load", made["client_secret"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def token(port: int, client: str, secret: str) -> str:
    """Return a token, as soon as there is anybody to give one."""
    form = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/oauth/token", urllib.parse.urlencode(form).encode(), timeout=10
            ) as answer:
                return str(json.load(answer)["access_token"])
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def load(port: int, connections: int, seconds: float, request: dict[str, str], prefix: str) -> dict[str, Any]:
    """Return what one load came to; anything but 2xx ends the run."""
    job = {"port": port, "connections": connections, "seconds": seconds, "prefix": prefix, "requests": [request]}
    command = [sys.executable, str(Path(__file__).with_name("load.py"))]
    done = subprocess.run(command, input=json.dumps(job), check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if others := {name: count for name, count in found["statuses"].items() if not name.split()[1].startswith("2")}:
        raise SystemExit(f"not every request was taken: {others}")
    return {
        "per_second": found["good"] / found["seconds"],
        "p50": found["p50"],
        "p99": found["p99"],
        "n": found["good"],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return both rates, taken in turn."""
    port = free_port()
    rounds: dict[str, list[dict[str, Any]]] = {"constant": [], "push": []}
    with (
        tempfile.TemporaryDirectory() as name,
        instance(Path(name), arguments.delivering) as where,
        daemon(Path(name), port, where) as bearer,
    ):
        common = f"Host: 127.0.0.1\r\nAuthorization: Bearer {bearer}\r\n"
        push = f"POST /routes/bench/records HTTP/1.1\r\n{common}Content-Type: application/json\r\n"
        requests = {
            "constant": {"name": "constant", "head": f"GET /healthz HTTP/1.1\r\n{common}", "body": ""},
            "push": {"name": "push", "head": push, "body": BODY},
        }
        for request in requests.values():
            load(port, arguments.connections, 1.0, request, "warm-")
        for number in range(arguments.rounds):
            for kind, request in requests.items():
                found = load(port, arguments.connections, arguments.seconds, request, f"r{number}-")
                rounds[kind].append(found)
        lines = [json.loads(line) for line in (Path(name) / "log").read_text("utf-8").splitlines()]
    pushed = [line for line in lines if line["event"] == "records_pushed"]
    found = {kind: {part: median(one[part] for one in many) for part in many[0]} for kind, many in rounds.items()}
    requests_pushed, kept = sum(line["requests"] for line in pushed), sum(line["new"] for line in pushed)
    if kept < sum(one["n"] for one in rounds["push"]):
        raise SystemExit(f"only {kept} records are told of")
    return {
        "connections": arguments.connections,
        "delivering": arguments.delivering,
        "delivered": sum(line["event"] == "record_delivered" for line in lines),
        **found,
        "pushes_per_commit": requests_pushed / len(pushed),
        "ratio": found["push"]["per_second"] / found["constant"]["per_second"],
        "ratios": [p["per_second"] / c["per_second"] for p, c in zip(rounds["push"], rounds["constant"], strict=True)],
    }


def main() -> int:
    """Measure, print, and return 1 where the bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--delivering", action="store_true", help="a sandbox takes the records meanwhile")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    found = measure(arguments)
    kept = found["ratio"] >= RATIO
    if arguments.json:
        print(json.dumps({**found, "kept": kept}, indent=2))
        return 0 if kept else 1
    for kind in ("constant", "push"):
        each = found[kind]
        print(
            f"{kind:8} {each['per_second']:7.0f}/s  p50 {1000 * each['p50']:6.1f} ms  p99 {1000 * each['p99']:6.1f} ms"
        )
    each_round = ", ".join(f"{one:.3f}" for one in found["ratios"])
    print(f"ratio    {found['ratio']:7.3f} (at least {RATIO}); each round {each_round}")
    state = (
        f"{found['delivered']} delivered meanwhile" if found["delivering"] else "the sink is down, nothing is delivered"
    )
    print(f"{found['connections']} connections, {found['pushes_per_commit']:.1f} pushes a commit; {state}")
    return 0 if kept else 1


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        raise SystemExit(main())
