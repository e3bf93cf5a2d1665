"""
Reading from a client: until a moment, up to a size, and never more than was asked for.

cheroot waits for each byte anew, so that a client that sends one in a while keeps a thread for ever. Here a whole head, or a
whole body, has its time.

Source: RFC 9112 sections 6 and 7; cheroot 11.1 (``makefile``, ``server.ChunkedRFile``).
"""

from __future__ import annotations

import errno
import re
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

_CHUNK: Final = 65536
#: Hexadecimal digits alone, with what may follow them; Python's int would also take "0x1f", "+1" and "1_0".
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
#: A line that gives a chunk's size, or of the trailer.
_LINE: Final = 4096


class BadBody(ValueError):
    """It is not framed as HTTP asks."""


class Body(Protocol):
    """What a request brings beside its head."""

    def read(self, most: int) -> bytes:
        """
        Return at most so many bytes; fewer only at the end.

        Raises:
            TimeoutError: It did not come in time.

            BadBody: It ended early, or is not framed as it should be.
        """
        ...


@contextmanager
def _lost() -> Iterator[None]:
    """What breaks TLS ends the connection as a reset does; cheroot knows the latter."""
    try:
        yield
    except ssl.SSLError as error:
        raise ConnectionResetError(errno.ECONNRESET, error.reason or "TLS") from None


class Incoming:
    """
    The bytes of one connection, buffered; what cheroot calls an ``rfile``.

    Args:
        connected: Blocking, in plain or under TLS.

        now: Seconds of a monotonic clock.
    """

    def __init__(self, connected: socket.socket, now: Callable[[], float]) -> None:
        self._socket = connected
        self._now = now
        self._bytes = bytearray()
        self._ended = False
        #: When what is read now must be there.
        self.until = 0.0
        #: Called before a read for which nothing has come yet; None: nobody asks for it.
        self.before_waiting: Callable[[], None] | None = None
        self.bytes_read = 0

    def has_data(self) -> bool:
        """Return whether something was read that nobody has taken: no selector would tell of it."""
        return bool(self._bytes) or self._pending()

    def _pending(self) -> bool:
        """Return whether TLS has something that its socket does not show."""
        pending = getattr(self._socket, "pending", None)
        return pending is not None and pending() > 0

    def read(self, size: int) -> bytes:
        """Return *size* bytes; fewer where the client has ended."""
        while len(self._bytes) < size and self._more():
            pass
        return self._take(size)

    def readline(self, size: int = _CHUNK) -> bytes:
        """Return what comes up to a line feed, with it; at most *size* bytes."""
        looked = 0
        while True:
            end = self._bytes.find(b"\n", looked, size)
            if end >= 0:
                return self._take(end + 1)
            if len(self._bytes) >= size or not self._more():
                return self._take(size)
            looked = max(0, len(self._bytes) - _CHUNK)

    def close(self) -> None:
        """Nothing is to be let go of: the socket is the connection's."""

    def _take(self, size: int) -> bytes:
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        self.bytes_read += len(taken)
        return taken

    def _has_come(self) -> bool:
        """Return whether a read would return at once."""
        if isinstance(self._socket, ssl.SSLSocket):
            # What its socket shows may be a part of a record, for the rest of which it would wait.
            return self._pending()
        try:
            looking = select.poll()
            looking.register(self._socket, select.POLLIN)
            return bool(looking.poll(0))
        except (OSError, ValueError):  # closed meanwhile
            return True

    def _more(self) -> bool:
        """Read once; return whether there was anything."""
        if self._ended:
            return False
        left = self.until - self._now()
        if left <= 0:
            raise TimeoutError("timed out")
        if self.before_waiting is not None and not self._has_come():
            self.before_waiting()
        self._socket.settimeout(left)
        with _lost():
            data = self._socket.recv(_CHUNK)
        self._ended = not data
        self._bytes += data
        return bool(data)


class Sized:
    """A body whose length is stated."""

    def __init__(self, incoming: Incoming, length: int) -> None:
        self._incoming = incoming
        #: Bytes that were not read.
        self.remaining = length

    def read(self, most: int) -> bytes:
        size = min(most, self.remaining)
        data = self._incoming.read(size) if size else b""
        if len(data) < size:
            raise BadBody("the body is shorter than its Content-Length")
        self.remaining -= len(data)
        return data


class Chunked:
    """A body that comes in chunks."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._left = 0
        self._ended = False

    @property
    def remaining(self) -> int:
        """1 as long as the last chunk was not seen: how much follows, nobody knows."""
        return 0 if self._ended else 1

    def read(self, most: int) -> bytes:
        found = bytearray()
        while len(found) < most and not self._ended:
            if not self._left:
                self._begin()
                continue
            data = self._incoming.read(min(self._left, most - len(found)))
            if not data:
                raise BadBody("the body ends within a chunk")
            found += data
            self._left -= len(data)
            if not self._left and self._incoming.read(2) != b"\r\n":
                raise BadBody("a chunk does not end where it should")
        return bytes(found)

    def _begin(self) -> None:
        size = _SIZE.fullmatch(self._incoming.readline(_LINE))
        if size is None:
            raise BadBody("a chunk has no proper size")
        self._left = int(size[1], 16)
        if self._left:
            return
        # The trailer: nothing in it is used.
        for _ in range(100):
            line = self._incoming.readline(_LINE)
            if line == b"\r\n":
                self._ended = True
                return
            if not line.endswith(b"\r\n"):
                break
        raise BadBody("the trailer does not end")


class Outgoing:
    """What cheroot calls a ``wfile``: whatever is written leaves at once, or within *seconds*, unless it is held back."""

    def __init__(self, connected: socket.socket, seconds: float, now: Callable[[], float]) -> None:
        self._socket = connected
        self._seconds = seconds
        self._now = now
        self._held: bytearray | None = None
        self.bytes_written = 0

    def write(self, data: Any) -> int:  # noqa: ANN401  bytes of any kind
        """Send all of *data*, or keep it."""
        if self._held is not None:
            self._held += data
        else:
            self._send(data)
        self.bytes_written += len(data)
        return len(data)

    def hold(self) -> None:
        """Keep what is written from now on."""
        self._held = bytearray()

    def release(self) -> None:
        """Send what was kept."""
        held, self._held = self._held, None
        if held:
            self._send(held)

    def _send(self, data: Any) -> None:  # noqa: ANN401
        # TLS gives each record its own time in `sendall`: who takes one in a while would keep a thread for ever.
        until, left = self._now() + self._seconds, memoryview(data)
        while left:
            if (seconds := until - self._now()) <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(seconds)
            with _lost():
                sent = self._socket.send(left)
            left = left[sent:]

    def flush(self) -> None:
        """Nothing is kept back that could leave."""

    def close(self) -> None:
        """Nothing is to be let go of."""
