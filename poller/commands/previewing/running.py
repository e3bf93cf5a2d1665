"""``preview``: asks, shows, and ends with what to do next."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from poller import logs
from poller.clients.servicenow import ServiceNowClient
from poller.commands.mapping.saving import Recording, save as save_test
from poller.commands.opening import read_settings
from poller.commands.previewing import gathering, telling
from poller.commands.previewing.gathering import Seen, Shown
from poller.commands.showing import clean, say
from poller.errors import PollerError
from poller.model import Malformed, SourceRecord
from poller.settings import Route, Settings, secrets as all_secrets
from poller.wiring import PREFIX, Gate, build_sink, build_source


def preview(
    option: str | None, name: str, *, limit: int | None, key: str | None, save: str | None, machine: bool
) -> int:
    """
    Show what *name* would post.

    Args:
        option: ``--settings``.

        limit: So many records; None: those of the first page.

        key: Only this record; then the poll begins at the beginning, whatever the checkpoint.

        save: Where a mapping test is written to.

    Returns:
        0, or 1 where a record cannot be delivered, or the poll or a look-up failed.

    Raises:
        SettingsError: The settings are wrong.
    """
    _, settings = read_settings(option)
    route = _route(settings, name)
    if save is not None and Path(save).exists():
        raise click.UsageError(f"--save: {save} is there already; name another file")
    logs.setup("error", "console", stream=sys.stderr)
    logs.set_secrets(all_secrets(settings))
    client = Recording(settings.servicenow) if settings.servicenow is not None else None
    before = gathering.seen(settings, name, route)
    shown, fault, first = _shown(settings, name, route, client, before, limit, key)
    saved = None
    outcome = next((each for each in shown if first is not None and each.key == first.key), None)
    if save is not None and first is not None and outcome is not None and client is not None:
        saved = save_test(Path(save), settings, name, first, outcome, client)
    lines = telling.as_object if machine else telling.lines
    for line in lines(name, before, shown, fault or before.fault, saved, save):
        say(clean(line) if not machine else line)
    return 1 if fault or _bad(shown) or (save is not None and saved != "") else 0


def _route(settings: Settings, name: str) -> Route:
    if name not in settings.routes:
        raise click.UsageError(f"'{name}' is not in the settings; routes: {', '.join(settings.routes)}")
    route = settings.routes[name]
    if route.source is None:
        raise click.UsageError(
            f"'{name}' has no source: its records are pushed, and nothing is polled; try one with poller check --tests"
        )
    return route


def _bad(shown: list[Shown]) -> bool:
    return any(each.outcome in {"undeliverable", "malformed"} for each in shown)


def _shown(
    settings: Settings,
    name: str,
    route: Route,
    client: ServiceNowClient | None,
    before: Seen,
    limit: int | None,
    key: str | None,
) -> tuple[list[Shown], str | None, SourceRecord | Malformed | None]:
    """Return what becomes of each record, what went wrong, and the first record."""
    sink = build_sink(route, client, Gate())
    prefix = settings.servicenow.correlation_prefix if settings.servicenow else PREFIX
    found: list[SourceRecord | Malformed] = []
    fault = None
    try:
        # One by one: what came before a page that fails is shown all the same.
        for each in gathering.polled(build_source(route, client), route, before.checkpoint, limit=limit, key=key):
            found.append(each)  # noqa: PERF402
    except PollerError as error:
        fault = f"poll: {error}"
    records = [each for each in found if isinstance(each, SourceRecord)]
    before = replace(before, earlier=gathering.known(settings, name, [each.key for each in records]))
    shown: list[Shown] = []
    try:
        made = gathering.prepared(sink, records, name=name, prefix=prefix, before=before)
        for record, one in zip(records, made, strict=True):
            shown.append(replace(one, given=gathering.given(route, record)))
    except PollerError as error:
        fault = fault or f"look-ups: {error}"
    shown += [gathering.broken(each) for each in found if isinstance(each, Malformed)]
    return shown, fault, next(iter([*records, *found]), None)
