"""
The sink ``activemq``: each record is one persistent message, sent only once the broker's receipt for it is there.

Each worker has a connection of its own with one message on its way, so that an error of the broker speaks of that message
and harms no other. ActiveMQ does not drop repeats: a message that may have been taken is sent again with the same bytes and
the same header ``x-message-id``, by which its reader can.
"""

from __future__ import annotations

import threading
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from poller.clients.stomp import StompSession
from poller.clients.stomp_settings import StompSettings
from poller.clients.tls import Trust
from poller.errors import NotSentError
from poller.model import Intent, Receipt, Record
from poller.sinks.unguarded import UnguardedSink
from poller.translate.documents import DocumentSettings, TranslateFault, Translator

__all__ = ["ActivemqSink", "ActivemqSinkSettings"]

#: ActiveMQ makes a BytesMessage of whatever states its length, unless it is told so. The length is always stated: a text
#: with a NUL in it would otherwise end there, and the rest of it would be read as commands.
_AS_TEXT: Final = {"amq-msg-type": "text"}


class ActivemqSinkSettings(StompSettings, DocumentSettings):
    """The keys of ``[routes.NAME.sink]`` with ``type = "activemq"``."""

    type: Literal["activemq"]
    text: Annotated[
        bool, Field(description="a JMS TextMessage, as most readers in Java expect; false: a BytesMessage")
    ] = True
    concurrency: Annotated[int, Field(ge=1, le=64, description="connections, with one message on its way each")] = 4


class ActivemqSink(UnguardedSink):
    """Carries out `poller.ports.Sink`."""

    settings: ClassVar[type[ActivemqSinkSettings]] = ActivemqSinkSettings

    def __init__(self, settings: ActivemqSinkSettings) -> None:
        super().__init__(settings.remote)
        self._settings = settings
        self._trust = Trust(settings.tls) if settings.encrypted else None
        self._translator = Translator(settings)
        self._lock = threading.Lock()
        self._idle: list[StompSession] = []
        self._closed = False

    def close(self) -> None:
        """End the connections that are not in use, and what a stylesheet runs in."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()
        self._translator.close()

    def reach(self) -> str:
        """Find out whether the broker lets us in and would take a message; it takes none."""
        session = self._open()
        try:
            session.rehearse(self._settings.destination)
        finally:
            session.close()
        return f"{self.remote}: the broker takes messages to {self._settings.destination}; one was tried and taken back"

    def freeze(self, record: Record) -> str:
        if "\0" in record.key + record.version + record.correlation_id:
            raise TranslateFault("its key or version holds a NUL, which no header of STOMP can carry")
        return self._translator.render(record.fields, key=record.key, version=record.version)

    def deliver(self, intent: Intent) -> Receipt:
        session = self._take()
        try:
            session.send(
                self._settings.destination,
                intent.body.encode("utf-8", "replace"),
                self._headers(intent),
                check=lambda: self._check(intent),
            )
        except NotSentError:
            self._give_back(session)
            raise
        except BaseException:
            session.end()
            raise
        self._give_back(session)
        return Receipt(learnt="response")

    def _headers(self, intent: Intent) -> dict[str, str]:
        return {
            "content-type": self._translator.content_type,
            "x-message-id": intent.message_id,
            "correlation-id": intent.correlation_id,
            "poller-key": intent.key,
            "poller-version": intent.version,
            **(_AS_TEXT if self._settings.text else {}),
        }

    def _check(self, intent: Intent) -> None:
        if not self.may_send(intent):
            raise NotSentError("the time or the lease of this attempt had run out before its first byte")

    # Connections.

    def _open(self) -> StompSession:
        return StompSession(self._settings, self._trust.context() if self._trust else None)

    def _take(self) -> StompSession:
        while True:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            if session is None:
                return self._open()
            if session.alive:
                return session
            session.end()

    def _give_back(self, session: StompSession) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                return
        session.close()
