"""
Counts, for ``GET /metrics``: the one place where they are kept.

Whoever has something to tell calls a function of this module, beside the line of log that tells the same. Until `start` is
called, by the daemon alone, each of them does nothing, and prometheus_client is not imported. None of them ever raises, waits,
or asks a database. Counters live as long as the process.

No label ever holds text from outside: routes and hosts are those of the settings, all else are words of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from poller.model import Measured

if TYPE_CHECKING:
    from poller.metrics.counts import Counts

__all__ = [
    "RouteFacts",
    "attempted",
    "blocked",
    "called",
    "connected",
    "counting",
    "delivered",
    "doubt_ended",
    "doubted",
    "exposition",
    "held",
    "known",
    "measure",
    "polled",
    "pushed",
    "refused",
    "request_answered",
    "start",
    "stop",
    "token_asked",
    "watch_connections",
    "watch_turns",
]

P = ParamSpec("P")

_counts: Counts | None = None


@dataclass(frozen=True, kw_only=True)
class RouteFacts:
    """What the settings say about a route."""

    #: When the schedule has the next poll after a moment; None: the route polls nothing.
    next_poll: Callable[[datetime], datetime | None] | None = None
    #: It sends each version of a record, so that the first sighting of the record says nothing about a later one.
    versions: bool = False


def start() -> None:
    """Count from now on, from zero."""
    global _counts  # noqa: PLW0603  one process, one set of counts
    from poller.metrics.counts import Counts

    _counts = Counts()


def counting() -> bool:
    """Return whether counting has begun."""
    return _counts is not None


def stop() -> None:
    """Count no more, and forget; for tests."""
    global _counts  # noqa: PLW0603  see above
    _counts = None


def exposition() -> tuple[bytes, str]:
    """
    Return all metrics in the text format of Prometheus, and its content type.

    Asks the database, at most every 5 s and never twice at the same time. Empty where `start` was not called.
    """
    if _counts is None:
        return b"", "text/plain; version=0.0.4; charset=utf-8"
    return _counts.exposition()


def _quietly(count: Callable[Concatenate[Counts, P], None]) -> Callable[P, None]:
    """Return what counts where counting has begun, and never raises: the work must not fail because of a count."""

    @functools.wraps(count)
    def counted(*args: P.args, **kwargs: P.kwargs) -> None:
        if (counts := _counts) is not None:
            try:
                count(counts, *args, **kwargs)
            except Exception:  # noqa: BLE001  see above
                counts.faults += 1

    return counted


# What the daemon says once, and anew with other settings.


@_quietly
def known(counts: Counts, routes: Mapping[str, RouteFacts], hosts: Collection[str]) -> None:
    """
    Say which routes and hosts the settings have. Series of other routes end; calls to other hosts count as ``other``.

    Args:
        routes: By name, those of replies (``NAME/reply``) too.

        hosts: Without ports.
    """
    counts.know(routes, hosts)


@_quietly
def measure(counts: Counts, ask: Callable[[], Sequence[Measured]]) -> None:
    """Say who is to be asked how the routes stand in the database; may raise, which shows as ``poller_database_up 0``."""
    counts.standings.ask = ask


@_quietly
def watch_turns(counts: Counts, age: Callable[[], float]) -> None:
    """Say who knows how many seconds ago the dispatcher's last turn went well."""
    counts.turn_age.set_function(age)


@_quietly
def watch_connections(counts: Counts, count: Callable[[], float]) -> None:
    """Say who knows how many connections to the ingress are open."""
    counts.ingress_connections.set_function(count)


# Polling.


@_quietly
def polled(counts: Counts, route: str, outcome: str, seconds: float | None, records: Mapping[str, int]) -> None:
    """
    Count a poll.

    Args:
        outcome: ``finished``, ``failed``, ``stopped`` by the end of the daemon, or ``put_off``: the source asked to wait.

        seconds: None: it never began.

        records: How many were ``new``, ``known``, ``changed``, ``malformed``.
    """
    with counts.of_route(route) as ours:
        if not ours:
            return
        counts.polls.labels(route, outcome).inc()
        if seconds is not None:
            counts.poll_seconds.labels(route).observe(seconds)
        for kind, count in records.items():
            counts.polled_records.labels(route, kind).inc(count)


# Delivering.


