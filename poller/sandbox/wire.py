"""
A small HTTP/1.1 server: a thread a connection, keep-alive, one send a response.

Not http.server: that one parses headers with the email package and flushes head and body apart, which costs
more than the whole rest of a call; benchmarks measure a client's CPU beside this server on two cores. It can
also do what a decent server never does: reset, stall, drip and cut an answer.
"""

import contextlib
import enum
import json
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote

LONGEST_HEAD = 64 * 1024
LONGEST_REQUEST_LINE = 16 * 1024
LONGEST_BODY = 64 * 1024 * 1024
JSON_TYPE = "application/json;charset=UTF-8"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_RESET = struct.pack("ii", 1, 0)


class Manner(enum.Enum):
    """How an answer leaves the server."""

    SEND = "whole, as it should be"
    DROP = "not at all: the connection is closed"
    RESET = "not at all: the connection is reset"
    STALL = "not at all: the connection stays open until the client gives up"
    DRIP = "byte by byte"
    CUT = "half: Content-Length promises the whole"


@dataclass(slots=True)
class Request:
    """A request as read from the wire; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    arrived: float = 0.0
    fault: str = ""
    path: str = ""
    query: str = ""
    identity: str = ""  # user_name of the account the call acts as, once authenticated
    scheme: str = "http"  # or https
    certificate: str = ""  # whom the client's certificate names, where it has shown one


@dataclass(slots=True)
class Response:
    """An answer; Date, Content-Length and Connection are the server's to add."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: list[tuple[str, str]] = field(default_factory=list)
    manner: Manner = Manner.SEND
    close: bool = False
    pace: float = 0.0  # seconds a dripped body takes


class Application(Protocol):
    """What a Server needs."""

    def greet(self, request: Request) -> bool:
        """Look at a request whose body is not read yet; False resets the connection."""

    def answer(self, request: Request) -> Response:
        """Answer a whole request."""


