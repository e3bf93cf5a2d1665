"""
Roundup, an issue tracker that nobody here wrote, polled by settings alone: authors are ids, texts need follow-up requests.

The settings are those of docs/recipes/roundup.md, with the addresses of this run.
"""

import base64
import importlib.util
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_alertmanager import fetched, free_port, poller, running, sandbox, wait_for
from tests.support import require_or_skip

__all__ = ["sandbox"]

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "docs" / "recipes" / "roundup.md"
PEOPLE = ("abel.tuter", "beth.anglin", "fred.luddy")
#: More than two pages of twenty; Roundup takes a third of a second for each follow-up.
MANY = 50

pytestmark = pytest.mark.interop

#: Roundup's server refuses to run as root, as CI does; it needs nothing of a user of its own here.
_SERVER = "import os; os.getuid = lambda: 1; from roundup.scripts.roundup_server import run; run()"

#: Roundup's own Python interface: reports by REST would take minutes.
_REPORT = """
import json, sys
from roundup import instance
tracker = instance.open(sys.argv[1])
for person, title, text in json.load(sys.stdin):
    db = tracker.open(person)
    message = [db.msg.create(content=text, author=db.getuid())] if text else []
    db.issue.create(title=title, messages=message)
    db.commit()
    db.close()
"""


@dataclass
class Tracker:
    url: str
    home: Path
    log: Path

    def reports(self, wanted: list[tuple[str, str, str]]) -> None:
        """Create an issue for each author, title and text."""
        command = [sys.executable, "-c", _REPORT, str(self.home)]
        done = subprocess.run(
            command, input=json.dumps(wanted), text=True, capture_output=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def post(self, person: str, kind: str, **values: Any) -> str:
        """Create an item as *person*; return its id."""
        login = base64.b64encode(f"{person}:secret".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json", "X-Requested-With": "rest"}
        headers |= {"Origin": self.url.removesuffix("/demo/"), "Referer": self.url}
        request = urllib.request.Request(f"{self.url}rest/data/{kind}", json.dumps(values).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found: dict[str, Any] = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{kind}: {error.code} {error.read().decode()}") from None
        return str(found["data"]["id"])

    def report(self, person: str, title: str, text: str) -> str:
        return self.post(person, "issue", title=title, messages=[self.say(person, text)])

    def say(self, person: str, text: str) -> str:
        # 1 is admin, 2 is anonymous.
        return self.post(person, "msg", content=text, author=str(PEOPLE.index(person) + 3))

    def asked(self, kind: str) -> Counter[str]:
        """Return how often each item of *kind* was asked for by its id."""
        return Counter(re.findall(rf'"GET /demo/rest/data/{kind}/(\d+)[/ ]', self.log.read_text("utf-8", "replace")))


def administer(home: Path, *commands: str) -> None:
    program = [sys.executable, "-c", "from roundup.scripts.roundup_admin import run; run()", "-i", str(home)]
    if commands[0].startswith(("install", "initialise")):
        done = subprocess.run([*program, *commands[0].split()], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    done = subprocess.run(
        [*program, "-u", "admin"],
        check=False,
        input="\n".join([*commands, "commit", ""]),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.read())


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    require_or_skip(importlib.util.find_spec("roundup"), "Roundup is missing: make test installs it")
    home, port = tmp_path / "tracker", free_port()
    found = Tracker(f"http://127.0.0.1:{port}/demo/", home, tmp_path / "roundup.log")
    home.mkdir()
    administer(home, "install classic sqlite")
    config = home / "config.ini"
    text = config.read_text("utf-8")
    text = text.replace("#domain = NO DEFAULT", "domain = example.org")
    text = re.sub(r"^#?host = NO DEFAULT", "host = localhost", text, flags=re.MULTILINE)
    text = re.sub(r"^#?web = NO DEFAULT", f"web = {found.url}", text, flags=re.MULTILINE)
    config.write_text(text, "utf-8")
    administer(home, "initialise secret")
    accounts = [f"create user username={name} password=secret roles=User" for name in (*PEOPLE, "poller")]
    administer(home, *accounts)
    command = [sys.executable, "-c", _SERVER, "-n", "127.0.0.1", "-p", str(port), f"demo={home}"]
    with running(command, found.log) as process:
        wait_for(lambda: process.poll() is not None or answers(found.url), "Roundup")
        assert process.poll() is None, found.log.read_text()
        yield found


def settings_for(tracker: Tracker, sandbox: dict[str, str], folder: Path) -> Path:
    block = re.search(r"```toml\n(.*?)```", RECIPE.read_text("utf-8"), re.DOTALL)
    assert block
    recipe = block[1].replace("http://127.0.0.1:8080/demo/", tracker.url)
    recipe = recipe.replace('{ credential = "roundup-password" }', '"secret"').replace('"baseline"', '"all"')
    recipe = recipe.replace("size = 100", "size = 20")
    settings = folder / "settings.toml"
    settings.write_text(
        f"""
[servicenow]
instance = "{sandbox["servicenow"]}"
correlation_prefix = "roundup"
[servicenow.auth]
type = "client_credentials"
client_id = "{sandbox["client_id"]}"
client_secret = "{sandbox["client_secret"]}"
{recipe}
""",
        "utf-8",
    )
    settings.chmod(0o600)
    return settings


def incidents(sandbox: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return caller, title and text of each incident, in order."""
    rows = fetched(f"{sandbox['servicenow']}/sandbox/incidents")["incidents"]
    users = {row["sys_id"]: row["user_name"] for row in fetched(f"{sandbox['servicenow']}/sandbox/users")["users"]}
    return sorted((users.get(row["caller_id"], ""), row["short_description"], row["description"]) for row in rows)


def test_issues_of_a_real_tracker_become_incidents_of_their_authors(
    tracker: Tracker, sandbox: dict[str, str], tmp_path: Path
) -> None:
    wanted = [(PEOPLE[i % 3], f"Printer {i} is on fire", f"Rauch & Qualm <b>{i}</b> äöü") for i in range(MANY)]
    tracker.reports([*wanted, ("beth.anglin", "No message at all", "")])
    settings = settings_for(tracker, sandbox, tmp_path)

    poller("once", settings=settings)
    first = incidents(sandbox)
    asked = tracker.asked("msg")
    poller("once", settings=settings)
    again = incidents(sandbox)
    asked_again = tracker.asked("msg")
    tracker.report("fred.luddy", "One more", "later")
    poller("once", settings=settings)
    last = incidents(sandbox)

    assert first == sorted([*wanted, ("beth.anglin", "No message at all", "")])
    assert again == first
    assert last == sorted([*first, ("fred.luddy", "One more", "later")])
    # Follow-ups are for new issues only, and authors are remembered.
    assert len(asked) == MANY
    assert set(asked.values()) == {1}
    assert asked_again == asked
    assert max(tracker.asked("user").values()) <= 2