@_quietly
def attempted(counts: Counts, route: str, operation: str, outcome: str, learnt: str | None) -> None:
    """
    Count what a delivery has come to.

    Args:
        learnt: How it is known that it was delivered: ``response`` or ``lookup``; None: it was not.
    """
    with counts.of_route(route) as ours:
        if ours:
            counts.deliveries.labels(route, operation, outcome, learnt or "").inc()


@_quietly
def delivered(counts: Counts, route: str, operation: str, seconds: float) -> None:
    """Count the time from a record's first sighting to its delivery; of updates and replies it says nothing."""
    with counts.of_route(route) as ours:
        facts = counts.routes.get(route, RouteFacts())
        if ours and (operation == "create" or (operation == "send" and not facts.versions)):
            counts.delivery_seconds.labels(route).observe(seconds)


@_quietly
def doubted(counts: Counts, route: str, cause: str, count: int = 1) -> None:
    """
    Count outcomes that are not known.

    Args:
        cause: ``no_answer``; or ``taken_over``: the process that had sent it ended before the answer came.
    """
    with counts.of_route(route) as ours:
        if ours:
            counts.doubts.labels(route, cause).inc(count)


@_quietly
def doubt_ended(counts: Counts, route: str, ended: str) -> None:
    """
    Count how an unknown outcome ended.

    Args:
        ended: ``lookup`` (found at the sink), ``sent_again`` (surely not there), ``response`` (to a later attempt that the sink
            takes for the same), ``skipped``, ``dead``.
    """
    with counts.of_route(route) as ours:
        if ours:
            counts.doubts_ended.labels(route, ended).inc()


@_quietly
def held(counts: Counts, route: str, reason: str) -> None:
    """Count a hold of a route; *reason* is one word."""
    with counts.of_route(route) as ours:
        if ours:
            counts.holds.labels(route, counts.bounded("reason", reason)).inc()


@_quietly
def blocked(counts: Counts, route: str) -> None:
    """Count a block of a route."""
    with counts.of_route(route) as ours:
        if ours:
            counts.blocks.labels(route).inc()


# Calling.


@_quietly
def called(counts: Counts, host: str, status: int | str, seconds: float) -> None:
    """
    Count a request that we sent, or wanted to.

    Args:
        status: Of the answer; or ``unsent`` (surely nothing was sent), ``no_answer`` (it may have been), ``proxy``.
    """
    remote, code = counts.host(host), str(status)
    usual = not code.isdigit() or (len(code) == 3 and "1" <= code[0] <= "5")
    counts.calls.labels(remote, counts.bounded("status", code) if usual else "other").inc()
    counts.call_seconds.labels(remote).observe(seconds)


@_quietly
def connected(counts: Counts, host: str) -> None:
    """Count a connection that we opened."""
    counts.connections.labels(counts.host(host)).inc()


@_quietly
def token_asked(counts: Counts, host: str, outcome: str) -> None:
    """
    Count a request for a token.

    Args:
        outcome: ``granted``, ``refused`` (a person has to change something), ``failed``.
    """
    counts.tokens.labels(counts.host(host), outcome).inc()


# The ingress.


@_quietly
def request_answered(counts: Counts, endpoint: str, status: int, seconds: float) -> None:
    """
    Count a request that we answered.

    Args:
        endpoint: The template of its path, such as ``/routes/{name}/records``; never the path itself.
    """
    template = counts.bounded("endpoint", endpoint)
    counts.requests.labels(template, str(status) if 100 <= status <= 599 else "other").inc()
    counts.request_seconds.labels(template).observe(seconds)


@_quietly
def refused(counts: Counts, reason: str) -> None:
    """Count a request that we refused; *reason* is one word of ours, such as ``no_token``, ``scope``, ``throttled``."""
    counts.refusals.labels(counts.bounded("refusal", reason)).inc()


@_quietly
def pushed(counts: Counts, route: str, new: int, known: int, changed: int, malformed: int) -> None:
    """Count one push to *route*, and what became of its records; call it once they are committed."""
    with counts.of_route(route) as ours:
        if not ours:
            return
        counts.pushes.labels(route).inc()
        for kind, count in (("new", new), ("known", known), ("changed", changed), ("malformed", malformed)):
            counts.pushed_records.labels(route, kind).inc(count)
