"""A world of its own for credentials: TLS under a private authority at both ends, and every way to say who one is."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import requests
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.scenarios.world import COMMAND, ROOT, Fields, Process, free_port, wait_for

#: Secrets that are long and odd enough to be found again, in whatever form.
CLIENT_SECRET, PASSWORD = "canary/cl1ent+s3cret&Zq", "canary:p4ss word?Zq"
API_KEY, PROXY_PASSWORD = "canary-4pi-key-Zq", "canary/pr0xy=Zq"


class Authority:
    """A certificate authority, whose certificates are files."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, folder: Path, name: str, *hosts: str) -> tuple[Path, Path]:
        """Write a certificate with its chain, and its key; return both paths."""
        issued = self._ca.issue_cert(*hosts)
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        return certificate, key


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write an RSA key pair; return the paths of the private and the public key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@dataclass
class AuthWorld:
    """One sandbox behind TLS, one poller."""

    folder: Path
    options: list[str] = field(default_factory=list)
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    #: What the sandbox takes for right; a test that rotates one changes it here and starts the sandbox anew.
    right: dict[str, str] = field(
        default_factory=lambda: {"client-secret": CLIENT_SECRET, "password": PASSWORD, "api-key": API_KEY}
    )
    process: Process | None = None

    def __post_init__(self) -> None:
        (self.folder / "theirs").mkdir()
        (self.folder / "ours").mkdir()
        self.authority = Authority(self.folder / "theirs", "ca")
        self.clients = Authority(self.folder / "theirs", "clients")
        certificate, key = self.authority.issue(self.folder / "theirs", "server", "127.0.0.1", "localhost")
        self.tls = ["--certificate", str(certificate), "--key", str(key), "--helpdesk-tls"]
        self.own = self.clients.issue(self.folder / "ours", "own", "poller.example")
        self.jwt_key, self.jwt_public = key_pair(self.folder / "ours", "jwt")
        self.servicenow, self.helpdesk = (f"https://127.0.0.1:{port}" for port in self.ports)
        self.settings = self.folder / "ours" / "settings.toml"
        #: Every secret that there ever was: file name, text.
        self.secrets: list[tuple[str, str]] = []
        for name, text in {**self.right, "proxy": PROXY_PASSWORD}.items():
            self.secret(name, text)

    def secret(self, name: str, text: str) -> None:
        """Write a secret's file as a careful admin does: beside it, then renamed over."""
        new = self.folder / "ours" / f".{name}.new"
        new.write_text(text)
        new.chmod(0o600)
        new.rename(self.folder / "ours" / name)
        self.secrets.append((name, text))

    # The sandbox.

    def start(self, *options: str) -> None:
        out = self.folder / "theirs" / "sandbox.out"
        command = [sys.executable, "-m", "poller.sandbox", "--state", str(self.folder / "theirs" / "state")]
        command += ["--port", str(self.ports[0]), "--helpdesk-port", str(self.ports[1]), *self.tls]
        command += ["--client-ca", str(self.clients.file), "--jwt-key", str(self.jwt_public), "--tickets", "3"]
        command += [part for name, text in self.right.items() for part in (f"--{name}", text)]
        process = self.process = Process([*command, *self.options, *options], out, cwd=ROOT, environment=None)
        wait_for(lambda: process.ended is not None or self.get(f"{self.servicenow}/sandbox/faults") is not None, "it")
        assert process.ended is None, process.errors()

    def stop(self) -> None:
        if self.process is not None and self.process.ended is None:
            self.process.terminate()
        self.process = None

    def get(self, url: str) -> Any:
        return requests.get(url, timeout=10, verify=str(self.authority.file)).json()

    def post(self, url: str, **more: Any) -> Any:
        return requests.post(url, timeout=10, verify=str(self.authority.file), **more).json()

    def add(self, count: int) -> None:
        self.post(f"{self.helpdesk}/sandbox/tickets", json={"count": count})

    def tickets(self) -> set[str]:
        return {str(ticket["id"]) for ticket in self.get(f"{self.helpdesk}/sandbox/tickets")["tickets"]}

    def incidents(self) -> list[str]:
        """Return the tickets that have an incident, one entry for each incident."""
        rows = self.get(f"{self.servicenow}/sandbox/incidents")["incidents"]
        return sorted(row["correlation_display"].rpartition("/")[2] for row in rows)

    def ledger(self) -> list[Fields]:
        return list(self.get(f"{self.servicenow}/sandbox/ledger")["entries"])

    def issue(self, url: str) -> Fields:
        """Sign in by password, as a person would to get a first token."""
        form = {"grant_type": "password", "username": "svc.poller", "password": self.right["password"]}
        form |= {"client_id": "poller", "client_secret": self.right["client-secret"]}
        return dict(self.post(url, data=form))

    def tokens(self) -> set[str]:
        """Return every token that was ever handed out, of either kind."""
        found = set()
        for line in (self.folder / "theirs" / "state").read_bytes().splitlines():
            kind, value = json.loads(line)
            if kind in {"token", "desk token"}:
                found |= {value["access"], value["refresh"]}
        return found - {""}

    # The poller.

    def configure(self, auth: str, source_auth: str, *, tls: str = "", remote: str = "", level: str = "debug") -> None:
        tls = tls or f'ca = "{self.authority.file}"'
        self.settings.write_text(
            f"""
[database]
url = "sqlite:///{self.folder}/ours/poller.db"
[servicenow]
instance = "{self.servicenow}"
correlation_prefix = "auth"
max_execution = "1s"
{remote}
[servicenow.auth]
{auth}
[servicenow.tls]
{tls}
[routes.desk]
every = "300ms"
first_run = "all"
[routes.desk.source]
type = "http"
url = "{self.helpdesk}/api/tickets"
records = "tickets"
key = "id"
{remote}
[routes.desk.source.auth]
{source_auth}
[routes.desk.source.tls]
{tls}
[routes.desk.source.fields]
username = "requester.login"
title = "subject"
description = "body"
[routes.desk.sink]
type = "servicenow"
[routes.desk.sink.unknown_user]
policy = "omit"
[retry]
base = "100ms"
cap = "1s"
[maintenance]
lease = "1s"
[log]
level = "{level}"
format = "json"
"""
        )
        self.settings.chmod(0o600)

    def command(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [*COMMAND, *arguments, "--settings", str(self.settings)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        with (self.folder / "ours" / "commands.out").open("a") as file:
            file.write(done.stdout + done.stderr)
        return done

    def run(self) -> Process:
        """Start the daemon."""
        out = self.folder / "ours" / "daemon.out"
        command = [*COMMAND, "run", "--settings", str(self.settings)]
        process = Process(command, out, cwd=ROOT, environment=os.environ)
        wait_for(lambda: process.ended is not None or '"service_ready"' in process.text(), "service_ready")
        assert process.ended is None, process.text() + process.errors()
        return process

    def leaks(self) -> list[str]:
        """Return which secret or token stands, in whatever form, in anything that poller wrote."""
        wanted = [*self.secrets, *(("a token", text) for text in self.tokens())]
        given = {self.settings, self.jwt_key, self.jwt_public, *self.own}
        given |= {self.folder / "ours" / name for name, _ in self.secrets}
        written = [path for path in (self.folder / "ours").iterdir() if path not in given]
        assert {path.suffix for path in written} >= {".db", ".out"}, written
        return [
            f"{name} in {path.name}"
            for path in written
            for data in (path.read_bytes().lower(),)
            for name, text in wanted
            if any(form.lower() in data for form in forms(text))
        ]


def forms(secret: str) -> Iterator[bytes]:
    """Yield how a secret may look: as it is, in URLs, in hexadecimal, in JSON, in base64 at any offset."""
    data = secret.encode()
    yield data
    yield quote(secret, safe="").encode()
    yield quote_plus(secret).encode()
    yield data.hex().encode()
    yield json.dumps(secret)[1:-1].encode()
    for offset in range(3):
        start, end = (0, 2, 3)[offset], (0, 3, 2)[(offset + len(data)) % 3]
        text = base64.b64encode(b"\0" * offset + data)
        yield text[start : len(text) - end]
        text = base64.urlsafe_b64encode(b"\0" * offset + data)
        yield text[start : len(text) - end]


def toml(values: Mapping[str, str]) -> str:
    """Return keys and values as TOML; ``@name`` is the secret in the file of that name."""
    return "\n".join(
        f'{key} = {{ file = "{value[1:]}" }}' if value.startswith("@") else f"{key} = {json.dumps(value)}"
        for key, value in values.items()
    )
