"""
One connection of a client: its TLS, its times, and its end.

Source: cheroot 11.1 (``HTTPConnection``), read.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cheroot.server import HTTPConnection

from poller.ingress.incoming import Incoming, Outgoing
from poller.ingress.strict import StrictRequest
from poller.logs import get_logger

if TYPE_CHECKING:
    from poller.ingress.server import Server

log = get_logger()

#: Seconds for an answer to be taken, and for a TLS handshake.
WRITE: Final = 10.0
#: Seconds that a connection of which nothing is known waits for its turn in a thread, which it has after a handshake and for
#: what follows its first request; after that it goes on without one.
_PATIENCE: Final = 0.25
#: What is still read of a body that nobody wants, so that the refusal is seen before the connection ends.
_DRAIN_BYTES, _DRAIN_SECONDS = 16_000_000, 2.0


class Connection(HTTPConnection):  # type: ignore[misc]  # cheroot's types say nothing of it
    """One connection of a client."""

    RequestHandlerClass = StrictRequest
    server: Server

    def __init__(self, server: Server, connected: socket.socket, makefile: object = None) -> None:
        super().__init__(server, connected, _nothing)
        self.rfile = Incoming(connected, time.monotonic)
        self.wfile = Outgoing(connected, WRITE, time.monotonic)
        #: When it came, or began its present request.
        self.since = time.monotonic()
        #: Somebody has proven who he is, in the request that is being answered.
        self.proven = False
        #: Somebody has done so in an earlier one.
        self.known = False
        #: What has come bears credentials that were good before.
        self.recognised = False
        #: Those of the request that is being answered.
        self.credentials = b""
        #: It waits for one of the turns of those of whom nothing is known, without a thread.
        self.queued = False
        #: The number of the turn that it has.
        self._turn: int | None = None
        #: A thread is at it, or will be.
        self.busy = False
        #: Another one has been given its place.
        self.leaves = False
        #: A body was not read.
        self.unread = False
        #: When its refusal is told, which is kept until then; it ends with that. None: there is none that waits.
        self.due: float | None = None
        #: SHA-256 of the client's certificate, in hexadecimal, where one was shown and verified.
        self.certificate: str | None = None
        self.fresh = True
        self._shaken = not isinstance(connected, ssl.SSLSocket)

    def communicate(self) -> bool:
        """Answer one request; return whether another may follow."""
        self.busy, self.fresh = True, False
        self.since = time.monotonic()
        try:
            if not self._shaken and not self._shake():
                return False
            kept: bool = super().communicate()
            return kept
        finally:
            self.end_turn(vain=True)
            self.known |= self.proven
            self.busy = self.proven = self.recognised = False
            self.credentials = b""
            self.since = time.monotonic()

    def _shake(self) -> bool:
        assert isinstance(self.socket, ssl.SSLSocket)  # noqa: S101  else there is nothing to shake
        self.end_turn()
        self.socket.settimeout(WRITE)
        try:
            self.socket.do_handshake()
            shown = self.socket.getpeercert(binary_form=True)
        except (OSError, ValueError) as error:
            log.debug("handshake_failed", peer=self.remote_addr, error=getattr(error, "reason", None) or str(error))
            return False
        self.certificate = hashlib.sha256(shown).hexdigest() if shown else None
        self._shaken = True
        return True

    def begin_turn(self, number: int) -> None:
        """Have a turn of those of whom nothing is known, until somebody is waited for."""
        self._turn = number
        self.rfile.before_waiting = self.end_turn

    def take_turn(self) -> None:
        """
        Wait until few others of whom nothing is known are looked at.

        Whoever has a turn or is known from an earlier request does not wait, and whoever has waited for long goes on without one.
        """
        if self._turn is None and not self.known and not self.recognised:
            number = self.server.newcomers.take(_PATIENCE)
            if number is not None:
                self.begin_turn(number)

    def end_turn(self, *, vain: bool = False) -> None:
        """Let the next one have its turn: somebody has proven who he is, or has us wait for him, or all was in *vain*."""
        number, self._turn = self._turn, None
        if number is not None:
            self.rfile.before_waiting = None
            self.server.newcomers.end(number, vain=vain)

    def prove(self) -> None:
        """Somebody has proven who he is."""
        self.proven = True
        self.end_turn()

    def acquaint(self) -> None:
        """Who has proven himself here has asked for something proper: the next time he is no newcomer."""
        if self.proven and self.credentials and not self.known:
            self.server.acquaintances.add(self.credentials)

    def estrange(self) -> None:
        """What was good before is good no more: the next time he is a newcomer."""
        if self.recognised:
            self.server.acquaintances.forget(self.credentials)

    def reading_head(self) -> None:
        """Give the head its time."""
        self.rfile.until = time.monotonic() + self.server.head_seconds

    def reading_body(self) -> None:
        """Give the body its time."""
        self.rfile.until = time.monotonic() + self.server.body_seconds

    def refuse(self, reason: str) -> bool:
        """Have the refusal that is written next wait for its turn; False: there is none, end without a word."""
        self.server.told(reason)
        if self.leaves:
            return False
        at = self.server.pace.turn(crowd=self.server.newcomers.crowd)
        if at is not None and at > time.monotonic():
            self.due = at
            self.wfile.hold()
        return at is not None

    def tell(self) -> None:
        """Send the refusal that has waited, and end."""
        with suppress(OSError):
            self.wfile.release()
        self.close()

    def leave(self) -> None:
        """Give way to another connection: whoever reads from it wakes, and lets go of it."""
        self.leaves = True
        with suppress(OSError):
            # Not its own `shutdown`, which takes TLS off a socket that a thread goes on to read from.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close_now(self) -> None:
        """End a connection on which nothing was said, and that nobody counts."""
        with suppress(OSError):
            self.socket.close()

    def close(self) -> None:
        """End the connection; what still comes is taken for a moment, or a reset would overtake our answer."""
        with suppress(OSError, ValueError):
            # In a flood of them not for all: it costs a thread and the bytes.
            if self.unread and not self.leaves and self.server.drains.acquire(blocking=False):
                try:
                    self._drain()
                finally:
                    self.server.drains.release()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.server.forget(self)

    def _drain(self) -> None:
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(_DRAIN_SECONDS)
        else:
            self.socket.shutdown(socket.SHUT_WR)
        until, taken = time.monotonic() + _DRAIN_SECONDS, 0
        while taken < _DRAIN_BYTES and (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            data = self.socket.recv(65536)
            if not data:
                return
            taken += len(data)


def _nothing(*_: object) -> None:
    """Stand for a file of cheroot's: `Connection` has its own."""
