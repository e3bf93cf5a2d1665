"""The server below the application, in this process: whose turn it is while something is written, and who gives way to whom."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poller.ingress import server as module
from poller.ingress.app import App
from poller.ingress.connection import Connection
from poller.ingress.house import House
from poller.ingress.incoming import Outgoing
from poller.ingress.newcomers import Newcomers
from poller.ingress.server import Server
from poller.ingress.settings import ServerSettings
from poller.ingress.tokens import Proofs
from tests.ingress.wire import Line
from tests.scenarios.world import wait_for

PLACES = 4
HEAD = b"POST / HTTP/1.1\r\nHost: here\r\n"


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer anything."""
    environ["wsgi.input"].read(1)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that is not ended is kept for ever."""
    monkeypatch.setattr(module, "Newcomers", lambda serve, turns, pause: Newcomers(serve, turns, pause, 3600))


@contextmanager
def serving() -> Iterator[Server]:
    settings = ServerSettings.model_validate({"listen": "127.0.0.1:0", "connections": PLACES})
    server = Server(settings, app, None, lambda _: None)
    server.begin()
    try:
        yield server
    finally:
        server.end()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.bind_addr, 10)


def ended(client: socket.socket) -> bool:
    """Wait for what the server does with a connection: whether it ends it."""
    return client.recv(1) == b""


@pytest.mark.parametrize(
    ("sent", "first"),
    [
        (HEAD + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n", b"HTTP/1.1 100 "),
        (b"no request\r\n\r\n", b"HTTP/1.1 400 "),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", b"HTTP/1.1 400 "),
        (HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", b"HTTP/1.1 431 "),
    ],
    ids=["continue", "no request", "twice", "too large"],
)
def test_nobody_keeps_a_turn_while_something_is_written_to_it(
    sent: bytes, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client may take as long as it likes to read it."""
    given: list[int | None] = []
    send = Outgoing._send

    with serving() as server:

        def asked(self: Outgoing, data: Any) -> None:
            if not given:
                given.append(server.newcomers.take(5))
            send(self, data)

        monkeypatch.setattr(Outgoing, "_send", asked)
        with connect(server) as client:
            client.sendall(sent)
            assert client.recv(len(first)) == first

    assert given[0] is not None


