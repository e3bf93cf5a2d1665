"""The settings of the recipes with a queue, word for word but for their addresses, against a real ActiveMQ."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poller.sandbox import Options, Sandbox
from tests.activemq import PASSWORD, Broker, broker, put, require
from tests.cli_house import Place
from tests.test_docs import DOCS

pytestmark = pytest.mark.activemq

SECRETS = {"broker-password": PASSWORD, "vendor-token": "a-token", "instance": "sandbox-secret"}
SERVICENOW = """
[servicenow]
instance = "{instance}"
correlation_prefix = "recipe"
[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = {{ credential = "instance" }}
"""


@pytest.fixture(scope="module")
def mq() -> Iterator[Broker]:
    require()
    with broker() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for name, secret in SECRETS.items():
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    with Sandbox(Options()) as sandbox:
        yield Place(tmp_path, sandbox)


def write(place: Place, page: str, mq: Broker) -> None:
    """Write a recipe's settings with the addresses of here."""
    text = (DOCS / "recipes" / page).read_text("utf-8")
    block = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    block = block.replace("stomp+ssl://mq.example:61612", mq.url)
    block = block.replace("https://vendor.example", f"{place.sandbox.helpdesk_url}/vendor/inbox")
    place.write(block + SERVICENOW.format(instance=place.sandbox.servicenow_url))


def once(place: Place) -> None:
    ended = place.poller("once", CREDENTIALS_DIRECTORY=str(place.folder))
    assert ended.returncode == 0, ended.stderr + ended.stdout


def call(url: str, content: object = None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as answer:
        return json.load(answer)


def test_each_version_of_an_incident_reaches_the_vendor_through_the_queue(place: Place, mq: Broker) -> None:
    write(place, "servicenow-activemq-vendor.md", mq)
    once(place)
    instance = place.sandbox.servicenow_url
    (row,) = call(f"{instance}/sandbox/incidents", [{"short_description": "no light"}])["added"]
    for text in ("no light", "no light & no heat <here>"):
        change = {
            "sys_id": row["sys_id"],
            "fields": {"short_description": text, "assignment_group": "Vendor"},
        }
        call(f"{instance}/sandbox/change", change)
        once(place)
        # A route may have looked into the queue before the other one had put something there.
        once(place)

    messages = call(f"{place.sandbox.helpdesk_url}/vendor/inbox")["messages"]

    assert [message["path"] for message in messages] == [f"/vendor/inbox/incidents/{row['number']}"] * 2
    assert [message["method"] for message in messages] == ["PUT", "PUT"]
    assert len({message["key"] for message in messages}) == 2
    assert "<Subject>no light</Subject>" in messages[0]["body"]
    assert "<Subject>no light &amp; no heat &lt;here&gt;</Subject>" in messages[1]["body"]
    assert "<Status>New</Status>" in messages[1]["body"]


def test_each_message_of_another_program_becomes_an_incident(place: Place, mq: Broker) -> None:
    write(place, "activemq-to-servicenow.md", mq)
    sent = [
        {"id": str(number), "requester": {"login": "abel.tuter"}, "subject": f"fire {number}", "body": "third floor"}
        for number in range(30)
    ]
    # The last one is sent again by somebody who never saw his receipt.
    put(mq, "/queue/incidents.new", *(json.dumps(each).encode() for each in [*sent, sent[-1]]), b"no JSON")

    ended = place.poller("once", CREDENTIALS_DIRECTORY=str(place.folder))

    assert ended.returncode in (0, 1), ended.stderr + ended.stdout
    rows = call(f"{place.sandbox.servicenow_url}/sandbox/incidents")["incidents"]
    ours = [row["short_description"] for row in rows if row["correlation_id"].startswith("recipe:")]
    assert Counter(ours) == Counter(str(each["subject"]) for each in sent)
    exported = place.poller("export", CREDENTIALS_DIRECTORY=str(place.folder)).stdout
    states = [line["state"] for line in map(json.loads, exported.splitlines()) if "key" in line]
    assert sorted(states) == ["dead"] + ["delivered"] * 30
