"""
A route: takes records from a source, remembers each one durably, and delivers it to a sink.

    source ══ poll ══► [ records ] ══ prepare ══► body frozen ══ deliver ══► sink
                                                     ▲              │ unknown
                                                     └──── find ◄───┘

It knows only the two ports and the store, decides nothing (`lifecycle` does) and keeps nothing in memory.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from poller import metrics
from poller.clock import Clock
from poller.errors import PollerError, PreparationFault, TransientError, UnknownOutcome
from poller.lifecycle import Claim, Policy, pause
from poller.logs import get_logger
from poller.model import Page, Prepared, Receipt, Record
from poller.ports import Pushed, Sink, Source
from poller.store import Store
from poller.store.knowing import readable_keys
from poller.store.receiving import Counts, Receiver, receive
from poller.store.standing import PollStanding, poll_failed, poll_finished, poll_standing, routes_standing

log = get_logger()

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a route polls: exactly one of the two."""

    every: timedelta | None = None
    cron: str | None = None
    timezone: str = "UTC"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route as the settings have it, wired to its edges and to its rows in the database."""

    name: str
    source: Source | None
    #: Reads what is pushed; None: nothing is taken.
    pushed: Pushed | None = None
    sink: Sink
    receiver: Receiver
    schedule: Schedule
    policy: Policy
    #: ``duplicate_guard`` of the settings.
    guard_mode: str = "auto"
    #: Requests in flight at the sink's remote, over all routes.
    concurrency: int = 4
    #: Requests within an hour to the sink's remote, over all processes on the database; 0: no limit of ours.
    requests_per_hour: int = 0
    #: Records let through within an hour; 0: all.
    max_new_per_hour: int = 0
    #: The id of the route that delivers the replies of this one; see `poller.wiring`.
    replies: int | None = None
    #: Called after each page that is committed.
    wake: Callable[[], None]
    #: A poll ends early, between two pages, once this says so.
    stopping: Callable[[], bool]

    @property
    def id(self) -> int:
        """Return the route's id in the database."""
        return self.receiver.route_id

    def poll_if_due(self, store: Store, clock: Clock) -> bool:
        """Poll once, unless the source asked to wait or has just failed; return whether it went well or was not due."""
        with store.read() as connection:
            standing = poll_standing(connection, self.id)
        if standing.not_before is not None and standing.not_before > clock.now():
            log.debug("poll_skipped", route=self.name, due_at=standing.not_before.isoformat())
            metrics.polled(self.name, "put_off", None, {})
            return True
        return self.poll(store, clock)

    def poll(self, store: Store, clock: Clock) -> bool:
        """
        Poll once; return whether the poll went well.

        Each page is committed as it comes; the checkpoint moves with the last.
        """
        with store.read() as connection:
            standing = poll_standing(connection, self.id)
        started = clock.monotonic()
        counts, pages, checkpoint = Counts(), 0, standing.value
        try:
            for page in self._pages(store, standing.value):
                counts.add(self._receive(store, clock, page, standing))
                pages += 1
                checkpoint = page.checkpoint or checkpoint
                if page.resume:
                    standing = replace(standing, value=checkpoint)
                if self.stopping():
                    self._count_poll("stopped", clock.monotonic() - started, counts)
                    return True
        except PollerError as error:
            self._poll_failed(store, clock, error, standing.failures + 1)
            self._count_poll("failed", clock.monotonic() - started, counts)
            return False
        seconds = clock.monotonic() - started
        log.info(
            "poll_finished",
            route=self.name,
            new=counts.new,
            known=counts.known,
            changed=counts.changed,
            malformed=counts.malformed,
            pages=pages,
            seconds=round(seconds, 3),
            checkpoint=checkpoint,
        )
        self._count_poll("finished", seconds, counts)
        return True

    def _count_poll(self, outcome: str, seconds: float, counts: Counts) -> None:
        # What was committed before a fault counts too.
        found = {"new": counts.new, "known": counts.known, "changed": counts.changed, "malformed": counts.malformed}
        metrics.polled(self.name, outcome, seconds, found)

    def _pages(self, store: Store, checkpoint: str | None) -> Iterable[Page]:
        """Yield the pages of a whole poll; one that ends without its last page is an error."""
        if self.source is None:
            return
        whole = False
        try:
            for page in self.source.poll(checkpoint, lambda asked: self._known(store, asked)):
                whole = page.last
                yield page
        except PollerError:
            raise
        except Exception as error:
            # A fault of ours in an edge must not end the schedule; it is told with its place, never with its data.
            log.error("crashed", route=self.name, exception=traceback.format_exc())
            raise TransientError(f"the source failed with {type(error).__name__}") from error
        if not whole:
            raise TransientError("the poll ended before its last page")

    def _receive(self, store: Store, clock: Clock, page: Page, since: PollStanding) -> Counts:
        now = clock.now()
        with store.write() as connection:
            counts = receive(connection, self._receiver(store), page, now=now, since=since)
            if page.last:
                poll_finished(connection, self.id, now=now)
        self.wake()
        for key, reason in counts.dead:
            log.error("record_dead", route=self.name, key=key, attempts=0, error=reason)
        for value in page.refused:
            log.warning("checkpoint_refused", route=self.name, value=value)
        return counts

    def _known(self, store: Store, asked: Sequence[tuple[str, str]]) -> set[str]:
        """Return which of these keys and versions are stored, or will be skipped: no detail is asked for them."""
        if self._receiver(store).baseline:
            return {key for key, _ in asked}
        with store.read() as connection:
            return readable_keys(connection, self.id, asked, changes_count=self.receiver.changes is not None)

    def _receiver(self, store: Store) -> Receiver:
        if not self.receiver.baseline:
            return self.receiver
        with store.read() as connection:
            done = routes_standing(connection)[self.name].baseline_done
        return replace(self.receiver, baseline=not done)

    def _poll_failed(self, store: Store, clock: Clock, error: PollerError, failures: int) -> None:
        now = clock.now()
        asked = error.retry_after if isinstance(error, TransientError) else None
        until = now + pause(failures, self.policy, asked)
        with store.write() as connection:
            poll_failed(connection, self.id, str(error), now=now, until=until)
        log.warning("poll_failed", route=self.name, error=str(error), failures=failures, due_at=until.isoformat())

    def prepare(self, batch: Sequence[Record], *, now: datetime, fresh: bool) -> list[Prepared] | PollerError:
        """Look up and render a batch; never raises."""
        return _answer(lambda: self.sink.prepare(batch, now=now, fresh=fresh), PreparationFault)

    def deliver(self, claim: Claim) -> Receipt | PollerError:
        """Send one committed intent, once; never raises. What is not understood is an unknown outcome."""
        return _answer(lambda: self.sink.deliver(claim.intent), UnknownOutcome)

    def find(self, claims: Sequence[Claim]) -> list[Receipt | None] | PollerError:
        """Look up attempts in doubt; never raises."""
        return _answer(lambda: self.sink.find([claim.intent for claim in claims]), TransientError)


def _answer(call: Callable[[], T], otherwise: type[PollerError]) -> T | PollerError:
    """Return what *call* gives or raises; a fault of ours becomes *otherwise*. The one broad catch of the house."""
    try:
        return call()
    except PollerError as error:
        return error
    except Exception as error:  # noqa: BLE001  a worker must answer, whatever happened to it
        log.error("crashed", exception=traceback.format_exc())
        return otherwise(f"failed with {type(error).__name__}")
