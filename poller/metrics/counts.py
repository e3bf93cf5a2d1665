"""
The families of metrics, in a registry of our own. Imported by `poller.metrics.start` alone: prometheus_client is slow to import.

Every family that is declared here or in `standings` has its line in docs/operations.md; a test holds that.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from poller import __version__
from poller.metrics.standings import Standings

if TYPE_CHECKING:
    from poller.metrics import RouteFacts

#: So many values a label has at most where a caller of ours could be mistaken; all further ones are ``other``.
MOST_VALUES: Final = 64

#: A text serves no longer than this, in seconds, however long the database kept it waiting.
LONGEST_REST: Final = 1.0

_CALL: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_POLL: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
#: From a poll that came at the right moment to a night without an instance.
_DELIVERY: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 900, 1800, 3600, 14400, 43200, 86400)

_POLLS: Final = ("finished", "failed")
_CAUSES: Final = ("no_answer", "taken_over")


class Counts:
    """All counts of one process."""

    def __init__(self) -> None:
        # One sample more for each series, which nobody looks at.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs
        self.registry = CollectorRegistry()
        self.routes: Mapping[str, RouteFacts] = {}
        #: Counts that failed, by a fault of ours; shown, so that they do not go unseen.
        self.faults = 0
        #: How many times as long as it took to make a text serves.
        self.rest = 10.0
        self._text = b""
        self._again = 0.0
        self._told = False
        self._hosts: frozenset[str] | None = None
        self._values: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        self._of_route: list[Counter | Histogram] = []
        self._declare_work()
        self._declare_calls()
        self._declare_ingress()
        self._declare_process()
        self.standings = Standings(lambda: self.routes)
        self.registry.register(self.standings)

    def _declare_work(self) -> None:
        self.polls = self._counter("poller_polls", "Polls.", "route", "outcome")
        self.poll_seconds = self._histogram("poller_poll_seconds", "How long a poll took.", _POLL, "route")
        self.polled_records = self._counter("poller_polled_records", "Records that polls found.", "route", "kind")
        self.deliveries = self._counter(
            "poller_deliveries", "What deliveries came to.", "route", "operation", "outcome", "learnt"
        )
        self.delivery_seconds = self._histogram(
            "poller_delivery_seconds", "From the first sighting of a record to its delivery.", _DELIVERY, "route"
        )
        self.doubts = self._counter(
            "poller_unknown_outcomes", "Attempts whose outcome was not known.", "route", "cause"
        )
        self.doubts_ended = self._counter(
            "poller_unknown_outcomes_ended", "Unknown outcomes that are known by now.", "route", "ended"
        )
        self.holds = self._counter("poller_route_holds", "Times that a route was held.", "route", "reason")
        self.blocks = self._counter("poller_route_blocks", "Times that a route was blocked.", "route")

    def _declare_calls(self) -> None:
        self.calls = self._counter("poller_calls", "Requests to remotes.", "remote", "status")
        self.call_seconds = self._histogram("poller_call_seconds", "How long a request took.", _CALL, "remote")
        self.connections = self._counter("poller_connections_opened", "Connections to remotes.", "remote")
        self.tokens = self._counter("poller_token_fetches", "Requests for tokens.", "remote", "outcome")

    def _declare_ingress(self) -> None:
        self.pushes = self._counter("poller_pushes", "Pushes that were taken.", "route")
        self.pushed_records = self._counter("poller_pushed_records", "Records in them.", "route", "kind")
        self.requests = self._counter("poller_ingress_requests", "Requests answered.", "endpoint", "status")
        self.request_seconds = self._histogram(
            "poller_ingress_request_seconds", "How long an answer took.", _CALL, "endpoint"
        )
        self.refusals = self._counter("poller_ingress_refusals", "Requests refused.", "reason")
        self.ingress_connections = self._gauge(
            "poller_ingress_connections", "Connections to the ingress that are open."
        )

    def _declare_process(self) -> None:
        self.turn_age = self._gauge("poller_dispatcher_turn_age_seconds", "Since the dispatcher's last good turn.")
        build = Gauge("poller_build_info", "What runs.", ["version", "python"], registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)
        faults = self._gauge("poller_metrics_faults", "Counts that failed by a fault of poller.")
        faults.set_function(lambda: self.faults)
        ProcessCollector(registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        made = Counter(name, text, labels, registry=self.registry)
        if "route" in labels:
            self._of_route.append(made)
        return made

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], label: str) -> Histogram:
        made = Histogram(name, text, (label,), registry=self.registry, buckets=buckets)
        if label == "route":
            self._of_route.append(made)
        return made

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    # What labels may hold.

    def know(self, routes: Mapping[str, RouteFacts], hosts: Collection[str]) -> None:
        """Let the series of all other routes end, and those of these begin at zero, so that a first rise is seen."""
        # A text that was made before speaks of others.
        self._again = 0.0
        with self._lock:
            gone = self.routes.keys() - routes.keys()
            self.routes, self._hosts, self._told = dict(routes), frozenset(hosts), True
            for name in gone:
                for family in self._of_route:
                    family.remove_by_labels({"route": name})
            for name, facts in routes.items():
                for outcome in _POLLS if facts.next_poll is not None else ():
                    self.polls.labels(name, outcome)
                for cause in _CAUSES:
                    self.doubts.labels(name, cause)
                self.blocks.labels(name)
                # The one hold that no row in the database tells of, so that alerts look for its rise.
                self.holds.labels(name, "flood")

    @contextmanager
    def of_route(self, name: str) -> Iterator[bool]:
        """Keep the routes as they are within the block; give whether *name* is one of them: work may outlive its route."""
        with self._lock:
            yield name in self.routes if self._told else self.bounded("route", name) == name

    def host(self, name: str) -> str:
        """Return *name* where the settings have it, else ``other``."""
        if self._hosts is None:
            return self.bounded("host", name)
        return name if name in self._hosts else "other"

    def bounded(self, kind: str, value: str) -> str:
        """Return *value*, or ``other`` where there are too many of that kind already."""
        values = self._values.setdefault(kind, set())
        if value in values:
            return value
        if len(values) >= MOST_VALUES or len(value) > 100:
            return "other"
        values.add(value)
        return value

    def exposition(self) -> tuple[bytes, str]:
        """Return the text, and its content type; the same again for a moment: who scrapes on and on takes a tenth of the time."""
        started = time.monotonic()
        if started >= self._again:
            self._text = generate_latest(self.registry)
            ended = time.monotonic()
            self._again = ended + min(LONGEST_REST, (ended - started) * self.rest)
        return self._text, CONTENT_TYPE_PLAIN_0_0_4
