"""S30: large, slow and endless requests, and very many connections; others are served meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingress.daemon import Ingress, running
from tests.ingress.wire import Got, answers, several
from tests.scenarios.world import wait_for

pytestmark = pytest.mark.xdist_group("ingress_slow")

MOST = 100_000
SERVER = f'max_body = {MOST}\nhead_timeout = "2s"\nbody_timeout = "2s"\nconnections = 200\nconcurrency = 8'


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    with running(tmp_path_factory.mktemp("slow"), server=SERVER) as made:
        yield made


def one(found: list[Got], *statuses: int) -> Got:
    assert [each.status in statuses for each in found] == [True], found
    assert found[0].closes
    return found[0]


def padded(size: int) -> bytes:
    return b'{"id": "padded", "version": "1", "title": "' + b"x" * (size - 45) + b'"}'


# Size.


def test_s30_a_body_as_large_as_allowed_is_taken_and_one_byte_more_is_not(ingress: Ingress) -> None:
    body = padded(MOST)
    assert len(body) == MOST
    assert ingress.push(body).status == 202
    assert ingress.push(body + b" ").status == 413

    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = ingress.head("/routes/push/records", "Transfer-Encoding: chunked") + b"\r\n"
    one(ingress.raw(head + chunk), 202)
    one(ingress.raw(head + b"1\r\n \r\n" + chunk), 413)


@pytest.mark.parametrize("length", ["100001", "99999999999", "999999999999999999"])
def test_s30_a_length_above_the_cap_is_refused_before_its_body_is_read(ingress: Ingress, length: str) -> None:
    """Nothing of the body is sent: whoever waits for it would answer 408."""
    one(ingress.raw(ingress.head("/routes/push/records", f"Content-Length: {length}") + b"\r\n", end=True), 413)


def test_s30_a_body_that_goes_on_and_on_is_cut_off(ingress: Ingress) -> None:
    """In chunks without end; what is sent is bounded here, and what is taken there."""
    before, head = ingress.memory(), ingress.head("/routes/push/records", "Transfer-Encoding: chunked") + b"\r\n"
    one(ingress.raw(head, *[b"2000\r\n" + b" " * 8192 + b"\r\n"] * 1000), 413)
    tiny = b"1;" + b"e" * 4000 + b"\r\n \r\n"
    one(ingress.raw(head, *[tiny * 16] * 500), 400, 408, 413)

    assert ingress.memory() - before < 50_000_000


@pytest.mark.parametrize(("said", "sent"), [(50, 10), (50, 0), (MOST, MOST - 1)])
def test_s30_a_body_shorter_than_its_length_is_refused(ingress: Ingress, said: int, sent: int) -> None:
    before = ingress.stored()
    head = ingress.head("/routes/push/records", f"Content-Length: {said}") + b"\r\n"
    one(ingress.raw(head + padded(MOST)[:sent], end=True), 400)
    # And where the connection is kept open, it is waited for as long as a body has.
    one(ingress.raw(head + padded(MOST)[:sent]), 408)

    assert ingress.stored() == before


def test_s30_ten_thousand_headers_are_refused(ingress: Ingress) -> None:
    many = [f"X-{number}: {number}" for number in range(10_000)]
    for lines in (many, many[:101], ["X-Long: " + "x" * 20_000], ["X" * 300 + ": y"], ["X-Same: a"] * 101):
        one(ingress.raw(ingress.head("/routes/push/records", *lines) + b"\r\n"), 400, 431)
    assert ingress.ask("GET", "/healthz", headers={f"X-{number}": "y" for number in range(90)}).status == 200


@pytest.mark.parametrize("size", [17_000, 1_000_000, 20_000_000])
def test_s30_a_huge_first_line_is_refused(ingress: Ingress, size: int) -> None:
    before = ingress.memory()
    with contextlib.suppress(BrokenPipeError):
        one(ingress.raw(b"GET /" + b"a" * size + b" HTTP/1.1\r\n\r\n"), 414)
        one(ingress.raw(b"G" * size), 414)

    assert ingress.memory() - before < 30_000_000


# Time.


def dripped(ingress: Ingress, first: bytes, drip: bytes) -> list[Got]:
    """Send *first*, then *drip* over and over, a byte at a time, until the server answers."""
    with ingress.connect() as connection:
        connection.sendall(first)
        connection.settimeout(0.2)
        until = time.monotonic() + 20
        for byte in drip * 1000:
            assert time.monotonic() < until, "it waits for ever"
            with contextlib.suppress(TimeoutError):
                if connection.recv(1, socket.MSG_PEEK):
                    break
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(bytes([byte]))
        connection.settimeout(5)
        data = bytearray()
        with contextlib.suppress(OSError):
            while more := connection.recv(65536):
                data += more
    return list(answers(bytes(data)))


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"GET /hea", b"lthz"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X-Slow: y\r\n"),
    ],
)
def test_s30_a_head_that_drips_is_ended(ingress: Ingress, first: bytes, drip: bytes) -> None:
    one(dripped(ingress, first, drip), 408)


def test_s30_a_body_that_drips_is_ended(ingress: Ingress) -> None:
    one(dripped(ingress, ingress.head("/routes/push/records", "Content-Length: 5000") + b"\r\n", b" "), 408)
    head = ingress.head("/routes/push/records", "Transfer-Encoding: chunked") + b"\r\n"
    one(dripped(ingress, head, b"1\r\n \r\n"), 408)
    one(dripped(ingress, head, b"1;xxxxxxxx"), 408)


def test_s30_who_takes_no_answers_holds_nobody_up(ingress: Ingress) -> None:
    """Asks for the description a thousand times in one go, and reads nothing."""
    with ingress.connect() as connection:
        connection.settimeout(1)
        with contextlib.suppress(TimeoutError):
            for _ in range(20):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        ingress.serves()


# Number.


@contextlib.contextmanager
def many(ingress: Ingress, count: int, *said: bytes) -> Iterator[list[socket.socket]]:
    """Hold so many connections, each of which says one of *said*."""
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for number in range(count):
            connection = stack.enter_context(ingress.connect())
            with contextlib.suppress(OSError):
                connection.sendall(said[number % len(said)])
            held.append(connection)
        yield held


def ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize(
    "said", [(b"",), (b"GET / HT",), (b"", b"GET /", b"POST /routes/push/records HTTP/1.1\r\nHost: a\r\n")]
)
def test_s30_six_hundred_connections_do_not_keep_a_proper_client_out(ingress: Ingress, said: tuple[bytes, ...]) -> None:
    before = ingress.memory()
    # Of 200 places each new connection takes that of the oldest, once that is a second old.
    with many(ingress, 190, *said):
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > 1.1, "them to be a second old")
        with many(ingress, 190, *said):
            began = time.monotonic()
            wait_for(lambda: time.monotonic() - began > 1.1, "them to be a second old")
            with many(ingress, 190, *said):
                began = time.monotonic()
                wait_for(lambda: time.monotonic() - began > 1.1, "them to be a second old")
                for _ in range(20):
                    ingress.serves(5)
                assert descriptors(ingress) < 350
    assert ingress.memory() - before < 60_000_000
    wait_for(lambda: descriptors(ingress) < 60, "the connections to be let go of", 30)


def descriptors(ingress: Ingress) -> int:
    return len(list(Path(f"/proc/{ingress.daemon._child.pid}/fd").iterdir()))


def test_s30_idle_connections_of_known_clients_give_way_too(ingress: Ingress) -> None:
    """All places are taken by kept connections of somebody who has a token."""
    request = ingress.head("/routes/push/records/none", method="GET") + b"\r\n"
    with many(ingress, 200, request) as held:
        for connection in held:
            assert connection.recv(9) == b"HTTP/1.1 "
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > 1.5, "them to be idle for a second")
        for _ in range(20):
            ingress.serves()
        assert 0 < sum(ended(connection) for connection in held) < 100


def test_s30_who_is_silent_between_two_requests_is_let_go(ingress: Ingress) -> None:
    """A second request on the same connection is served, and it has its own time for its head."""
    with ingress.connect() as connection:
        for _ in range(2):
            connection.sendall(ingress.head("/routes/push/records/none", method="GET") + b"\r\n")
            data = b""
            while b"no record of that key" not in data:
                data += connection.recv(65536)
        connection.sendall(b"GET ")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_more_proven_requests_at_once_than_there_is_room_for_are_told_to_come_again(tmp_path: Path) -> None:
    """Eight have begun a body and do not go on; that takes them longer than the others, on any machine."""
    with running(tmp_path, server=SERVER.replace('body_timeout = "2s"', 'body_timeout = "20s"')) as ingress:
        head = ingress.head("/routes/push/records", "Content-Length: 50") + b"\r\n"
        found: list[Got] = []

        with contextlib.ExitStack() as held:

            def refused() -> bool:
                found.append(ingress.push({"id": "x", "version": "1"}))
                if found[-1].status != 503:
                    # It may have had the room that one of those was to have, who is refused then.
                    held.enter_context(many(ingress, 1, head))
                return found[-1].status == 503

            held.enter_context(many(ingress, 8, head))
            wait_for(refused, "all room to be taken", 15)
            assert found[-1].headers["retry-after"] == "1"
            assert ingress.ask("GET", "/healthz").status == 200
        # Whoever only held room gives it back, here by going away.
        wait_for(lambda: ingress.push({"id": "x", "version": "1"}).status == 202, "room again", 15)


def test_s30_room_that_is_only_held_is_given_back_when_its_time_is_over(ingress: Ingress) -> None:
    head = ingress.head("/routes/push/records", "Content-Length: 50") + b"\r\n"
    with many(ingress, 8, head) as held:
        for connection in held:
            assert connection.recv(12) == b"HTTP/1.1 408"
        assert ingress.push({"id": "x", "version": "1"}).status == 202


def test_a_hundred_clients_at_once_store_each_record_once(ingress: Ingress) -> None:
    numbers = iter(range(100))
    found = several(lambda: ingress.push(json.loads(f'{{"id": "crowd {next(numbers)}", "version": "1"}}')), 100)
    taken = [got for got in found if got is not None and got.status == 202]

    assert {got.status for got in found if got is not None} <= {202, 503}
    keys = [record["key"] for got in taken for record in got.json["records"]]
    assert len(keys) == len(set(keys))
    assert set(keys) <= set(ingress.stored())
    assert len(ingress.stored()) == len(set(ingress.stored()))
