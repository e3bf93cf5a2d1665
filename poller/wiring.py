"""Settings in, routes out: the one module that knows every edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice

from sqlalchemy import Connection

from poller.clients.servicenow import ServiceNowClient
from poller.clock import Clock
from poller.errors import SettingsError
from poller.identity import correlation_start
from poller.lifecycle import Policy
from poller.model import Intent, Operation, Page
from poller.ports import Looking, Sink, Source
from poller.route import Route, Schedule
from poller.settings import Route as RouteSettings, Settings
from poller.sinks import SINKS
from poller.sinks.reply import ReplySink, with_source_auth
from poller.sinks.servicenow import ServiceNowSink
from poller.sinks.unguarded import UnguardedSink
from poller.sources import SOURCES, sampling
from poller.sources.pushed import PushReader
from poller.store import Store
from poller.store.receiving import Receiver
from poller.store.standing import RouteStanding, enter_route, fix_prefix

#: Stands in the ids of messages where there is no instance, and so no ``correlation_prefix``.
PREFIX = "poller"
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
    wiring = _Wiring(settings, clock, gate, wake, stopping)
    with store.write() as connection:
        return wiring.routes(connection)


class _Wiring:
    """All routes of one settings file."""

    def __init__(
        self, settings: Settings, clock: Clock, gate: Gate, wake: Callable[[], None], stopping: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._prefix = settings.servicenow.correlation_prefix if settings.servicenow else PREFIX
        self._client = ServiceNowClient(settings.servicenow) if settings.servicenow is not None else None
        self._clock = clock
        self._gate = gate
        self._wake = wake
        self._stopping = stopping
        self._standings: dict[str, RouteStanding] = {}

    def routes(self, connection: Connection) -> dict[str, Route]:
        settings = self._settings
        enabled = {name: route for name, route in settings.routes.items() if route.enabled}
        if settings.servicenow is not None:
            fix_prefix(connection, settings.servicenow.correlation_prefix)
        now = self._clock.now()
        # All of them first: a route may have to know the identity of another one.
        for name, each in enabled.items():
            self._standings[name] = enter_route(connection, name, each.previously, now=now)
            if each.reply is not None:
                before = reply_name(each.previously) if each.previously else None
                self._standings[reply_name(name)] = enter_route(connection, reply_name(name), before, now=now)
        routes: dict[str, Route] = {}
        for name, each in enabled.items():
            route = self._route(name, each)
            routes[name] = route
            if each.reply is not None:
                sink = build_reply(each, self._gate)
                routes[reply_name(name)] = self._beside(route, reply_name(name), sink)
                routes[name] = replace(route, replies=self._standings[reply_name(name)].id)
        return routes

    def _route(self, name: str, each: RouteSettings) -> Route:
        settings, standing = self._settings, self._standings[name]
        sink = build_sink(each, self._client, self._gate)
        instance = settings.servicenow if sink.guarded else None
        return Route(
            name=name,
            source=None if each.source is None else build_source(each, self._client, not_from=self._markers(each)),
            pushed=None if each.push is None else PushReader(each.push),
            sink=sink,
            receiver=Receiver(
                route_id=standing.id,
                identity=standing.identity,
                prefix=self._prefix,
                operation=sink.operation,
                baseline=each.first_run == "baseline",
                changes=_changes(each, sink),
            ),
            schedule=Schedule(every=each.every, cron=each.cron, timezone=each.timezone),
            policy=_policy(settings, sink),
            guard_mode=instance.duplicate_guard if instance else "settle",
            concurrency=instance.concurrency if instance else getattr(each.sink, "concurrency", 4),
            requests_per_hour=instance.requests_per_hour if instance else 0,
            max_new_per_hour=each.most_new_per_hour,
            wake=self._wake,
            stopping=self._stopping,
        )

    def _beside(self, route: Route, name: str, sink: Sink) -> Route:
        """Return the route that delivers the replies of *route*: it stands, waits and fails by itself."""
        receiver = replace(route.receiver, route_id=self._standings[name].id, operation=sink.operation, changes=None)
        return replace(
            route,
            name=name,
            source=None,
            pushed=None,
            sink=sink,
            receiver=receiver,
            policy=_policy(self._settings, sink),
            concurrency=4,
            requests_per_hour=0,
            max_new_per_hour=0,
        )

    def _markers(self, each: RouteSettings) -> list[str]:
        """Return how the correlation_ids begin of incidents that were made by the routes in ``not_from``."""
        names = getattr(each.source, "not_from", ())
        identities = [self._standings[name].identity if name in self._standings else name for name in names]
        return [correlation_start(self._prefix, identity) for identity in identities]


def reply_name(route: str) -> str:
    """Return the name under which the replies of a route stand; no route of the settings can have it."""
    return f"{route}/reply"


def _changes(route: RouteSettings, sink: Sink) -> Operation | None:
    """Return what another version of a known record is owed."""
    trigger = getattr(route.source, "trigger", None)
    wanted = route.on_change == "update" if trigger is None else trigger == "updated"
    if not wanted:
        return None
    return Operation.UPDATE if sink.operation is Operation.CREATE else sink.operation


def build_source(
    route: RouteSettings, client: ServiceNowClient | None = None, *, not_from: Sequence[str] = ()
) -> Source:
    """
    Return the polling end of a route that has one.

    Args:
        not_from: How the correlation_ids begin of incidents that a source of type ``servicenow`` leaves out.
    """
    made: Source
    assert route.source is not None  # noqa: S101  asked for routes that have one
    if route.source.type == "servicenow":
        if client is None:
            raise SettingsError(["servicenow: a route's source is servicenow, and the instance is not given"])
        made = SOURCES[route.source.type](route.source, client, not_from=not_from)
    else:
        made = SOURCES[route.source.type](route.source)
    return made


def build_reply(route: RouteSettings, gate: Gate) -> Sink:
    """Return what delivers the replies of a route."""
    assert route.reply is not None  # noqa: S101  asked for routes that have one
    return _unguarded(ReplySink(with_source_auth(route.reply, route.source)), gate)


def _unguarded(sink: UnguardedSink, gate: Gate) -> Sink:
    sink.may_send = gate
    return sink


def look(route: RouteSettings, source: Source, checkpoint: str | None) -> Iterator[Page]:
    """
    Return what a poll would yield, for those who only look.

    A source takes the next question for the news that the page before is safe, and may then let go of it: one that is not
    known to change nothing is asked for one page.
    """
    if isinstance(source, Looking):
        return source.look(checkpoint)
    pages = source.poll(checkpoint)
    assert route.source is not None  # noqa: S101  it was made of it
    return pages if str(route.source.type) in _ONLY_READ else islice(pages, 1)


def build_raw_source(route: RouteSettings) -> Source:
    """Return a source whose pages hold the text of each record: all of them are malformed, with their keys."""
    assert route.source is not None  # noqa: S101  a preview polls
    made: Source = SOURCES[route.source.type](sampling.raw_settings(route.source))
    return made


def read_sample(route: RouteSettings, text: str, format: str) -> Page:
    """
    Return the one record in *text* as the route's source would give it, without asking anybody.

    Raises:
        ValueError: It is not one record in that format.
    """
    return sampling.read_sample(route.reading, text, format)


def sample_format(route: RouteSettings) -> str:
    """Return what the texts of `build_raw_source` are in: ``json`` or ``xml``."""
    return sampling.sample_format(route.reading)


def build_sink(route: RouteSettings, client: ServiceNowClient | None, gate: Gate) -> Sink:
    """Return the delivering end of a route."""
    if route.sink.type != "servicenow":
        return _unguarded(SINKS[route.sink.type](route.sink), gate)
    if client is None:
        raise SettingsError(["servicenow: a route's sink is servicenow, and the instance is not given"])
    before = [route.previously] if route.previously else []
    sink: ServiceNowSink = SINKS[route.sink.type](route.sink, client, previously=before)
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
