"""
What deliveries do beyond themselves: to their route, their remote and the proof of the guard.

Keeps the dispatcher's view of the standings, refreshed often enough for what other processes change, and writes every
change in the turn's own transaction. What is to be logged comes back as calls to be made after the commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection

from poller import guard, metrics
from poller.errors import HeldError, PollerError, TransientError
from poller.guard import InForce, Proof
from poller.judging import Effect
from poller.lifecycle import Claim, pause
from poller.logs import get_logger
from poller.model import Operation, Receipt
from poller.route import Route
from poller.store import standing
from poller.store.standing import RemoteStanding, RouteStanding

log = get_logger()

#: How long the view of the standings is believed, in seconds.
FRESH = 0.5
#: So many unknown outcomes in a row, and the remote is taken for sick.
SICK = 5

#: The fact that a row was made without our sys_id, followed by a hash of instance, table and user.
_PLAIN = "without sys_id "

Note = Callable[[], None]


class Effects:
    """The standings as of now, and what changes them."""

    def __init__(self) -> None:
        self.standings: dict[str, RouteStanding] = {}
        self.remotes: dict[str, RemoteStanding] = {}
        #: What is in force, by the route's name.
        self.guards: dict[str, InForce] = {}
        self._proofs: dict[str, Proof] = {}
        self._keys: dict[str, str] = {}
        self._told: dict[str, InForce] = {}
        self._streaks: dict[str, int] = {}
        #: When each remote was paused last.
        self._paused_at: dict[str, datetime] = {}
        self._lost = False
        # Keys under which a row was once made, or may be made now, without our sys_id.
        self._plain: set[str] = set()
        self._loaded = float("-inf")

    def proven(self, key: str) -> bool:
        """Return whether this instance, table and user are proven to keep our sys_id."""
        return self._proofs.get(key, Proof()).sys_id is True

    def primary(self, key: str) -> bool:
        """Return whether every incident of ours is sure to bear the sys_id we chose, so that the primary key may be asked."""
        return self.proven(key) and not self._lost and key not in self._plain

    def sharing(self, key: str) -> list[str]:
        """Return the routes that create at the same instance, table and user."""
        return [name for name, other in self._keys.items() if other == key]

    def soonest(self, routes: Mapping[str, Route], now: datetime) -> datetime | None:
        """Return when the next block, hold or pause is over; None: there is none that time ends."""
        times = [each.paused_until for each in self.remotes.values() if each.failures]
        for each in (self.standings[name] for name in routes if name in self.standings):
            times += [each.blocked_until, each.held_until]
        return min((at for at in times if at is not None and at > now), default=None)

    def distrust(self) -> None:
        """Believe nothing any more at the next refresh."""
        self._loaded = float("-inf")

    def load(self, connection: Connection, routes: Mapping[str, Route]) -> None:
        """Read everything anew."""
        self.standings = standing.routes_standing(connection)
        self.remotes = standing.remote_standing(connection)
        self._keys = {name: route.sink.guard_key() for name, route in routes.items() if route.sink.guarded}
        self._lost = standing.fact(connection, standing.LOST) is not None
        plain = standing.facts_beginning(connection, _PLAIN)
        settling = {
            self._keys[name] for name, route in routes.items() if name in self._keys and route.guard_mode == "settle"
        }
        self._plain = {key for key in self._keys.values() if _plain_fact(key) in plain} | settling
        self._proofs = {key: standing.proof(connection, key) for key in set(self._keys.values())}
        self._choose(routes)

    def refresh(self, connection: Connection, routes: Mapping[str, Route], monotonic: float) -> None:
        """Read anew where the view has grown old."""
        if monotonic - self._loaded >= FRESH or routes.keys() != self.guards.keys():
            self._loaded = monotonic
            self.load(connection, routes)

    def _choose(self, routes: Mapping[str, Route]) -> None:
        self.guards = {
            name: guard.in_force(route.guard_mode, self._proofs.get(self._keys.get(name, ""), Proof()))
            for name, route in routes.items()
        }
        for name, chosen in self.guards.items():
            known = self._told.get(name)
            if name in self._keys and (known is None or (known.guard, known.why) != (chosen.guard, chosen.why)):
                self._told[name] = chosen
                log.info("guard_chosen", route=name, guard=str(chosen.guard), why=chosen.why)

    def apply(
        self, connection: Connection, effects: list[Effect], routes: Mapping[str, Route], now: datetime
    ) -> list[Note]:
        """Write what *effects* change; return what to log once that is committed."""
        notes: list[Note] = []
        before = dict(self.standings)
        for effect in effects:
            name = effect.route.name
            notes += self._on_remote(connection, effect, now)
            # A route that was renamed meanwhile is known by its new name only.
            if name in self.standings:
                self.standings[name] = self._on_route(effect, now)
            for claim, receipt in effect.receipts:
                notes += self._on_receipt(connection, effect, claim, receipt, routes, now)
        for name, after in self.standings.items():
            if after is not before[name]:
                notes += _write(connection, before[name], after, now)
        return notes

    def _on_route(self, effect: Effect, now: datetime) -> RouteStanding:
        was = self.standings[effect.route.name]
        went_well = effect.succeeded or effect.proper
        if went_well and was.blocked_until is not None:
            was = replace(was, blocked_until=None, blocked_failures=0, blocked_error=None)
        if went_well and was.held_until is not None and was.held_until <= now:
            was = replace(was, held_reason=None, held_error=None, held_until=None)
        if effect.succeeded and not was.succeeded_since_refusal:
            # Only the order of success and refusal counts, so one success after a refusal is enough to write.
            was = replace(was, succeeded_at=now)
        if effect.refused:
            was = replace(was, refused_at=now)
        if effect.blocked is not None:
            was = _blocked(was, effect.blocked, effect.route, now)
        return was

    def _on_remote(self, connection: Connection, effect: Effect, now: datetime) -> list[Note]:
        name = effect.route.sink.remote
        was = self.remotes.get(name, RemoteStanding())
        failed = effect.failed
        if effect.succeeded:
            self._streaks[name] = 0
        elif effect.unknown is not None:
            self._streaks[name] = self._streaks.get(name, 0) + 1
            if self._streaks[name] >= SICK:
                failed = effect.unknown
        if failed is not None:
            return self._pause(connection, name, was, failed, effect.route, now)
        if was.failures and effect.answered and effect.began >= self._paused_at.get(name, effect.began):
            self.remotes[name] = RemoteStanding()
            standing.pause_remote(connection, name, self.remotes[name])
            return [partial(log.info, "remote_resumed", remote=name)]
        return []

    def _pause(
        self, connection: Connection, name: str, was: RemoteStanding, failed: PollerError, route: Route, now: datetime
    ) -> list[Note]:
        asked = failed.retry_after if isinstance(failed, TransientError) else None
        if was.paused_until is not None and was.paused_until > now:
            # Several were in flight when it failed: one failure, and the longest wish to wait.
            failures = was.failures
            until = (
                was.paused_until if asked is None else max(was.paused_until, now + pause(failures, route.policy, asked))
            )
            if until == was.paused_until:
                return []
        else:
            failures = max(was.failures + 1, self._streaks.get(name, 0) - SICK + 1)
            until = now + pause(failures, route.policy, asked)
        self.remotes[name] = RemoteStanding(paused_until=until, failures=failures, error=str(failed))
        self._paused_at[name] = now
        standing.pause_remote(connection, name, self.remotes[name])
        return [
            partial(
                log.warning,
                "remote_paused",
                remote=name,
                error=str(failed),
                failures=failures,
                due_at=until.isoformat(),
            )
        ]

    def _on_receipt(
        self,
        connection: Connection,
        effect: Effect,
        claim: Claim,
        receipt: Receipt,
        routes: Mapping[str, Route],
        now: datetime,
    ) -> list[Note]:
        name = effect.route.name
        # What a guard rests on is proven by creates alone.
        if not effect.route.sink.guarded or claim.intent.operation is not Operation.CREATE:
            return []
        key = effect.route.sink.guard_key()
        was = self._proofs.get(key, Proof())
        found = guard.refused(was) if effect.without_sys_id and was.sys_id is None else guard.learn(was, receipt)
        if found != was:
            self._proofs[key] = found
            standing.keep_proof(connection, key, found, now=now)
            self._choose(routes)
        if receipt.learnt == "response" and receipt.sys_id_honoured is None and key not in self._plain:
            self._plain.add(key)
            standing.keep_fact(connection, _plain_fact(key), now.isoformat())
        facts = {"route": name, "key": claim.intent.key, "correlation_id": claim.intent.correlation_id}
        notes: list[Note] = []
        if receipt.duplicates:
            sys_ids = [receipt.sys_id, *receipt.duplicates]
            notes.append(partial(log.error, "duplicate_found", **facts, sys_ids=sys_ids))
        if receipt.altered is not None:
            notes.append(partial(log.error, "correlation_altered", **facts, sys_ids=[receipt.sys_id]))
            why = "the instance changed our correlation_id; further creates could not be protected"
            self._hold(name, "correlation_altered", why)
        elif receipt.read_back is False:
            why = "an incident just created is not found by its correlation_id; further creates could not be protected"
            self._hold(name, "lookup_blind", why)
        return notes

    def _hold(self, name: str, reason: str, error: str) -> None:
        was = self.standings.get(name)
        if was is None:
            return
        self.standings[name] = replace(was, held_reason=reason, held_error=error, held_until=None)


def _blocked(was: RouteStanding, error: PollerError, route: Route, now: datetime) -> RouteStanding:
    if isinstance(error, HeldError) and error.operator:
        return replace(was, held_reason=error.reason, held_error=str(error), held_until=None)
    if was.blocked_until is not None and was.blocked_until > now:
        return was  # several were in flight when it began: one block
    failures = was.blocked_failures + 1
    until = now + pause(failures, route.policy, None)
    was = replace(was, refused_at=now, blocked_until=until, blocked_failures=failures, blocked_error=str(error))
    if isinstance(error, HeldError):
        was = replace(was, held_reason=error.reason, held_error=str(error), held_until=until)
    return was


def _write(connection: Connection, before: RouteStanding, after: RouteStanding, now: datetime) -> list[Note]:
    """Write one route's standing; return what changed in words."""
    standing.write_route(connection, before, after, held_at=now)
    notes: list[Note] = []
    name = after.name
    if after.held_reason is not None and (before.held_reason, before.held_until) != (
        after.held_reason,
        after.held_until,
    ):
        seconds = None if after.held_until is None else round((after.held_until - now) / timedelta(seconds=1), 1)
        notes.append(
            partial(
                log.error, "route_held", route=name, reason=after.held_reason, error=after.held_error, seconds=seconds
            )
        )
        notes.append(partial(metrics.held, name, after.held_reason))
    elif after.held_reason is None and before.held_reason is not None:
        notes.append(partial(log.info, "route_released", route=name, reason=before.held_reason))
    elif after.blocked_until is not None and before.blocked_until != after.blocked_until:
        due_at = after.blocked_until.isoformat()
        notes.append(partial(log.error, "route_blocked", route=name, error=after.blocked_error, due_at=due_at))
        notes.append(partial(metrics.blocked, name))
    elif after.blocked_until is None and before.blocked_until is not None:
        notes.append(partial(log.info, "route_unblocked", route=name))
    return notes


def _plain_fact(key: str) -> str:
    return _PLAIN + hashlib.sha256(key.encode()).hexdigest()[:32]
