"""
One request, one answer, and the certainty about what left this machine.

The urllib3 connections behind a ``requests`` adapter are driven by hand here, for two reasons. Which step failed decides
between "surely not sent" and "may have been done", and exceptions that were wrapped twice do not tell it. And a deadline
for the whole answer, headers included, needs a say before each single read.

Nothing is ever sent twice, no redirect is followed, no cookie is kept.

Source: urllib3 2.8 (``connectionpool.urlopen``), http.client of Python 3.11.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import EmptyPoolError
from urllib3.util import Retry

from poller import metrics
from poller.clients.lines import Target, header_line, payload_of, target_of
from poller.clients.refusals import certificate_error, proxy_asks, unsent
from poller.clients.wire import Wire, certificate_refused, read_body, words_for
from poller.errors import BlockedError, TransientError, UnknownOutcome

#: A connection idle for longer is closed: ServiceNow closes after 20 s, and a request must not meet that.
IDLE_SECONDS: Final = 10.0
_ABORT: Final = struct.pack("ii", 1, 0)
#: Headers that `exchange` writes, or that are never sent.
_OURS: Final = frozenset({"Host", "Content-Length", "Transfer-Encoding", "Connection", "Cookie", "Accept-Encoding"})
_KEEP: Final = re.compile(r"timeout=(\d{1,6})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long and how much; seconds and bytes."""

    connect: float
    read: float
    deadline: float
    max_body: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A whole answer, decoded."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Kept:
    """What our connections know beyond urllib3's."""

    #: Monotonic time up to which this connection may be used again.
    usable_until: float = 0.0
    #: Monotonic time at which the call in progress ends; for the answer of a proxy to CONNECT.
    ends: float = 0.0
    #: A whole answer has come over it: the handshake is over for both sides.
    answered: bool = False
    ssl_context: ssl.SSLContext | None
    sock: Any
    timeout: Any

    def response_class(self, sock: socket.socket, *_: object, method: str | None = None) -> http.client.HTTPResponse:
        wire = Wire(sock, float(self.timeout or 10.0), self.ends)
        return http.client.HTTPResponse(cast("socket.socket", wire), method=method)


class _PlainConnection(_Kept, HTTPConnection):  # type: ignore[misc]  # http.client wants a class where a factory serves
    pass


class _TlsConnection(_Kept, HTTPSConnection):  # type: ignore[misc]  # same
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS: Final = {"http": _PlainPool, "https": _TlsPool}


