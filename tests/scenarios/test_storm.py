"""
A storm of changes: the same tickets in fifty versions, out of order, with answers lost and daemons killed.

Each incident ends at the newest version, was made once, and no work note is there twice.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from tests.scenarios.test_chaos import seed
from tests.scenarios.world import SECRET, World, wait_for, world

KEYS = ("a", "b", "c")
VERSIONS = 50
SINK = """
[routes.helpdesk.sink.update_fields]
short_description = "{{ title }}"
work_notes = "note of {{ title }}"
"""


class Desk:
    """A help desk whose list shows whatever version it is told to."""

    def __init__(self) -> None:
        self.shown = dict.fromkeys(KEYS, 1)
        desk = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"tickets": [_ticket(*each) for each in desk.shown.items()]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                desk.polls += 1

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.polls = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/api/tickets"

    def polled(self, times: int) -> None:
        """Wait for more polls, so that what is shown now has been seen."""
        until = self.polls + times
        wait_for(lambda: self.polls >= until, "polls", 30)


def _ticket(key: str, version: int) -> dict[str, Any]:
    return {
        "id": key, "updated_at": str(version), "requester": {"login": "abel.tuter"}, "subject": f"{key} v{version}",
        "body": "text",
    }  # fmt: skip


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    yield one
    one.server.shutdown()
    one.server.server_close()


def incidents(here: World) -> dict[str, str]:
    return {row["short_description"][:1]: row["short_description"] for row in here.sandbox.incidents()}


def notes(here: World) -> list[str]:
    """Ask for all journal rows, as a person with rights would."""
    with requests.Session() as session:
        session.trust_env = False
        given = {"grant_type": "client_credentials", "client_id": "poller", "client_secret": SECRET}
        token = session.post(f"{here.sandbox.servicenow}/oauth_token.do", data=given, timeout=10).json()["access_token"]
        answer = session.get(
            f"{here.sandbox.servicenow}/api/now/table/sys_journal_field",
            params={"sysparm_query": "element=work_notes", "sysparm_limit": "1000"},
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=10,
        )
    return [row["value"] for row in answer.json()["result"]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", ["auto", "settle"])
def test_f41_f79_a_storm_of_changes_ends_at_the_newest_and_doubles_no_note(
    guard: str, desk: Desk, tmp_path: Path
) -> None:
    number = seed()
    print(f"\nPOLLER_TEST_SEED={number}")
    dice = random.Random(f"{number} {guard}")
    with world(tmp_path, None, "--tickets", "0") as here:
        here.configure(
            guard=guard, max_execution="1s", every="100ms", source=f'url = "{desk.url}"', route='on_change = "update"',
            sink=SINK, servicenow='read_timeout = "1s"',
        )  # fmt: skip
        here.start()
        wait_for(lambda: len(here.sandbox.incidents()) == len(KEYS), "the incidents", 60)
        for version in range(2, VERSIONS + 1):
            for key in KEYS:
                # Now and then an older version, as a list behind a cache shows it.
                desk.shown[key] = version if dice.random() < 0.7 else max(1, version - dice.randint(1, 5))
            if dice.random() < 0.3:
                fault = dice.choice(["lost_answer", "500_after_commit", "502_after_commit"])
                here.sandbox.next(fault, method="PATCH", count=dice.randint(1, 2))
            if dice.random() < 0.12:
                here.daemons[-1].kill()
                here.start(ready=False)
            desk.polled(1)
        here.sandbox.reset()
        desk.shown = dict.fromkeys(KEYS, VERSIONS)
        newest = {key: f"{key} v{VERSIONS}" for key in KEYS}
        wait_for(lambda: incidents(here) == newest, "the newest versions", 90)
        wait_for(lambda: {each["state"] for each in here.export()} == {"delivered"}, "an end", 60)

        found = notes(here)
        kept = Counter(
            re.sub(r"\[.*", "", text, flags=re.DOTALL).strip() for text in found if text.startswith("note of")
        )
        patched = [entry for entry in here.sandbox.ledger() if entry["kind"] == "incident PATCH"]
        doubtful = [line for line in here.events("record_unknown") if line.get("operation") == "update"]
        print(f"{len(patched)} updates, {len(doubtful)} in doubt, {len(here.daemons) - 1} kills, {len(found)} notes")
        assert max(kept.values()) == 1
        assert {f"note of {key} v{VERSIONS}" for key in KEYS} <= kept.keys()
        assert len(here.sandbox.incidents()) == len(KEYS)
        assert doubtful, "void: no outcome of an update was ever in doubt"
        # What was shown later but is older never came to the incident after a newer one.
        for key in KEYS:
            order = [int(text.split(" v")[1].split()[0]) for text in found if text.startswith(f"note of {key} ")]
            assert sorted(order) == sorted(set(order))
        assert here.bad_lines() == []
        assert here.daemons[-1].terminate() == 0
