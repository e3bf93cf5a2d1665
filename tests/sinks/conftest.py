"""Fixtures for tests of sinks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from poller.clients.servicenow import ServiceNowClient, ServiceNowSettings
from poller.sandbox.options import Options
from poller.sandbox.sandbox import Sandbox
from poller.sinks.servicenow import ServiceNowSink
from tests.sinks.house import make


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options(tickets=0, users=120)) as one:
        yield one


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[ServiceNowClient]:
    auth = {"type": "client_credentials", "client_id": "poller", "client_secret": "sandbox-secret"}
    given = {"instance": sandbox.servicenow_url, "correlation_prefix": "t", "auth": auth, "read_timeout": "1s"}
    one = ServiceNowClient(ServiceNowSettings.model_validate(given))
    yield one
    one.close()


@pytest.fixture
def sink(client: ServiceNowClient) -> ServiceNowSink:
    return make(client)
