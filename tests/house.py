"""One route on a real database with the fakes at both ends, turned by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from poller.dispatcher import Dispatcher
from poller.model import Intent, Operation
from poller.route import Route, Schedule
from poller.store import Store
from poller.store.receiving import Receiver
from poller.store.standing import enter_route
from poller.tables import attempts, deliveries, proofs, records
from tests.fakes import POLICY, FakeSink, FakeSource, HandClock, Inline, Messages, last


class House:
    """A store, a route and a dispatcher."""

    def __init__(self, store: Store, **route: Any) -> None:
        self.store = store
        self.clock = HandClock()
        self.source = FakeSource()
        self.sink = FakeSink()
        self.executor = Inline()
        receiver = self._enter("helpdesk")
        self.route = Route(
            name="helpdesk",
            source=self.source,
            sink=self.sink,
            receiver=replace(receiver, baseline=route.pop("baseline", False)),
            schedule=Schedule(every=timedelta(seconds=30)),
            policy=replace(POLICY, **route.pop("policy", {})),
            wake=lambda: None,
            stopping=lambda: False,
            **route,
        )
        self.dispatcher = self.dispatch()

    @classmethod
    def sending(cls, store: Store, **route: Any) -> House:
        """Return one where every version is a message of its own, to a receiver that cannot be asked."""
        house = cls(store, **route)
        house.sink = Messages()
        receiver = replace(house.route.receiver, operation=Operation.SEND, changes=Operation.SEND)
        policy = replace(house.route.policy, guarded=False)
        house.route = replace(house.route, sink=house.sink, receiver=receiver, policy=policy)
        house.dispatcher = house.dispatch()
        return house

    def _enter(self, name: str) -> Receiver:
        """Enter a route in the database."""
        with self.store.write() as connection:
            entered = enter_route(connection, name, None, now=self.clock.now())
        return Receiver(
            route_id=entered.id,
            identity=entered.identity,
            prefix="test",
            operation=self.sink.operation,
            baseline=False,
        )

    def other_route(self, name: str, **changes: Any) -> Route:
        """Return a second route to the same instance, entered in the database."""
        return replace(self.route, name=name, source=FakeSource(), receiver=self._enter(name), **changes)

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

    def prove(self) -> None:
        """Let one create through, so that the guard by sys_id is proven."""
        self.prove_lookup()
        assert self.rows(proofs)[0]["sys_id"]

    def prove_lookup(self) -> None:
        """Let one create through, so that look-ups are known to find what was made."""
        self.source.pages = [last("proof")]
        self.poll()
        self.turn()
        assert self.rows(proofs)[0]["lookup"]

    def posts_of(self, key: str) -> list[Intent]:
        """Return every attempt at *key* that reached the sink."""
        return [post for post in self.sink.posts if post.key == key]

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
