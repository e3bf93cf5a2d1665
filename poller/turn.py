"""The facts of one turn of the dispatcher that claims are weighed against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from poller.effects import Effects
from poller.route import Route
from poller.store import due, intents
from poller.work import Prepare, Work


class Turn:
    """
    The facts of one turn.

    Args:
        working: What is under way.

        now: By the wall clock; *monotonic* is the same moment in seconds of the other one.

        lease_until: When what is claimed in this turn may be taken over.

        most: How much of a route may be claimed at a time.
    """

    def __init__(
        self,
        connection: Connection,
        effects: Effects,
        working: Sequence[Work],
        now: datetime,
        monotonic: float,
        lease_until: datetime,
        most: Callable[[Route], int],
    ) -> None:
        self.connection = connection
        self._most = most
        self.effects = effects
        self.now = now
        self.monotonic = monotonic
        self.lease_until = lease_until
        pieces = {id(work): work for work in working}.values()
        self.in_flight = Counter(work.route.sink.remote for work in pieces)
        self.of_route = Counter(work.route.name for work in pieces)
        self.preparing = Counter(work.route.name for work in pieces if isinstance(work, Prepare))
        self._proving: set[str] = set()

    def room(self, route: Route) -> int:
        """Return how many more requests the route's remote may have in flight."""
        remote = self.effects.remotes.get(route.sink.remote)
        if remote is not None and remote.failures:
            if remote.paused_until is not None and remote.paused_until > self.now:
                return 0
            return 0 if self.in_flight[route.sink.remote] else 1
        return self._most(route) - self.in_flight[route.sink.remote]

    def blocked(self, route: Route) -> bool:
        """Return whether the route waits, or its one probe is already out."""
        held = self.effects.standings[route.name]
        until = held.blocked_until
        if until is None:
            return False
        return until > self.now or self.of_route[route.name] > 0

    def probing(self, route: Route) -> bool:
        """Return whether the route is blocked and its wait is over: one record tries."""
        return self.effects.standings[route.name].blocked_until is not None

    def held(self, route: Route) -> bool:
        """Return whether the route may create nothing for now."""
        mine = self.effects.standings[route.name]
        if mine.held_reason is None:
            return False
        return mine.held_until is None or mine.held_until > self.now

    def proving_room(self, route: Route) -> int:
        """Return 1 where no create of this instance and table is out or in doubt, else 0."""
        key = route.sink.guard_key()
        if key in self._proving:
            return 0
        intents.lock(self.connection)
        sharing = [self.effects.standings[name].id for name in self.effects.sharing(key)]
        return 0 if due.under_way(self.connection, sharing) else 1

    def prove(self, route: Route) -> None:
        """Note that the one create of the route's instance and table is out."""
        self._proving.add(route.sink.guard_key())
