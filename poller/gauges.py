"""What the daemon tells `poller.metrics` at its start and with each new settings file: what there is to be counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from urllib.parse import urlsplit

from pydantic import BaseModel

from poller import metrics
from poller.engine_room import EngineRoom
from poller.metrics import RouteFacts
from poller.model import Operation
from poller.route import Route, Schedule
from poller.settings import Settings
from poller.store.measuring import Measuring

#: When a schedule has the next poll after a moment.
NextPoll = Callable[[Schedule, datetime], datetime | None]


def begin(room: EngineRoom, settings: Settings, next_poll: NextPoll) -> None:
    """Count from now on."""
    metrics.start()
    metrics.measure(Measuring(room.store))
    metrics.watch_turns(lambda: room.clock.monotonic() - room.dispatcher.turned_at)
    renew(room, settings, next_poll)


def renew(room: EngineRoom, settings: Settings, next_poll: NextPoll) -> None:
    """Count for the routes and hosts that are in the settings now."""
    metrics.known({name: _facts(route, next_poll) for name, route in room.routes.items()}, set(hosts(settings)))


def _facts(route: Route, next_poll: NextPoll) -> RouteFacts:
    return RouteFacts(
        next_poll=None if route.source is None else lambda after: next_poll(route.schedule, after),
        versions=route.receiver.changes is Operation.SEND,
    )


def hosts(settings: object) -> Iterator[str]:
    """Yield the host of each address in *settings*, without looking at secrets: they are no plain text there."""
    if isinstance(settings, str):
        if "://" in settings and (host := _host(settings)):
            yield host
        return
    within: list[object] = []
    if isinstance(settings, BaseModel):
        within = [getattr(settings, name) for name in type(settings).model_fields]
    elif isinstance(settings, dict):
        within = list(settings.values())
    elif isinstance(settings, list | tuple):
        within = list(settings)
    for each in within:
        yield from hosts(each)


def _host(url: str) -> str | None:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    # One that a template makes could be anything.
    return None if host is None or "{" in host else host
