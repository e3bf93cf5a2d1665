"""
The product as a black box: a sandbox and a daemon as processes, and a checker that compares what each side knows.

Nothing here imports product code. What may be touched: HTTP, signals, files, settings, stdout and exit codes, and what
``poller export`` prints.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import unicodedata
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: Another poller can be put to the test: ``POLLER_TEST_COMMAND="/opt/poller/bin/poller"``.
COMMAND = shlex.split(os.environ.get("POLLER_TEST_COMMAND", "")) or [sys.executable, "-m", "poller"]
ROUTE = "helpdesk"
PREFIX = "scenario"
SECRET = "a-secret-of-this-scenario"

#: A JSON object.
Fields = dict[str, Any]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Return when *condition* holds; it is asked over and over, and an OSError counts as no."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < until, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.03)


def call(method: str, url: str, content: Any = None) -> Any:
    # Lone surrogates go out as \ud800: half the point of some records.
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read().decode("utf-8", "surrogatepass"))
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.code} {error.read().decode()}") from None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A child with its output in files."""

    def __init__(self, command: Sequence[str], out: Path, *, cwd: Path, environment: Mapping[str, str] | None) -> None:
        self.out = out
        with out.open("ab") as stdout, out.with_suffix(".err").open("ab") as stderr:
            self._child = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=cwd, env=environment
            )

    @property
    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return self._child.poll()

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def terminate(self, seconds: float = 40.0) -> int:
        self._child.terminate()
        return self.wait(seconds)

    def wait(self, seconds: float = 40.0) -> int:
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {seconds:g} s") from None

    def text(self) -> str:
        return self.out.read_text("utf-8")

    def errors(self) -> str:
        return self.out.with_suffix(".err").read_text("utf-8", "replace")


