"""
The dispatcher: one thread that owns all writes to deliveries.

Each turn settles everything that has finished, claims as many due deliveries as there are idle workers, and commits both
in one transaction (group commit). A turn is a plain function of the time and of what has finished. Workers only speak to
remotes. What is due is a database question; how it is chosen stands in `claiming`, what becomes of it in `lifecycle`.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from datetime import datetime, timedelta

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from poller.claiming import Claiming
from poller.clock import Clock
from poller.effects import Effects
from poller.judging import judge
from poller.logs import get_logger
from poller.model import State
from poller.route import Route
from poller.store import Store, first_line, turns
from poller.telling import tell_settled
from poller.work import Done, Send, Work

log = get_logger()

#: A turn at least so often, for what other processes changed: operator acts, expired leases.
IDLE = 1.0


class Dispatcher:
    """
    Settles and claims for all routes.

    Args:
        executor: Runs the work; its size is the sum of the remotes' concurrency.

        lease: How long a claim lasts without being renewed.

        mark: Called with the newest intent number after each commit, before its requests leave.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        routes: Mapping[str, Route],
        executor: Executor,
        *,
        lease: timedelta,
        mark: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._executor = executor
        self._lease = lease
        self._mark = mark
        self._finished: queue.SimpleQueue[Done | None] = queue.SimpleQueue()
        self._unsettled: list[Done] = []
        self._working: dict[int, Work] = {}
        self._send_before: dict[int, float] = {}
        self._renewed = float("-inf")
        self._orphans = False
        self._stopping = threading.Event()
        self._newest_intent = 0
        self._claiming = Claiming(store.owner)
        self._effects = Effects()
        self.routes = dict(routes)
        #: Called when an attempt in doubt has ended well: a copy of it may still have made a second row.
        self.doubt_settled: Callable[[], None] = lambda: None
        #: When the last turn went well, by the monotonic clock; the watchdog looks at it.
        self.turned_at = clock.monotonic()

    # What others may do.

    def wake(self) -> None:
        """Make the next turn come at once: something new is in the database."""
        self._finished.put(None)

    def replace_routes(self, routes: Mapping[str, Route]) -> None:
        """Use other routes from the next turn on; work under way ends with what it began with."""
        self.routes = dict(routes)
        self.wake()

    def look_anew(self) -> None:
        """Make the next turn read the standings of routes and remotes again."""
        self._effects.distrust()
        self.wake()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping.set()
        self.wake()

    def may_send(self, intent_number: int) -> bool:
        """Return whether a committed intent may still go on the wire: its lease holds and nobody has stopped us."""
        return self._clock.monotonic() < self._send_before.get(intent_number, 0.0)

    def proven(self, guard_key: str) -> bool:
        """Return whether the instance, table and user of this name are proven to keep our sys_id."""
        return self._effects.proven(guard_key)

    def primary(self, guard_key: str) -> bool:
        """Return whether incidents of ours may be looked up by the sys_id we chose, and by nothing else."""
        return self._effects.primary(guard_key)

    @property
    def in_flight(self) -> int:
        """Return how many deliveries are being worked on."""
        return len(self._working)

    # The loop.

    def start(self) -> None:
        """Give back what a process before us left, and forget nothing: what was on the wire is in doubt."""
        now = self._clock.now()
        alone = self._store.sqlite_path is not None
        with self._store.write() as connection:
            self._take_over(connection, everything=alone)
            for route in self.routes.values():
                turns.clamp_doubts(connection, route.id, latest=now + route.policy.settle)
            self._newest_intent = turns.newest_intent(connection)
            self._effects.load(connection, self.routes)
        self._mark(self._newest_intent)

    def run(self) -> None:
        """Turn until stopped and all work has ended."""
        try:
            while not (self._stopping.is_set() and not self._working and not self._unsettled):
                self.step(IDLE)
        except Exception:
            # A fault of ours. What is committed is safe, and a fresh process takes it over; going on blindly is not.
            log.error("crashed", exception=traceback.format_exc())
            raise

    def step(self, longest: float) -> None:
        """Wait for something to do, at most *longest* seconds, and take one turn."""
        self._unsettled += self._collect(min(longest, self._claiming.wait(self._clock.monotonic())))
        try:
            self._turn()
        except SQLAlchemyError as error:
            # Nothing was sent that is not committed; what has finished is kept and settled when the database is back.
            log.error("database_failed", error=first_line(error), unsettled=len(self._unsettled))
            self._orphans = True
            self._claiming.rolled_back()
            self._effects.distrust()
            self._stopping.wait(IDLE)

    def quiet_until(self) -> datetime | None:
        """
        Return when the next thing comes due by time alone; None: nothing does, or nothing is owed.

        Only meaningful while nothing is in flight.
        """
        now = self._clock.now()
        with self._store.read() as connection:
            due = turns.next_due(connection)
        if due is None or due > now:
            return due
        return self._effects.soonest(self.routes, now)

    def _collect(self, timeout: float) -> list[Done]:
        finished: list[Done] = []
        try:
            first = self._finished.get(timeout=max(0.0, timeout))
            while True:
                if first is None:
                    self._claiming.forget()
                else:
                    finished.append(first)
                first = self._finished.get_nowait()
        except queue.Empty:
            return finished

    def _turn(self) -> None:
        now, done = self._clock.now(), self._unsettled
        monotonic = self._clock.monotonic()
        effects = self._effects
        with self._store.write() as connection:
            effects.refresh(connection, self.routes, monotonic)
            judged = judge(done, effects.standings, effects.guards, now)
            settled = judged.settled
            lost = turns.settle(connection, self._store.owner, settled, now=now)
            notes = effects.apply(connection, judged.effects, self.routes, now)
            self._keep_leases(connection, monotonic)
            working = {i: w for i, w in self._working.items() if i not in {s.claim.id for s in settled}}
            self._claiming.settled(settled, monotonic, now)
            claimed = [] if self._stopping.is_set() else self._claim(connection, working)
        # Committed: from here on, memory follows the database.
        self._unsettled = []
        self._working = working
        for each in done:
            if isinstance(each.work, Send):
                self._send_before.pop(each.work.claims[0].intent.number, None)
        self.turned_at = self._clock.monotonic()
        self._submit(claimed)
        tell_settled([each for each in settled if each not in lost] if lost else settled)
        for note in notes:
            note()
        if any(each.claim.state is State.UNKNOWN and each.verdict.state is State.DELIVERED for each in settled):
            self.doubt_settled()

    def _claim(self, connection: Connection, working: dict[int, Work]) -> list[Work]:
        now = self._clock.now()
        claimed = self._claiming.claim(
            connection,
            self.routes,
            self._effects,
            list(working.values()),
            now=now,
            monotonic=self._clock.monotonic(),
            lease_until=now + self._lease,
        )
        if newest := max((c.intent.number for w in claimed for c in w.claims), default=0):
            self._newest_intent = max(self._newest_intent, newest)
        return claimed

    def _submit(self, claimed: list[Work]) -> None:
        if not claimed:
            return
        self._mark(self._newest_intent)
        # Half of the lease: what has not begun by then is not begun at all, and long before another may take it over.
        send_before = self._clock.monotonic() + self._lease.total_seconds() / 2
        for work in claimed:
            for claim in work.claims:
                self._working[claim.id] = work
            if isinstance(work, Send):
                self._send_before[work.claims[0].intent.number] = send_before
            self._executor.submit(self._work, work)

    def _work(self, work: Work) -> None:
        self._finished.put(work.run(self._clock.now))

    def _keep_leases(self, connection: Connection, monotonic: float) -> None:
        if self._orphans:
            # A commit whose answer was lost may have claimed what we never sent.
            self._take_over(connection, everything=False, mine=(self._store.owner, list(self._working)))
            self._orphans = False
        if monotonic - self._renewed < self._lease.total_seconds() / 3:
            return
        self._renewed = monotonic
        if self._working:
            turns.renew(connection, self._store.owner, lease_until=self._clock.now() + self._lease)
        self._take_over(connection, everything=False)

    def _take_over(
        self, connection: Connection, *, everything: bool, mine: tuple[str, list[int]] | None = None
    ) -> None:
        now = self._clock.now()
        taken = turns.take_over(connection, now=now, everything=everything, mine=mine)
        by_id = {route.id: route for route in self.routes.values()}
        for route_id, state, count in taken:
            settle = (
                by_id[route_id].policy.settle
                if route_id in by_id
                else max((route.policy.settle for route in self.routes.values()), default=timedelta(0))
            )
            turns.doubt(connection, route_id, safe_after=now + settle)
            name = by_id[route_id].name if route_id in by_id else str(route_id)
            log.info("deliveries_taken_over", route=name, state=state, count=count)
        if taken:
            self._claiming.forget()
