"""The reader of requests under random bytes: it never crashes, never hangs, and goes on to serve."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.ingress.daemon import Ingress, running
from tests.scenarios.world import wait_for

pytestmark = pytest.mark.xdist_group("ingress_fuzz")

#: Another one repeats a run, or begins another: ``POLLER_TEST_SEED``.
SEED = int(os.environ.get("POLLER_TEST_SEED", "20260727"))
ROUNDS = 600
SPICES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\x0b", b"\x7f", b"\xff", b"%", b"%00", b"%2f", b"//", b"?", b"#", b"_", b"-",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Content_Length: x\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive, Transfer-Encoding\r\n", b"Host: \r\n", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0",
    b"Content-Encoding: gzip\r\n", b'Content-Type: \xff; charset="\r\n', b"Authorization: Basic Og==\r\n",
    b"9" * 400, b"[", b"{", b"A" * 9000,
)  # fmt: skip


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    server = 'head_timeout = "1s"\nbody_timeout = "1s"\nmax_body = 20000'
    with running(tmp_path_factory.mktemp("fuzz"), server=server) as made:
        yield made


def proper(ingress: Ingress) -> list[bytes]:
    """Return requests that are right, of every kind."""
    body = b'[{"id": "fuzzed", "version": "1", "title": "t"}]'
    form = b"grant_type=client_credentials&client_id=nobody&client_secret=x"
    length = f"Content-Length: {len(body)}"
    return [
        ingress.head("/routes/push/records", length, "Content-Type: application/json") + b"\r\n" + body,
        ingress.head("/routes/push/records", length, proven=False) + b"\r\n" + body,
        ingress.head("/routes/push/records", "Transfer-Encoding: chunked")
        + b"\r\n10;a=b\r\n" + body[:16] + b"\r\n%x\r\n" % (len(body) - 16) + body[16:] + b"\r\n0\r\nX: y\r\n\r\n",
        ingress.head("/routes/push/records/fuzzed?a=b", "Accept: */*", method="GET") + b"\r\n",
        ingress.head("/metrics", "Cookie: a=b", method="GET", proven=False) + b"\r\n",
        ingress.head("/oauth/token", f"Content-Length: {len(form)}", "Content-Type: application/x-www-form-urlencoded", proven=False)
        + b"\r\n" + form,
    ]  # fmt: skip


def mutated(choice: random.Random, seeds: list[bytes]) -> bytes:
    """Return a request with some things wrong, or two of them on one another."""
    data = bytearray(choice.choice(seeds))
    for _ in range(choice.randint(1, 6)):
        at, kind = choice.randrange(len(data) + 1), choice.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([choice.randrange(256)])
        elif kind == 1:
            data[at:at] = choice.choice(SPICES)
        elif kind == 2:
            del data[at : at + choice.randint(1, 40)]
        elif kind == 3:
            data[at:at] = data[at : at + choice.randint(1, 200)]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            ends = [place for place in range(len(data)) if data[place : place + 2] == b"\r\n"] or [0]
            place = choice.choice(ends)
            data[place : place + 2] = choice.choice(SPICES)
        else:
            data += choice.choice(seeds)[: choice.randrange(400)]
    return bytes(data)


def test_no_bytes_crash_it_or_keep_it(ingress: Ingress) -> None:
    """Mutations of proper requests, seeded, in one piece or in two; each is answered properly or not at all."""
    choice, seeds, seen = random.Random(SEED), proper(ingress), set[int]()
    began = time.monotonic()
    for number in range(ROUNDS):
        data = mutated(choice, seeds)
        cut = choice.randrange(len(data) + 1)
        for got in ingress.raw(data[:cut], data[cut:], end=True):
            seen.add(got.status)
            assert got.status in {200, 202} or 400 <= got.status < 500 or got.status in {501, 503, 505}, (
                number,
                data,
                got,
            )
            assert got.headers["content-type"]
        if number % 100 == 99:
            ingress.serves()

    assert time.monotonic() - began < 280
    assert {200, 202, 400, 401, 404} <= seen, seen
    assert not ingress.said("crashed")
    assert set(ingress.states().values()) <= {"pending", "ready", "sending", "delivered", "dead"}
    wait_for(lambda: ingress.ask("GET", "/readyz").status == 200, "it to be ready")