class Sandbox:
    """The stand-in instance and help desk; its state survives a restart on the same ports."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.state = folder / "sandbox.state"
        self.ports = (free_port(), free_port())
        self.servicenow, self.helpdesk = (f"http://127.0.0.1:{port}" for port in self.ports)
        self._options = options
        self._process: Process | None = None

    def start(self, *options: str) -> None:
        out = self.folder / "sandbox.out"
        command = [sys.executable, "-m", "poller.sandbox", "--state", str(self.state), "--client-secret", SECRET]
        command += ["--port", str(self.ports[0]), "--helpdesk-port", str(self.ports[1]), *self._options, *options]
        process = self._process = Process(command, out, cwd=ROOT, environment=None)
        wait_for(
            lambda: process.ended is not None or call("GET", f"{self.servicenow}/sandbox/faults") is not None, "it"
        )
        assert process.ended is None, process.errors()

    def stop(self) -> None:
        if self._process is not None and self._process.ended is None:
            self._process.terminate()
        self._process = None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    # The instance.

    def ledger(self, after: int = 0) -> list[Fields]:
        entries: list[Fields] = call("GET", f"{self.servicenow}/sandbox/ledger?after={after}")["entries"]
        return entries

    def incidents(self) -> list[Fields]:
        rows: list[Fields] = call("GET", f"{self.servicenow}/sandbox/incidents")["incidents"]
        return rows

    def users(self) -> list[Fields]:
        rows: list[Fields] = call("GET", f"{self.servicenow}/sandbox/users")["users"]
        return rows

    def creates(self, after: int = 0) -> list[Fields]:
        """Return every create that arrived, in the order of arrival."""
        entries = [entry for entry in self.ledger(after) if entry["kind"] == "incident POST"]
        return sorted(entries, key=lambda entry: float(entry["time"]))

    def counts(self) -> Fields:
        counts: Fields = call("GET", f"{self.servicenow}/sandbox/counts")
        return counts

    def add_users(self, *users: Fields) -> None:
        call("POST", f"{self.servicenow}/sandbox/users", list(users))

    def add_incidents(self, *rows: Fields) -> list[Fields]:
        added: list[Fields] = call("POST", f"{self.servicenow}/sandbox/incidents", list(rows))["added"]
        return added

    def faults(self, **chances: float) -> None:
        """Replace all probabilities; ``create__lost_answer`` befalls creates alone."""
        named = {name.removeprefix("_").replace("__", ":"): chance for name, chance in chances.items()}
        call("POST", f"{self.servicenow}/sandbox/faults", named)

    def next(self, fault: str, **which: Any) -> None:
        call("POST", f"{self.servicenow}/sandbox/next", {"fault": fault, **which})

    def switch(self, **values: Any) -> None:
        call("POST", f"{self.servicenow}/sandbox/switch", values)

    def reset(self) -> None:
        call("POST", f"{self.servicenow}/sandbox/reset", {})

    # The help desk.

    def tickets(self) -> list[Fields]:
        tickets: list[Fields] = call("GET", f"{self.helpdesk}/sandbox/tickets")["tickets"]
        return tickets

    def add_tickets(self, *tickets: Fields) -> list[int]:
        added: list[int] = call("POST", f"{self.helpdesk}/sandbox/tickets", list(tickets))["added"]
        return added

    def grow(self, count: int) -> list[int]:
        """Add so many made-up tickets."""
        return self.add_tickets({"count": count})

    def desk_next(self, fault: str, **which: Any) -> None:
        call("POST", f"{self.helpdesk}/sandbox/next", {"fault": fault, **which})

    def polls(self) -> int:
        return len(call("GET", f"{self.helpdesk}/sandbox/calls")["calls"])

    # What its files tell.

    def tokens(self) -> list[str]:
        """Return every access token that was ever issued."""
        found: dict[str, None] = {}
        with self.state.open("rb") as lines:
            for line in lines:
                if line.startswith(b'["token",'):
                    found[json.loads(line)[1]["access"]] = None
        return list(found)


class World:
    """One sandbox, one settings file, one database, and daemons that come and go."""

    def __init__(self, folder: Path, database: str | None = None, *options: str) -> None:
        self.folder = folder
        self.sandbox = Sandbox(folder, *options)
        self.settings = folder / "settings.toml"
        self.database = database or f"sqlite:///{folder}/poller.db"
        self.daemons: list[Process] = []
        self._secret = folder / "secret"
        self._secret.write_text(SECRET)
        self._secret.chmod(0o600)

    def configure(
        self,
        *,
        guard: str = "auto",
        concurrency: int = 4,
        max_execution: str = "1s",
        lease: str = "1s",
        every: str = "300ms",
        servicenow: str = "",
        route: str = "",
        instance: str | None = None,
        source: str = 'url = "{helpdesk}/api/tickets"',
        sink: str = "",
        more: str = "",
    ) -> None:
        """Write the settings; *servicenow*, *route*, *source*, *sink* and *more* are TOML of their own."""
        source = source.replace("{helpdesk}", self.sandbox.helpdesk)
        self.settings.write_text(
            f"""
[database]
url = "{self.database}"

[servicenow]
instance = "{instance or self.sandbox.servicenow}"
correlation_prefix = "{PREFIX}"
concurrency = {concurrency}
duplicate_guard = "{guard}"
max_execution = "{max_execution}"
{servicenow}

