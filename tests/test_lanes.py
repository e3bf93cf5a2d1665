"""Sends that wait for a connection: given back where the remote says no, and never more at once than their route allows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from poller import lanes
from poller.errors import BlockedError, NotSentError, PermanentError, TransientError
from poller.lanes import Lanes
from poller.route import Route
from poller.store import Store
from poller.work import Done, Send
from tests.fakes import Messages
from tests.house import House

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Line:
    """Lanes with their first work held until `go`."""

    def __init__(self, *results: Any) -> None:
        self.done: list[Send] = []
        self.back: list[Send] = []
        self.most = 0
        self._results = iter(results)
        self._now = 0
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self.began = threading.Event()
        self._pool = ThreadPoolExecutor(32)
        self.lanes = Lanes(self._pool, self._carry_out, self.back.append)

    def _carry_out(self, work: Send) -> Done:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.began.set()
        self._gate.wait(10)
        with self._lock:
            self._now -= 1
            self.done.append(work)
            result = next(self._results, NotSentError("over"))
        return Done(work=work, result=result, started=NOW, ended=NOW)

    def go(self) -> None:
        self._gate.set()
        self._pool.shutdown(wait=True)


@pytest.fixture
def route(store: Store) -> Route:
    return replace(House(store).route, sink=Messages(), concurrency=1)


def sends(route: Route, count: int) -> list[Send]:
    return [Send(route=route, claims=()) for _ in range(count)]


@pytest.mark.parametrize(
    "refusal", [TransientError("429", remote=True), BlockedError("401")], ids=["a pause", "a route that is blocked"]
)
def test_what_waits_behind_a_remote_that_says_no_is_given_back_unsent(route: Route, refusal: Exception) -> None:
    line = Line(refusal)
    for work in sends(route, 8):
        line.lanes.add(work)

    line.go()

    assert (len(line.done), len(line.back)) == (1, 7)


def test_a_refusal_of_one_record_holds_up_nobody(route: Route) -> None:
    line = Line(*(PermanentError("400") for _ in range(8)))
    for work in sends(route, 8):
        line.lanes.add(work)

    line.go()

    assert (len(line.done), len(line.back)) == (8, 0)


def test_a_blocked_route_gives_back_its_own_and_no_others(route: Route) -> None:
    other = replace(route, name="other")
    line = Line(BlockedError("401"))
    for one, two in zip(sends(route, 4), sends(other, 4), strict=True):
        line.lanes.add(one)
        line.lanes.add(two)

    line.go()

    assert {work.route.name for work in line.back} == {route.name}
    assert [work.route.name for work in line.done].count("other") == 4


def test_no_more_are_in_flight_than_the_route_allows_even_beside_another_one(route: Route) -> None:
    wide = replace(route, name="wide", concurrency=8)
    line = Line()
    narrow = sends(route, 8)
    for work in [*sends(wide, 8), *narrow]:
        line.lanes.add(work)

    line.go()

    assert line.most <= 8
    assert len(line.done) == 16


def test_fewer_are_claimed_ahead_where_a_send_takes_long(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a lease of 60 s a quarter: three sends of five seconds can begin within it."""
    ticks = iter((0.0, 5.0))
    monkeypatch.setattr(lanes, "monotonic", lambda: next(ticks))
    with ThreadPoolExecutor(1) as pool:
        made = Lanes(
            pool,
            lambda work: Done(work=work, result=PermanentError("no"), started=NOW, ended=NOW),
            lambda _: None,
            lease=lambda: timedelta(seconds=60),
        )
        assert made.most(route) == lanes.AHEAD
        made.add(sends(route, 1)[0])

    assert made.most(route) == 3


def test_there_is_plenty_until_a_connection_would_soon_run_out_of_work(route: Route) -> None:
    line = Line()
    assert not line.lanes.plenty

    for work in sends(route, lanes.AHEAD // 2):
        line.lanes.add(work)
    assert line.began.wait(10), "the first of them to be on its way"
    assert not line.lanes.plenty
    line.lanes.add(*sends(route, 1))
    assert line.lanes.plenty

    line.go()
    assert not line.lanes.plenty
