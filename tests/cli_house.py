"""A folder with settings and a sandbox, and poller as a process in it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poller.sandbox import Options, Sandbox

ROOT = Path(__file__).parents[1]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

Ended = subprocess.CompletedProcess[str]


class Place:
    """A folder with settings, and a sandbox to go with it."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        text = (ROOT / "settings.toml").read_text("utf-8")
        # One way is enough for most tests: neither replies nor the route to the vendor.
        text = text[: text.index("# [routes.helpdesk.sink.update_fields]")] + text[text.index("# [retry]") :]
        text = text.replace("http://127.0.0.1:18080", sandbox.servicenow_url)
        self.text = text.replace("http://127.0.0.1:18081", sandbox.helpdesk_url)
        self.settings = folder / "settings.toml"
        self.write(self.text)

    def write(self, text: str) -> None:
        self.settings.write_text(text, "utf-8")
        self.settings.chmod(0o600)

    def command(self, *arguments: str, **environment: str) -> tuple[list[str], dict[str, Any]]:
        inherited = {name: value for name, value in os.environ.items() if name != "POLLER_SETTINGS"}
        given = {"cwd": self.folder, "env": {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environment}}
        return [sys.executable, "-m", "poller", *arguments], given

    def poller(self, *arguments: str, **environment: str) -> Ended:
        command, given = self.command(*arguments, **environment)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **given)
        assert "Traceback" not in ended.stdout + ended.stderr
        return ended

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command, given = self.command(*arguments)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given)

    def database(self, *statements: str) -> None:
        with sqlite3.connect(self.folder / "poller.db") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Sandbox(Options()) as sandbox:
        yield Place(tmp_path, sandbox)


@pytest.fixture(scope="module")
def polled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place that has polled; made once, for tests that only look at it."""
    with Sandbox(Options()) as sandbox:
        made = Place(tmp_path_factory.mktemp("polled"), sandbox)
        assert made.poller("once").returncode == 0
        yield made


@pytest.fixture
def polled(polled_once: Place, tmp_path: Path) -> Place:
    """A copy of it, for tests that change something."""
    shutil.copytree(polled_once.folder, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path, polled_once.sandbox)


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.strip()
