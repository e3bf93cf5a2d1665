"""A sink before a sandbox in this process, and what tests of it need again and again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import requests

from poller.clients.servicenow import ServiceNowClient
from poller.identity import correlation_id, derived_sys_id
from poller.model import Intent, Operation, Prepared, Ready, Record, Undeliverable
from poller.sandbox.sandbox import Sandbox
from poller.sinks.servicenow import ServiceNowSink, ServiceNowSinkSettings

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def make(client: ServiceNowClient, **more: Any) -> ServiceNowSink:
    return ServiceNowSink(ServiceNowSinkSettings.model_validate({"type": "servicenow"} | more), client)


def record(key: str = "1", username: object = "abel.tuter", **fields: object) -> Record:
    given = {"username": username, "title": f"title {key}", "description": "text"} | fields
    return Record(
        route="desk",
        key=key,
        version="1",
        fields=given,
        correlation_id=correlation_id("t", "desk", key),
        derived_sys_id=derived_sys_id("t", "desk", key),
        first_seen=NOW,
    )


def prepare(sink: ServiceNowSink, *records: Record, fresh: bool = False) -> list[Prepared]:
    return sink.prepare(records, now=NOW, fresh=fresh)


def intent(sink: ServiceNowSink, one: Record, **more: Any) -> Intent:
    (ready,) = prepare(sink, one)
    assert isinstance(ready, Ready)
    given = {"attempt": 1, "with_sys_id": True, "number": 1} | more
    return Intent(
        route=one.route,
        key=one.key,
        version=one.version,
        operation=Operation.CREATE,
        body=ready.body,
        correlation_id=one.correlation_id,
        derived_sys_id=one.derived_sys_id,
        **given,
    )


def control(sandbox: Sandbox, path: str, body: object = None) -> Any:
    url = f"{sandbox.servicenow_url}/sandbox/{path}"
    answer = requests.get(url, timeout=5) if body is None else requests.post(url, json=body, timeout=5)
    assert answer.ok, answer.text
    return answer.json()


def incidents(sandbox: Sandbox) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = control(sandbox, "incidents")["incidents"]
    return rows


def order(sandbox: Sandbox, fault: str, method: str) -> None:
    control(sandbox, "next", {"fault": fault, "count": 1, "method": method})


def body(prepared: Prepared) -> dict[str, str]:
    """What is frozen for a record that is ready."""
    assert isinstance(prepared, Ready), prepared
    found: dict[str, str] = json.loads(prepared.body)
    return found


def reason(prepared: Prepared) -> str:
    """Why a record can never be sent."""
    assert isinstance(prepared, Undeliverable), prepared
    return prepared.reason


def calls(sandbox: Sandbox, table: str) -> int:
    return int(sandbox.ledger.counts().get(f"{table} GET", 0))
