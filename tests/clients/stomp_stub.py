"""
A STOMP server that misbehaves as a test wants: it sees each frame's bytes, and says what follows.

Written by hand from the specification of STOMP 1.2, so that it shares no misunderstanding with the client's library.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


class Cut(Exception):
    """Close the connection now, after these last bytes."""

    def __init__(self, last: bytes = b"") -> None:
        super().__init__()
        self.last = last


class Deaf(Exception):
    """Read nothing any more, and keep the connection."""


@dataclass
class Frame:
    command: str
    headers: dict[str, str]
    body: bytes
    #: As it came, without the NUL.
    raw: bytes = b""
    #: 1 for the first connection.
    connection: int = 1

    @property
    def receipt(self) -> bytes:
        return f"RECEIPT\nreceipt-id:{self.headers['receipt']}\n\n\0".encode()


def unescaped(text: str) -> str:
    out, rest = "", iter(text)
    for character in rest:
        out += {"r": "\r", "n": "\n", "c": ":", "\\": "\\"}[next(rest)] if character == "\\" else character
    return out


def read_frame(data: bytes) -> tuple[Frame, bytes] | None:
    """Return the first frame in *data* and what is behind it; None where it is not whole."""
    data = data.lstrip(b"\r\n")
    head, found, rest = data.partition(b"\n\n")
    if not found:
        return None
    command, *lines = head.decode().split("\n")
    pairs = [line.split(":", 1) for line in lines]
    plain = command in {"CONNECT", "STOMP"}
    headers = {name if plain else unescaped(name): value if plain else unescaped(value) for name, value in pairs}
    length = int(headers["content-length"]) if "content-length" in headers else rest.find(b"\0")
    if length < 0 or len(rest) <= length:
        return None
    assert rest[length : length + 1] == b"\0", "a frame ends with NUL"
    raw = data[: len(head) + 2 + length]
    return Frame(command, headers, rest[:length], raw), rest[length + 1 :]


CONNECTED = b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0"


def kind(frame: Frame) -> bytes:
    """Answer as a broker that is well."""
    if frame.command == "CONNECT":
        return CONNECTED
    return frame.receipt if "receipt" in frame.headers else b""


@dataclass
class Stub:
    answer: Callable[[Frame], bytes]
    #: How many bytes are read on a connection, after those of CONNECT; None: all.
    most: int | None = None
    #: Answers in single bytes.
    drip: bool = False
    port: int = 0
    frames: list[Frame] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"stomp://127.0.0.1:{self.port}"

    @property
    def sent(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.command == "SEND"]

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
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            with sock:
                try:
                    self.talk(sock, number)
                except Cut as cut:
                    sock.sendall(cut.last)
                except Deaf:
                    self.stopping.wait()

    def talk(self, sock: socket.socket, number: int) -> None:
        data = b""
        while more := sock.recv(self.room(number, len(data))):
            data += more
            while found := read_frame(data):
                frame, data = found
                frame.connection = number
                self.frames.append(frame)
                answer = self.answer(frame)
                for part in [answer[at : at + 1] for at in range(len(answer))] if self.drip else [answer]:
                    sock.sendall(part)
            if self.room(number, len(data)) == 0:
                return

    def room(self, number: int, have: int) -> int:
        """Return how many bytes may be read now."""
        entered = any(frame.connection == number for frame in self.frames)
        return 65536 if self.most is None or not entered else max(0, self.most - have)


@contextmanager
def stub(answer: Callable[[Frame], bytes] = kind, *, tls: ssl.SSLContext | None = None) -> Iterator[Stub]:
    made = Stub(answer)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.port = listener.getsockname()[1]
        threading.Thread(target=made.serve, args=(listener, tls), daemon=True).start()
        try:
            yield made
        finally:
            made.stopping.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
