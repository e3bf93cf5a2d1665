"""
Reading an answer: not longer than the deadline, not more than the cap, not less than was promised.

Also what to call it when that fails. The parsing of status line, headers and chunks is http.client's.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
import zlib
from typing import Any, Final

from urllib3.exceptions import NameResolutionError

#: What one read takes at most; a usual answer arrives in one.
_PIECE: Final = 65536
#: Without the proxy's own words.
_TUNNEL: Final = re.compile(r"Tunnel connection failed: \d{3}")
#: A server says these while it looks at our certificate, or misses it: before it has read any request.
_CERTIFICATE_ALERT: Final = re.compile(
    r"ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_\w+|NO_CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)$"
)


class Wire(io.RawIOBase):
    """What http.client reads through: no read outlasts the deadline of the call, nor does a drip of them."""

    def __init__(self, sock: socket.socket, read: float, ends: float) -> None:
        super().__init__()
        self._sock = sock
        self._read = read
        self._ends = ends
        #: The server has said that nothing more comes.
        self.over = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Take the place of a socket, as far as http.client asks for one."""
        return io.BufferedReader(self, 16384)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  a writable buffer has no type in 3.11
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("no whole answer before the deadline")
        self._sock.settimeout(min(self._read, left))
        count = self._sock.recv_into(buffer)
        self.over = count == 0
        return count


def read_body(response: http.client.HTTPResponse, cap: int) -> bytes:
    """Read the body whole; both the bytes on the wire and those that come out of gzip are counted."""
    encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    gunzip = _Gunzip() if encoding in {"gzip", "x-gzip"} else None
    if gunzip is None and encoding != "identity":
        raise ValueError(f"the answer is encoded as {encoding[:20]!r}, which was not asked for")
    pieces: list[bytes] = []
    wire = plain = 0
    while piece := response.read1(_PIECE):
        wire += len(piece)
        if gunzip is not None:
            piece = gunzip.feed(piece, cap - plain + 1)
        plain += len(piece)
        if plain > cap or wire > cap:
            raise ValueError(f"the answer is larger than max_body ({cap} bytes)")
        pieces.append(piece)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    if gunzip is not None and wire and not gunzip.whole:
        raise EOFError("the compressed answer is cut")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Gunzip:
    """gzip, never more than asked for at a time, so that a bomb stays small."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(31)

    @property
    def whole(self) -> bool:
        return self._stream.eof

    def feed(self, data: bytes, most: int) -> bytes:
        """Return what *data* decodes to, at most *most* bytes; more than that is the caller's reason to stop."""
        out = b""
        while data and len(out) < most:
            if self._stream.eof:
                self._stream = zlib.decompressobj(31)
            out += self._stream.decompress(data, most - len(out))
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return out


def certificate_refused(error: BaseException) -> bool:
    """Return whether the server ended the handshake over our certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and _CERTIFICATE_ALERT.search(cause.reason or ""):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def words_for(error: BaseException) -> str:
    """Say in a few words what went wrong, from types and errno alone: foreign texts may hold addresses and secrets."""
    cause: BaseException | None = error
    while cause is not None:
        if words := _known(cause):
            return words
        cause = cause.__cause__ or cause.__context__
    return f"no proper answer ({type(error).__name__})"


def _known(error: BaseException) -> str | None:
    match error:
        case NameResolutionError() | socket.gaierror():
            return "the name cannot be resolved"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message}); see tls.ca"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or type(error).__name__})"
        case TimeoutError():
            return "timeout"
        case http.client.RemoteDisconnected():
            return "connection closed without an answer"
        case http.client.IncompleteRead() | EOFError():
            return "the answer was cut"
        case OSError() if found := _TUNNEL.match(str(error)):
            return found[0]
        case OSError() if error.strerror:
            return error.strerror.lower()
        case ValueError() if str(error).startswith("the answer is"):
            return str(error)
    return None
