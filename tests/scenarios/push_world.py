"""
A daemon that is pushed to, the sandbox's business rule that does it, and what the vendor got of it.

Three routes to one inbox. ``ring`` reads ServiceNow and is rung for; ``push`` has nothing but what is pushed; ``both`` polls the
Table API as any other HTTP source and is pushed the same records.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.scenarios.world import Fields, World, call, free_port, wait_for, world

FOLDER, VENDOR = Path(__file__).parent, "assignment_group.name=Vendor"
ROUTES = ("ring", "push", "both")

SETTINGS = """
[database]
url = "{database}"

[server]
listen = "127.0.0.1:{port}"

{auth}

[servicenow]
instance = "{servicenow}"
correlation_prefix = "scenario"
max_execution = "1s"
read_timeout = "5s"

[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = {{ file = "{folder}/secret" }}

[routes.ring]
every = "1h"
first_run = "all"
max_new_per_hour = 0
source = {{ type = "servicenow", query = "{query}", trigger = "updated", fields = {{ number = "number", title = "short_description" }} }}

[routes.ring.sink]
{sink}

[routes.push]
on_change = "update"
max_new_per_hour = 0
push = {{ key = "sys_id", version = "sys_mod_count", fields = {{ number = "number", title = "short_description" }} }}

[routes.push.sink]
{sink}

[routes.both]
every = "1h"
first_run = "all"
on_change = "update"
max_new_per_hour = 0
push = {{}}

[routes.both.source]
type = "http"
url = "{servicenow}/api/now/table/incident"
params = {{ sysparm_query = "{query}", sysparm_exclude_reference_link = "true" }}
records = "result"
key = "sys_id"
version = "sys_mod_count"
fields = {{ number = "number", title = "short_description" }}

[routes.both.source.auth]
type = "client_credentials"
token_url = "{servicenow}/oauth_token.do"
client_id = "poller"
client_secret = {{ file = "{folder}/secret" }}

[routes.both.sink]
{sink}

[retry]
base = "100ms"
cap = "1s"

[maintenance]
lease = "1s"
"""

SINK = """
type = "http"
url = "{helpdesk}/vendor/inbox/{route}/{{{{ number }}}}"
method = "PUT"
format = "xml"
root = "Incident"
fields = {{ "@number" = "{{{{ number }}}}", Title = "{{{{ title }}}}" }}
"""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How callers prove themselves: settings of the daemon, and what the business rule is told."""

    auth: str
    rule: Fields


class Pushed:
    """A world whose daemon listens on one port, whatever becomes of it."""

    def __init__(self, here: World, port: int) -> None:
        self.here = here
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.versions: dict[str, int] = {}  # by the incident's number

    def configure(self, auth: str) -> None:
        sandbox = self.here.sandbox
        text = SETTINGS.format(
            database=self.here.database,
            port=self.port,
            auth=auth,
            servicenow=sandbox.servicenow,
            folder=self.here.folder,
            query=VENDOR,
            sink="SINK",
        )
        for route in ROUTES:
            text = text.replace("SINK", SINK.format(helpdesk=sandbox.helpdesk, route=route), 1)
        self.here.settings.write_text(text, "utf-8")
        self.here.settings.chmod(0o600)

    def embedded(self) -> Proof:
        """Return proof by our own token endpoint, of a client that `poller client add` makes."""
        self.configure("")
        made = self.here.command("client", "add", "servicenow", "--scope", "records:write", "--scope", "poll", "--json")
        assert made.returncode == 0, made.stderr
        told = json.loads(made.stdout)
        rule = {"token_url": f"{self.url}/oauth/token", "client_id": "servicenow"}
        return Proof(auth=told["settings"], rule=rule | {"client_secret": told["client_secret"]})

    def ruled(self, proof: Proof, **more: Any) -> None:
        """Let the business rule ring and push, for what is the vendor's."""
        targets = {"ring": [f"{self.url}/routes/ring/poll"], "query": VENDOR}
        targets["push"] = [f"{self.url}/routes/{route}/records" for route in ("push", "both")]
        call("POST", f"{self.here.sandbox.servicenow}/sandbox/rules", targets | proof.rule | more)

    def faults(self, **chances: float) -> None:
        call("POST", f"{self.here.sandbox.servicenow}/sandbox/rules/faults", chances)

    def sent(self) -> list[Fields]:
        """Return what the business rule has sent, once nothing waits any more."""
        url = f"{self.here.sandbox.servicenow}/sandbox/rules/sent"
        wait_for(lambda: call("GET", url)["waiting"] == 0, "the business rule to be done")
        told: list[Fields] = call("GET", url)["sent"]
        return told

    # Incidents.

    def incidents(self, count: int) -> list[str]:
        rows = [{"short_description": "v 0", "assignment_group": "Vendor"}] * count
        numbers = [row["number"] for row in self.here.sandbox.add_incidents(*rows)]
        self.versions |= dict.fromkeys(numbers, 0)
        return numbers

    def change(self, number: str) -> None:
        self.versions[number] += 1
        what = {"number": number, "fields": {"short_description": f"v {self.versions[number]}"}}
        assert call("POST", f"{self.here.sandbox.servicenow}/sandbox/change", what)["changed"]

    # What came of it.

    def messages(self, route: str) -> list[Fields]:
        """Return what the vendor got of a route, repeats among it."""
        found = call("GET", f"{self.here.sandbox.helpdesk}/vendor/inbox")["messages"]
        return [one for one in found if one["path"].startswith(f"/vendor/inbox/{route}/")]

    def arrived(self, route: str) -> dict[str, list[int]]:
        """Return the versions that came, by number, in the order of their first arrival."""
        found: dict[str, list[int]] = {}
        for one in self.messages(route):
            if not one["repeat"]:
                document = ET.fromstring(one["body"])
                found.setdefault(document.attrib["number"], []).append(_version(document.findtext("Title") or ""))
        return found

    def newest(self, route: str) -> bool:
        """Say whether the vendor has the newest version of every incident."""
        arrived = self.arrived(route)
        return all(arrived.get(number, [-1])[-1] == version for number, version in self.versions.items())

    def disorder(self, route: str) -> list[str]:
        """Return what is doubled, out of order, or another body under a known id."""
        found = [f"{one['path']}: {one['key']} differs" for one in self.messages(route) if one["differs"]]
        found += [f"{one['path']}: no id" for one in self.messages(route) if not one["key"]]
        return found + [
            f"{route} {number}: {versions}"
            for number, versions in self.arrived(route).items()
            if sorted(set(versions)) != versions
        ]

    def polls(self, route: str) -> list[Fields]:
        return [line for line in self.here.events("poll_finished") if line["route"] == route]


def _version(title: str) -> int:
    assert title.startswith("v "), f"nobody wrote this: {title}"
    return int(title.removeprefix("v "))


def token(url: str, client: str, secret: str, **form: str) -> str:
    """Return a token of a token endpoint."""
    answer = requests.post(url, data={"grant_type": "client_credentials", **form}, auth=(client, secret), timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


@contextmanager
def pushed_world(folder: Path, *options: str) -> Iterator[Pushed]:
    with world(folder, None, "--tickets", "0", *options) as here:
        yield Pushed(here, free_port())
