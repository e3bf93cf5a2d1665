"""``check``: what is asked, in which order, and where it stops because all further answers would be the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from poller import logs
from poller.clients.servicenow import ServiceNowClient
from poller.commands.checking.account import Account
from poller.commands.checking.database import Remembered, database, guard
from poller.commands.checking.findings import Finding, Report, Status, warning
from poller.commands.checking.lookups import lookups
from poller.commands.checking.sources import source
from poller.commands.checking.tables import Target
from poller.commands.checking.zone import time_zone
from poller.commands.opening import read_settings
from poller.commands.showing import clean, say
from poller.model import Fields
from poller.settings import Route, Settings, secrets as all_secrets, warnings
from poller.wiring import Gate, build_reply, build_sink, build_source


def check(option: str | None, *, offline: bool, machine: bool = False, tests: str | None = None) -> int:
    """
    Check everything; tell each finding in a line, as it is known. Nothing is changed anywhere.

    Args:
        option: ``--settings``.

        offline: No remote and no database is asked.

        tests: A folder of mapping tests to be run too; they ask nobody.

    Returns:
        0 where there is no fault, else 1.

    Raises:
        SettingsError: The settings are wrong.
    """
    path, settings = read_settings(option)
    logs.setup("error", "console", stream=sys.stderr)
    logs.set_secrets(all_secrets(settings))
    enabled = {name: route for name, route in settings.routes.items() if route.enabled}
    client = ServiceNowClient(settings.servicenow) if settings.servicenow is not None else None
    guards = {}
    for name, route in enabled.items():
        # Whatever only shows when the parts are put together is a problem of the settings too.
        if route.source is not None:
            build_source(route, client)
        sink = build_sink(route, client, Gate())
        if sink.guarded:
            guards[name] = sink.guard_key()
        if route.reply is not None:
            build_reply(route, Gate())
    report = Report(machine=machine)
    _settings(report, path, settings)
    if tests is not None:
        _mapping_tests(report, settings, Path(tests))
    if not offline:
        _remotes(report, settings, enabled, client, guards)
    first = next((name for name, route in enabled.items() if route.source is not None), None)
    return report.end(
        "poller check, which asks each remote" if offline else f"poller preview {first}" if first else "poller run"
    )


def _settings(report: Report, path: Path, settings: Settings) -> None:
    count = f"{len(settings.routes)} route{'s' if len(settings.routes) > 1 else ''}"
    said = f"{path.name}, {count}: {', '.join(settings.routes)}"
    report.found.append(Finding(name="settings", status=Status.OK, said=said))
    if not report.machine:
        say(clean(f"settings OK: {said}"))
    for line in warnings(settings):
        # The line itself ends with what to do.
        said, _, remedy = line.rpartition("; ")
        report.tell(warning("settings", said or line, remedy if said else ""))


def _mapping_tests(report: Report, settings: Settings, folder: Path) -> None:
    from poller.commands.mapping import findings

    report.tell_all(findings(settings, folder))


def _remotes(
    report: Report,
    settings: Settings,
    enabled: dict[str, Route],
    client: ServiceNowClient | None,
    guards: dict[str, str],
) -> None:
    remembered = Remembered()
    report.tell_all(database(settings, remembered, list(guards.values())))
    if client is not None:
        _instance(report, client, enabled)
        mode = client.settings.duplicate_guard
        for name, key in guards.items():
            report.tell_all(guard(name, mode, remembered.proofs.get(key)))
    for name, route in enabled.items():
        report.tell_all(source(name, route, remembered.checkpoints.get(name), client))
    if settings.server is not None:
        # Late: who has no ingress need not wait for what it is made of.
        from poller.commands.checking.ingress import ingress

        report.tell_all(ingress(settings.server))


def _instance(report: Report, client: ServiceNowClient, enabled: dict[str, Route]) -> None:
    """Ask the instance; without a token, or without an answer of its API, all else would only say the same again."""
    account = Account(client)
    if report.tell_all(account.token()) or report.tell_all(account.access()):
        return
    report.tell_all(chain.from_iterable(each() for each in account.checks()))
    seen: tuple[Fields | None, str] = (None, "")
    for target in _targets(account, enabled):
        if report.tell_all(target.readable()):
            continue
        report.tell_all(chain.from_iterable(each() for each in target.checks()))
        seen = seen if seen[0] is not None else (target.row, target.table)
    report.tell_all(lookups(account, _here(enabled)))
    if seen[1]:
        report.tell_all(time_zone(account, *seen))


def _here(enabled: dict[str, Route]) -> dict[str, Route]:
    return {name: route for name, route in enabled.items() if route.sink.type == "servicenow"}


def _targets(account: Account, enabled: dict[str, Route]) -> Iterator[Target]:
    """Yield each table once, however many routes use it."""
    here = _here(enabled)
    tables: dict[str, dict[str, Route]] = {}
    for name, route in here.items():
        if route.sink.type == "servicenow":
            tables.setdefault(route.sink.table, {})[name] = route
    for table, routes in tables.items():
        yield Target(account=account, table=table, routes=routes)
