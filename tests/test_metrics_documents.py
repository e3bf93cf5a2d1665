"""The table of metrics, the alerts and the dashboard speak of what is shown, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from poller import metrics
from tests.scraping import counting, counts, every, standing
from tests.support import require_or_skip

__all__ = ["counting"]

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def test_the_table_of_metrics_is_complete() -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    section = page[page.index("## Metrics") : page.index("## Dead letters")]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    told = {name: row[1].strip() for row in rows for name in re.findall(r"`([a-z_]+)`", row[0])}

    assert told.keys() == shown_families()
    for name, labels in shown_labels().items():
        assert told[name].replace(",", "").split() == list(labels), name


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_what_alerts_and_dashboard_ask_for_is_shown(name: str) -> None:
    asked = set(re.findall(r"\b(?:poller|process)_[a-z_]+", "\n".join(expressions(name))))

    assert len(asked) > 5
    assert {re.sub(r"_(bucket|sum|count)$", "", each) for each in asked} <= shown_families()


def test_the_dashboard_shows_all_that_is_counted() -> None:
    asked = "\n".join(expressions("dashboard.json"))

    unseen = {name for name in shown_families() if name.startswith("poller_") and name not in asked}
    assert unseen <= {"poller_whole_poll_age_seconds", "poller_metrics_faults"}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads((DOCS / "dashboard.json").read_text("utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {variable["type"] for variable in board["templating"]["list"]} == {"datasource", "query"}
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in panels for target in panel["targets"])
    taken = [
        (at["x"] + x, at["y"] + y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["w"])
        for y in range(at["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_each_alert_names_a_command_that_there_is() -> None:
    from poller.cli import cli

    text = (DOCS / "alerts.yml").read_text("utf-8")
    for rule in text.split("- alert: ")[1:]:
        commands = re.findall(r"`poller ([a-z]+)", rule)
        assert commands, rule
        assert set(commands) <= cli.commands.keys()
        assert re.search(r"severity: (critical|warning|info) ", rule), rule


def test_prometheus_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool = shutil.which("promtool")
    require_or_skip(promtool, "promtool is missing: apt-get install prometheus")
    assert promtool

    for act, path in (("check", DOCS / "alerts.yml"), ("test", TESTS / "alerts.test.yml")):
        ended = subprocess.run([promtool, act, "rules", path], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_takes_the_exposition() -> None:
    promtool = shutil.which("promtool")
    require_or_skip(promtool, "promtool is missing: apt-get install prometheus")
    assert promtool
    metrics.known({"helpdesk": every(30)}, ())
    metrics.measure(lambda: [standing(held="canary")])

    given = metrics.exposition()[0].decode()
    ended = subprocess.run(
        [promtool, "check", "metrics"], input=given, capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def shown_families() -> set[str]:
    """Return the names in the exposition, those of counters with their ``_total``."""
    return set(re.findall(r"^# TYPE (\S+)", metrics.exposition()[0].decode(), re.MULTILINE))


def shown_labels() -> dict[str, tuple[str, ...]]:
    """Return the labels of each family that is declared with them."""
    found = {}
    for family in vars(counts()).values():
        if names := getattr(family, "_labelnames", ()):
            found[family._name + ("_total" if family._type == "counter" else "")] = tuple(names)
    return found


def expressions(name: str) -> list[str]:
    """Return what is asked of Prometheus in a file of docs/."""
    text = (DOCS / name).read_text("utf-8")
    if name.endswith(".json"):
        return [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
    return re.findall(r"expr: (.*?)\n +(?:for|labels):", text, re.DOTALL)
