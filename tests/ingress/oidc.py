"""
A real identity provider that nobody here wrote: npm ``oidc-provider`` (MIT), as a process on loopback.

``with identity_provider(folder) as idp`` gives one that runs; `IdentityProvider.stop` and `start` let it go away and come back
at the same address, `rotate` gives it a new key to sign with. The package is installed once, into a folder beside those of pytest.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import requests
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support import require_or_skip

VERSION = "9.13.3"
SCRIPT = Path(__file__).with_name("provider.mjs")

#: What the provider knows; see provider.mjs.
CLIENT = ("pusher", "pusher-secret")
RESOURCE_SERVER = ("poller", "poller-secret")
AUDIENCES = {"jwt": "urn:jwt", "opaque": "urn:opaque"}


class IdentityProvider:
    """One provider, at one address for all of its life."""

    def __init__(self, folder: Path, modules: Path) -> None:
        self._folder = folder
        self._modules = modules
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.introspection_url = f"{self.issuer}/token/introspection"
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None

    def start(self) -> None:
        """Let it answer, with the keys that it had."""
        self._errors = (self._folder / "provider.log").open("ab")
        self._process = subprocess.Popen(
            ["node", str(SCRIPT), str(self.port), str(self._folder)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OIDC_MODULES": str(self._modules), "NODE_NO_WARNINGS": "1"},
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "ready":
                return
        raise AssertionError((self._folder / "provider.log").read_text("utf-8")[-2000:])

    def stop(self) -> None:
        """Let it be away: connections to it are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def rotate(self, *, keep: bool = True) -> None:
        """
        Give it a new key to sign with, and start it anew.

        Args:
            keep: The former keys stay published, for tokens that are still about.
        """
        self.stop()
        path = self._folder / "keys.json"
        former = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps([_key(f"key-{len(former)}"), *(former if keep else [])]), "utf-8")
        self.start()

    def token(
        self,
        scope: str = "records:write",
        resource: str | None = None,
        format: Literal["jwt", "opaque"] = "jwt",
    ) -> str:
        """Return a new access token for the client "pusher", by its client credentials."""
        form = {"grant_type": "client_credentials", "scope": scope, "resource": resource or AUDIENCES[format]}
        answer = requests.post(f"{self.issuer}/token", data=form, auth=CLIENT, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def revoke(self, token: str) -> None:
        """Withdraw an opaque token."""
        answer = requests.post(f"{self.issuer}/token/revocation", data={"token": token}, auth=CLIENT, timeout=30)
        assert answer.status_code == 200, answer.text


@contextmanager
def identity_provider(folder: Path) -> Iterator[IdentityProvider]:
    """
    Run a provider that keeps its keys in *folder*.

    Skips the test where node or the package is missing, and fails where everything is required.
    """
    made = IdentityProvider(folder, modules())
    made.start()
    try:
        yield made
    finally:
        made.stop()


def modules() -> Path:
    """Return the folder above ``node_modules``, installed by the first test that asks."""
    require_or_skip(
        shutil.which("node") and shutil.which("npm"), "node and npm are missing: apt-get install nodejs npm"
    )
    place = Path(tempfile.gettempdir()) / f"poller-oidc-provider-{VERSION}-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    assert place.stat().st_uid == os.getuid(), f"{place} belongs to somebody else"
    # Workers of pytest-xdist come here at the same time.
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "installed").exists():
            why = _install(place)
            require_or_skip(not why, f"npm cannot install oidc-provider {VERSION}: {why}")
            (place / "installed").touch()
    return place


def _install(place: Path) -> str:
    """Install the package and nothing that runs; return what went wrong, on one line."""
    quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(place)]
    try:
        done = subprocess.run(
            ["npm", "install", f"oidc-provider@{VERSION}", *quiet],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no end after 180 s"
    return "" if done.returncode == 0 else " ".join(done.stderr.split())[:300]


def _key(kid: str) -> dict[str, Any]:
    import jwt

    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(made))
    key.pop("key_ops", None)
    return {**key, "kid": kid, "use": "sig", "alg": "RS256"}