class _BadRequest(Exception):
    """The client does not speak HTTP, or speaks too much of it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Server:
    """Listens on one port and hands requests to an application."""

    def __init__(
        self,
        application: Application,
        address: tuple[str, int],
        *,
        date: Callable[[], str],
        idle: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Bind *address*; raises OSError when that is taken."""
        self._application = application
        self._date = date
        self._idle = idle
        self._tls = tls
        self._stopping = False
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.create_server(address, backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name=f"accept-{self.port}", daemon=True)

    def start(self) -> None:
        """Begin to accept; returns at once."""
        self._acceptor.start()

    def stop(self, patience: float = 2.0) -> None:
        """Close the port and every connection; calls being served get *patience* seconds to end."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        threads = list(self._connections.items())
        for sock, _ in threads:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + patience
        for _, thread in threads:
            if thread.is_alive():  # one just accepted may not have begun; its connection is closed all the same
                thread.join(max(0.0, until - time.monotonic()))

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                time.sleep(0.05)  # stopping, out of descriptors, or a client gone before we took it
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._connections[sock] = thread
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        sock = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(self._idle)
            if self._tls is not None:
                secured = self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
                self._connections[secured] = self._connections.pop(plain)
                sock = secured
                secured.do_handshake()
            self._converse(sock)
        except (OSError, ValueError):
            pass  # the client went away, timed out or spoke no TLS: its own affair
        finally:
            self._connections.pop(sock, None)
            self._connections.pop(plain, None)
            sock.close()

    def _converse(self, sock: socket.socket) -> None:
        reader = _Reader(sock)
        certificate = _shown(sock)
        while not self._stopping:
            try:
                request = reader.head()
                if request is None:
                    return
                request.certificate = certificate
                request.scheme = "http" if self._tls is None else "https"
                if not self._application.greet(request):
                    _reset(sock)
                    return
                reader.body(request)
            except _BadRequest as error:
                self._refuse(sock, error.status)
                return
            try:
                response = self._application.answer(request)
            except Exception:  # noqa: BLE001 - a fault of the sandbox itself: say so, and stay up
                traceback.print_exc(file=sys.stderr)
                response = Response(500, b'{"error":{"message":"sandbox bug","detail":null},"status":"failure"}')
            if not self._deliver(sock, request, response):
                return

    def _refuse(self, sock: socket.socket, status: int) -> None:
        page = f"<html><head><title>{status} {_PHRASES[status]}</title></head><body></body></html>".encode()
        request = Request("GET", "", {})
        self._deliver(sock, request, Response(status, page, "text/html", close=True))
        # Closing with unread bytes would reset the connection and take the answer with it.
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(1.0)
        while sock.recv(65536):
            pass

    def _deliver(self, sock: socket.socket, request: Request, response: Response) -> bool:
        """Send *response*; return whether the connection lives on."""
        manner = response.manner
        if manner is Manner.SEND:
            keep = not (response.close or request.headers.get("connection", "").lower() == "close")
            head = self._head(response, keep=keep)
            sock.sendall(head if request.method == "HEAD" else head + response.body)
            return keep
        if manner is Manner.STALL:
            sock.settimeout(None)
            while sock.recv(65536):
                pass
        elif manner is Manner.RESET:
            _reset(sock)
        elif manner is Manner.CUT:
            sock.sendall(self._head(response, keep=True) + response.body[: len(response.body) // 2])
        elif manner is Manner.DRIP:
            return self._drip(sock, response)
        return False

    def _drip(self, sock: socket.socket, response: Response) -> bool:
        whole = self._head(response, keep=True) + response.body
        pause = response.pace / max(1, len(whole))
        started = time.monotonic()
        for position in range(len(whole)):
            ahead = started + pause * position - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            sock.sendall(whole[position : position + 1])
        return True

    def _head(self, response: Response, *, keep: bool) -> bytes:
        status = response.status
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", f"Date: {self._date()}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if status not in {204, 304}:
            if response.content_type:
                lines.append(f"Content-Type: {response.content_type}")
            lines.append(f"Content-Length: {len(response.body)}")
        if keep:
            lines.append(f"Keep-Alive: timeout={self._idle:g}")
        else:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def _shown(sock: socket.socket) -> str:
    """Return whom the client's verified certificate names, empty where it has shown none."""
    found = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    return json.dumps(found.get("subject", ())) if found else ""


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class _Reader:
    """Takes requests off one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""

    def head(self) -> Request | None:
        """Return the next request without its body; None when the client closed."""
        end = self._buffer.find(b"\r\n\r\n")
        while end < 0:
            if len(self._buffer) > LONGEST_HEAD:
                raise _BadRequest(414 if b"\r\n" not in self._buffer else 431)
            more = self._sock.recv(65536)
            if not more:
                return None
            self._buffer += more
            end = self._buffer.find(b"\r\n\r\n")
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        if len(lines[0]) > LONGEST_REQUEST_LINE:
            raise _BadRequest(414)
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise _BadRequest(400)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise _BadRequest(400)
            headers[name.lower()] = value.strip()
        if words[2] == "HTTP/1.0" and "connection" not in headers:
            headers["connection"] = "close"
        target = words[1]
        path, _, query = target.partition("?")
        return Request(words[0], target, headers, arrived=time.time(), path=unquote(path), query=query)

    def body(self, request: Request) -> None:
        """Read the body of *request* into it."""
        headers = request.headers
        if headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            request.body = self._chunks()
        elif length := headers.get("content-length"):
            if not length.isdigit():
                raise _BadRequest(400)
            if int(length) > LONGEST_BODY:
                raise _BadRequest(413)
            request.body = self._exactly(int(length))

    def _exactly(self, count: int) -> bytes:
        if len(self._buffer) < count:
            parts = [self._buffer]
            missing = count - len(self._buffer)
            while missing > 0:
                more = self._sock.recv(min(max(missing, 4096), 1 << 20))
                if not more:
                    raise ConnectionResetError
                parts.append(more)
                missing -= len(more)
            self._buffer = b"".join(parts)
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > LONGEST_HEAD:
                raise _BadRequest(400)
            more = self._sock.recv(65536)
            if not more:
                raise ConnectionResetError
            self._buffer += more
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _chunks(self) -> bytes:
        parts = []
        total = 0
        while size := int(self._line().split(b";")[0], 16):
            total += size
            if total > LONGEST_BODY:
                raise _BadRequest(413)
            parts.append(self._exactly(size))
            self._exactly(2)
        while self._line():
            pass
        return b"".join(parts)
