"""Who is looked at first: those who are known, then one newcomer after the other, and never so that anybody waits for ever."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from poller.ingress.acquaintances import Acquaintances
from poller.ingress.connection import Connection
from poller.ingress.newcomers import Newcomers
from poller.ingress.server import Server

HEAD = b"POST /routes/a/records HTTP/1.1\r\nHost: here\r\nauthorization:  Bearer good \r\nContent-Length: 2\r\n\r\n{}"


def test_one_is_served_and_the_others_wait_in_their_order() -> None:
    served: list[int] = []
    newcomers = Newcomers(served.append, 1, 0.0)
    for number in range(7):
        newcomers.put(number)

    assert served == [0]
    assert newcomers.crowd
    newcomers.end()
    newcomers.end()
    assert served == [0, 1, 2]
    assert not newcomers.crowd


def test_whoever_waits_in_a_thread_has_its_turn_or_goes_on_without() -> None:
    newcomers = Newcomers(lambda _: None, 1, 0.0)
    assert newcomers.take(0.0)
    assert not newcomers.take(0.01)

    given: list[bool] = []
    waiting = threading.Thread(target=lambda: given.append(newcomers.take(30)))
    waiting.start()
    while not newcomers._waiting:
        pass
    newcomers.end()
    waiting.join(10)

    assert given == [True]
    # The one that went on without has left no turn behind it.
    newcomers.end()
    assert newcomers.take(0.0)
    assert not newcomers.take(0.0)


def test_after_a_turn_in_vain_there_is_a_pause() -> None:
    served: list[int] = []
    came = threading.Event()

    def serve(number: int) -> None:
        served.append(number)
        if number:
            came.set()

    newcomers = Newcomers(serve, 1, 3600.0)
    newcomers.start()
    newcomers.put(0)
    newcomers.put(1)
    newcomers.end(vain=True)
    assert served == [0]

    # At the end nobody is kept waiting.
    newcomers.stop()
    assert came.wait(10)
    assert served == [0, 1]


@contextmanager
def connections(count: int, newcomers: Newcomers) -> Iterator[list[tuple[Connection, socket.socket]]]:
    server = cast(
        "Server",
        SimpleNamespace(
            newcomers=newcomers,
            acquaintances=Acquaintances(),
            ssl_adapter=None,
            peercreds_enabled=False,
            peercreds_resolve_enabled=False,
        ),
    )
    pairs = [socket.socketpair() for _ in range(count)]
    try:
        yield [(Connection(server, mine), theirs) for mine, theirs in pairs]
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


def test_nobody_keeps_a_turn_while_its_client_is_waited_for() -> None:
    newcomers = Newcomers(lambda _: None, 1, 0.0)
    with connections(1, newcomers) as [(one, client)]:
        one.take_turn()
        one.rfile.until = time.monotonic() + 60
        client.sendall(b"first\nsec")
        assert one.rfile.readline() == b"first\n"
        assert not newcomers.take(0.0), "what has come already is read within the turn"

        answer: list[bytes] = []
        reading = threading.Thread(target=lambda: answer.append(one.rfile.readline()))
        reading.start()
        assert newcomers.take(10), "the turn of who waits for its client"
        client.sendall(b"ond\n")
        reading.join(10)
        assert answer == [b"second\n"]


def test_whoever_is_known_or_recognised_needs_no_turn_and_gives_none_back() -> None:
    newcomers = Newcomers(lambda _: None, 1, 0.0)
    with connections(2, newcomers) as [(known, _), (recognised, _)]:
        assert newcomers.take(0.0)
        known.known = recognised.recognised = True
        for each in (known, recognised):
            each.take_turn()
            each.end_turn()
            each.prove()

        assert not newcomers.take(0.0)


@pytest.mark.parametrize(
    ("came", "recognised"),
    [
        (HEAD, True),
        (HEAD.replace(b"good", b"bad"), False),
        (HEAD.replace(b"Content-Length: 2\r\n", b""), True),
        (HEAD.replace(b"authorization", b"X-Authorization"), False),
        (b"GET / HTTP/1.1\r\n\r\nx\r\nAuthorization: Bearer good\r\n", False),
        (b"", False),
    ],
    ids=["as before", "another token", "as the last header", "another header", "in the body", "nothing"],
)
def test_credentials_that_were_good_are_recognised_and_left_to_be_read(came: bytes, *, recognised: bool) -> None:
    known = Acquaintances()
    known.add(b"Bearer good")
    mine, client = socket.socketpair()
    with mine, client:
        client.sendall(came)
        assert known.recognise(mine) is recognised
        mine.settimeout(0)
        assert not came or mine.recv(4096) == came


def test_the_latest_are_remembered_and_none_of_them_in_plain() -> None:
    known = Acquaintances(most=2)
    for each in (b"a", b"b", b"a", b"c"):
        known.add(each)

    assert [known.knows(each) for each in (b"a", b"b", b"c")] == [True, False, True]
    assert b"a" not in known._digests


def test_only_who_asked_for_something_proper_is_remembered() -> None:
    with connections(1, Newcomers(lambda _: None, 1, 0.0)) as [(one, _)]:
        one.credentials = b"Bearer good"
        one.acquaint()
        assert not one.server.acquaintances.knows(b"Bearer good")
        one.prove()
        assert not one.server.acquaintances.knows(b"Bearer good")
        one.acquaint()
        assert one.server.acquaintances.knows(b"Bearer good")
