"""
The socket below stomp-py: connected, verified and bounded here, driven by stomp-py's own reader.

stomp-py's transport waits for ever for a socket that takes nothing, puts frames into an endless queue under TLS, makes TLS
of its own from files that it reads once, and answers a frame of any size. This one is given to it instead, as its own
adapter for WebSockets is: one frame at a time is written until a deadline, and one frame is read up to a size.

Source: stomp-py 9.0 (``transport.BaseTransport``), Python's ssl: an SSL object is for one thread at a time.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from time import monotonic
from typing import Any, Final

from poller.clients.stomp_frames import Incoming, Unreadable
from poller.clients.wire import certificate_refused, words_for
from poller.errors import BlockedError, TransientError

# It asks the name service about this host while it is imported, to sort addresses that are not used here.
os.environ.setdefault("STOMP_SKIP_HOSTNAME_SCAN", "1")

from stomp.protocol import Protocol12  # type: ignore[import-untyped]
from stomp.transport import BaseTransport  # type: ignore[import-untyped]

# It writes frames and tracebacks, and with them what is in records.
logging.getLogger("stomp.py").setLevel(logging.CRITICAL)

_CLOSED: Final = "it has closed the connection"
_CHUNK: Final = 65536
#: Milliseconds after which a waiting thread looks whether it should go on waiting.
_LOOK: Final = 1000
#: TLS may have to read before it can write.
_TURN: Final = 20


class Unwritten(OSError):
    """The last byte of a frame was not handed over, so the other side cannot have taken it for one."""


def connect(host: str, port: int, *, seconds: float, context: ssl.SSLContext | None) -> socket.socket:
    """
    Return a connection that stands; verified where there is a *context*, and then it does not block.

    Raises:
        TransientError: There is none.

        BlockedError: The other side did not take our certificate.
    """
    where = f"{host}:{port}"
    try:
        found = socket.create_connection((host, port), timeout=seconds)
    except OSError as error:
        raise TransientError(f"{where}: no connection: {words_for(error)}", remote=True) from None
    try:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            found = context.wrap_socket(found, server_hostname=host)
            found.setblocking(False)
        else:
            # The kernel waits for what comes, for a while each time: one call instead of three for each frame.
            found.setblocking(True)
            found.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", *divmod(_LOOK * 1000, 1_000_000))
            )
    except (OSError, ValueError) as error:
        found.close()
        if certificate_refused(error):
            raise BlockedError(f"{where} did not take our certificate; check tls.certificate") from None
        raise TransientError(f"{where}: no connection: {words_for(error)}", remote=True) from None
    return found


class SocketTransport(BaseTransport):  # type: ignore[misc]  # it has no types
    """
    Carries frames over a socket of `connect`.

    Args:
        host: What the header ``host`` says.

        seconds: In which a whole frame must have been taken.

        largest: Bytes of a frame that comes in; more ends the connection.
    """

    def __init__(self, connected: socket.socket, host: str, *, seconds: float, largest: int) -> None:
        super().__init__(auto_decode=False)
        self.vhost = host
        self.current_host_and_port = (host, 0)
        self._socket = connected
        self._seconds = seconds
        self._incoming = Incoming(largest)
        # One frame after the other; and under TLS one call into the socket at a time.
        self._frames = threading.Lock()
        self._tls = isinstance(connected, ssl.SSLSocket)
        self._calls: AbstractContextManager[object] = threading.Lock() if self._tls else nullcontext()
        self.override_threading(_thread)

    @property
    def oversized(self) -> bool:
        """Whether a frame came that is too large."""
        return self._incoming.oversized

    # What BaseTransport asks of a transport.

    def attempt_connection(self) -> None:
        """It stands already."""

    def receive(self) -> bytes:
        """
        Return one whole frame, or a line break, which is a heart-beat; nothing once the connection is over.

        stomp-py would take bytes as they come, and loses a frame that comes together with two line breaks before it.
        """
        while self.running:
            try:
                frame = self._incoming.take()
            except Unreadable:
                return b""
            if frame is not None:
                return frame
            data = self._read()
            if data == b"":
                return b""
            self._incoming.add(data or b"")
        return b""

    def send(self, encoded_frame: bytes) -> None:
        """
        Write a frame.

        Raises:
            Unwritten: Not all of it was taken, so it is as if it had never been sent. The connection can be read, no more.
        """
        until = monotonic() + self._seconds
        if not self._frames.acquire(timeout=self._seconds):
            raise Unwritten("another frame is not taken")
        try:
            rest = memoryview(encoded_frame)
            while rest:
                if not self.running:
                    raise Unwritten(_CLOSED)
                if monotonic() > until:
                    # Nothing may follow half a frame, and nobody says why.
                    self.disconnect_socket()
                    raise Unwritten("it takes nothing any more")
                rest = rest[self._write(rest[:_CHUNK]) :]
        finally:
            self._frames.release()

    def _write(self, chunk: memoryview) -> int:
        """Return how many bytes were taken, after waiting for a while where it is none."""
        try:
            with self._calls:
                # For TLS there are no such flags, and its socket never waits.
                return self._socket.send(chunk) if self._tls else self._socket.send(chunk, socket.MSG_DONTWAIT)
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._wait(select.POLLOUT)
        except ssl.SSLWantReadError:
            self._wait(select.POLLIN, _TURN)
        except OSError as error:
            # The reader closes the socket where the broker does.
            closed = error.errno == errno.EBADF
            raise Unwritten(_CLOSED if closed else words_for(error)) from None
        return 0

    def _read(self) -> bytes | None:
        """Return what has come, b"" at the end, None after waiting for a while."""
        try:
            with self._calls:
                # A broker that sends small packets waits for word of each; the kernel would keep that back for 40 ms.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                return self._socket.recv(_CHUNK)
        except BlockingIOError:
            pass  # nothing has come in that while
        except ssl.SSLWantReadError:
            self._wait(select.POLLIN)
        except ssl.SSLWantWriteError:
            self._wait(select.POLLOUT, _TURN)
        except OSError:
            return b""
        return None

    def _wait(self, what: int, milliseconds: int = _LOOK) -> None:
        # Unlike select(), poll() takes any descriptor; that of a closed socket is -1.
        with suppress(OSError, ValueError):
            waiting = select.poll()
            waiting.register(self._socket, what)
            waiting.poll(milliseconds)

    def disconnect_socket(self) -> None:
        """End the connection; the reader, which may be waiting for it, closes it."""
        self.running = False
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def cleanup(self) -> None:
        # The number of a closed socket may be that of another one's at once; whoever is writing leaves soon.
        self.disconnect_socket()
        with self._frames, self._calls:
            self._socket.close()


def _thread(loop: Callable[[], None]) -> threading.Thread:
    made = threading.Thread(target=loop, name="stomp reader", daemon=True)
    made.start()
    return made


def protocol(transport: SocketTransport, heartbeat: timedelta) -> Any:  # noqa: ANN401  it has no types
    """Return what makes frames for *transport*, and shows that we live."""
    milliseconds = int(heartbeat.total_seconds() * 1000)
    return Protocol12(transport, heartbeats=(milliseconds, milliseconds))
