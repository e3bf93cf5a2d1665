"""
A STOMP 1.2 session with a broker such as ActiveMQ: send until the receipt, take until acknowledged.

A session is one connection and one thing at a time. It ends with the first error and is never mended: whoever needs
another opens it. stomp-py knows frames, heart-beats and the reading; what an answer means, and how long it is waited for,
is decided here.

Source: STOMP 1.2; ActiveMQ Classic 5.17 and stomp-py 9.0, tried (dependencies.md section 5).
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from poller import metrics
from poller.clients.revealing import reveal
from poller.clients.stomp_answers import refusal
from poller.clients.stomp_hearing import Heard, Message
from poller.clients.stomp_settings import StompSettings, address
from poller.errors import BlockedError, PermanentError, PollerError, TransientError, UnknownOutcome

if TYPE_CHECKING:
    from poller.clients.stomp_transport import SocketTransport

__all__ = ["Message", "StompSession", "StompSettings"]

#: Bytes of headers beside a body.
_HEAD: Final = 65536
#: Seconds that a broker's last words are waited for, and a farewell.
_LAST_WORDS: Final = 2.0
_UNSENDABLE: Final = frozenset("\0\r\n")


class StompSession:
    """
    A connection that a broker has let in, for one thread at a time.

    Args:
        context: For ``stomp+ssl``; None otherwise.

        largest: Bytes of a body that may come.

    Raises:
        TransientError: There is no broker, or it does not answer.

        BlockedError: It does not let us in.
    """

    def __init__(self, settings: StompSettings, context: ssl.SSLContext | None, *, largest: int = 0) -> None:
        # Not needed by who has no broker, and slow to import.
        from poller.clients import stomp_transport

        host, port = address(settings.url)
        self._host = host
        self._where = f"{host}:{port}"
        self._wait = settings.receipt_timeout.total_seconds()
        self._heard = Heard()
        # Nobody can guess it, and a text message in a queue cannot pretend to be a receipt of ours.
        self._name, self._count = uuid4().hex, itertools.count(1)
        login = _login(settings, self._where)
        limit = settings.connect_timeout.total_seconds()
        until = monotonic() + limit
        connected = stomp_transport.connect(host, port, seconds=limit, context=context)
        self._transport: SocketTransport = stomp_transport.SocketTransport(
            connected, host, seconds=self._wait, largest=largest + _HEAD
        )
        self._protocol = stomp_transport.protocol(self._transport, settings.heartbeat)
        self._transport.set_listener("session", self._heard)
        self._transport.start()
        metrics.connected(host)
        try:
            self._enter(login, until)
        except BaseException:
            self.end()
            raise

    def _enter(self, login: Mapping[str, str], until: float) -> None:
        heard = self._heard
        try:
            self._protocol.connect(headers=dict(login), with_connect_command=True)
        except OSError as error:
            raise TransientError(f"{self._where}: no connection: {error}", remote=True) from None
        heard.wait(lambda: heard.version, until - monotonic())
        if heard.error is not None:
            raised = refusal(self._where, heard.error.get("message", ""), ours=False)
            if isinstance(raised, BlockedError):
                raise raised
            raise TransientError(f"{self._where} answered our CONNECT with an error; its log says which", remote=True)
        if heard.version is None:
            said = "closed the connection" if heard.ended else "gave no answer"
            raise TransientError(f"{self._where} {said} where STOMP was expected; check url and tls", remote=True)
        if heard.version != "1.2":
            raise BlockedError(f"{self._where} does not speak STOMP 1.2; poller speaks nothing older")

    @property
    def alive(self) -> bool:
        """Whether nothing speaks against using it again."""
        return not self._heard.ended and self._heard.error is None

    def _receipt(self) -> str:
        return f"{self._name}-{next(self._count)}"

    # Sending.

    def send(
        self, destination: str, body: bytes, headers: Mapping[str, str], *, check: Callable[[], None] = lambda: None
    ) -> None:
        """
        Send a persistent message, once, and return when the broker has it.

        Args:
            headers: In any text but NUL; escaped here. Those of the protocol are added.

            check: Called right before the first byte; what it raises, passes.

        Raises:
            TransientError, PermanentError, BlockedError: It surely was not taken.

            UnknownOutcome: It may have been.
        """
        started, status = monotonic(), "stopped"
        try:
            self._send(destination, body, headers, check)
            status = "receipt"
        except UnknownOutcome:
            status = "no_answer"
            raise
        except (PermanentError, BlockedError):
            status = "refused"
            raise
        except TransientError:
            status = "unsent"
            raise
        finally:
            metrics.called(self._host, status, monotonic() - started)

    def _send(self, destination: str, body: bytes, headers: Mapping[str, str], check: Callable[[], None]) -> None:
        if any("\0" in text for text in (destination, *headers.values())):
            raise PermanentError("a header would hold a NUL, which STOMP cannot carry; change what the key is made of")
        receipt = self._receipt()
        own = {"destination": destination, "receipt": receipt, "persistent": "true", "content-length": str(len(body))}
        check()
        self._frame("SEND", {**headers, **own}, body)
        self._heard.wait(lambda: receipt in self._heard.receipts, self._wait)
        if receipt not in self._heard.receipts:
            raise self._no_receipt(receipt)
        self._heard.receipts.discard(receipt)

    def rehearse(self, destination: str) -> None:
        """
        Send an empty message in a transaction and take it back, so that nobody sees it: may we send there?

        Raises:
            TransientError, PermanentError, BlockedError: We may not, or cannot.
        """
        transaction = {"transaction": uuid4().hex}
        self._frame("BEGIN", dict(transaction))
        self._certain("SEND", transaction | {"destination": destination, "persistent": "true", "content-length": "0"})
        self._certain("ABORT", transaction)

    def _frame(self, command: str, headers: dict[str, str], body: bytes = b"") -> None:
        try:
            self._protocol.send_frame(command, headers, body)
        except OSError as error:  # not all of it was taken, so nothing was
            # Where the broker has closed the connection, it has often said why.
            self._heard.wait(lambda: False, _LAST_WORDS)
            found = self._error(headers.get("receipt", ""))
            if isinstance(found, PermanentError | BlockedError):
                raise found from None
            raise TransientError(f"{self._where}: the message was not sent: {error}", remote=True) from None

    def _error(self, receipt: str) -> PollerError | None:
        """Return what the broker's ERROR frame means to who waits for that receipt; None where there was none."""
        error = self._heard.error
        if error is None:
            return None
        return refusal(self._where, error.get("message", ""), ours=error.get("receipt-id") == receipt)

    def _no_receipt(self, receipt: str) -> PollerError:
        if (found := self._error(receipt)) is not None:
            return found
        if self._heard.silent:
            return UnknownOutcome(f"{self._where} fell silent before the receipt")
        if self._heard.ended:
            return UnknownOutcome(f"{self._where}: the connection ended before the receipt")
        return UnknownOutcome(f"{self._where} sent no receipt within {self._wait:g} s")

    # Taking.

    def subscribe(self, destination: str, *, prefetch: int) -> None:
        """
        Ask for messages, each of which is ours until it is acknowledged or the session ends.

        Args:
            prefetch: How many may be out without being acknowledged.
        """
        self._subscribe(
            {"destination": destination, "ack": "client-individual", "activemq.prefetchSize": str(prefetch)}
        )

    def browse(self, destination: str) -> None:
        """Ask to see what is in a queue; nothing is taken. After the last one a message without an ``ack`` comes."""
        self._subscribe({"destination": destination, "ack": "auto", "browser": "true"})

    def _subscribe(self, headers: dict[str, str]) -> None:
        self._heard.subscription = uuid4().hex
        self._certain("SUBSCRIBE", headers | {"id": self._heard.subscription})

    def next(self, seconds: float) -> Message | None:
        """
        Return the next message, None where none has come in that time.

        Raises:
            TransientError: The session has ended.
        """
        heard = self._heard
        heard.wait(lambda: heard.messages, seconds)
        if heard.messages:
            return heard.messages.popleft()
        if self.alive:
            return None
        if self._transport.oversized:
            raise TransientError(
                f"{self._where}: a message in the queue is larger than poller takes; take it out by hand"
            )
        raise self._surely(self._no_receipt(""))

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """
        Say that *messages* are safe with us; return when the broker knows.

        Raises:
            TransientError: It may not know, and then sends them again.
        """
        if not messages:
            return
        # One transaction is one write to the broker's disk; each by itself would be one too.
        transaction = {"transaction": uuid4().hex}
        self._frame("BEGIN", dict(transaction))
        for message in messages:
            self._frame("ACK", {"id": message.ack} | transaction)
        self._certain("COMMIT", transaction)

    def _certain(self, command: str, headers: dict[str, str]) -> None:
        receipt = self._receipt()
        self._frame(command, headers | {"receipt": receipt})
        self._heard.wait(lambda: receipt in self._heard.receipts, self._wait)
        if receipt not in self._heard.receipts:
            raise self._surely(self._no_receipt(receipt))
        self._heard.receipts.discard(receipt)

    @staticmethod
    def _surely(error: PollerError) -> PollerError:
        # Taking has no unknown outcome: what is not acknowledged comes again.
        return error if isinstance(error, BlockedError) else TransientError(str(error), remote=True)

    # Ending.

    def close(self) -> None:
        """Say farewell, and end."""
        if self.alive:
            try:
                receipt = self._receipt()
                self._protocol.send_frame("DISCONNECT", {"receipt": receipt})
                self._heard.wait(lambda: receipt in self._heard.receipts, _LAST_WORDS)
            except OSError:
                pass  # it has gone already
        self.end()

    def end(self) -> None:
        """End at once, without a word."""
        self._transport.disconnect_socket()
        self._heard.wait(lambda: False, _LAST_WORDS)


def _login(settings: StompSettings, where: str) -> dict[str, str]:
    """Return who we are; the password is read anew. CONNECT alone knows no escapes, so some characters cannot be sent."""
    if settings.username is None or settings.password is None:
        return {}
    password = reveal(settings.password)
    if _UNSENDABLE & set(password):
        raise BlockedError(
            f"{where}: the password holds a line break or a NUL, which STOMP cannot send; choose another"
        )
    return {"login": settings.username, "passcode": password}
