"""
The source ``activemq``: takes the messages of a queue.

A page of messages is given away, and acknowledged once it is committed, which this generator learns by being asked for the
next page. A crash in between means that the broker sends them again, and all of them are known then. Nothing is ever
refused to the broker (NACK), which would bury it in a queue of its own.

Who polls without saying what is `known` only looks: the queue is browsed, and nothing is taken out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from poller.clients.stomp import StompSession
from poller.clients.tls import Trust
from poller.model import Page
from poller.ports import Known, nothing_known
from poller.sources.activemq_messages import Batch, Messages
from poller.sources.activemq_settings import ActivemqSourceSettings

__all__ = ["ActivemqSource", "ActivemqSourceSettings"]

#: Messages that are committed and acknowledged together. Twice as many may be out at a time, and all of them in memory.
PAGE: Final = 20
#: Messages after which a poll ends, so that the secrets and certificates of the next one are those of its day.
MOST: Final = 10_000
#: Seconds that are waited for another message of a page that has some.
_MORE: Final = 0.05
#: What may come at least, so that a message over ``max_body`` is a dead letter and does not stop the queue.
_READ: Final = 100_000_000


class ActivemqSource:
    """One queue, polled."""

    settings = ActivemqSourceSettings

    def __init__(self, settings: ActivemqSourceSettings) -> None:
        self._settings = settings
        self._trust = Trust(settings.tls) if settings.encrypted else None
        self._messages = Messages(settings)
        self._quiet = settings.quiet.total_seconds()

    def close(self) -> None:
        """Nothing is kept between two polls."""

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        if known is nothing_known:
            yield from self.look(checkpoint)
            return
        session = self._open()
        try:
            session.subscribe(self._settings.destination, prefetch=2 * PAGE)
            yield from self._pages(session)
        except BaseException:
            # Among others where nobody asks for the next page: what was given away last is not known to be safe.
            session.end()
            raise
        session.close()
        yield Page(last=True)

    def _pages(self, session: StompSession) -> Iterator[Page]:
        taken = 0
        batch = Batch()
        while taken < MOST:
            full = len(batch.messages) >= PAGE
            message = None if full else session.next(_MORE if batch.messages else self._quiet)
            if message is None and not batch.messages:
                return
            read = None if message is None else self._messages.read(message)
            if read is None or not batch.takes(read):
                yield from self._give(session, batch)
                batch = Batch()
            if message is not None and read is not None:
                batch.add(message, read)
                taken += 1
        yield from self._give(session, batch)

    @staticmethod
    def _give(session: StompSession, batch: Batch) -> Iterator[Page]:
        """Yield a page, then acknowledge its messages: who asks for more has committed it."""
        yield batch.page()
        session.acknowledge(batch.messages)

    def look(self, checkpoint: str | None) -> Iterator[Page]:
        """See `poller.ports.Looking`: what is in the queue, without taking it."""
        session = self._open()
        try:
            session.browse(self._settings.destination)
            batch = Batch()
            while (message := session.next(self._quiet)) is not None and message.headers.get("browser") != "end":
                read = self._messages.read(message)
                if len(batch.messages) >= PAGE or not batch.takes(read):
                    yield batch.page()
                    batch = Batch()
                batch.add(message, read)
            if batch.messages:
                yield batch.page()
        finally:
            session.end()
        yield Page(last=True)

    def _open(self) -> StompSession:
        context = self._trust.context() if self._trust else None
        return StompSession(self._settings, context, largest=max(_READ, self._settings.max_body))
