"""A sandbox in this process, and a caller that knows its way around it."""

from collections.abc import Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import pytest
import requests

from poller.sandbox import Options, Sandbox

TABLE = "/api/now/table/"


class Caller:
    """Calls a sandbox with a token, keeping no cookies."""

    def __init__(self, sandbox: Sandbox, *, verify: str | bool = True) -> None:
        self.sandbox = sandbox
        self.url = sandbox.servicenow_url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = verify
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.session.headers["Accept"] = "application/json"

    def token(self, **form: str) -> requests.Response:
        form = {"grant_type": "client_credentials", "client_id": "poller", "client_secret": "sandbox-secret"} | form
        return self.session.post(self.url + "/oauth_token.do", data=form, timeout=10)

    def sign_in(self) -> str:
        access = str(self.token().json()["access_token"])
        self.session.headers["Authorization"] = f"Bearer {access}"
        return access

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        if not path.startswith("/"):
            path = TABLE + path
        return self.session.request(method, self.url + path, timeout=10, allow_redirects=False, **more)

    def rows(self, table: str, query: str, **more: str) -> list[dict[str, Any]]:
        parameters = {"sysparm_query": query, "sysparm_exclude_reference_link": "true"} | more
        return list(self.call("GET", table, params=parameters).json()["result"])

    def create(self, *, fault: str = "", **fields: Any) -> requests.Response:
        return self.call("POST", "incident", json=fields, headers={"X-Sandbox-Fault": fault} if fault else {})

    def control(self, method: str, name: str, content: Any = None) -> Any:
        answer = requests.request(
            method, f"{self.url}/sandbox/{name}", json=content, timeout=10, verify=self.session.verify
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def switch(self, **switches: Any) -> None:
        self.control("POST", "switch", switches)

    def incidents(self) -> list[dict[str, str]]:
        return list(self.control("GET", "incidents")["incidents"])

    def creates(self) -> list[dict[str, Any]]:
        return [entry for entry in self.control("GET", "ledger")["entries"] if "correlation_id" in entry]


Start = Callable[..., Caller]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sandboxes with options, and stops them after the test."""
    running: list[Sandbox] = []

    def run(**options: Any) -> Caller:
        sandbox = Sandbox(Options(**options))
        sandbox.start()
        running.append(sandbox)
        caller = Caller(sandbox)
        caller.sign_in()
        return caller

    yield run
    for sandbox in running:
        sandbox.stop()


@pytest.fixture
def caller(start: Start) -> Caller:
    """A signed-in caller of a fresh sandbox."""
    return start()