@pytest.mark.parametrize(
    ("path", "happened"),
    [
        ("/healthz", ["turn ended, pause", "answered"]),
        ("/openapi.json", ["turn ended, pause", "answered"]),
        ("/readyz", ["turn ended", "database", "turn ended, pause", "answered"]),
        ("/metrics", ["turn ended", "database", "turn ended, pause", "answered"]),
    ],
)
def test_a_turn_is_kept_for_what_is_open_to_all_but_not_for_the_database(
    path: str, happened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that has ended already does not end once more."""
    came: list[str] = []

    class Asking(Line):
        def end_turn(self, *, vain: bool = False) -> None:
            came.append("turn ended, pause" if vain else "turn ended")

    def looked() -> list[str]:
        came.append("database")
        return []

    def exposed() -> tuple[bytes, str]:
        looked()
        return b"", "text/plain"

    settings = ServerSettings.model_validate({"clients": {}})
    proofs = cast("Proofs", SimpleNamespace(verifier=None, basic=None, certificates=None, endpoint=None))
    monkeypatch.setattr("poller.metrics.exposition", exposed)
    asked = {
        "REQUEST_URI": path, "REQUEST_METHOD": "GET", "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1",
        "poller.connection": Asking(),
    }  # fmt: skip
    App(settings, cast("House", SimpleNamespace(stuck=looked)), proofs)(asked, lambda *_: came.append("answered"))

    assert came == happened


def gone(client: socket.socket) -> None:
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("end", [gone, reset])
def test_a_connection_that_has_ended_takes_no_turn(end: Callable[[socket.socket], None]) -> None:
    with serving() as server:
        assert server.newcomers.take(0) is not None
        client = connect(server)
        wait_for(lambda: server.open_connections == 1, "it to be accepted")
        end(client)
        wait_for(lambda: server.open_connections == 0, "it to be let go of")


def test_what_came_before_the_end_of_a_connection_is_answered() -> None:
    with serving() as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 3)
        client.shutdown(socket.SHUT_WR)
        came = b""
        while more := client.recv(65536):
            came += more
        assert came.count(b"HTTP/1.1 200 ") == 3


def test_who_waits_for_its_turn_is_answered_by_a_server_that_ends() -> None:
    with serving() as server, connect(server) as client:
        assert server.newcomers.take(0) is not None
        client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        wait_for(lambda: any(one.queued for one in list(server._open)), "it to wait")
        server.end()
        assert client.recv(13) == b"HTTP/1.1 200 "


class Places:
    """A server with all places taken, by connections that wait for the one turn."""

    def __init__(self, server: Server, clients: ExitStack) -> None:
        self.server = server
        self.turn = server.newcomers.take(0)
        self.clients = [clients.enter_context(connect(server)) for _ in range(PLACES)]
        # One after the other, so that it is known who came last.
        for number, each in enumerate(self.clients):
            each.sendall(HEAD)
            wait_for(lambda: sum(one.queued for one in list(server._open)) > number, "it to wait")  # noqa: B023


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    # Whatever their age.
    monkeypatch.setattr(module, "_GIVES_WAY", -1.0)
    with serving() as server, ExitStack() as clients:
        yield Places(server, clients)


def test_of_those_that_wait_to_be_looked_at_the_last_gives_way(places: Places) -> None:
    server = places.server
    with connect(server) as another:
        assert ended(places.clients[-1])
        wait_for(lambda: server.open_connections == PLACES, "its place to be counted once")
        another.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        wait_for(lambda: sum(one.queued for one in list(server._open)) == PLACES, "it to wait in its turn")
        assert places.turn is not None
        server.newcomers.end(places.turn)
        assert another.recv(13) == b"HTTP/1.1 200 ", "nobody waits for those before it, who say no more"


def test_who_said_nothing_and_gives_way_is_gone_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GIVES_WAY", -1.0)
    with serving() as server, ExitStack() as clients:
        assert server.newcomers.take(0) is not None
        silent = [clients.enter_context(connect(server)) for _ in range(PLACES + 1)]
        assert ended(silent[0])
        wait_for(lambda: server.open_connections == PLACES, "its place to be counted once")


def connection(server: Server, since: float, **state: Any) -> Connection:
    made = Connection(server, socket.socket())
    made.since = since
    for name, value in state.items():
        setattr(made, name, value)
    return made


def test_who_gives_way_first() -> None:
    """Whoever is refused, then the oldest of whom nothing is known, then who waits to be looked at, then who is known."""
    with serving() as server, ExitStack() as sockets:
        refused = connection(server, 5.0, due=9.0)
        known, recognised = connection(server, 1.0, known=True), connection(server, 2.0, recognised=True)
        old, newer = connection(server, 3.0), connection(server, 4.0)
        first, last = connection(server, 1.0, queued=True), connection(server, 2.0, queued=True)
        proven = connection(server, 0.0, proven=True)
        among = [proven, known, recognised, first, last, newer, old, refused]
        for each in among:
            sockets.callback(each.socket.close)
        order = []
        while (leaving := module._one_to_leave(among)) is not None:
            order.append(leaving)
            among.remove(leaving)

        assert order == [refused, old, newer, last, first, known, recognised]
        assert among == [proven], "somebody proven is being answered there"


def test_whoever_came_a_moment_ago_stays_unless_it_is_refused() -> None:
    with serving() as server:
        young = connection(server, float("inf"))
        with young.socket:
            assert module._one_to_leave([young]) is None
            young.due = 1.0
            assert module._one_to_leave([young]) is young
