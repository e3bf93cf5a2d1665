"""A byte-exact TCP proxy: lets through so much of the next create, or of its answer, and no more."""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field

_CREATE = b"POST /api/now/table/incident"


@dataclass
class Order:
    """What befalls the next create: after so many bytes of the request (None: all) nothing passes, in either direction."""

    request: int | None = None
    #: Set when the create, or its answer, was stopped.
    stopped: threading.Event = field(default_factory=threading.Event)


class Proxy:
    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._orders: list[Order] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, request: int | None = None) -> Order:
        """Stop the next create; see `Order`."""
        self._orders.append(order := Order(request))
        return order

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                orders: list[Order] = []
                for act in (self._upwards, self._downwards):
                    threading.Thread(target=act, args=(client, server, orders), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, orders: list[Order]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if data.startswith(_CREATE) and self._orders:
                    orders.append(self._orders.pop(0))
                if orders and orders[0].request is not None:
                    server.sendall(data[: orders[0].request])
                    orders[0].stopped.set()
                    while client.recv(65536):
                        pass  # until the client is gone
                    # What was cut must not look like a request that ended well.
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _downwards(self, client: socket.socket, server: socket.socket, orders: list[Order]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if orders:
                    orders[0].stopped.set()
                else:
                    client.sendall(data)
        if not orders:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