[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = {{ file = "{self._secret}" }}

[routes.{ROUTE}]
every = "{every}"
first_run = "all"
max_new_per_hour = 0
{route}

[routes.{ROUTE}.source]
type = "http"
{source}
records = "tickets"
key = "id"
version = "updated_at"

[routes.{ROUTE}.source.fields]
username = "requester.login"
title = "subject"
description = "body"

[routes.{ROUTE}.sink]
type = "servicenow"
{sink}

[retry]
base = "100ms"
cap = "1s"

[maintenance]
lease = "{lease}"
{more}
""",
            "utf-8",
        )

    # Daemons.

    def start(self, *, ready: bool = True, settings: Path | None = None) -> Process:
        """Start a daemon, each with output files of its own."""
        out = self.folder / f"daemon-{len(self.daemons) + 1}.out"
        process = self._spawn(out, "run", settings=settings)
        self.daemons.append(process)
        if ready:
            wait_for(lambda: process.ended is not None or '"service_ready"' in process.text(), "service_ready")
            assert process.ended is None, process.text() + process.errors()
        return process

    def _spawn(self, out: Path, *arguments: str, settings: Path | None = None) -> Process:
        command = [*COMMAND, *arguments, "--settings", str(settings or self.settings)]
        return Process(command, out, cwd=ROOT, environment=_environment())

    def once(self, seconds: float = 120.0) -> int:
        """Run ``poller once``; its output counts as that of a daemon."""
        process = self._spawn(self.folder / f"daemon-{len(self.daemons) + 1}.out", "once")
        self.daemons.append(process)
        return process.wait(seconds)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the product to its end."""
        return subprocess.run(
            [*COMMAND, *arguments, "--settings", str(self.settings)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
            cwd=ROOT,
            env=_environment(),
        )

    def export(self) -> list[Fields]:
        """Return the records that ``poller export`` prints."""
        done = self.command("export")
        assert done.returncode == 0, f"poller export: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return [line for line in map(json.loads, done.stdout.splitlines()) if "key" in line]

    def settled(self, seconds: float = 60.0) -> list[Fields]:
        """Wait until the running daemon has delivered or buried every ticket there is; return the export."""
        asked, records = 0.0, dict[str, Fields]()

        def every_one() -> bool:
            nonlocal asked, records
            keys = {str(ticket["id"]) for ticket in self.sandbox.tickets()}
            # An export is a process of its own and dear, so the log is read first; a killed daemon's may lack lines.
            if keys - self.told().keys() and time.monotonic() < asked + 2.0:
                return False
            records = {record["key"]: record for record in self.export()}
            asked = time.monotonic()
            return keys <= records.keys() and all(record["state"] in FINAL for record in records.values())

        wait_for(every_one, "every ticket to be settled", seconds)
        return list(records.values())

    def delivered(self, count: int, seconds: float = 60.0) -> None:
        """Wait until the log has told of so many deliveries; cheaper than `settled`."""
        wait_for(lambda: len(self.events("record_delivered")) >= count, f"{count} deliveries", seconds)

    def told(self) -> dict[str, str]:
        """Return the last final event by key, from the lines of every daemon so far."""
        finals = {"record_delivered", "record_dead", "record_skipped"}
        return {line["key"]: line["event"] for line in self.lines() if line["event"] in finals}

    # What was said.

    def lines(self) -> list[Fields]:
        """Return all lines of all daemons; the last one of a killed daemon may be torn and is left out here."""
        found: list[Fields] = []
        for daemon in self.daemons:
            for line in daemon.text().splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def events(self, name: str) -> list[Fields]:
        return [line for line in self.lines() if line.get("event") == name]

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.ended is None:
                with contextlib.suppress(OSError):
                    daemon.send(signal.SIGCONT)
                daemon.kill()
        self.sandbox.stop()

    # The verdict.

    def check(self, *, export: list[Fields] | None = None, default: str = "") -> "Findings":
        """Compare all that is known, and look at every line that was said."""
        return check(
            self.sandbox.tickets(),
            incidents=self.sandbox.incidents(),
            ledger=self.sandbox.ledger(),
            export=self.export() if export is None else export,
            users=self.sandbox.users(),
            default=default,
        ) | {"bad lines": self.bad_lines()}

    def bad_lines(self) -> list[str]:
        """Return what is wrong with the daemons' output: lines that are no JSON object, secrets."""
        found: list[str] = []
        secrets = [SECRET, *self.sandbox.tokens()]
        for daemon in self.daemons:
            where = daemon.out.name
            text = daemon.text()
            for line in text.splitlines():
                try:
                    well = (
                        isinstance(json.loads(line), dict)
                        and {"timestamp", "level", "event"} <= json.loads(line).keys()
                    )
                except ValueError:
                    well = False
                if not well:
                    found.append(f"{where}: {line[:200]!r}")
            found += [f"{where}: a secret" for secret in secrets if secret in text or secret in daemon.errors()]
            # `poller once` says there what it came to.
            said = [line for line in daemon.errors().splitlines() if not line.startswith("poller once: ")]
            found += [f"{where}: stderr: {line}" for line in said]
        return found


@contextlib.contextmanager
def world(folder: Path, database: str | None = None, *options: str) -> Iterator[World]:
    """A world whose sandbox runs with *options*; all its processes end with it."""
    made = World(folder, database, *options)
    try:
        made.sandbox.start()
        yield made
    finally:
        made.close()


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("POLLER_", "COV_"))}
    for name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC"):
        environment.pop(name, None)
    return environment


