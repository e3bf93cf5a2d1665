"""
How fast and how dear: the real daemon against the sandbox, beside bare requests in the same run.

Two parts, each with a daemon process of its own:

1. The instance answers after 150 ms and lets 16 requests in at a time: records a second against the ideal of 16 / 0.15 s,
   and ServiceNow calls a record (all of them: token, users, look-ups).
2. The instance answers at once: CPU (user + system, start included) of the daemon a record, beside that of one keep-alive
   ``requests.Session().post`` of the same body, the interpreter's start not counted there; and the daemon's peak memory.

Judge by the ratios: they are taken in one run, so that a slow or busy machine slows both sides.

    python benchmarks/throughput.py [--records-latency 1000] [--records-cpu 5000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LATENCY, WORKERS = 0.15, 16
#: At least this part of the ideal rate, at most so many calls a record, at most so much CPU beside bare requests.
RATE, CALLS, CPU = 0.90, 1.1, 2.0

BASELINE = """
import json, sys, time
import requests
url, token, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
body = json.loads(sys.argv[4])
session = requests.Session()
headers = {"Authorization": "Bearer " + token, "Accept": "application/json"}
start = time.process_time()
for n in range(count):
    body["correlation_id"] = f"baseline:{n}"
    session.post(url + "/api/now/table/incident", json=body, headers=headers).json()["result"]["sys_id"]
print(time.process_time() - start)
"""

SETTINGS = """
[database]
url = "sqlite:///{folder}/poller.db"
[servicenow]
instance = "{servicenow}"
correlation_prefix = "bench"
concurrency = {workers}
[servicenow.auth]
type = "client_credentials"
client_id = "{client_id}"
client_secret = "{client_secret}"
[routes.bench]
every = "1h"
first_run = "all"
max_new_per_hour = 0
[routes.bench.source]
type = "http"
url = "{helpdesk}/api/tickets"
records = "tickets"
key = "id"
version = "updated_at"
[routes.bench.source.fields]
username = "requester.login"
title = "subject"
description = "body"
[routes.bench.sink]
type = "servicenow"
"""


def ask(url: str, data: bytes | None = None) -> Any:  # noqa: ANN401  JSON
    """Return what the sandbox says."""
    with urllib.request.urlopen(url, data, timeout=60) as answer:
        return json.load(answer)


@contextmanager
def sandbox(folder: Path, *options: str) -> Iterator[dict[str, str]]:
    """Run a sandbox in a process of its own; yield its addresses."""
    command = [sys.executable, "-m", "poller.sandbox", "--state", str(folder / "sandbox.state"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)


def run_daemon(folder: Path, where: dict[str, str], records: int) -> Any:  # noqa: ANN401  a resource usage
    """Run the daemon until *records* incidents are there; return its resource usage."""
    settings = folder / "settings.toml"
    settings.write_text(SETTINGS.format(folder=folder, workers=WORKERS, **where), encoding="utf-8")
    settings.chmod(0o600)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "poller", "run", "--settings", str(settings)], stdout=log)
    deadline = time.monotonic() + 300
    delivered = 0
    while delivered < records and time.monotonic() < deadline:
        time.sleep(0.5)
        delivered = (folder / "log").read_bytes().count(b'"record_delivered"')
    process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if delivered < records or process.returncode != 0:
        raise SystemExit(f"only {delivered} of {records} delivered, exit code {process.returncode}; see the log")
    return usage


def measure_rate(records: int) -> dict[str, float]:
    """Part 1."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with sandbox(folder, "--tickets", str(records), "--latency", f"{int(LATENCY * 1000)}ms") as where:
            run_daemon(folder, where, records)
            creates = [e for e in ask(where["servicenow"] + "/sandbox/ledger")["entries"] if e.get("committed")]
            counts = ask(where["servicenow"] + "/sandbox/counts")
    assert len(creates) == records
    seconds = max(e["answered"] for e in creates) - min(e["time"] for e in creates)
    ideal = WORKERS / LATENCY
    return {
        "records": records,
        "seconds": seconds,
        "per_second": records / seconds,
        "ideal_per_second": ideal,
        "of_ideal": records / seconds / ideal,
        "calls_per_record": counts["total"] / records,
    }


def measure_cpu(records: int) -> dict[str, float]:
    """Part 2."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with sandbox(folder, "--tickets", str(records)) as where:
            usage = run_daemon(folder, where, records)
            rows = ask(where["servicenow"] + "/sandbox/incidents")
    row = (rows if isinstance(rows, list) else rows["incidents"])[0]
    body = {
        k: row[k] for k in ("caller_id", "short_description", "description", "correlation_id", "correlation_display")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with sandbox(folder) as where:
            form = (
                f"grant_type=client_credentials&client_id={where['client_id']}&client_secret={where['client_secret']}"
            )
            token = ask(where["servicenow"] + "/oauth_token.do", form.encode())["access_token"]
            command = [sys.executable, "-c", BASELINE, where["servicenow"], token, str(records), json.dumps(body)]
            bare = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    daemon = usage.ru_utime + usage.ru_stime
    return {
        "records": records,
        "daemon_cpu_ms_per_record": 1000 * daemon / records,
        "bare_cpu_ms_per_record": 1000 * bare / records,
        "ratio": daemon / bare,
        "peak_rss_mb": usage.ru_maxrss / 1024,
    }


def main() -> int:
    """Measure, print, and return 1 where a bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records-latency", type=int, default=1000)
    parser.add_argument("--records-cpu", type=int, default=5000)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    rate = measure_rate(arguments.records_latency)
    cpu = measure_cpu(arguments.records_cpu)
    kept = rate["of_ideal"] >= RATE and rate["calls_per_record"] <= CALLS and cpu["ratio"] <= CPU
    if arguments.json:
        print(json.dumps({"latency": rate, "cpu": cpu, "kept": kept}, indent=2))
        return 0 if kept else 1
    print(
        f"150 ms, {WORKERS} workers, {rate['records']} records: {rate['per_second']:.1f}/s, {rate['of_ideal']:.3f} of the ideal"
    )
    print(
        f"  {rate['ideal_per_second']:.1f}/s (at least {RATE}); {rate['calls_per_record']:.3f} calls a record (at most {CALLS})"
    )
    print(
        f"0 ms, {cpu['records']} records: {cpu['daemon_cpu_ms_per_record']:.3f} ms CPU a record, start included; bare requests"
    )
    print(
        f"  {cpu['bare_cpu_ms_per_record']:.3f} ms; ratio {cpu['ratio']:.2f} (at most {CPU}); peak RSS {cpu['peak_rss_mb']:.0f} MB"
    )
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