class Transport(HTTPAdapter):
    """
    The adapter of a `requests.Session`, whose connections `exchange` drives.

    Args:
        connections: To one host at the same time; a further call waits for one to become free.

        limits: Of requests that come from the session.

        context: Asked for each new connection. Verifies the server; holds our own certificate where there is one.

        proxy: ``http://host:port`` or None.

        proxy_authorization: Asked for each new tunnel and each forwarded request; sent to the proxy and nobody else.

        user_timeout: Seconds after which the kernel gives up on bytes that nobody confirms; None: the kernel's own
            quarter of an hour. With it, a closed connection is also aborted: nothing may arrive after we gave up.
    """

    def __init__(
        self,
        *,
        connections: int,
        context: Callable[[], ssl.SSLContext],
        limits: Limits,
        proxy: str | None = None,
        proxy_authorization: Callable[[], str] | None = None,
        user_timeout: float | None = None,
    ) -> None:
        self._limits = limits
        self._context = context
        self._proxy = proxy
        self._proxy_authorization = proxy_authorization
        self._options: list[tuple[int, int, int | bytes]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if user_timeout is not None:
            # A request on a dead path was seen to arrive 13 s after the client had been killed; with these never.
            self._options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(user_timeout * 1000))))
            self._options.append((socket.SOL_SOCKET, socket.SO_LINGER, _ABORT))
        self._pools: dict[tuple[str, str, int], HTTPConnectionPool] = {}
        self._lock = threading.Lock()
        super().__init__(
            pool_connections=64, pool_maxsize=connections, max_retries=Retry(0, read=False), pool_block=True
        )

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:  # noqa: ANN401, FBT001, FBT002  requests' own signature
        super().init_poolmanager(
            connections, maxsize, block=block, ssl_context=self._context(), socket_options=self._options, **pool_kwargs
        )
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def exchange(
        self,
        method: str,
        target: Target,
        head: str,
        body: bytes | None,
        limits: Limits,
        *,
        send_check: Callable[[], None] | None = None,
    ) -> Reply:
        """
        Send one request and return its whole answer.

        Args:
            head: Header lines, each with its line end.

            send_check: Called when the connection stands, right before the first byte; raises to stop.

        Raises:
            ValueError: *head* holds what no header may.

            TransientError: Surely nothing of the request was sent.

            BlockedError: The proxy asks for credentials.

            UnknownOutcome: Anything may have happened.
        """
        started, status = time.monotonic(), "stopped"
        try:
            reply = self._exchange(method, target, head, body, limits, send_check)
            status = str(reply.status)
            return reply
        except UnknownOutcome:
            status = "no_answer"
            raise
        except BlockedError:
            status = "proxy"
            raise
        except TransientError:
            status = "unsent"
            raise
        finally:
            metrics.called(target.host, status, time.monotonic() - started)

    def _exchange(
        self,
        method: str,
        target: Target,
        head: str,
        body: bytes | None,
        limits: Limits,
        send_check: Callable[[], None] | None,
    ) -> Reply:
        forward = self._proxy is not None and target.scheme == "http"
        if forward and self._proxy_authorization is not None:
            head += header_line("Proxy-Authorization", self._proxy_authorization())
        payload = payload_of(method, target, head, body, forward=forward)
        ends = time.monotonic() + limits.deadline
        pool = self._pool(target)
        connection = self._connection(pool, target, limits, ends)
        healthy = False
        try:
            if send_check is not None:
                send_check()
            reply, keep = _converse(connection, method, payload, limits, ends, target.host)
            connection.usable_until = time.monotonic() + keep
            connection.answered = True
            healthy = keep > 0
            if forward and reply.status == 407:
                raise proxy_asks(target.host, self._proxy_name)
            return reply
        finally:
            if not healthy:
                connection.close()
            pool._put_conn(connection)  # noqa: SLF001  urllib3 has no public way to drive a pooled connection

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:  # noqa: ANN401  requests' own signature, whose options are ours to set
        """Carry out what a session asks, so that whoever uses the session has the same guards."""
        body = request.body.encode() if isinstance(request.body, str) else request.body
        head = "".join(header_line(name, str(value)) for name, value in request.headers.items() if name not in _OURS)
        reply = self.exchange(request.method or "GET", target_of(request.url or ""), head, body, self._limits)
        response = requests.Response()
        response.status_code, response.request, response.url = reply.status, request, request.url or ""
        response.headers.update(reply.headers.items())
        response._content = reply.body  # noqa: SLF001  requests has no way to set it
        return response

    def _pool(self, target: Target) -> HTTPConnectionPool:
        key = (target.scheme, target.host, target.port)
        if (pool := self._pools.get(key)) is not None:
            return pool
        with self._lock:
            manager = self.poolmanager
            if self._proxy is not None:
                manager = self.proxy_manager_for(self._proxy, ssl_context=self._context(), socket_options=self._options)
                manager.pool_classes_by_scheme = _POOLS
            pool = manager.connection_from_host(target.host, target.port, target.scheme)
            self._pools[key] = pool
            return cast("HTTPConnectionPool", pool)

    def _connection(self, pool: HTTPConnectionPool, target: Target, limits: Limits, ends: float) -> _PlainConnection:
        """Return a connection that stands. Whatever fails here, no byte of the request has left."""
        try:
            # Its own test drops a connection that the server has closed or said something on meanwhile.
            found = pool._get_conn(timeout=limits.deadline)  # noqa: SLF001  see above
        except EmptyPoolError:
            raise TransientError(
                f"{target.host}: all connections stayed busy until the deadline", remote=True
            ) from None
        connection = cast("_PlainConnection", found)
        try:
            if not connection.is_closed and time.monotonic() >= connection.usable_until:
                connection.close()
            if connection.is_closed:
                connection.ends = ends
                connection.timeout = max(0.001, min(limits.connect, ends - time.monotonic()))
                self._connect(connection, target)
        except BaseException as error:
            connection.close()
            pool._put_conn(connection)  # noqa: SLF001  see above
            if isinstance(error, Exception):
                raise unsent(target.authority, error, self._proxy_name) from error
            raise
        return connection

    def _connect(self, connection: _PlainConnection, target: Target) -> None:
        connection.answered = False
        if target.scheme == "https":
            # The pool knows those of its making; their files may have changed.
            connection.ssl_context = self._context()
            if self._proxy is not None:
                connection.set_tunnel(target.host, target.port, headers=self._tunnel_headers(target))
        connection.connect()
        metrics.connected(target.host)

    def _tunnel_headers(self, target: Target) -> dict[str, str]:
        host = f"[{target.host}]" if ":" in target.host else target.host
        headers = {"Host": f"{host}:{target.port}"}
        if self._proxy_authorization is not None:
            headers["Proxy-Authorization"] = self._proxy_authorization()
        return headers

    @property
    def _proxy_name(self) -> str:
        return (self._proxy or "").removeprefix("http://")


def _converse(
    connection: _PlainConnection, method: str, payload: bytes, limits: Limits, ends: float, host: str
) -> tuple[Reply, float]:
    """Send, then read; return the answer and for how many seconds the connection may be kept."""
    try:
        sock = connection.sock
        sock.settimeout(max(0.001, min(limits.read, ends - time.monotonic())))
        # A server that refuses a body early (413) answers and closes; the answer may still be there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(payload)
        wire = Wire(sock, limits.read, ends)
        response = http.client.HTTPResponse(cast("socket.socket", wire), method=method)
        response.begin()
        if wire.over:
            # http.client takes the end of the connection for the end of the headers.
            raise http.client.IncompleteRead(b"")
        body = read_body(response, limits.max_body)
        if response.chunked and wire.over:
            # http.client takes "0" for the last chunk even where the connection ended right behind that digit.
            raise http.client.IncompleteRead(b"")
        keep = 0.0 if response.will_close else _keep(response.headers)
        return Reply(status=response.status, headers=response.headers, body=body), keep
    except Exception as error:
        if not connection.answered and certificate_refused(error):
            # TLS 1.3 tells it only now; what was sent before is thrown away unread.
            raise certificate_error(host) from error
        raise UnknownOutcome(f"{host}: {words_for(error)} after the request was sent") from error


def _keep(headers: http.client.HTTPMessage) -> float:
    if found := _KEEP.search(headers.get("Keep-Alive") or ""):
        # A second less than the server says, for the way there.
        return min(IDLE_SECONDS, max(0.0, float(found[1]) - 1.0))
    return IDLE_SECONDS
