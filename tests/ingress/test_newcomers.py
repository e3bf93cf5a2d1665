"""Who is looked at first: those who are known, then one newcomer after the other, and never so that anybody waits for ever."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import trustme

from poller.ingress.acquaintances import Acquaintances, beginning
from poller.ingress.connection import Connection
from poller.ingress.newcomers import Newcomers
from poller.ingress.server import Server
from tests.scenarios.world import wait_for

HEAD = b"POST /routes/a/records HTTP/1.1\r\nHost: here\r\nauthorization:  Bearer good \r\nContent-Length: 2\r\n\r\n{}"


class Served:
    """Who was served, with the numbers of their turns."""

    def __init__(self, turns: int = 1, pause: float = 0.0, longest: float = 3600.0) -> None:
        self.who: list[int] = []
        self.turns: list[int] = []
        self.more = threading.Semaphore(0)
        self.newcomers = Newcomers(self._serve, turns, pause, longest)

    def _serve(self, one: int, turn: int) -> None:
        self.who.append(one)
        self.turns.append(turn)
        self.more.release()


def test_one_is_served_and_the_others_wait_in_their_order() -> None:
    served = Served()
    for number in range(7):
        served.newcomers.put(number)

    assert served.who == [0]
    assert served.newcomers.crowd
    served.newcomers.end(served.turns[0])
    # A turn ends once.
    served.newcomers.end(served.turns[0])
    served.newcomers.end(served.turns[1])
    assert served.who == [0, 1, 2]
    assert not served.newcomers.crowd


def test_whoever_is_withdrawn_is_not_served() -> None:
    served = Served()
    for number in range(3):
        served.newcomers.put(number)

    assert not served.newcomers.withdraw(0), "it is being served"
    assert served.newcomers.withdraw(1)
    served.newcomers.end(served.turns[0])
    assert served.who == [0, 2]


def test_whoever_waits_in_a_thread_has_its_turn_or_goes_on_without() -> None:
    newcomers = Served().newcomers
    first = newcomers.take(0.0)
    assert first is not None
    assert newcomers.take(0.01) is None

    given: list[int | None] = []
    waiting = threading.Thread(target=lambda: given.append(newcomers.take(30)))
    waiting.start()
    wait_for(lambda: bool(newcomers._waiting), "it to wait")
    newcomers.end(first)
    waiting.join(10)

    assert given[0] is not None
    # The one that went on without has left no turn behind it.
    newcomers.end(given[0])
    assert newcomers.take(0.0) is not None
    assert newcomers.take(0.0) is None


def test_after_a_turn_in_vain_there_is_a_pause() -> None:
    served = Served(pause=3600.0)
    served.newcomers.start()
    served.newcomers.put(0)
    served.newcomers.put(1)
    served.newcomers.end(served.turns[0], vain=True)
    assert served.who == [0]

    # At the end nobody is kept waiting.
    served.newcomers.stop()
    assert served.more.acquire(timeout=10)
    assert served.more.acquire(timeout=10)
    assert served.who == [0, 1]


def test_a_turn_that_takes_too_long_is_not_waited_for() -> None:
    served = Served(longest=0.05)
    served.newcomers.start()
    for number in range(3):
        served.newcomers.put(number)
    for _ in range(3):
        assert served.more.acquire(timeout=10)

    served.newcomers.end(served.turns[0])
    assert served.who == [0, 1, 2]
    served.newcomers.stop()


def test_at_the_end_all_who_wait_are_served() -> None:
    served = Served()
    served.newcomers.start()
    for number in range(5000):
        served.newcomers.put(number)
    assert served.who == [0]
    served.newcomers.stop()
    served.newcomers.put(5000)
    assert served.who == list(range(5001))
    for turn in served.turns:
        served.newcomers.end(turn, vain=True)
    assert len(served.turns) == 5001


@contextmanager
def connections(
    count: int, newcomers: Newcomers, tls: ssl.SSLContext | None = None
) -> Iterator[list[tuple[Connection, socket.socket]]]:
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
    if tls is not None:
        pairs = [
            (tls.wrap_socket(mine, server_side=True, do_handshake_on_connect=False), theirs) for mine, theirs in pairs
        ]
    try:
        yield [(Connection(server, mine), theirs) for mine, theirs in pairs]
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


def test_nobody_keeps_a_turn_while_its_client_is_waited_for() -> None:
    newcomers = Served().newcomers
    with connections(1, newcomers) as [(one, client)]:
        one.take_turn()
        one.rfile.until = time.monotonic() + 60
        client.sendall(b"first\nsec")
        assert one.rfile.readline() == b"first\n"
        assert newcomers.take(0.0) is None, "what has come already is read within the turn"

        answer: list[bytes] = []
        reading = threading.Thread(target=lambda: answer.append(one.rfile.readline()))
        reading.start()
        assert newcomers.take(10) is not None, "the turn of who waits for its client"
        client.sendall(b"ond\n")
        reading.join(10)
        assert answer == [b"second\n"]


def test_nobody_keeps_a_turn_while_the_rest_of_a_tls_record_is_waited_for() -> None:
    """The socket has something to read by then, and TLS has nothing to give."""
    newcomers = Served().newcomers
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("here").configure_cert(ours)
    authority.configure_trust(theirs)
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = theirs.wrap_bio(coming, going, server_hostname="here")
    with connections(1, newcomers, ours) as [(one, client)], ThreadPoolExecutor(1) as pool:
        shaking = pool.submit(one._shake)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(going.read())
                coming.write(client.recv(65536))
        client.sendall(going.read())
        assert shaking.result(10)

        one.take_turn()
        one.rfile.until = time.monotonic() + 60
        tls.write(b"a line\n")
        record = going.read()
        client.sendall(record[:-1])
        reading = pool.submit(one.rfile.readline)
        assert newcomers.take(10) is not None, "the turn of who waits for its client"
        client.sendall(record[-1:])
        assert reading.result(10) == b"a line\n"


def test_whoever_is_known_or_recognised_needs_no_turn_and_gives_none_back() -> None:
    newcomers = Served().newcomers
    with connections(2, newcomers) as [(known, _), (recognised, _)]:
        assert newcomers.take(0.0) is not None
        known.known = recognised.recognised = True
        for each in (known, recognised):
            each.take_turn()
            each.end_turn()
            each.prove()

        assert newcomers.take(0.0) is None


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
        assert known.recognise(beginning(mine) or b"") is recognised
        mine.settimeout(0)
        assert not came or mine.recv(4096) == came


def test_the_latest_are_remembered_and_none_of_them_in_plain() -> None:
    known = Acquaintances(most=2)
    for each in (b"a", b"b", b"a", b"c"):
        known.add(each)

    assert [known.knows(each) for each in (b"a", b"b", b"c")] == [True, False, True]
    assert b"a" not in known._digests


def test_only_who_asked_for_something_proper_is_remembered() -> None:
    with connections(1, Served().newcomers) as [(one, _)]:
        one.credentials = b"Bearer good"
        one.acquaint()
        assert not one.server.acquaintances.knows(b"Bearer good")
        one.prove()
        assert not one.server.acquaintances.knows(b"Bearer good")
        one.acquaint()
        assert one.server.acquaintances.knows(b"Bearer good")
        one.estrange()
        assert one.server.acquaintances.knows(b"Bearer good"), "a 401 to somebody who was not recognised"
        one.recognised = True
        one.estrange()
        assert not one.server.acquaintances.knows(b"Bearer good")


def test_a_hostile_head_is_looked_through_in_no_time() -> None:
    """Linear in its length: with repeats that overlap, 8 KB of blanks would take minutes of the thread that accepts."""
    mine, client = socket.socketpair()
    with mine, client:
        client.sendall(b"GET / HTTP/1.1\r\nauthorization:" + b" \t" * 4000 + b"\nx")
        began = time.thread_time()
        assert not Acquaintances().recognise(beginning(mine) or b"")
        assert time.thread_time() - began < 1
