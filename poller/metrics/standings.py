"""
Gauges that are questions to the database, asked when somebody looks and not before.

An answer serves for 5 s, and while one thread asks, others go on with the answer before: a flood of scrapes costs nothing,
and a database that hangs holds up one of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from poller.model import Measured

if TYPE_CHECKING:
    from poller.metrics import RouteFacts

#: How long an answer serves, in seconds.
FRESH: Final = 5.0
#: Without a newer answer for so long, the database counts as down.
STALE: Final = 30.0
#: How long a scrape waits for the very first answer, which another is asking for.
FIRST: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the database said; None: it could not."""

    measured: Sequence[Measured] | None
    at: float
    seconds: float


class Standings(Collector):
    """
    How the routes stand in the database.

    Args:
        routes: Those of the settings, as of now; the database knows every route there ever was.
    """

    def __init__(self, routes: Callable[[], Mapping[str, RouteFacts]]) -> None:
        #: Who is asked; None: nobody yet.
        self.ask: Callable[[], Sequence[Measured]] | None = None
        #: Monotonic; tests move it.
        self.monotonic: Callable[[], float] = time.monotonic
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self._routes = routes
        self._answer: _Answer | None = None
        self._asking = threading.Lock()

    def describe(self) -> Iterator[Metric]:
        """Return nothing: to be registered must not ask the database."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        answer = self._fresh()
        up = GaugeMetricFamily("poller_database_up", "Whether the database answers.")
        took = GaugeMetricFamily("poller_database_measure_seconds", "How long the questions for these gauges took.")
        measured: Sequence[Measured] = ()
        if answer is not None:
            there = answer.measured is not None and self.monotonic() - answer.at < STALE
            up.add_metric((), float(there))
            took.add_metric((), answer.seconds)
            measured = answer.measured or () if there else ()
        yield up
        yield took
        yield from self._families(measured)

    def _fresh(self) -> _Answer | None:
        """Return an answer that is fresh, or the one before where another thread is asking just now."""
        answer, ask = self._answer, self.ask
        if ask is None or (answer is not None and self.monotonic() - answer.at < FRESH):
            return answer
        if not self._asking.acquire(timeout=FIRST if answer is None else 0):
            return answer
        try:
            # Another thread may have asked while this one waited.
            if self._answer is answer:
                self._answer = self._asked(ask)
            return self._answer
        finally:
            self._asking.release()

    def _asked(self, ask: Callable[[], Sequence[Measured]]) -> _Answer:
        started = self.monotonic()
        measured: Sequence[Measured] | None
        try:
            measured = list(ask())
        except Exception:  # noqa: BLE001  whatever it is, the scrape says that the database is down
            measured = None
        ended = self.monotonic()
        return _Answer(measured=measured, at=ended, seconds=ended - started)

    def _families(self, measured: Sequence[Measured]) -> Iterator[Metric]:
        now, routes = self.now(), self._routes()
        shown = [(each, routes[each.route]) for each in measured if each.route in routes]
        yield _family(
            "poller_records",
            "Deliveries by state.",
            (((each.route, state), count) for each, _ in shown for state, count in each.states.items()),
            "state",
        )
        yield _family(
            "poller_oldest_waiting_seconds",
            "Since the oldest was first seen that is neither finished nor dead.",
            (((each.route,), _age(each.oldest_at, now)) for each, _ in shown),
        )
        yield _family(
            "poller_route_held",
            "1 while a route is held.",
            (((each.route, each.held), 1.0) for each, _ in shown if each.held is not None),
            "reason",
        )
        yield _family(
            "poller_route_blocked",
            "Whether a route is blocked.",
            (((each.route,), float(each.blocked)) for each, _ in shown),
        )
        polling = [(each, facts.next_poll) for each, facts in shown if facts.next_poll is not None]
        yield from _polling(polling, now)


def _polling(
    polling: Sequence[tuple[Measured, Callable[[datetime], datetime | None]]], now: datetime
) -> Iterator[Metric]:
    yield _family(
        "poller_whole_poll_age_seconds",
        "Since the last whole poll; before the first one, since the route's first start.",
        (((each.route,), _age(each.whole_poll_at or each.created_at, now)) for each, _ in polling),
    )
    yield _family(
        "poller_poll_overdue_seconds",
        "How long a whole poll is overdue by the route's own schedule.",
        (((each.route,), _age(due(each.whole_poll_at or each.created_at), now)) for each, due in polling),
    )
    yield _family(
        "poller_checkpoint_age_seconds",
        "Since the checkpoint last moved.",
        (((each.route,), _age(each.checkpoint_at, now)) for each, _ in polling if each.checkpoint_at is not None),
    )
    yield _family(
        "poller_poll_failures_in_a_row",
        "Polls that failed since the last whole one.",
        (((each.route,), each.poll_failures) for each, _ in polling),
    )


def _family(name: str, text: str, samples: Iterator[tuple[tuple[str, ...], float]], *further: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("route", *further))
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _age(at: datetime | None, now: datetime) -> float:
    """Return how long ago that was, in seconds; never below zero."""
    return 0.0 if at is None else max(0.0, (now - at).total_seconds())
