"""What happens in a demo, and what is there before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from lxml import etree

from poller.clients.query import Query
from poller.clients.servicenow import ServiceNowClient
from poller.demo.shipping import SCHEMA, shipped
from poller.engine_room import EngineRoom
from poller.model import Fields
from poller.once import Outcome, run_once
from poller.sandbox import Sandbox
from poller.settings import Settings

#: The route that goes to the vendor, as the shipped settings name it; the group that is meant; who assigns an incident to it.
ROUTE, GROUP, PERSON = "to-vendor", "Vendor", "fred.luddy"

#: The ticket whose incident goes to the vendor, where it is among them.
_FOR_VENDOR = "helpdesk/1002"

#: What is read back of each incident.
_COLUMNS = (
    "number", "sys_id", "caller_id.user_name", "short_description", "correlation_display", "assignment_group.name",
)  # fmt: skip
_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What there is at one time, asked of the sandbox and not of our own database: what counts is what is there."""

    incidents: Sequence[Fields]
    #: Replies on tickets.
    links: Sequence[dict[str, Any]]
    #: What the vendor was sent.
    messages: Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened."""

    before: Seen
    after: Seen
    outcomes: Sequence[Outcome]
    #: The incident that goes to the vendor, and whether it was assigned just now.
    chosen: Fields | None
    just_now: bool
    #: What is wrong with the last message, empty where it is valid.
    problem: str

    @property
    def good(self) -> bool:
        """Return whether all went as it should."""
        arrived = bool(self.after.incidents and self.after.messages and self.after.links)
        return arrived and not self.problem and all(outcome.all_delivered for outcome in self.outcomes)


def happen(sandbox: Sandbox, settings: Settings, path: Path) -> Story:
    """Run every route, assign an incident to the vendor, and run the route that takes it there."""
    assert settings.servicenow is not None  # noqa: S101  the shipped settings have one
    client = ServiceNowClient(settings.servicenow)
    prefix = settings.servicenow.correlation_prefix
    before = _look(sandbox, client, prefix)
    outcomes = [_run(settings, path)]
    chosen, just_now = _assigned(sandbox, _incidents(client, prefix))
    outcomes.append(_run(settings, path, ROUTE))
    after = _look(sandbox, client, prefix)
    client.close()
    problem = _problem(after.messages[-1]["body"]) if after.messages else ""
    return Story(before=before, after=after, outcomes=outcomes, chosen=chosen, just_now=just_now, problem=problem)


def _run(settings: Settings, path: Path, *names: str) -> Outcome:
    room = EngineRoom(settings, path)
    try:
        return run_once(room, names)
    finally:
        room.close()


def _look(sandbox: Sandbox, client: ServiceNowClient, prefix: str) -> Seen:
    links = _call("GET", sandbox.helpdesk_url + "/sandbox/links")["links"]
    messages = _call("GET", sandbox.helpdesk_url + "/vendor/inbox")["messages"]
    return Seen(incidents=_incidents(client, prefix), links=links, messages=messages)


def _incidents(client: ServiceNowClient, prefix: str) -> list[Fields]:
    query = Query().starts_with("correlation_id", f"{prefix}:").order_by("number")
    return client.table_get("incident", query, _COLUMNS, _MOST)


def _assigned(sandbox: Sandbox, incidents: Sequence[Fields]) -> tuple[Fields | None, bool]:
    """Let a person assign an incident to the vendor, unless one is; return it, and whether that was just now."""
    for row in incidents:
        if row["assignment_group.name"] == GROUP:
            return row, False
    chosen = next((row for row in incidents if row["correlation_display"] == _FOR_VENDOR), None)
    chosen = chosen or (incidents[0] if incidents else None)
    if chosen is not None:
        what = {"sys_id": chosen["sys_id"], "by": PERSON, "fields": {"assignment_group": GROUP}}
        _call("POST", sandbox.servicenow_url + "/sandbox/change", what)
    return chosen, chosen is not None


def _call(method: str, url: str, content: object = None) -> dict[str, Any]:
    """Call the sandbox as a person or the vendor would look at it: past poller."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(method, url, json=content, timeout=10)
        answer.raise_for_status()
        return dict(answer.json())


def _problem(message: str) -> str:
    """Return what is wrong with a message that the vendor got; empty where it is valid."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        schema = etree.XMLSchema(etree.fromstring(shipped(SCHEMA).encode(), parser))
        schema.assertValid(etree.fromstring(message.encode(), parser))
    except (etree.XMLSyntaxError, etree.DocumentInvalid) as error:
        return str(error)
    return ""
