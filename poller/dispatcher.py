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

from poller import metrics, recovery
from poller.claiming import Claiming
from poller.clock import Clock
from poller.effects import Effects
from poller.errors import DatabaseUnusable
from poller.judging import judge
from poller.lanes import Lanes
from poller.lifecycle import LONGEST_RETRY_AFTER
from poller.logs import get_logger
from poller.model import State
from poller.route import Route
from poller.store import Store, due, first_line, intents, is_broken, leases, settling, standing
from poller.telling import tell_settled
from poller.work import Done, Send, Work

log = get_logger()

#: A turn at least so often, for what other processes changed: operator acts, expired leases.
IDLE = 1.0
#: Seconds in which what has finished is gathered for one turn, as long as no connection runs out of work meanwhile: a turn
#: costs a commit and as much again, however much it settles.
GATHER = 0.05


class Dispatcher:
    """
    Settles and claims for all routes.

    Args:
        executor: Runs the work; its size is the sum of the remotes' concurrency.

        lease: How long a claim lasts without being renewed.

        settle: How long a copy of a request can be alive after its attempt, for routes that are not among *routes*.

        mark: Called after each commit, before its requests leave: newest intent number, its delivery and epoch.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        routes: Mapping[str, Route],
        executor: Executor,
        *,
        lease: timedelta,
        settle: timedelta = timedelta(0),
        mark: Callable[[int, int, int], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._executor = executor
        self.lease = lease
        self._settle = settle
        self._mark = mark
        self._lanes = Lanes(executor, self._unless_stopped, self._leave, lease=lambda: self.lease)
        self._finished: queue.SimpleQueue[Done | None] = queue.SimpleQueue()
        # Something has come that the next turn should not keep waiting.
        self._at_once = threading.Event()
        self._unsettled: list[Done] = []
        self._working: dict[int, Work] = {}
        self._send_before: dict[int, float] = {}
        self._renewed = float("-inf")
        self._orphans = False
        self._stopping = threading.Event()
        # The newest intent that is committed, its delivery and epoch: what the database must never forget.
        self._newest = (0, 0, 0)
        self._send_until = 0.0
        self._claiming = Claiming(store.owner, self._lanes.most, alone=store.sqlite_path is not None)
        self._effects = Effects()
        self.routes = dict(routes)
        #: Called when an attempt in doubt has ended well: a copy of it may still have made a second row.
        self.doubt_settled: Callable[[], None] = lambda: None
        #: Called when the database has forgotten commits while we ran: the instances are to be asked.
        self.database_lost: Callable[[], None] = lambda: None
        #: Why the database cannot be used any more at all; then `run` has ended.
        self.broken: DatabaseUnusable | None = None
        #: When the last turn went well, by the monotonic clock; the watchdog looks at it.
        self.turned_at = clock.monotonic()

    # What others may do.

    def wake(self) -> None:
        """Make the next turn come at once: something new is in the database."""
        self._finished.put(None)
        self._at_once.set()

    def replace_routes(self, routes: Mapping[str, Route]) -> None:
        """Use other routes from the next turn on; work under way ends with what it began with."""
        self.routes = dict(routes)
        self._effects.distrust()
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
            intents.reserve(connection, 0)
            self._take_over(connection, self.routes, everything=alone)
            if alone:
                # Several daemons go on from the database's own clock; a lone one from a wall clock that may have been set.
                for known in standing.routes_standing(connection).values():
                    leases.doubt_again(connection, known.id, safe_after=now + self._settle_of(self.routes, known.id))
            leases.clamp(connection, now=now)
            standing.clamp(connection, now=now, longest=LONGEST_RETRY_AFTER)
            self._newest = intents.newest(connection)
            self._effects.load(connection, self.routes)
        self._mark(*self._newest)

    def run(self) -> None:
        """Turn until stopped and all work has ended."""
        try:
            while not (self._stopping.is_set() and not self._working and not self._unsettled):
                self.step(IDLE)
        except DatabaseUnusable as error:
            self.broken = error
            log.error("database_failed", error=str(error), unsettled=len(self._unsettled))
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
            if is_broken(error):
                raise DatabaseUnusable(f"database is damaged: {first_line(error)}") from error
            self._stopping.wait(IDLE)

    def quiet_until(self) -> datetime | None:
        """
        Return when the next thing comes due by time alone; None: nothing does, or nothing is owed.

        Only meaningful while nothing is in flight.
        """
        now = self._clock.now()
        with self._store.read() as connection:
            due_now, later = due.next_due(connection, [route.id for route in self.routes.values()], now=now)
        # What is due and was not claimed waits for a block to be over, or for what comes due later.
        times = [later, self._effects.soonest(self.routes, now) if due_now else None]
        return min((at for at in times if at is not None), default=None)

    def _collect(self, timeout: float) -> list[Done]:
        finished: list[Done] = []
        try:
            first = self._finished.get(timeout=max(0.0, timeout))
            if self._lanes.plenty:
                self._at_once.wait(GATHER)
            # After the wait: whoever came during the last turn is in the queue already, and waits for nothing more.
            self._at_once.clear()
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
        # SIGHUP may put others in their place at any moment; a turn keeps to those it began with.
        effects, routes = self._effects, self.routes
        with self._store.write() as connection:
            forgotten = self._orphans and self._forgotten(connection, routes, now)
            effects.refresh(connection, routes, monotonic)
            # One that is being renamed has its rows under the new name already, and its new routes come with the next turn.
            routes = {name: route for name, route in routes.items() if name in effects.standings}
            judged = judge(done, effects.standings, effects.guards, now)
            settled = judged.settled
            replies = {route.id: route.replies for route in routes.values() if route.replies is not None}
            lost = settling.settle(connection, self._store.owner, settled, now=now, replies=replies)
            notes = effects.apply(connection, judged.effects, routes, now)
            # By the work and not by the delivery: one that an operator took out of its hands may be with another already.
            ended = {id(each.work) for each in done}
            working = {i: w for i, w in self._working.items() if id(w) not in ended}
            self._keep_leases(connection, routes, list(working), monotonic)
            kept = [each for each in settled if each not in lost] if lost else settled
            self._claiming.settled(kept, routes, monotonic, now)
            claimed = [] if self._stopping.is_set() else self._claim(connection, routes, working)
        # Committed: from here on, memory follows the database.
        self._unsettled = []
        self._orphans = False
        self._working = working
        for each in done:
            if isinstance(each.work, Send):
                self._send_before.pop(each.work.claims[0].intent.number, None)
        self.turned_at = self._clock.monotonic()
        self._submit(claimed)
        tell_settled(kept)
        for note in notes:
            note()
        if any(each.claim.safe_after is not None and each.verdict.state is State.DELIVERED for each in settled):
            self.doubt_settled()
        if forgotten:
            self.database_lost()

    def _forgotten(self, connection: Connection, routes: Mapping[str, Route], now: datetime) -> bool:
        """Hold creates if the database, back after a failure, does not know what it had committed (a failover)."""
        number, delivery_id, epoch = self._newest
        if number == 0 or intents.remembers(connection, delivery_id, epoch):
            return False
        recovery.hold(connection, routes, f"the database has forgotten intent {number}, which was committed", now=now)
        self._effects.distrust()
        return True

    def _claim(self, connection: Connection, routes: Mapping[str, Route], working: dict[int, Work]) -> list[Work]:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        # Half of the lease: what has not begun by then is not begun at all, and long before another may take it over.
        # It counts from before the commit: a process that is frozen right after it must not wake up with a fresh lease.
        self._send_until = monotonic + self.lease.total_seconds() / 2
        return self._claiming.claim(
            connection,
            routes,
            self._effects,
            list(working.values()),
            now=now,
            monotonic=monotonic,
            lease_until=now + self.lease,
        )

    def _submit(self, claimed: list[Work]) -> None:
        if not claimed:
            return
        sends = [work.claims[0] for work in claimed if isinstance(work, Send)]
        if sends:
            newest = max(sends, key=lambda claim: claim.intent.number)
            self._newest = (newest.intent.number, newest.id, newest.epoch)
            self._mark(*self._newest)
        for work in claimed:
            for claim in work.claims:
                self._working[claim.id] = work
            if isinstance(work, Send):
                self._send_before[work.claims[0].intent.number] = self._send_until
            if isinstance(work, Send) and not work.route.sink.guarded:
                self._lanes.add(work)
            else:
                self._executor.submit(self._work, work)

    def _work(self, work: Work) -> None:
        self._finished.put(work.run(self._clock.now))
        self._at_once.set()

    def _unless_stopped(self, work: Send) -> Done:
        # Of what waits in a lane nothing has left; a stop need not wait for it.
        done = work.left(self._clock.now) if self._stopping.is_set() else work.run(self._clock.now)
        self._finished.put(done)
        if not self._lanes.plenty:
            self._at_once.set()
        return done

    def _leave(self, work: Send) -> None:
        self._finished.put(work.left(self._clock.now))
        self._at_once.set()

    def _keep_leases(
        self, connection: Connection, routes: Mapping[str, Route], working: list[int], monotonic: float
    ) -> None:
        if self._orphans:
            # A commit whose answer was lost may have claimed what we never sent.
            self._take_over(connection, routes, everything=False, mine=(self._store.owner, working))
        if monotonic - self._renewed < self.lease.total_seconds() / 3:
            return
        self._renewed = monotonic
        leases.renew(connection, self._store.owner, working, lease_until=self._clock.now() + self.lease)
        self._take_over(connection, routes, everything=False)

    def _settle_of(self, routes: Mapping[str, Route], route_id: int) -> timedelta:
        """Return how long a copy of a request of this route can be alive; a route that is switched off has the default."""
        return next((r.policy.settle for r in routes.values() if r.id == route_id), self._settle)

    def _take_over(
        self,
        connection: Connection,
        routes: Mapping[str, Route],
        *,
        everything: bool,
        mine: tuple[str, list[int]] | None = None,
    ) -> None:
        now = self._clock.now()
        taken = leases.take_over(connection, now=now, everything=everything, mine=mine)
        names = {route.id: route.name for route in routes.values()}
        for route_id, state, count in taken:
            leases.doubt(connection, route_id, safe_after=now + self._settle_of(routes, route_id))
            log.info("deliveries_taken_over", route=names.get(route_id, str(route_id)), state=state, count=count)
            if state == State.SENDING:
                metrics.doubted(names.get(route_id, ""), "taken_over", count)
        if taken:
            self._claiming.forget()