# The checker.

FINAL = frozenset({"delivered", "dead", "skipped"})
#: Kind of defect: where.
Findings = dict[str, list[str]]


def check(
    tickets: Sequence[Fields],
    *,
    incidents: Sequence[Fields],
    ledger: Sequence[Fields],
    export: Sequence[Fields],
    users: Sequence[Fields],
    default: str = "",
) -> Findings:
    """
    Hold the source's truth, the instance's truth and the export against each other.

    Records that the export calls dead may lack an incident; whether they should be dead is the caller's question.

    Args:
        default: The caller_id of an incident whose requester is unknown.

    Returns:
        ``lost``: a ticket without incident. ``doubled``: more than one. ``unexpected``: an incident that nothing explains.
        ``misbound``: number, sys_id and correlation_id crossed. ``phantom``: delivered, and no such incident.
        ``wrong caller``, ``wrong text``, ``unsettled``.
        ``unintended``: more creates arrived than attempts were committed.
    """
    source = {str(ticket["id"]): ticket for ticket in tickets}
    by_correlation: dict[str, list[Fields]] = {}
    by_name: dict[str, list[Fields]] = {}
    for row in incidents:
        by_correlation.setdefault(row["correlation_id"], []).append(row)
        by_name.setdefault(row["correlation_display"], []).append(row)
    kinds = ("lost", "unexpected", "misbound", "phantom", "wrong caller", "wrong text", "unsettled", "unintended")
    found: Findings = {"doubled": _doubled(by_correlation, by_name, ledger), **{kind: [] for kind in kinds}}
    records: dict[str, Fields] = {}
    for record in export:
        if record["key"] in records:
            found["misbound"].append(f"{record['key']}: exported twice")
        records[record["key"]] = record
    _check_source(source, records, by_name, found)
    explained = {record["correlation_id"] for record in export}
    for row in incidents:
        key = row["correlation_display"].removeprefix(f"{ROUTE}/")
        if row["correlation_id"] not in explained or key not in source:
            found["unexpected"].append(f"{row['number']}: {row['correlation_id']} {row['correlation_display']}")
    by_sys_id, callers = {row["sys_id"]: row for row in incidents}, Callers(users, default)
    arrived = Counter(entry.get("correlation_id") for entry in ledger if entry.get("kind") == "incident POST")
    for record in export:
        if (many := arrived[record["correlation_id"]]) > record["attempts"]:
            found["unintended"].append(f"{record['key']}: {many} arrived, {record['attempts']} attempts")
        _check_record(record, by_sys_id, by_correlation, source, callers, found)
    return found


