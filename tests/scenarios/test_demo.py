"""``poller demo``, as a new user meets it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from poller.sandbox import Options, Sandbox

ROOT = Path(__file__).parents[2]


def demo(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("POLLER_")}
    ended = subprocess.run(
        [sys.executable, "-m", "poller", "demo", "--directory", str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=directory.parent,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended


def asked(url: str) -> dict[str, Any]:
    with requests.Session() as session:
        session.trust_env = False
        return dict(session.get(url, timeout=10).json())


def incidents(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("INC0")]


def test_the_first_run_creates_incidents_and_the_second_none(tmp_path: Path) -> None:
    first = demo(tmp_path / "demo")
    second = demo(tmp_path / "demo")

    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stderr) == (0, "")
    assert "6 incidents created, 0 already there" in first.stdout
    assert "0 incidents created, 6 already there" in second.stdout
    assert len(incidents(first.stdout)) == 6
    assert incidents(first.stdout) == incidents(second.stdout)
    assert "abel.tuter" in first.stdout
    assert "ops^night" in first.stdout
    assert "helpdesk/1001" in first.stdout
    assert "What next" in first.stdout


def test_an_incident_goes_to_the_vendor_once_and_the_tickets_are_told_once(tmp_path: Path) -> None:
    first = demo(tmp_path / "demo").stdout
    second = demo(tmp_path / "demo").stdout

    assert "6 tickets told of the incident, 0 already told" in first
    assert "0 tickets told of the incident, 6 already told" in second
    assert "1 message sent, 0 already there; valid against vendor.xsd" in first
    assert "0 messages sent, 1 already there; valid against vendor.xsd" in second
    number = next(line.split()[0] for line in incidents(first) if line.endswith("helpdesk/1002"))
    assert f'<Incident number="{number}">' in first
    assert "<Login>beth.anglin</Login>" in first
    assert f"assigns {number} to the group Vendor" in first
    assert f"The group Vendor has {number} since an earlier run" in second


def test_nothing_travels_in_a_circle(tmp_path: Path) -> None:
    for _ in range(3):
        demo(tmp_path / "demo")

    with Sandbox(Options(state=str(tmp_path / "demo" / "sandbox.state"))) as sandbox:
        assert len(asked(f"{sandbox.servicenow_url}/sandbox/incidents")["incidents"]) == 6
        assert len(asked(f"{sandbox.helpdesk_url}/api/tickets")["tickets"]) == 6
        links = asked(f"{sandbox.helpdesk_url}/sandbox/links")["links"]
        assert sorted(link["ticket"] for link in links) == [1001, 1002, 1003, 1004, 1005, 1006]
        inbox = asked(f"{sandbox.helpdesk_url}/vendor/inbox")
        assert (len(inbox["messages"]), inbox["repeats"]) == (1, 0)


def test_what_it_leaves_can_be_looked_at(tmp_path: Path) -> None:
    demo(tmp_path / "demo")
    command = [sys.executable, "-m", "poller", "explain", "helpdesk", "1001", "--settings", "demo/settings.toml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)

    assert told.stdout.startswith("helpdesk / 1001: delivered")
    assert (tmp_path / "demo" / "settings.toml").stat().st_mode & 0o077 == 0
    assert "record_delivered" in (tmp_path / "demo" / "demo.log").read_text()


def test_a_state_directory_of_the_environment_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()

    demo(tmp_path / "demo", STATE_DIRECTORY=str(tmp_path / "elsewhere"))

    assert (tmp_path / "demo" / "poller.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_it_is_readable_in_plain_ascii_and_a_hundred_columns(tmp_path: Path) -> None:
    ended = demo(tmp_path / "demo", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")

    assert ended.returncode == 0
    assert ended.stdout.isascii()
    assert max(map(len, ended.stdout.partition("What next")[0].splitlines())) <= 100


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    ended = demo(tmp_path / "file")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert "--directory" in ended.stderr
