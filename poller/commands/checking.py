"""
``check``: are the settings right, and does each remote do what they say. Nothing is changed anywhere.

A check is a function that yields `Finding`s; `instance_checks` and `route_checks` list them.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

from poller import logs
from poller.clients.query import Query
from poller.clients.rows import Incidents
from poller.clients.servicenow import ServiceNowClient
from poller.commands.opening import read_settings, reading
from poller.commands.showing import clean, say, warn
from poller.errors import DatabaseUnusable, PollerError
from poller.model import Page
from poller.settings import Route, Settings, secrets as all_secrets, warnings
from poller.store import reading as store_reading
from poller.store.reading import snapshot
from poller.wiring import Gate, build_sink, build_source

#: Clocks further apart are worth a word; creates stop at `_SKEWED`, as in the sink.
_NOTABLE, _SKEWED = timedelta(seconds=5), timedelta(seconds=300)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check came to: one line."""

    name: str
    well: bool
    said: str
    #: What to do; only where it is not well.
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def check(option: str | None, *, offline: bool) -> int:
    """Check everything; tell each finding in a line."""
    path, settings = read_settings(option)
    for warning in warnings(settings):
        warn(clean(warning))
    enabled = {name: route for name, route in settings.routes.items() if route.enabled}
    count = f"{len(settings.routes)} route{'s' if len(settings.routes) > 1 else ''}"
    say(clean(f"settings OK: {path.name}, {count}: {', '.join(settings.routes)}"))
    client = ServiceNowClient(settings.servicenow) if settings.servicenow is not None else None
    for route in enabled.values():
        # Whatever only shows when the parts are put together is a problem of the settings too.
        build_source(route)
        build_sink(route, client, Gate())
    if offline:
        return 0
    logs.setup("error", "console", stream=sys.stderr)
    logs.set_secrets(all_secrets(settings))
    checkpoints: dict[str, str | None] = {}
    faults = _told([lambda: _database(settings, checkpoints)])
    if client is not None:
        # Without a token all further questions would only say the same again.
        refused = _told([lambda: _token(client)])
        faults += refused or _told(instance_checks(client, enabled))
    for name, route in enabled.items():
        faults += _told(route_checks(name, route, checkpoints.get(name)))
    return 1 if faults else 0


def instance_checks(client: ServiceNowClient, routes: dict[str, Route]) -> list[Check]:
    """Return the checks of the instance, past its token; it is asked once for each table, however many routes use it."""
    tables = dict.fromkeys(route.sink.table for route in routes.values() if _is_servicenow(route.sink.type))
    return [
        lambda: _users(client),
        *(lambda table=table: _table(client, table) for table in tables),
        lambda: _clock(client),
    ]


def _is_servicenow(kind: str) -> bool:
    return kind == "servicenow"


def route_checks(name: str, route: Route, checkpoint: str | None) -> list[Check]:
    """Return the checks of one route."""
    return [lambda: _source(name, route, checkpoint)]


def _told(checks: list[Check]) -> int:
    """Write what each check finds; return how much of it is not well."""
    faults = 0
    for finding in chain.from_iterable(each() for each in checks):
        faults += not finding.well
        remedy = f"; {finding.remedy}" if finding.remedy and not finding.well else ""
        say(clean(f"{_mark(well=finding.well)} {finding.name}: {finding.said}{remedy}"))
        sys.stdout.flush()
    return faults


def _mark(*, well: bool) -> str:
    mark = "✓" if well else "✗"
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "ok:  " if well else "FAIL:"
    return mark


def _answer(name: str, ask: Callable[[], str], remedy: str) -> Iterator[Finding]:
    """Yield what *ask* says, or why it did not."""
    try:
        said = ask()
    except PollerError as error:
        yield Finding(name=name, well=False, said=str(error), remedy=remedy)
    else:
        yield Finding(name=name, well=True, said=said)


def _database(settings: Settings, checkpoints: dict[str, str | None]) -> Iterator[Finding]:
    try:
        with reading(settings) as store, snapshot(store) as connection:
            checkpoints.update((line.name, line.checkpoint) for line in store_reading.route_lines(connection))
            prefix = store_reading.kept_prefix(connection)
    except DatabaseUnusable as error:
        # Not being there yet is how every installation begins.
        yield Finding(name="database", well="does not exist yet" in str(error), said=str(error))
        return
    wanted = settings.servicenow.correlation_prefix if settings.servicenow else prefix
    if prefix not in {None, wanted}:
        said = f'its records were made under correlation_prefix "{prefix}", the settings say "{wanted}"'
        yield Finding(name="database", well=False, said=said, remedy="put the former one back; it is never changed")
    else:
        yield Finding(name="database", well=True, said="there, with the schema of this release")


def _token(client: ServiceNowClient) -> Iterator[Finding]:
    def ask() -> str:
        client._credentials.grant()  # noqa: SLF001  every other question would hide which of the two was refused
        return f"{client.instance}: credentials accepted or not asked for"

    yield from _answer("token", ask, "check servicenow.auth, and the application registry of the instance")


def _users(client: ServiceNowClient) -> Iterator[Finding]:
    # Of all users, those whose names begin with a letter that nearly every instance has.
    query = Query().starts_with("user_name", "a")
    remedy = "give the integration user read access to sys_user"
    try:
        rows = client.table_get("sys_user", query, ["sys_id", "user_name"], 1)
    except PollerError as error:
        yield Finding(name="sys_user", well=False, said=str(error), remedy=remedy)
        return
    if rows and not rows[0].get("user_name"):
        yield Finding(name="sys_user", well=False, said="user_name comes back empty", remedy=remedy)
    elif not rows:
        yield Finding(name="sys_user", well=False, said="no user that begins with a can be seen", remedy=remedy)
    else:
        yield Finding(name="sys_user", well=True, said="can be read")


def _table(client: ServiceNowClient, table: str) -> Iterator[Finding]:
    def ask() -> str:
        Incidents(client, table).probe(secrets.token_hex(16))
        return "can be read, and a look-up of a random correlation_id finds nothing"

    yield from _answer(
        f"table {table}", ask, f"give the integration user read access to {table} and its correlation_id"
    )


def _clock(client: ServiceNowClient) -> Iterator[Finding]:
    apart = timedelta(seconds=abs(client.skew_seconds))
    said = "in step with ours" if apart < _NOTABLE else f"{apart.total_seconds():.0f} s apart from ours"
    yield Finding(name="clock", well=apart < _SKEWED, said=said, remedy="set the clocks right (NTP on this machine)")


def _source(name: str, route: Route, checkpoint: str | None) -> Iterator[Finding]:
    source = build_source(route)

    def ask() -> str:
        page = next(iter(source.poll(checkpoint)), Page())
        told = [f"{len(page.records)} records on the first page"]
        if page.malformed:
            told.append(f"{len(page.malformed)} that cannot be read, the first because {page.malformed[0].reason}")
        return ", ".join(told)

    yield from _answer(f"source of {name}", ask, f"see routes.{name}.source")
