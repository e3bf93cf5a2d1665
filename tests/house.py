"""One route on a real database with the fakes at both ends, turned by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from poller.dispatcher import Dispatcher
from poller.route import Route, Schedule
from poller.store import Store
from poller.store.receiving import Receiver
from poller.store.standing import enter_route
from poller.tables import attempts, deliveries, records
from tests.fakes import POLICY, FakeSink, FakeSource, HandClock, Inline


class House:
    """A store, a route and a dispatcher."""

    def __init__(self, store: Store, **route: Any) -> None:
        self.store = store
        self.clock = HandClock()
        self.source = FakeSource()
        self.sink = FakeSink()
        self.executor = Inline()
        baseline = route.pop("baseline", False)
        with store.write() as connection:
            standing = enter_route(connection, "helpdesk", None, now=self.clock.now())
        receiver = Receiver(
            route_id=standing.id,
            identity=standing.identity,
            prefix="test",
            operation=self.sink.operation,
            baseline=baseline,
        )
        self.route = Route(
            name="helpdesk",
            source=self.source,
            sink=self.sink,
            receiver=receiver,
            schedule=Schedule(every=timedelta(seconds=30)),
            policy=replace(POLICY, **route.pop("policy", {})),
            wake=lambda: None,
            stopping=lambda: False,
            **route,
        )
        self.dispatcher = self.dispatch()

    def dispatch(self) -> Dispatcher:
        """Start a dispatcher, as a new process does."""
        dispatcher = Dispatcher(
            self.store,
            self.clock,
            {"helpdesk": self.route},
            self.executor,
            lease=timedelta(seconds=60),
            settle=self.route.policy.settle,
        )
        dispatcher.start()
        return dispatcher

    def poll(self) -> bool:
        """Poll once and wake the dispatcher."""
        went_well = self.route.poll_if_due(self.store, self.clock)
        self.dispatcher.wake()
        return went_well

    def turn(self, times: int = 6) -> None:
        """Turn without letting time pass."""
        for _ in range(times):
            self.dispatcher.step(0)

    def let(self, **by: float) -> None:
        """Let time pass, and turn."""
        self.clock.move(**by)
        self.dispatcher.wake()
        self.turn()

    def states(self) -> dict[str, str]:
        """Return the state of each delivery by key."""
        with self.store.read() as connection:
            rows = connection.execute(select(records.c.key, deliveries.c.state).join(deliveries))
            return {row.key: row.state for row in rows}

    def rows(self, table: Any) -> list[dict[str, Any]]:
        """Return a whole table."""
        with self.store.read() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def outcomes(self) -> list[str]:
        """Return the outcome of each attempt."""
        return [row["outcome"] for row in self.rows(attempts)]
