"""What the dispatcher hands to a worker, and what it gets back. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from poller.errors import NotSentError, PollerError
from poller.lifecycle import Claim
from poller.model import Prepared, Receipt, Record
from poller.route import Route


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Look up and render up to 50 records at once."""

    route: Route
    claims: tuple[Claim, ...]
    records: tuple[Record, ...]
    fresh: bool

    def run(self, now: Callable[[], datetime]) -> Done:
        """Do it, in a worker."""
        started = now()
        result = self.route.prepare(self.records, now=started, fresh=self.fresh)
        return Done(work=self, result=result, started=started, ended=now())


@dataclass(frozen=True, kw_only=True)
class Send:
    """One attempt at one delivery."""

    route: Route
    claims: tuple[Claim, ...]

    def run(self, now: Callable[[], datetime]) -> Done:
        """Do it, in a worker."""
        started = now()
        result = self.route.deliver(self.claims[0])
        return Done(work=self, result=result, started=started, ended=now())

    def left(self, now: Callable[[], datetime]) -> Done:
        """Leave it be, before its first byte."""
        at = now()
        return Done(work=self, result=NotSentError("stopped before its first byte"), started=at, ended=at)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Look up what became of up to 50 attempts in doubt."""

    route: Route
    claims: tuple[Claim, ...]

    def run(self, now: Callable[[], datetime]) -> Done:
        """Do it, in a worker."""
        started = now()
        result = self.route.find(self.claims)
        return Done(work=self, result=result, started=started, ended=now())


Work = Prepare | Send | Look


@dataclass(frozen=True, kw_only=True)
class Done:
    """A worker's answer. *started* is before the first byte, *ended* after the socket was let go."""

    work: Work
    result: Receipt | list[Prepared] | list[Receipt | None] | PollerError
    started: datetime
    ended: datetime
