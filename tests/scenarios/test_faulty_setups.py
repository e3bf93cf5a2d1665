"""
An admin's first hour: instances that are not set up as they should be, played by the sandbox as a process.

``poller check`` names the cause and the remedy of each in one line, leaves whatever else is right alone, and changes nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.scenarios.world import ROOT, call

SECRET = "a-secret-of-this-scenario"
SETTINGS = """
[database]
url = "sqlite:///poller.db"

[servicenow]
instance = "{instance}"
correlation_prefix = "first-hour"

[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = {{ file = "secret" }}

[routes.helpdesk]
every = "30s"
first_run = "all"

[routes.helpdesk.source]
type = "http"
url = "{helpdesk}/api/tickets"
records = "tickets"
key = "id"

[routes.helpdesk.source.fields]
username = "requester.login"
title = "subject"
description = "body"

[routes.helpdesk.sink]
type = "servicenow"
table = "{table}"
"""


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """A set-up, and what the one line must say."""

    setup: str
    finding: str
    cause: str
    remedy: str
    table: str = "incident"
    tls: bool = False
    #: Findings that are faults besides, because they follow from it.
    also: tuple[str, ...] = ()


#: The ten of the contract.
TEN = [
    Faulty(
        setup="wrong-secret",
        finding="token",
        cause="client_secret or client_id is wrong",
        remedy="look at client_secret first",
    ),
    Faulty(
        setup="missing-property",
        finding="token",
        cause="the system property glide.oauth.inbound.client.credential.grant_type.enabled is not true",
        remedy="then at the property",
    ),
    Faulty(
        setup="no-role",
        finding="table incident",
        cause="svc.poller may not read incident, and has no role at all",
        remedy="such as sn_incident_write",
    ),
    Faulty(
        setup="well",
        table="incidnet",
        finding="table incidnet",
        cause='the instance has no table "incidnet"',
        remedy="correct routes.helpdesk.sink.table; did you mean incident?",
    ),
    Faulty(
        setup="hidden-correlation-id",
        finding="incident.correlation_id",
        cause="left out of every row",
        remedy="let svc.poller read the column correlation_id of incident",
    ),
    Faulty(
        setup="read-only",
        finding="roles",
        cause="snc_read_only, which refuses every write",
        remedy="take the role snc_read_only from svc.poller",
        also=("create right on incident",),
    ),
    Faulty(
        setup="other-zone",
        finding="time zone",
        cause="read in the zone of svc.poller (US/Pacific)",
        remedy="set the time zone of svc.poller to GMT",
    ),
    Faulty(
        setup="dropped-conditions",
        finding="table incident",
        cause="drops that condition and gives other rows",
        remedy="let svc.poller read the column correlation_id of incident",
    ),
    Faulty(
        setup="login-page",
        finding="access",
        cause='the HTML page "Log in | ServiceNow"',
        remedy="see that servicenow.instance is its bare address",
    ),
    Faulty(
        setup="well",
        tls=True,
        finding="token",
        cause="its certificate is not trusted",
        remedy="into servicenow.tls.ca",
    ),
]
#: And what else is met.
MORE = [
    Faulty(
        setup="no-application-user",
        finding="token",
        cause="400 unauthorized_client",
        remedy="set the OAuth application's user",
    ),
    Faulty(
        setup="guest-token",
        finding="access",
        cause="the API does not accept it, as for a guest",
        remedy="have the OAuth application's user set and active",
    ),
]


@contextmanager
def playing(folder: Path, *options: str, scheme: str = "http") -> Iterator[tuple[str, str]]:
    """Run a sandbox as a process; yield the addresses of the instance and of the help desk."""
    command = [sys.executable, "-m", "poller.sandbox", *options]
    if "wrong-secret" not in options:
        command += ["--client-secret", SECRET]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert told["servicenow"].startswith(scheme)
            yield told["servicenow"], told["helpdesk"]
        finally:
            process.terminate()
            process.wait(timeout=20)


def certified(folder: Path) -> Sequence[str]:
    """Return the options of a sandbox behind a CA that nobody knows; the CA's PEM is in *folder*."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for place, pem in enumerate(certificate.cert_chain_pems):
        pem.write_to_path(str(folder / "cert.pem"), append=place > 0)
    return ["--certificate", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]


def checked(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, "-m", "poller", "check", "--settings", str(folder / "settings.toml"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
    return ended


def written(folder: Path, instance: str, helpdesk: str, table: str = "incident") -> None:
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o600)
    (folder / "settings.toml").write_text(SETTINGS.format(instance=instance, helpdesk=helpdesk, table=table))


def name_of(faulty: Faulty) -> str:
    if faulty.tls:
        return "private-ca-missing"
    return "wrong-table" if faulty.table != "incident" else faulty.setup


@pytest.mark.parametrize("faulty", [*TEN, *MORE], ids=name_of)
def test_a_faulty_setup_is_named_with_its_cause_and_its_remedy_in_one_line(faulty: Faulty, tmp_path: Path) -> None:
    options = [*(certified(tmp_path) if faulty.tls else []), "--setup", faulty.setup]
    with playing(tmp_path, *options, scheme="https" if faulty.tls else "http") as (instance, helpdesk):
        written(tmp_path, instance, helpdesk, faulty.table)
        people, machines = checked(tmp_path), checked(tmp_path, "--json")

    assert (people.returncode, people.stderr) == (1, "")
    (line,) = [line for line in people.stdout.splitlines() if line.startswith(f"✗ {faulty.finding}: ")]
    assert faulty.cause in line
    assert faulty.remedy in line
    assert re.match(r"\d faults?\. Next: mend the first fault first", people.stdout.splitlines()[-1])
    # The rest is right, and is said to be.
    found: list[dict[str, Any]] = json.loads(machines.stdout)["findings"]
    faults = {finding["name"] for finding in found if finding["status"] == "fault"}
    assert faults == {faulty.finding, *faulty.also}
    assert {finding["name"]: finding["status"] for finding in found}["source of helpdesk"] == "ok"
    assert not (tmp_path / "poller.db").exists()


def test_a_setup_that_is_well_has_no_fault_and_no_warning(tmp_path: Path) -> None:
    with playing(tmp_path, "--setup", "well") as (instance, helpdesk):
        written(tmp_path, instance, helpdesk)
        ended = checked(tmp_path)
        wrote = [each for each in call("GET", f"{instance}/sandbox/ledger")["entries"] if each["method"] != "GET"]

    assert ended.returncode == 0, ended.stdout
    assert {line[0] for line in ended.stdout.splitlines()[1:-1]} == {"✓"}
    assert ended.stdout.endswith("All well. Next: poller preview helpdesk\n")
    assert {each["kind"] for each in wrote} == {"token"}


def test_a_private_ca_that_is_given_is_trusted(tmp_path: Path) -> None:
    with playing(tmp_path, *certified(tmp_path), "--setup", "well", scheme="https") as (instance, helpdesk):
        written(tmp_path, instance, helpdesk)
        with (tmp_path / "settings.toml").open("a") as settings:
            settings.write('\n[servicenow.tls]\nca = "ca.pem"\n')
        ended = checked(tmp_path)

    assert ended.returncode == 0, ended.stdout


def test_every_setup_of_the_sandbox_is_listed_in_its_help() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "poller.sandbox", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout

    for faulty in [*TEN, *MORE]:
        assert f"  {faulty.setup} " in told