def _doubled(
    by_correlation: Mapping[str, list[Fields]], by_name: Mapping[str, list[Fields]], ledger: Sequence[Fields]
) -> list[str]:
    several = {**by_correlation, **by_name}
    found = [f"{name}: {[row['number'] for row in rows]}" for name, rows in several.items() if len(rows) > 1]
    commits = Counter(entry["correlation_id"] for entry in ledger if entry.get("committed"))
    return found + [f"{one}: committed {count} times" for one, count in commits.items() if count > 1]


def _check_source(
    source: Mapping[str, Fields],
    records: Mapping[str, Fields],
    by_name: Mapping[str, list[Fields]],
    found: Findings,
) -> None:
    for key in source:
        state = records[key]["state"] if key in records else "missing from the export"
        if state not in FINAL:
            found["unsettled"].append(f"{key}: {state}")
        if f"{ROUTE}/{key}" not in by_name and state not in {"dead", "skipped"}:
            found["lost"].append(f"{key}: {state}")
    found["unsettled"] += [f"{key}: not at the source" for key in records if key not in source]


def _check_record(
    record: Fields,
    by_sys_id: Mapping[str, Fields],
    by_correlation: Mapping[str, list[Fields]],
    source: Mapping[str, Fields],
    callers: "Callers",
    found: Findings,
) -> None:
    key, there = record["key"], by_sys_id.get(record["sys_id"] or "")
    if record["state"] == "delivered" and there is None:
        found["phantom"].append(f"{key}: {record['number']} {record['sys_id']}")
    if record["state"] in {"dead", "skipped"} and record["correlation_id"] in by_correlation:
        found["misbound"].append(f"{key}: {record['state']}, and has an incident")
    if there is None:
        return
    wanted = (record["number"], record["correlation_id"], f"{ROUTE}/{key}")
    if (there["number"], there["correlation_id"], there["correlation_display"]) != wanted:
        found["misbound"].append(
            f"{key}: {wanted} is bound to {there['number']} {there['correlation_id']} {there['correlation_display']}"
        )
    ticket = source.get(key)
    if ticket is None:
        return
    login = as_text(ticket["requester"]["login"])
    if there["caller_id"] != (callers.find(login) or callers.default):
        found["wrong caller"].append(f"{key}: {login[:60]!r} became {there['caller_id']!r}")
    for column, text in _texts(as_text(ticket["subject"]), as_text(ticket["body"])).items():
        if there[column] != text:
            found["wrong text"].append(f"{key}: {column} is {there[column][:80]!r}")


def _texts(title: str, text: str) -> dict[str, str]:
    """Return what is to stand in the two columns: cut with a mark, a long title in full below a text that leaves room."""
    mark = " … [cut]"
    fitted = {
        column: whole if len(whole) <= most else whole[: most - len(mark)] + mark
        for column, whole, most in (("short_description", title, 160), ("description", text, 4000))
    }
    below = f"{text}\n\n[short_description] {title}" if text else f"[short_description] {title}"
    if len(title) > 160 and len(below) <= 4000:
        fitted["description"] = below
    return fitted


def as_text(value: Any) -> str:
    """Return what is to arrive of a JSON value: text as it is but for what UTF-8 and databases cannot hold."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


class Callers:
    """Who a name is, by the rule of the guarantee (2.3, 2), written a second time: exact first, then other case."""

    def __init__(self, users: Sequence[Fields], default: str = "") -> None:
        self.default = default
        self._exact: dict[str, set[str]] = {}
        self._folded: dict[str, set[str]] = {}
        for user in users:
            name = _composed(user["user_name"])
            self._exact.setdefault(name, set()).add(user["sys_id"])
            self._folded.setdefault(_composed(name.casefold()), set()).add(user["sys_id"])

    def find(self, login: str) -> str | None:
        """Return the one sys_id, None for unknown and ambiguous."""
        name = _composed(login)
        if not name or name.lower().startswith("javascript:"):
            return None
        ids = self._exact.get(name) or self._folded.get(_composed(name.casefold())) or set()
        return next(iter(ids)) if len(ids) == 1 else None


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
