"""
The two ports of a route. An edge implements one of them and knows nothing else of the house.

Source: iterates pages. Sink: prepares, delivers, finds. Both speak in `poller.model` and raise `poller.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from poller.model import Intent, Operation, Owned, Page, Prepared, Receipt, Record

#: Keys and versions in; out come the keys of those that are stored already, and for which nothing more is needed.
Known = Callable[[Sequence[tuple[str, str]]], set[str]]


def nothing_known(_records: Sequence[tuple[str, str]]) -> set[str]:
    """Say that none of them is stored: what a source assumes where it is not told."""
    return set()


class Source(Protocol):
    """A polling consumer."""

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        """
        Yield the pages of one poll, the last one marked ``last``.

        Args:
            checkpoint: What the last whole poll left, as text; None on the first.

            known: Asked before a request is spent on single records, of which only new ones are worth it.

        Raises:
            TransientError: The source did not answer, or not in its own form; nothing of this page counts.

            BlockedError: 401 or 403 with fresh credentials.
        """
        ...


@runtime_checkable
class Looking(Protocol):
    """A source whose polls change something at its end, such as files that are moved; asked in this way it changes nothing."""

    def look(self, checkpoint: str | None) -> Iterator[Page]:
        """Yield what `Source.poll` would yield; however far it is read, all stays as it is."""
        ...


class Pushed(Protocol):
    """Reads what somebody sends to a route by himself."""

    @property
    def format(self) -> str:
        """Return what a body is in: ``json``, ``xml`` or ``csv``."""
        ...

    @property
    def requests_per_minute(self) -> int:
        """Return how many requests the route takes, from all clients together; 0: any number."""
        ...

    def read(self, body: bytes, encoding: str | None = None) -> Page:
        """
        Return the records in *body*; those that cannot be read are malformed ones.

        Args:
            encoding: As the sender states it.

        Raises:
            ValueError: It is no document that the settings speak of; one line without its text.
        """
        ...


@runtime_checkable
class Closing(Protocol):
    """A source or sink that keeps connections, threads or processes between two calls."""

    def close(self) -> None:
        """
        Let go of what is idle.

        Calls under way, and such as still come from work that was claimed before, go on, and keep nothing at their end.
        """
        ...


class Sink(Protocol):
    """A place that records are delivered to."""

    @property
    def remote(self) -> str:
        """Return whose resources the calls use; calls in flight are counted under it."""
        ...

    @property
    def operation(self) -> Operation:
        """Return what the first delivery of a record is here."""
        ...

    @property
    def guarded(self) -> bool:
        """Return whether an unknown outcome can be looked up and needs a guard; else it is simply sent again."""
        ...

    @property
    def settle_seconds(self) -> float:
        """Return how long a copy of a request can be alive after its attempt: tcp_bound + max_execution; else 0."""
        ...

    def guard_key(self) -> str:
        """Return what a proof of the sys_id guard is stored under: instance, table, integration user."""
        ...

    def prepare(self, batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        """
        Return what is to be sent for each record of *batch*, in its order.

        Look-ups are made for the whole batch at once. Nothing is written anywhere.

        Args:
            batch: At most 50 records.

            now: For policies that wait.

            fresh: Past the caches: an operator has asked for these again.

        Raises:
            TransientError | BlockedError | HeldError: About the whole batch; every record stays as it is.
        """
        ...

    def deliver(self, intent: Intent) -> Receipt:
        """
        Send one frozen body, once. No re-send of any kind happens inside.

        Raises:
            NotSentError, TransientError, PermanentError, RefusedError, BlockedError, HeldError: Surely not done.

            UnknownOutcome: It may have been done. Everything that is not understood counts as this.
        """
        ...

    def find(self, intents: Sequence[Intent]) -> list[Receipt | None]:
        """
        Look up what became of attempts in doubt; one answer each, in order; None: not there now.

        Raises:
            TransientError | BlockedError: The question got no proper answer; nothing is known.
        """
        ...

    def owned(self, prefix: str, *, since: datetime, most: int) -> list[Owned]:
        """
        Return rows that carry our correlation ids, for the sweep and after a database was lost; unguarded sinks: none.

        Args:
            prefix: The installation's name.

            since: Created at or after this, by the sink's own clock.

            most: No more than so many.

        Raises:
            TransientError | BlockedError: The question got no proper answer.
        """
        ...
