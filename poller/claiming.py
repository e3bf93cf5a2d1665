"""
Choose what to do next: as much as there are idle workers, fairly over routes, and nothing that a rule forbids.

Look-ups for attempts in doubt come first, then preparation as far as the senders need it, then creates. A route that is
blocked, or a remote that failed, gets one probe at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from poller import metrics
from poller.effects import Effects
from poller.guard import READ_BACK_EVERY, InForce
from poller.lifecycle import Claim, may_repeat
from poller.logs import get_logger
from poller.model import FINISHED, Operation, Record, State, altered
from poller.route import Route
from poller.stock import Stock
from poller.store import due, intents, leases, standing
from poller.store.settling import Settled
from poller.turn import Turn
from poller.work import Look, Prepare, Send, Work

log = get_logger()

#: Records a look-up or a preparation: what one encoded query carries well.
BATCH = 50
#: Intent numbers reserved at a time; more than any turn needs.
BLOCK = 1000
#: How long an empty answer is believed, in seconds, when nothing in this process says otherwise.
RESCAN = 1.0
#: Which questions a delivery in a state is an answer to.
_QUESTIONS = {
    State.PENDING: ("pending",),
    State.READY: ("ready",),
    State.WAITING: ("waiting", "waiting to prepare"),
    State.UNKNOWN: ("unknown",),
}
#: What the flood guard counts over.
HOUR = timedelta(hours=1)


class Claiming:
    """
    Claims for one dispatcher; remembers when asking the database again is worth while.

    Args:
        most: How much of a route may be claimed at a time; no more than its ``concurrency`` is in flight.

        alone: No other daemon works on the database.
    """

    def __init__(self, owner: str, most: Callable[[Route], int], *, alone: bool = False) -> None:
        self._owner = owner
        self._most = most
        self._alone = alone
        # When (route, question) may have something due, by the monotonic clock; absent: ask.
        self._not_before: dict[tuple[int, str], float] = {}
        self._wake_at = 0.0
        self._next_intent = self._end_of_block = 0
        # Frozen bodies waiting to be sent, as far as this process knows.
        self._ready: Counter[int] = Counter()
        self._stock = Stock()
        self._names: dict[str, int] = {}
        self._turn = 0
        self._flooded: set[int] = set()

    def forget(self) -> None:
        """Ask the database about everything again."""
        self._not_before.clear()

    def rolled_back(self) -> None:
        """Forget what was noted in a turn that the database does not know of."""
        self.forget()
        self._ready.clear()
        self._stock.clear()
        self._next_intent = self._end_of_block = 0

    def wait(self, monotonic: float) -> float:
        """
        Return for how many seconds nothing can come due by time alone.

        What is due already and was not claimed waits for a worker, whose end wakes the dispatcher, or for a block, a
        hold or a pause to be over.
        """
        coming = [at for at in (*self._not_before.values(), self._wake_at) if at > monotonic]
        return min(min(coming, default=monotonic + RESCAN) - monotonic, RESCAN)

    def settled(self, settled: Sequence[Settled], routes: Mapping[str, Route], monotonic: float, now: datetime) -> None:
        """Note what will come due by what was just settled."""
        finished = {each.claim.route_id for each in settled if each.verdict.state in FINISHED}
        for route in routes.values() if finished else ():
            if route.id in finished:
                # The next version of a record waits for the one before, and its reply for the incident.
                for waiting in (route.id if route.receiver.changes else None, route.replies):
                    self._not_before.pop((waiting or 0, "pending"), None)
        stocked = {route.id: route.name for route in routes.values() if self._alone and not route.sink.guarded}
        for each in settled:
            state, due = each.verdict.state, each.verdict.not_before
            if state is State.READY:
                self._ready[each.claim.route_id] += 1
                name = stocked.get(each.claim.route_id)
                if name is not None and each.verdict.body is not None and self._stock.add(_prepared(each, name)):
                    continue
            if due is not None:
                # Later is not believed: an operator, or another process, may have made something else due meanwhile.
                at = monotonic + min(RESCAN, max(0.0, (due - now).total_seconds()))
                for kind in _QUESTIONS.get(state, ()):
                    key = (each.claim.route_id, kind)
                    self._not_before[key] = min(at, self._not_before.get(key, at))

    def claim(
        self,
        connection: Connection,
        routes: Mapping[str, Route],
        effects: Effects,
        working: Sequence[Work],
        *,
        now: datetime,
        monotonic: float,
        lease_until: datetime,
    ) -> list[Work]:
        """Return the work to hand out, written as claimed in the caller's transaction."""
        turn = Turn(connection, effects, working, now, monotonic, lease_until, self._most)
        names = list(routes)
        self._notice_names({name: route.id for name, route in routes.items()})
        self._turn += 1
        claimed: list[Work] = []
        order = [routes[names[(index + self._turn) % len(names)]] for index in range(len(names))]
        for index, route in enumerate(order):
            # First a fair share each, so that no route with much to do starves one with little …
            claimed += self._claim_route(turn, route, -(-turn.room(route) // (len(order) - index)))
        for route in order if len(order) > 1 else ():
            # … then what the others left.
            claimed += self._claim_route(turn, route, turn.room(route))
        soonest = effects.soonest(routes, now)
        self._wake_at = 0.0 if soonest is None else monotonic + (soonest - now).total_seconds()
        return claimed

    def _notice_names(self, names: dict[str, int]) -> None:
        if names != self._names:
            # What is kept bears the name of its route.
            self._names = names
            self._stock.clear()

    def _claim_route(self, turn: Turn, route: Route, room: int) -> list[Work]:
        if room <= 0 or turn.blocked(route):
            return []
        room = min(room, 1) if turn.probing(route) else room
        if route.requests_per_hour:
            room = standing.spend(turn.connection, route.sink.remote, room, route.requests_per_hour, now=turn.now)
        claimed = self._look(turn, route, room)
        claimed += self._prepare(turn, route, room - len(claimed))
        claimed += self._send(turn, route, room - len(claimed))
        if route.requests_per_hour:
            # A preparation is two requests, a read-back a second one, so that the bucket may run a little below empty.
            standing.give_back(turn.connection, route.sink.remote, room - sum(_requests(work) for work in claimed))
        turn.in_flight[route.sink.remote] += len(claimed)
        turn.of_route[route.name] += len(claimed)
        return claimed

    def _look(self, turn: Turn, route: Route, room: int) -> list[Work]:
        if room <= 0 or not route.sink.guarded:
            return []
        claims = self._hold(turn, self._due(turn, route, State.UNKNOWN, BATCH * room))
        return [
            Look(route=route, claims=tuple(claims[start : start + BATCH])) for start in range(0, len(claims), BATCH)
        ]

    def _prepare(self, turn: Turn, route: Route, room: int) -> list[Work]:
        claimed: list[Work] = []
        for state in (State.WAITING, State.PENDING):
            while len(claimed) < room and self._wants_more(turn, route):
                most = self._admitted(turn, route, 1 if turn.probing(route) else BATCH)
                batch = self._due_to_prepare(turn, route, state, most)
                if not batch:
                    break
                # Whoever was in a batch that broke is prepared alone, so that one poison record harms no other.
                batch = batch[:1] if batch[0][0].refusals else [each for each in batch if not each[0].refusals]
                claims = self._hold(turn, [claim for claim, _, _ in batch])
                if route.max_new_per_hour:
                    new = [claim for claim in claims if claim.intent.operation is not Operation.UPDATE]
                    intents.admit(turn.connection, new, now=turn.now)
                claimed.append(
                    Prepare(
                        route=route,
                        claims=tuple(claims),
                        records=tuple(record for _, record, _ in batch),
                        fresh=any(fresh for _, _, fresh in batch),
                    )
                )
                turn.preparing[route.name] += 1
        return claimed

    def _wants_more(self, turn: Turn, route: Route) -> bool:
        """Return whether the senders could run dry before another preparation has come back."""
        coming = self._ready[route.id] + BATCH * turn.preparing[route.name]
        # While the first creates go one at a time, the other workers have nothing better to do than to prepare.
        proving = route.sink.guarded and turn.effects.guards[route.name].proving
        return coming < (BATCH if proving else 4) * self._most(route) and not turn.held(route)

    def _hold(self, turn: Turn, claims: list[Claim]) -> list[Claim]:
        raised = [altered(claim, epoch=claim.epoch + 1) for claim in claims]
        intents.hold(turn.connection, self._owner, raised, lease_until=turn.lease_until)
        return raised

    def _admitted(self, turn: Turn, route: Route, most: int) -> int:
        """Return how many records the flood guard lets through now."""
        if not route.max_new_per_hour:
            return most
        used = standing.admitted_since(turn.connection, route.id, turn.now - HOUR)
        left = max(0, route.max_new_per_hour - used)
        if left == 0 and route.id not in self._flooded:
            self._flooded.add(route.id)
            log.error(
                "route_held",
                route=route.name,
                reason="flood",
                error=f"more than {route.max_new_per_hour} new records within an hour; the rest waits",
            )
            metrics.held(route.name, "flood")
        elif left > 0:
            self._flooded.discard(route.id)
        return min(most, left)

    def _send(self, turn: Turn, route: Route, room: int) -> list[Work]:
        if room <= 0 or turn.held(route):
            return []
        in_force = turn.effects.guards[route.name]
        if route.sink.guarded and in_force.proving:
            room = min(room, turn.proving_room(route))
        if turn.probing(route):
            room = min(room, 1)
        claims = self._ready_to_send(turn, route, room) if room > 0 else []
        if len(claims) < room:
            claims += self._due(turn, route, State.WAITING, room - len(claims))
        if len(claims) < room and not route.sink.guarded:
            claims += self._due(turn, route, State.UNKNOWN, room - len(claims))
        self._ready[route.id] = max(0, self._ready[route.id] - len(claims))
        claims = self._unless_in_doubt(turn, route, claims, in_force)
        if claims and route.sink.guarded and in_force.proving:
            turn.prove(route)
        first = self._numbers(turn, len(claims))
        intended = [_intended(claim, in_force, first + index, route) for index, claim in enumerate(claims)]
        held = intents.commit(turn.connection, self._owner, intended, now=turn.now, lease_until=turn.lease_until)
        return [Send(route=route, claims=(claim,)) for claim in held]

    def _numbers(self, turn: Turn, count: int) -> int:
        """Return the first of *count* fresh intent numbers, from a block that was reserved for this process."""
        if self._next_intent + count > self._end_of_block:
            self._next_intent = intents.reserve(turn.connection, BLOCK)
            self._end_of_block = self._next_intent + BLOCK
        self._next_intent += count
        return self._next_intent - count

    def _unless_in_doubt(self, turn: Turn, route: Route, claims: list[Claim], in_force: InForce) -> list[Claim]:
        """Return what may be sent; what rests on a guard that is not in force any more goes back to be looked up."""
        if not route.sink.guarded:
            return claims
        doubtful = [claim for claim in claims if not may_repeat(claim, in_force.guard)]
        if doubtful:
            leases.look_first(turn.connection, doubtful, now=turn.now)
            self._not_before.pop((route.id, str(State.UNKNOWN)), None)
        return [claim for claim in claims if claim not in doubtful]

    # What the database says is due, asked only when it may have changed.

    def _ready_to_send(self, turn: Turn, route: Route, limit: int) -> list[Claim]:
        key = (route.id, str(State.READY))
        stocked = self._stock.count(route.id)
        if stocked and self._not_before.get(key, 0.0) <= turn.monotonic:
            if due.more_than(turn.connection, route.id, State.READY, stocked, now=turn.now):
                # Others are ready as well, and may have waited for longer.
                stocked = 0
            else:
                self._not_before[key] = turn.monotonic + RESCAN
        if stocked:
            return self._stock.take(route.id, limit)
        claims = self._due(turn, route, State.READY, limit)
        self._stock.drop(route.id, [claim.id for claim in claims])
        return claims

    def _due(self, turn: Turn, route: Route, state: State, limit: int) -> list[Claim]:
        key = (route.id, str(state))
        if self._not_before.get(key, 0.0) > turn.monotonic:
            return []
        claims = due.claims(turn.connection, route.name, route.id, state, now=turn.now, limit=limit)
        if len(claims) < limit:
            self._not_before[key] = turn.monotonic + RESCAN
            if state is State.READY and not claims:
                self._ready[route.id] = 0
        return claims

    def _due_to_prepare(self, turn: Turn, route: Route, state: State, limit: int) -> list[tuple[Claim, Record, bool]]:
        key = (route.id, "pending" if state is State.PENDING else "waiting to prepare")
        if limit <= 0 or self._not_before.get(key, 0.0) > turn.monotonic:
            return []
        batch = due.to_prepare(turn.connection, route.name, route.id, state, now=turn.now, limit=limit)
        if len(batch) < limit:
            self._not_before[key] = turn.monotonic + RESCAN
        return batch


def _requests(work: Work) -> int:
    """Return how many requests *work* makes at the sink, as a rule."""
    if isinstance(work, Prepare):
        return 2
    return 2 if isinstance(work, Send) and work.claims[0].intent.read_back else 1


def _intended(claim: Claim, in_force: InForce, number: int, route: Route) -> Claim:
    creating = claim.intent.operation is Operation.CREATE
    intent = altered(
        claim.intent,
        attempt=claim.intent.attempt + 1,
        number=number,
        with_sys_id=creating and in_force.with_sys_id and not claim.omit_sys_id,
        read_back=creating and route.sink.guarded and (in_force.proving or number % READ_BACK_EVERY == 0),
    )
    return altered(claim, epoch=claim.epoch + 1, intent=intent, guard=in_force.guard)


def _prepared(each: Settled, route: str) -> Claim:
    """Return a delivery as the database has it once its preparation is settled; its route may have another name by now."""
    intent = altered(each.claim.intent, route=route, body=each.verdict.body)
    return altered(each.claim, state=State.READY, intent=intent, lookups=0)
