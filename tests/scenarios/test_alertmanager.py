"""
Prometheus Alertmanager from Debian, alerts posted with its own amtool: a source that nobody here wrote.

The settings are those of docs/recipes/alertmanager.md, with the addresses of this run.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from poller.model import Page
from poller.sources.http import HttpSource, HttpSourceSettings
from tests.support import require_or_skip

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "docs" / "recipes" / "alertmanager.md"

pytestmark = pytest.mark.alertmanager


@dataclass
class Alertmanager:
    url: str
    home: Path

    def amtool(self, *arguments: str) -> None:
        command = ["amtool", f"--alertmanager.url={self.url}", *arguments]
        # It reads a configuration from the home folder; nobody's real one is asked.
        environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        subprocess.run(command, check=True, capture_output=True, timeout=30, env=environment)

    def fire(self, name: str, summary: str, *labels: str, start: str | None = None) -> None:
        more = [] if start is None else [f"--start={start}"]
        self.amtool("alert", "add", name, *labels, *more, f"--annotation=summary={summary}")

    def resolve(self, name: str, *labels: str) -> None:
        self.amtool("alert", "add", name, *labels, f"--end={datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        wanted = {"alertname": name, **dict(label.split("=", 1) for label in labels)}
        wait_for(lambda: all(alert["labels"] != wanted for alert in self.alerts()), f"{name} to be resolved")

    def alerts(self) -> list[Any]:
        found = fetched(f"{self.url}/api/v2/alerts")
        assert isinstance(found, list)
        return found


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    program = shutil.which("prometheus-alertmanager")
    require_or_skip(
        program and shutil.which("amtool"), "Alertmanager is missing: apt-get install prometheus-alertmanager"
    )
    assert program
    config = tmp_path / "alertmanager.yml"
    config.write_text("route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n")
    port = free_port()
    command = [
        program,
        f"--config.file={config}",
        f"--storage.path={tmp_path / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    found = Alertmanager(f"http://127.0.0.1:{port}", tmp_path)
    with running(command, tmp_path / "alertmanager.log") as process:
        wait_for(lambda: process.poll() is not None or found.alerts() == [], "Alertmanager")
        assert process.poll() is None, (tmp_path / "alertmanager.log").read_text()
        yield found


def recipe(url: str) -> str:
    """Return the settings of the recipe, with Alertmanager at *url*."""
    block = re.search(r"```toml\n(.*?)```", RECIPE.read_text("utf-8"), re.DOTALL)
    assert block
    assert "http://127.0.0.1:9093" in block[1]
    return block[1].replace("http://127.0.0.1:9093", url)


def source(url: str) -> HttpSource:
    return HttpSource(HttpSourceSettings.model_validate(tomllib.loads(recipe(url))["routes"]["alerts"]["source"]))


def polled(alertmanager: Alertmanager) -> dict[str, dict[str, str]]:
    """Return the fields of each record of one poll, by key."""
    pages: list[Page] = list(source(alertmanager.url).poll(None))
    assert [page.last for page in pages] == [True]
    assert not pages[0].malformed
    return {record.key: record.fields for record in pages[0].records}


def test_each_firing_is_a_key_of_its_own(alertmanager: Alertmanager) -> None:
    alertmanager.fire("DiskFull", "Disk full on db1", "host=db1", "owner=abel.tuter")
    alertmanager.fire("DiskFull", "Disk full on db2", "host=db2")
    first = polled(alertmanager)
    alertmanager.fire("DiskFull", "Disk full on db1", "host=db1", "owner=abel.tuter")
    sent_again = polled(alertmanager)

    assert {tuple(fields.values()) for fields in first.values()} == {
        ("abel.tuter", "Disk full on db1", ""),
        ("", "Disk full on db2", ""),
    }
    assert sent_again == first


def test_a_resolved_alert_is_gone_and_fires_again_under_another_key(alertmanager: Alertmanager) -> None:
    alertmanager.fire("Down", "web1 is down", "host=web1")
    (first,) = polled(alertmanager)
    alertmanager.resolve("Down", "host=web1")
    between = polled(alertmanager)
    alertmanager.fire("Down", "web1 is down", "host=web1")
    (second,) = polled(alertmanager)

    assert between == {}
    assert first != second
    assert first.partition("@")[0] == second.partition("@")[0]


def test_an_earlier_start_named_afterwards_changes_the_key_as_the_recipe_warns(alertmanager: Alertmanager) -> None:
    alertmanager.fire("Down", "web1 is down", "host=web1")
    (first,) = polled(alertmanager)
    alertmanager.fire("Down", "web1 is down", "host=web1", start="2020-01-01T00:00:00Z")
    (second,) = polled(alertmanager)

    assert first != second
    assert second.endswith("@2020-01-01T00:00:00.000Z")


def test_a_silenced_alert_is_not_listed(alertmanager: Alertmanager) -> None:
    alertmanager.fire("Down", "web1 is down", "host=web1")
    alertmanager.amtool("silence", "add", "host=web1", "-c", "planned", "-a", "test", "-d", "1h")
    wait_for(lambda: alertmanager.alerts()[0]["status"]["state"] == "suppressed", "the silence")

    assert polled(alertmanager) == {}


# The whole way: Alertmanager -> poller once -> the sandbox's incidents.


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[dict[str, str]]:
    log = tmp_path / "sandbox.log"
    with running([sys.executable, "-m", "poller.sandbox", "--tickets", "0"], log) as process:
        wait_for(lambda: process.poll() is not None or log.read_text().count("\n"), "the sandbox")
        found: dict[str, str] = json.loads(log.read_text().splitlines()[0])
        yield found


def poller(*arguments: str, settings: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "poller", *arguments, "--settings", str(settings)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, f"poller {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def incidents(sandbox: dict[str, str]) -> list[tuple[str, str, str]]:
    rows = fetched(f"{sandbox['servicenow']}/sandbox/incidents")["incidents"]
    users = {row["sys_id"]: row["user_name"] for row in fetched(f"{sandbox['servicenow']}/sandbox/users")["users"]}
    return sorted((row["correlation_id"], users.get(row["caller_id"], ""), row["short_description"]) for row in rows)


def titles(found: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    return sorted((caller, title) for _, caller, title in found)


def test_one_incident_for_each_firing(alertmanager: Alertmanager, sandbox: dict[str, str], tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f"""
        [database]
        url = "sqlite:///poller.db"
        [servicenow]
        instance = "{sandbox["servicenow"]}"
        correlation_prefix = "alerts"
        [servicenow.auth]
        type = "client_credentials"
        client_id = "{sandbox["client_id"]}"
        client_secret = "{sandbox["client_secret"]}"
        {recipe(alertmanager.url)}
        """
    )
    settings.chmod(0o600)
    alertmanager.fire("DiskFull", "Disk full on db1", "host=db1", "owner=abel.tuter")
    alertmanager.fire("DiskFull", "Disk full on db2", "host=db2", "owner=beth.anglin")
    alertmanager.fire("Down", "web1 is down", "host=web1")
    poller("once", settings=settings)
    first = incidents(sandbox)
    alertmanager.fire("DiskFull", "Disk full on db1", "host=db1", "owner=abel.tuter")
    poller("once", settings=settings)
    second = incidents(sandbox)
    alertmanager.resolve("DiskFull", "host=db1", "owner=abel.tuter")
    alertmanager.fire("DiskFull", "Disk full on db1", "host=db1", "owner=abel.tuter")
    poller("once", settings=settings)
    third = incidents(sandbox)

    assert titles(first) == [
        ("", "web1 is down"),
        ("abel.tuter", "Disk full on db1"),
        ("beth.anglin", "Disk full on db2"),
    ]
    assert second == first
    assert titles(third) == sorted([*titles(first), ("abel.tuter", "Disk full on db1")])
    assert len({correlation for correlation, _, _ in third}) == 4
    exported = [json.loads(line) for line in poller("export", settings=settings).splitlines()]
    records = [line for line in exported if "key" in line]
    assert {record["correlation_id"] for record in records} == {correlation for correlation, _, _ in third}
    assert {record["state"] for record in records} == {"delivered"}
