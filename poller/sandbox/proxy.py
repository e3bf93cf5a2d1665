"""
A forward proxy, for rehearsing ``proxy``: CONNECT for https, whole addresses for plain http, HTTP Basic on request.

It hands bytes on and looks at heads alone. ``GET /sandbox/proxied`` asked of itself tells what passed:
``{"calls": [{"method", "target", "authorised", "forwarded"}]}``, where *forwarded* are the names of the headers handed on.
"""

import base64
import contextlib
import json
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

_LONGEST_HEAD = 65536
_HOP_BY_HOP = {"proxy-authorization", "proxy-connection", "connection", "keep-alive"}


class ForwardProxy:
    """Listens on one port of loopback; a username means that credentials are demanded."""

    def __init__(self, host: str, port: int, *, username: str = "", password: str = "") -> None:
        """Bind; raises OSError when the port is taken."""
        self._wanted = ""
        self.credentials(username, password)
        self._listener = socket.create_server((host, port))
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._calls: list[dict[str, Any]] = []

    def credentials(self, username: str, password: str) -> None:
        """Demand others from now on; an empty username demands none."""
        pair = base64.b64encode(f"{username}:{password}".encode()).decode()
        self._wanted = f"Basic {pair}" if username else ""

    def start(self) -> None:
        """Begin to accept; returns at once."""
        threading.Thread(target=self._accept, name="forward-proxy", daemon=True).start()

    def stop(self) -> None:
        """Take no further connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            client.settimeout(60)
            head, rest = _head(client)
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ")
            headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
            given = next((value for name, value in headers if name.lower() == "proxy-authorization"), "")
            if target == "/sandbox/proxied":
                _say(client, "200 OK", json.dumps({"calls": self._calls}).encode())
                return
            kept = [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
            authorised = not self._wanted or given == self._wanted
            call = {"method": method, "target": target, "authorised": authorised, "forwarded": [n for n, _ in kept]}
            with self._lock:
                self._calls.append(call)
            if not authorised:
                _say(client, "407 Proxy Authentication Required", b"", 'Proxy-Authenticate: Basic realm="sandbox"\r\n')
            elif method == "CONNECT":
                self._tunnel(client, target, rest)
            else:
                self._forward(client, f"{method} {{}} HTTP/1.1", target, kept, rest)

    def _tunnel(self, client: socket.socket, target: str, rest: bytes) -> None:
        host, _, port = target.rpartition(":")
        with _connected(client, host.strip("[]"), int(port)) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server.sendall(rest)
            _pass_on(client, server)

    def _forward(
        self, client: socket.socket, line: str, target: str, headers: list[tuple[str, str]], rest: bytes
    ) -> None:
        parts = urlsplit(target)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # One request a connection: the next may be for another host.
        lines = [line.format(path), *(f"{name}: {value}" for name, value in headers), "Connection: close"]
        with _connected(client, parts.hostname or "", parts.port or 80) as server:
            server.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + rest)
            missing = int({name.lower(): value for name, value in headers}.get("content-length", 0)) - len(rest)
            while missing > 0 and (data := client.recv(min(missing, 65536))):
                server.sendall(data)
                missing -= len(data)
            _one_way(server, client)


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more or len(data) > _LONGEST_HEAD:
            raise ConnectionResetError
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _say(client: socket.socket, status: str, body: bytes, headers: str = "") -> None:
    text = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    client.sendall(text.encode() + body)


def _connected(client: socket.socket, host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=10)
    except OSError:
        _say(client, "502 Bad Gateway", b"")
        raise


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    """Hand bytes on in both directions until both have ended."""
    client.settimeout(None)
    server.settimeout(None)
    up = threading.Thread(target=_one_way, args=(client, server), daemon=True)
    up.start()
    _one_way(server, client)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    up.join(5)


def _one_way(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
