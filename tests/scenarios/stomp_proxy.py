"""
Stands between poller and a STOMP broker, and loses receipts.

Bodies must hold no NUL, so that each NUL ends a frame.
"""

from __future__ import annotations

import random
import socket
from collections import Counter
from contextlib import suppress
from threading import Lock, Thread


class Proxy:
    """
    Passes bytes on; a RECEIPT is lost with *chance*, half of the time together with its connection.

    Args:
        port: The broker's.
    """

    def __init__(self, port: int, dice: random.Random, chance: float) -> None:
        self.chance = chance
        #: By what has become of them: ``passed``, ``dropped``, ``cut``.
        self.receipts: Counter[str] = Counter()
        #: Messages that the broker said were there before.
        self.redelivered = 0
        self._broker = port
        self._dice = dice
        self._lock = Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        # Only this wakes the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._broker), timeout=5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            Thread(target=self._up, args=(client, broker), daemon=True).start()
            Thread(target=self._down, args=(broker, client), daemon=True).start()

    def _up(self, client: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                broker.sendall(data)
        _end(client, broker)

    def _down(self, broker: socket.socket, client: socket.socket) -> None:
        rest = b""
        with suppress(OSError):
            while data := broker.recv(65536):
                *frames, rest = (rest + data).split(b"\0")
                for frame in frames:
                    fate = self._fate(frame)
                    if fate == "cut":
                        _end(client, broker)
                        return
                    if fate == "passed":
                        client.sendall(frame + b"\0")
                if not rest.strip(b"\r\n"):
                    # What is between frames shows that the broker lives.
                    client.sendall(rest)
                    rest = b""
        _end(client, broker)

    def _fate(self, frame: bytes) -> str:
        frame = frame.lstrip(b"\r\n")
        with self._lock:
            self.redelivered += frame.startswith(b"MESSAGE") and b"\nredelivered:true\n" in frame
            if not frame.startswith(b"RECEIPT"):
                return "passed"
            fate = self._dice.choice(["dropped", "cut"]) if self._dice.random() < self.chance else "passed"
            self.receipts[fate] += 1
        return fate


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
