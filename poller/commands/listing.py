"""``records``, ``export`` and ``explain``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain, islice

import click

from poller.commands.opening import read_settings, reading
from poller.commands.showing import as_json, brief, say, table, warn
from poller.store import reading as store_reading
from poller.store.reading import RecordLine, snapshot

#: Rows that are looked at together to find how wide the columns are.
_WINDOW = 1000
_HEAD = ("ROUTE", "KEY", "STATE", "NUMBER", "TRIES", "FIRST SEEN", "REASON")


def records(
    settings_option: str | None, route: str | None, state: str | None, limit: int | None, *, machine: bool
) -> int:
    """List records, newest first."""
    _, settings = read_settings(settings_option)
    if state is not None and state not in store_reading.SHOWN:
        raise click.UsageError(f"there is no state {state!r}; there are: {', '.join(store_reading.SHOWN)}")
    with reading(settings) as store, snapshot(store) as connection:
        if route is not None:
            known = {line.name for line in store_reading.route_lines(connection)}
            if route not in known | settings.routes.keys():
                there = ", ".join(sorted(known | settings.routes.keys()))
                raise click.UsageError(f"there is no route {route!r}; there are: {there}")
        lines = store_reading.newest_records(connection, route=route, state=state, limit=limit)
        if machine:
            _as_array(lines)
        else:
            _as_columns(lines)
    return 0


def _as_array(lines: Iterable[RecordLine]) -> None:
    """Write one JSON array, a record a line, without ever holding all of it."""
    before = "["
    for line in lines:
        say(before)
        before = as_json(asdict(line)) + ","
    say("[]" if before == "[" else before[:-1] + "\n]")


def _as_columns(lines: Iterator[RecordLine]) -> None:
    window = list(islice(lines, _WINDOW))
    if not window:
        warn("no such records")
    while window:
        rows = (
            (each.route, each.key, each.state, each.number, each.attempts, brief(each.first_seen), each.reason)
            for each in window
        )
        for line in table(_HEAD, rows):
            say(line)
        window = list(islice(lines, _WINDOW))


def export(settings_option: str | None) -> int:
    """Write every record and every route's checkpoint, one JSON object a line, all of the same moment."""
    _, settings = read_settings(settings_option)
    with reading(settings) as store, snapshot(store) as connection:
        routes = store_reading.route_lines(connection)
        of_records = (asdict(line) for line in store_reading.all_records(connection))
        # The replies of a route stand beside it and have no checkpoint.
        of_routes = ({"route": line.name, "checkpoint": line.checkpoint} for line in routes if "/" not in line.name)
        for each in chain(of_records, of_routes):
            say(as_json(each))
    return 0
