"""One poll of each route, then deliver until nothing is due: ``poller once``, and the main part of ``poller demo``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from poller.engine_room import EngineRoom
from poller.errors import SettingsError
from poller.model import FINISHED
from poller.route import Route
from poller.store import due

#: Waits that are no longer than this are waited for: a first backoff, a token that was just revoked.
PATIENCE = timedelta(seconds=5)
#: How often progress is told, in seconds.
TELL_EVERY = 0.3


@dataclass(kw_only=True)
class Outcome:
    """What one run came to."""

    polls_failed: list[str] = field(default_factory=list)
    #: Deliveries by state, over the routes that ran.
    states: dict[str, int] = field(default_factory=dict)

    @property
    def all_delivered(self) -> bool:
        """Return whether every poll went well and nothing is dead or still waiting."""
        return not self.polls_failed and not self.unfinished

    @property
    def unfinished(self) -> int:
        """Return how many deliveries are neither delivered nor skipped."""
        return sum(count for state, count in self.states.items() if state not in FINISHED)


def run_once(
    room: EngineRoom,
    names: Sequence[str] = (),
    *,
    patience: timedelta = PATIENCE,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Outcome:
    """
    Poll each of *names* (none: every route) once, and deliver what is due.

    Args:
        progress: Called now and then with how many are finished, and of how many.

    Raises:
        SettingsError: A name is no enabled route.
    """
    if unknown := [name for name in names if name not in room.routes]:
        raise SettingsError([f"route {name} is not in the settings, or not enabled" for name in unknown])
    replies = {route.replies for route in room.routes.values()}
    chosen = [room.routes[name] for name in names]
    chosen = chosen or [route for route in room.routes.values() if route.id not in replies]
    replying = {route.replies for route in chosen}
    beside = [route for route in room.routes.values() if route.id in replying]
    room.routes = {route.name: route for route in (*chosen, *beside)}
    room.dispatcher.replace_routes(room.routes)
    if room.begin():
        until = room.clock.now() + patience
        while not room.recover() and room.clock.now() < until:
            room.stopping.wait(0.5)
    tell = _Telling(room, progress)
    outcome = Outcome(polls_failed=_poll(room, chosen, tell))
    room.dispatcher.wake()
    _deliver(room, patience, tell)
    with room.store.read() as connection:
        for (name, state), count in due.unfinished(connection).items():
            if name in room.routes:
                outcome.states[state] = outcome.states.get(state, 0) + count
    return outcome


def _poll(room: EngineRoom, chosen: Sequence[Route], tell: Callable[[], None]) -> list[str]:
    """Poll every route at once, delivering meanwhile; return whose poll went wrong."""
    with ThreadPoolExecutor(max(1, len(chosen))) as pool:
        polls = {route.name: pool.submit(route.poll, room.store, room.clock) for route in chosen}
        while not all(poll.done() for poll in polls.values()):
            room.dispatcher.step(0.05)
            tell()
    return [name for name, poll in polls.items() if not poll.result()]


def _deliver(room: EngineRoom, patience: timedelta, tell: Callable[[], None]) -> None:
    """Deliver until nothing is under way, and nothing comes due before our patience ends."""
    while True:
        room.dispatcher.step(0.2)
        tell()
        if room.stopping.is_set():
            room.dispatcher.stop()
        if room.dispatcher.in_flight:
            continue
        until = room.dispatcher.quiet_until()
        if room.stopping.is_set() or until is None or until > room.clock.now() + patience:
            return


class _Telling:
    """Tells the progress now and then: counting costs."""

    def __init__(self, room: EngineRoom, progress: Callable[[int, int], None]) -> None:
        self._room = room
        self._progress = progress
        self._again = 0.0

    def __call__(self) -> None:
        now = self._room.clock.monotonic()
        if now < self._again:
            return
        self._again = now + TELL_EVERY
        with self._room.store.read() as connection:
            counts = due.unfinished(connection)
        finished = sum(count for (_, state), count in counts.items() if state in FINISHED)
        self._progress(finished, sum(counts.values()))
