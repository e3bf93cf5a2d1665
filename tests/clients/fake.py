"""A server that writes exactly the bytes a test gives it, and remembers every byte that arrived."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Arrived:
    """One whole request."""

    line: str
    headers: dict[str, str]
    body: bytes
    #: 1 for the first connection.
    connection: int


@dataclass
class Act:
    """What follows: these bytes, then the connection is kept, closed, reset, or left to hang."""

    data: bytes = b""
    then: str = "keep"
    #: Seconds between single bytes.
    drip: float = 0.0
    #: Dripped only from here on.
    drip_from: int = 0


@dataclass
class Fake:
    answer: Callable[[Arrived], Act]
    port: int = 0
    arrived: list[Arrived] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.one, args=(sock, tls, self.connections), daemon=True).start()

    def one(self, sock: socket.socket, tls: ssl.SSLContext | None, number: int) -> None:
        with suppress(OSError):
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            held = b""
            while True:
                while b"\r\n\r\n" not in held:
                    piece = sock.recv(65536)
                    if not piece:
                        return
                    held += piece
                head, _, held = held.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
                length = int(headers.get("content-length", "0"))
                while len(held) < length:
                    held += sock.recv(65536)
                request = Arrived(lines[0], headers, held[:length], number)
                held = held[length:]
                self.arrived.append(request)
                if not self.act(sock, self.answer(request)):
                    return

    def act(self, sock: socket.socket, act: Act) -> bool:
        if act.drip:
            sock.sendall(act.data[: act.drip_from])
            for at in range(act.drip_from, len(act.data)):
                if self.stopping.wait(act.drip):
                    break
                sock.sendall(act.data[at : at + 1])
        else:
            sock.sendall(act.data)
        if act.then == "hang":
            self.stopping.wait()
        if act.then == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if act.then != "keep":
            sock.close()
            return False
        return True


@contextmanager
def serving(answer: Callable[[Arrived], Act], *, tls: ssl.SSLContext | None = None) -> Iterator[Fake]:
    listener = socket.create_server(("127.0.0.1", 0))
    fake = Fake(answer, port=listener.getsockname()[1])
    threading.Thread(target=fake.serve, args=(listener, tls), daemon=True).start()
    try:
        yield fake
    finally:
        fake.stopping.set()
        listener.close()


def answer(
    body: bytes = b"{}",
    *,
    status: str = "200 OK",
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
) -> bytes:
    """An HTTP answer with its length."""
    lines = {"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})
    return (
        f"HTTP/1.1 {status}\r\n".encode() + "".join(f"{n}: {v}\r\n" for n, v in lines.items()).encode() + b"\r\n" + body
    )
