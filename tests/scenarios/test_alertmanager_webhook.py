"""
Prometheus Alertmanager from Debian pushes to us: a pusher that nobody here wrote, with a token of our own endpoint.

The settings, ours and Alertmanager's, are those of docs/recipes/alertmanager-webhook.md, with the addresses of this run.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.test_alertmanager import ROOT, Alertmanager, running
from tests.scenarios.world import Fields, World, free_port, wait_for, world
from tests.support import require_or_skip

RECIPE = ROOT / "docs" / "recipes" / "alertmanager-webhook.md"
ALERTS = 40

pytestmark = [pytest.mark.alertmanager, pytest.mark.slow]

BEFORE = """
[database]
url = "{database}"

[servicenow]
instance = "{servicenow}"
correlation_prefix = "alerts"
max_execution = "1s"

[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = {{ file = "{folder}/secret" }}

[retry]
base = "100ms"
cap = "1s"

[maintenance]
lease = "1s"
"""


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", RECIPE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"the recipe does not say {old}"
        text = text.replace(old, new)
    return text


@dataclass
class Pushing:
    """A daemon that is pushed to, and an Alertmanager that does it."""

    here: World
    alertmanager: Alertmanager
    log: Path

    def records(self) -> list[Fields]:
        return [one for one in self.here.export() if one["route"] == "alerts"]

    def looked(self) -> int:
        """Return how often Alertmanager has asked itself whether it has told of a group already."""
        with urllib.request.urlopen(f"{self.alertmanager.url}/metrics", timeout=10) as answer:
            found = re.search(r"^alertmanager_nflog_queries_total (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found
        return int(float(found[1]))

    def settled(self, count: int) -> None:
        wait_for(lambda: len(self.here.sandbox.incidents()) >= count, f"{count} incidents", 120)
        wait_for(lambda: {one["state"] for one in self.records()} == {"delivered"}, "all records to be delivered")


@pytest.fixture
def pushing(tmp_path: Path) -> Iterator[Pushing]:
    program = shutil.which("prometheus-alertmanager")
    require_or_skip(
        program and shutil.which("amtool"), "Alertmanager is missing: apt-get install prometheus-alertmanager"
    )
    assert program
    with world(tmp_path, None, "--tickets", "0") as here:
        port = free_port()
        write_settings(here, port)
        with pusher(here, program, port, client(here)) as made:
            yield made


def write_settings(here: World, port: int) -> None:
    server = replaced(block("toml"), ("127.0.0.1:8080", f"127.0.0.1:{port}"))
    before = BEFORE.format(database=here.database, servicenow=here.sandbox.servicenow, folder=here.folder)
    here.settings.write_text(before + server, "utf-8")
    here.settings.chmod(0o600)


def client(here: World) -> str:
    """Make the client as the recipe says; return its secret."""
    command = re.search(r"^poller (client add .*)$", block("sh"), re.MULTILINE)
    assert command
    made = here.command(*command[1].split(), "--json")
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["client_secret"])


@contextmanager
def pusher(here: World, program: str, port: int, secret: str) -> Iterator[Pushing]:
    config, log, address = here.folder / "alertmanager.yml", here.folder / "alertmanager.log", free_port()
    text = replaced(
        block("yaml"),
        ("http://127.0.0.1:8080", f"http://127.0.0.1:{port}"),
        ("/etc/prometheus/poller-secret", f"{here.folder}/alertmanager-secret"),
        ("group_wait: 5s", "group_wait: 100ms"),
        ("group_interval: 30s", "group_interval: 1s"),
    )
    config.write_text(text, "utf-8")
    (here.folder / "alertmanager-secret").write_text(secret)
    options = [f"--config.file={config}", f"--storage.path={here.folder / 'alerts'}", "--cluster.listen-address="]
    found = Alertmanager(f"http://127.0.0.1:{address}", here.folder)
    with running([program, *options, f"--web.listen-address=127.0.0.1:{address}"], log) as process:
        wait_for(lambda: process.poll() is not None or found.alerts() == [], "Alertmanager")
        assert process.poll() is None, log.read_text()
        yield Pushing(here, found, log)


def test_each_firing_is_one_incident_and_what_ends_is_none(pushing: Pushing) -> None:
    here, alertmanager = pushing.here, pushing.alertmanager
    here.start()
    alertmanager.fire("DiskFull", "Disk full on db1", "host=db1", "owner=abel.tuter")
    alertmanager.fire("Down", "web1 is down", "host=web1")
    pushing.settled(2)
    alertmanager.resolve("DiskFull", "host=db1", "owner=abel.tuter")
    # As the recipe says: what fires again within a group_interval is the same to Alertmanager. There are two groups.
    looked = pushing.looked() + 4
    wait_for(lambda: pushing.looked() >= looked, "Alertmanager to notice the end")
    alertmanager.fire("DiskFull", "Disk full on db1", "host=db1", "owner=abel.tuter")
    pushing.settled(3)

    users = {row["sys_id"]: row["user_name"] for row in here.sandbox.users()}
    found = sorted((users.get(row["caller_id"], ""), row["short_description"]) for row in here.sandbox.incidents())
    assert found == [
        ("", "web1 is down"),
        ("abel.tuter", "Disk full on db1"),
        ("abel.tuter", "Disk full on db1"),
    ]
    assert here.bad_lines() == []


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_the_daemon_is_killed_under_it_and_each_alert_is_one_incident(pushing: Pushing) -> None:
    here, killed = pushing.here, 0
    daemon = here.start()
    for number in range(ALERTS):
        pushing.alertmanager.fire("DiskFull", f"Disk full on db{number}", f"host=db{number}")
        if number % 10 == 9:
            # In the middle of pushes and of deliveries.
            daemon.kill()
            killed += 1
            refused = len(pushing.log.read_text("utf-8"))
            pushing.alertmanager.fire("Down", f"web{number} is down", f"host=web{number}")
            wait_for(lambda seen=refused: "refused" in pushing.log.read_text("utf-8")[seen:], "a push in vain")  # type: ignore[misc]
            daemon = here.start()
    expected = ALERTS + killed
    pushing.settled(expected)
    # What Alertmanager repeats comes by now.
    time.sleep(3)

    incidents = here.sandbox.incidents()
    titles = sorted(row["short_description"] for row in incidents)
    assert len(titles) == expected
    assert len(set(titles)) == expected
    assert {row["correlation_id"] for row in incidents} == {one["correlation_id"] for one in pushing.records()}
    assert daemon.terminate() == 0
    assert here.bad_lines() == []
    print(f"\n{expected} alerts, {killed} kills, {len(here.sandbox.creates())} creates, {len(incidents)} incidents")
