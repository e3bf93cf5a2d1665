"""
Debian's nginx before the daemon, with the files of docs/recipes/behind-nginx.md: TLS there, a unix socket here.

``POLLER_TEST_NGINX`` names another nginx than the one that is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from tests.scenarios.test_alertmanager import ROOT, running
from tests.scenarios.world import World, free_port, wait_for, world
from tests.support import require_or_skip

RECIPE = (ROOT / "docs" / "recipes" / "behind-nginx.md").read_text("utf-8")
NAME = "poller.example.com"

pytestmark = pytest.mark.interop

AROUND = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    {recipe}
}}
"""


def block(language: str, *pairs: tuple[str, str]) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", RECIPE, re.MULTILINE | re.DOTALL)
    assert found
    text = found[1]
    for old, new in pairs:
        assert old in text, f"the recipe does not say {old}"
        text = text.replace(old, new)
    return text


def nginx() -> str:
    found = os.environ.get("POLLER_TEST_NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    require_or_skip(found, "nginx is missing: apt-get install nginx-light")
    assert found
    return found


class Outside:
    """Somebody on another machine."""

    def __init__(self, port: int, authority: Path) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(authority)
        self.session.headers["Host"] = NAME
        self._url = f"https://127.0.0.1:{port}"

    def call(self, method: str, path: str, **given: Any) -> requests.Response:
        return self.session.request(method, self._url + path, timeout=30, **given)


@contextmanager
def proxied(program: str, folder: Path, socket: str) -> Iterator[Outside]:
    authority, port = trustme.CA(), free_port()
    issued = authority.issue_cert(NAME, "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "nginx.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    recipe = block(
        "nginx",
        ("/run/poller/http.sock", socket),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/poller.example.com.pem", f"{folder}/nginx.pem"),
        ("/etc/ssl/private/poller.example.com.key", f"{folder}/nginx.pem"),
    )
    # Folders of pytest are their owner's alone.
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(user=user, folder=folder, recipe=recipe), "utf-8")
    command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    outside = Outside(port, folder / "authority.pem")
    with running(command, folder / "nginx.log") as process:
        wait_for(lambda: process.poll() is not None or outside.call("GET", "/").status_code == 404, "nginx")
        assert process.poll() is None, (folder / "nginx.log").read_text("utf-8")
        yield outside


def signed_in(here: World, outside: Outside) -> str:
    """Let the client prove itself from now on; return its token."""
    made = here.command(
        "client", "add", "pusher", "--scope", "records:write", "--scope", "records:read", "--write", "--json"
    )
    assert made.returncode == 0, made.stderr
    here.start()
    form = {"grant_type": "client_credentials"}
    answer = outside.call("POST", "/oauth/token", data=form, auth=("pusher", json.loads(made.stdout)["client_secret"]))
    assert answer.status_code == 200, answer.text
    outside.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return str(answer.json()["access_token"])


@pytest.mark.slow
def test_the_recipe_takes_pushes_and_shows_nothing_else(tmp_path: Path) -> None:
    program, socket = nginx(), f"{tmp_path}/http.sock"
    with world(tmp_path, None, "--tickets", "0") as here, proxied(program, tmp_path, socket) as outside:
        here.configure(more=block("toml", ("/run/poller/http.sock", socket)))
        here.settings.chmod(0o600)
        down = outside.call("POST", "/oauth/token", data={})
        token = signed_in(here, outside)
        ticket = {
            "id": "a/b",
            "updated_at": "2026-01-02T03:04:05Z",
            "subject": "x",
            "body": "y",
            "requester": {"login": "abel.tuter"},
        }
        pushed = outside.call("POST", "/routes/helpdesk/records", json=ticket)
        wait_for(lambda: outside.call("GET", "/routes/helpdesk/records/a%2Fb").json()["number"], "the incident")
        hidden = Counter(
            outside.call("GET", path).status_code for path in ("/metrics", "/healthz", "/readyz", "/openapi.json", "/")
        )
        other = outside.call("GET", "/routes/helpdesk/records/a%2Fb", headers={"Host": "elsewhere.example"})
        huge = outside.call("POST", "/routes/helpdesk/records", data=b" " * 2_000_000)
        chunked = outside.call("POST", "/routes/helpdesk/records", data=iter([json.dumps(ticket).encode()]))
        guesses = Counter(
            outside.call(
                "POST", "/oauth/token", data={"grant_type": "client_credentials"}, auth=("pusher", "wrong")
            ).status_code
            for _ in range(15)
        )

        assert down.status_code == 502
        assert pushed.status_code == 202
        assert hidden == {404: 5}
        assert other.status_code == 421
        assert huge.status_code == 413
        assert chunked.status_code == 202
        assert guesses.keys() == {401, 429}
        assert guesses[401] <= 11
        assert len(here.sandbox.incidents()) == 1
        assert all(token not in daemon.text() for daemon in here.daemons)
        assert here.bad_lines() == []
