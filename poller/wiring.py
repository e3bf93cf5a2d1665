"""Settings in, routes out: the one module that knows every edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice

from poller.clients.servicenow import ServiceNowClient
from poller.clock import Clock
from poller.errors import SettingsError
from poller.lifecycle import Policy
from poller.model import Intent, Page
from poller.ports import Looking, Sink, Source
from poller.route import Route, Schedule
from poller.settings import Route as RouteSettings, Settings
from poller.sinks import SINKS
from poller.sources import SOURCES, sampling
from poller.store import Store
from poller.store.receiving import Receiver
from poller.store.standing import enter_route, fix_prefix

#: Sources that change nothing at their end, however far they are read.
_ONLY_READ = frozenset({"http", "sql", "servicenow"})


class Gate:
    """What the sinks ask the dispatcher, which is built after them."""

    def __init__(self) -> None:
        #: Whether the intent of this number may still go on the wire.
        self.may_send: Callable[[int], bool] = lambda _number: False
        #: Whether the instance, table and user of this name are proven to keep our sys_id.
        self.proven: Callable[[str], bool] = lambda _guard_key: False
        #: Whether every incident of ours there is sure to bear it.
        self.primary: Callable[[str], bool] = lambda _guard_key: False

    def __call__(self, intent: Intent) -> bool:
        """Return whether *intent*'s first byte may leave now."""
        return self.may_send(intent.number)


def wire(
    settings: Settings,
    store: Store,
    clock: Clock,
    gate: Gate,
    wake: Callable[[], None],
    stopping: Callable[[], bool],
) -> dict[str, Route]:
    """
    Return the enabled routes by name, each with its row in the database.

    Raises:
        SettingsError: They do not fit what the database remembers.
    """
    client = ServiceNowClient(settings.servicenow) if settings.servicenow is not None else None
    enabled = {name: route for name, route in settings.routes.items() if route.enabled}
    routes: dict[str, Route] = {}
    with store.write() as connection:
        if settings.servicenow is not None:
            fix_prefix(connection, settings.servicenow.correlation_prefix)
        for name, each in enabled.items():
            standing = enter_route(connection, name, each.previously, now=clock.now())
            sink = build_sink(each, client, gate)
            routes[name] = Route(
                name=name,
                source=build_source(each),
                sink=sink,
                receiver=Receiver(
                    route_id=standing.id,
                    identity=standing.identity,
                    prefix=settings.servicenow.correlation_prefix if settings.servicenow else "",
                    operation=sink.operation,
                    baseline=each.first_run == "baseline",
                ),
                schedule=Schedule(every=each.every, cron=each.cron, timezone=each.timezone),
                policy=_policy(settings, sink),
                guard_mode=settings.servicenow.duplicate_guard if settings.servicenow else "settle",
                concurrency=settings.servicenow.concurrency if settings.servicenow else 4,
                requests_per_hour=settings.servicenow.requests_per_hour if settings.servicenow else 0,
                max_new_per_hour=each.max_new_per_hour,
                wake=wake,
                stopping=stopping,
            )
    return routes


def build_source(route: RouteSettings) -> Source:
    """Return the polling end of a route."""
    made: Source = SOURCES[route.source.type](route.source)
    return made


def look(route: RouteSettings, source: Source, checkpoint: str | None) -> Iterator[Page]:
    """
    Return what a poll would yield, for those who only look.

    A source takes the next question for the news that the page before is safe, and may then let go of it: one that is not
    known to change nothing is asked for one page.
    """
    if isinstance(source, Looking):
        return source.look(checkpoint)
    pages = source.poll(checkpoint)
    return pages if str(route.source.type) in _ONLY_READ else islice(pages, 1)


def build_raw_source(route: RouteSettings) -> Source:
    """Return a source whose pages hold the text of each record: all of them are malformed, with their keys."""
    made: Source = SOURCES[route.source.type](sampling.raw_settings(route.source))
    return made


def read_sample(route: RouteSettings, text: str, format: str) -> Page:
    """
    Return the one record in *text* as the route's source would give it, without asking anybody.

    Raises:
        ValueError: It is not one record in that format.
    """
    return sampling.read_sample(route.source, text, format)


def sample_format(route: RouteSettings) -> str:
    """Return what the texts of `build_raw_source` are in: ``json`` or ``xml``."""
    return sampling.sample_format(route.source)


def build_sink(route: RouteSettings, client: ServiceNowClient | None, gate: Gate) -> Sink:
    """Return the delivering end of a route."""
    if client is None:
        raise SettingsError(["servicenow: a route's sink is servicenow, and the instance is not given"])
    sink = SINKS[route.sink.type](route.sink, client, previously=[route.previously] if route.previously else [])
    key = sink.guard_key()
    sink.may_send = gate
    sink.proven = lambda: gate.proven(key)
    sink.primary = lambda: gate.primary(key)
    return sink


def _policy(settings: Settings, sink: Sink) -> Policy:
    return Policy(
        base=settings.retry.base,
        cap=settings.retry.cap,
        attempts=settings.retry.attempts,
        settle=timedelta(seconds=sink.settle_seconds),
        guarded=sink.guarded,
    )
