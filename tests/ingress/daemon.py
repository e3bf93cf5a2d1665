"""The ingress from outside: a daemon as a process, on a free port, and hands to speak to it, politely or not."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import signal
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from poller.ingress.scrypt import ScryptHash
from tests.ingress.wire import Got, answers
from tests.scenarios.world import ROOT, Fields, Process, free_port, wait_for

SECRET = "a-secret-of-these-clients"
HEAD = """
[database]
url = "sqlite:///poller.db"
[retry]
base = "100ms"
cap = "1s"
[log]
level = "debug"
"""
#: Of a route that is pushed to and writes files: it needs nobody else.
FILES = """
[routes.{name}.push]
key = "id"
version = "version"
{more}
[routes.{name}.push.fields]
title = "title"
[routes.{name}.sink]
type = "directory"
path = "out"
"""
#: Who there is, and what each may.
CLIENTS = {
    "all": 'scopes = ["records:write", "records:read", "poll", "metrics"]\nrequests_per_minute = 1000000',
    "writer": 'scopes = ["records:write:push"]\nroutes = ["push"]',
    "reader": 'scopes = ["records:read:push"]',
    "elsewhere": 'scopes = ["records:write", "records:read", "poll"]\nroutes = ["other"]',
    "seldom": 'scopes = ["records:write", "records:read"]\nrequests_per_minute = 5',
}


@functools.cache
def hashed() -> str:
    """Return the hash of `SECRET`; made once, since it is dear."""
    return ScryptHash.of(SECRET).text()


def files(*names: str, more: str = "") -> str:
    """Return routes that write files."""
    return "".join(FILES.format(name=name, more=more) for name in names)


class Ingress:
    """
    A folder with settings, and the daemons that ran on it.

    Args:
        listen: Left out: a free port on loopback.

        server: More of ``[server]``.

        routes: TOML of the routes.

        clients: TOML of each client, but for its secret.

        trust: What clients verify the server with; None: plain HTTP.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listen: str | None = None,
        server: str = "",
        routes: str = "",
        more: str = "",
        clients: Mapping[str, str] = CLIENTS,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.folder = folder
        self.settings = folder / "settings.toml"
        self.listen = listen or f"127.0.0.1:{free_port()}"
        self.trust = trust
        self.daemons: list[Process] = []
        self._tokens: dict[str, str] = {}
        (folder / "out").mkdir(exist_ok=True)
        self.write(server=server, routes=routes or files("push", "other"), more=more, clients=clients)

    def write(self, *, server: str, routes: str, more: str, clients: Mapping[str, str]) -> None:
        """Write the settings; beside and renamed, as editors do."""
        blocks = [f'[server]\nlisten = "{self.listen}"\n{server}\n']
        blocks += [f"[server.clients.{name}]\nclient_secret = '{hashed()}'\n{text}\n" for name, text in clients.items()]
        beside = self.folder / "settings.new"
        beside.write_text("\n".join([HEAD, more, routes, *blocks]))
        beside.chmod(0o600)
        beside.rename(self.settings)

    # The daemon.

    def spawn(self) -> Process:
        out = self.folder / f"daemon-{len(self.daemons) + 1}.out"
        command = [sys.executable, "-m", "poller", "run", "--settings", str(self.settings)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POLLER_")}
        process = Process(command, out, cwd=ROOT, environment=environment)
        self.daemons.append(process)
        return process

    def start(self) -> Process:
        """Start a daemon and wait until it is ready."""
        process = self.spawn()
        wait_for(lambda: process.ended is not None or '"service_ready"' in process.text(), "service_ready")
        assert process.ended is None, process.text() + process.errors()
        return process

    @property
    def daemon(self) -> Process:
        return self.daemons[-1]

    def reload(self) -> Fields:
        """Send SIGHUP; return the line that says what came of it."""
        before = len(self._reloads())
        self.daemon.send(signal.SIGHUP)
        wait_for(lambda: len(self._reloads()) > before, "the settings to be read again", 20)
        return self._reloads()[-1]

    def _reloads(self) -> list[Fields]:
        return [line for line in self.lines() if line["event"] in {"settings_reloaded", "settings_refused"}]

    def lines(self) -> list[Fields]:
        """Return the lines of the last daemon."""
        return [json.loads(line) for line in self.daemon.text().splitlines(keepends=True) if line.endswith("\n")]

    def said(self, event: str, **having: Any) -> list[Fields]:
        return [line for line in self.lines() if line["event"] == event and having.items() <= line.items()]

    def memory(self) -> int:
        """Return the resident memory of the daemon, in bytes."""
        text = Path(f"/proc/{self.daemon._child.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) * 1024

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.ended is None:
                with contextlib.suppress(OSError):
                    daemon.send(signal.SIGCONT)
                daemon.kill()

    def check_output(self) -> None:
        """Hold that nothing crashed, that every line is JSON, and that no secret or token is in any."""
        secrets = [SECRET, hashed(), *self._tokens.values()]
        for daemon in self.daemons:
            assert daemon.errors() == ""
            for line in (line for line in daemon.text().splitlines(keepends=True) if line.endswith("\n")):
                said = json.loads(line)
                assert said["event"] != "crashed", line
                assert not [secret for secret in secrets if secret in line], line

    # What is stored.

    def stored(self, route: str = "push") -> list[str]:
        """Return the keys of all records of a route."""
        return [row[0] for row in self.rows("SELECT r.key FROM records r", route)]

    def states(self, route: str = "push") -> dict[str, str]:
        """Return the state of each record."""
        found = "SELECT r.key, d.state FROM deliveries d JOIN records r ON r.id = d.record_id"
        return dict(self.rows(found, route))

    def rows(self, select: str, route: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.folder}/poller.db?mode=ro", uri=True)) as connection:
            where = f"{select} JOIN routes o ON o.id = r.route_id WHERE o.name = ?"
            return list(connection.execute(where, (route,)))

    # Clients.

    @property
    def host(self) -> str:
        return "localhost" if self.listen.startswith("unix:") else self.listen

    def connect(self, seconds: float = 45.0, context: ssl.SSLContext | None = None) -> socket.socket:
        """Return a connection, through TLS where the server speaks it."""
        found = self.bare(seconds)
        trust = context or self.trust
        return found if trust is None else trust.wrap_socket(found, server_hostname="localhost")

    def bare(self, seconds: float = 45.0) -> socket.socket:
        """Return a connection on which nothing was said, TLS neither."""
        if self.listen.startswith("unix:"):
            found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            found.settimeout(seconds)
            found.connect(self.listen.removeprefix("unix:"))
            return found
        host, _, port = self.listen.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), seconds)

    def raw(self, *pieces: bytes, end: bool = False, context: ssl.SSLContext | None = None) -> list[Got]:
        """
        Send bytes as they are and return all answers until the server ends the connection.

        Args:
            end: Say that nothing follows.
        """
        with self.connect(context=context) as connection:
            with contextlib.suppress(OSError):
                for piece in pieces:
                    connection.sendall(piece)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            data = bytearray()
            with contextlib.suppress(ConnectionError):
                while more := connection.recv(65536):
                    data += more
        return list(answers(bytes(data)))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        token: str | None = None,
        context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Got:
        """Send one request; *headers* beside the usual ones, or instead of them."""
        given = dict(headers)
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        if body is not None:
            given["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": self.host} | given).items())
        message = f"{method} {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode("latin-1") + (body or b"")
        found = self.raw(message, context=context)
        assert len(found) == 1, found
        return found[0]

    def token(self, client: str = "all") -> str:
        """Return a token of the embedded endpoint; fetched once for each client."""
        if client not in self._tokens:
            got = self.fetch(client)
            assert got.status == 200, got
            self._tokens[client] = got.json["access_token"]
        return self._tokens[client]

    def fetch(self, client: str, secret: str = SECRET) -> Got:
        pair = base64.b64encode(f"{client}:{secret}".encode()).decode()
        return self.ask(
            "POST", "/oauth/token", b"grant_type=client_credentials",
            headers={"Authorization": f"Basic {pair}", "Content-Type": "application/x-www-form-urlencoded"},
        )  # fmt: skip

    def push(self, value: Any, route: str = "push", client: str = "all", kind: str = "application/json") -> Got:
        """Push JSON, or bytes as they are."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        path = f"/routes/{route}/records"
        return self.ask("POST", path, body, token=self.token(client), headers={"Content-Type": kind})

    def record(self, key: str, route: str = "push", client: str = "all") -> Got:
        return self.ask("GET", f"/routes/{route}/records/{quote(key, safe='')}", token=self.token(client))

    def head(self, path: str = "/routes/push/records", *lines: str, method: str = "POST", proven: bool = True) -> bytes:
        """Return the beginning of a request for raw sending, without its last empty line."""
        said = [f"{method} {path} HTTP/1.1", f"Host: {self.host}"]
        said += [f"Authorization: Bearer {self.token()}"] if proven else []
        return "".join(f"{line}\r\n" for line in (*said, *lines)).encode("latin-1")

    def serves(self, seconds: float = 10.0) -> None:
        """Hold that a proper push is answered promptly."""
        began = time.monotonic()
        assert self.push({"id": "proper", "version": "1", "title": "a proper one"}).status == 202
        assert time.monotonic() - began < seconds


@contextlib.contextmanager
def running(folder: Path, **more: Any) -> Iterator[Ingress]:
    """Yield a daemon that runs; at the end, nothing may have crashed."""
    made = Ingress(folder, **more)
    try:
        made.start()
        yield made
        made.check_output()
    finally:
        made.close()
