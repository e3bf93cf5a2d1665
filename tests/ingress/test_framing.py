"""S31 and S30: requests that two readers might understand differently, against the real daemon over a raw socket."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.ingress.daemon import Ingress, running

BODY = b'{"id": "framed", "version": "1", "title": "t"}'
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)

#: One daemon for all of them.
pytestmark = pytest.mark.xdist_group("ingress_framing")


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    with running(tmp_path_factory.mktemp("framing")) as made:
        yield made


def smuggled(ingress: Ingress) -> bytes:
    """Return a whole request that must never be taken for one."""
    body = b'{"id": "smuggled", "version": "1", "title": "t"}'
    return ingress.head("/routes/push/records", f"Content-Length: {len(body)}") + b"\r\n" + body


def refused(ingress: Ingress, message: bytes, *statuses: int) -> None:
    """Hold that *message* is answered once, with a problem and the end, and that nothing behind it is read."""
    before = ingress.stored()
    got = ingress.raw(message + smuggled(ingress), end=True)

    assert [each.status in statuses for each in got] == [True], got
    assert got[0].closes
    assert got[0].headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status"} <= json.loads(got[0].body).keys()
    assert ingress.stored() == before
    ingress.serves()


FIELDS = {
    "both": (LENGTH, CHUNKED),
    "both, the other way round": (CHUNKED, LENGTH),
    "both, no length": ("Content-Length: 0", CHUNKED),
    "two lengths": (LENGTH, "Content-Length: 5"),
    "two lengths, the same": (LENGTH, LENGTH),
    "a list of lengths": (f"{LENGTH}, {len(BODY)}",),
    "a plus": (f"Content-Length: +{len(BODY)}",),
    "a minus": ("Content-Length: -1",),
    "a space within": ("Content-Length: 4 6",),
    "an underscore": ("Content-Length: 4_6",),
    "hexadecimal": ("Content-Length: 0x2e",),
    "a fraction": ("Content-Length: 46.0",),
    "other digits": ("Content-Length: \xb2",),
    "nothing": ("Content-Length:",),
    "too long a number": ("Content-Length: " + "9" * 40,),
    "space before the colon": (f"Content-Length : {len(BODY)}",),
    "tab before the colon": (f"Content-Length\t: {len(BODY)}",),
    "space before the name": (f" {LENGTH}",),
    "folded": ("X-Folded: a\r\n b", LENGTH),
    "folded length": (f"Content-Length:\r\n {len(BODY)}",),
    "no colon": ("Content-Length", LENGTH),
    "no name": (": 5", LENGTH),
    "NUL in a value": ("X-Odd: a\0b", LENGTH),
    "NUL in a name": ("X-O\0dd: a", LENGTH),
    "CR in a value": ("X-Odd: a\rb", LENGTH),
    "CR before the end": (f"{LENGTH}\r",),
    "underscored length": ("Content_Length: 5", LENGTH),
    "underscored coding": ("Transfer_Encoding: chunked", LENGTH),
    "two hosts": ("Host: localhost", LENGTH),
    "two types": ("Content-Type: application/json", "Content-Type: text/xml", LENGTH),
    "form feed": (f"Content-Length:\x0c{len(BODY)}",),
}


@pytest.mark.parametrize("name", FIELDS)
def test_s31_a_head_that_may_mean_two_things_is_refused(ingress: Ingress, name: str) -> None:
    refused(ingress, ingress.head("/routes/push/records", *FIELDS[name]) + b"\r\n" + BODY, 400)


CODINGS = (
    "chunked, identity", "identity, chunked", "xchunked", "chunkedx", "identity", "gzip, chunked", "chunked, chunked",
    "chunked;q=1", '"chunked"', "", "gzip",
)  # fmt: skip


@pytest.mark.parametrize("coding", CODINGS)
def test_s31_another_transfer_encoding_than_chunked_is_refused(ingress: Ingress, coding: str) -> None:
    refused(ingress, ingress.head("/routes/push/records", f"Transfer-Encoding: {coding}") + b"\r\n" + CHUNKS, 400, 501)


def test_s31_two_transfer_encodings_are_refused(ingress: Ingress) -> None:
    refused(ingress, ingress.head("/routes/push/records", CHUNKED, CHUNKED) + b"\r\n" + CHUNKS, 400)


def test_s31_http_1_0_knows_no_chunks(ingress: Ingress) -> None:
    message = ingress.head("/routes/push/records", CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + CHUNKS
    refused(ingress, message, 400)


LINES = {
    "bare LF": b"GET /healthz HTTP/1.1\n",
    "bare LF behind a space": b"GET /healthz HTTP/1.1 \n",
    "no version": b"GET /healthz\r\n",
    "a sign in the version": b"GET /healthz HTTP/+1.1\r\n",
    "a space in the version": b"GET /healthz HTTP/ 1.1\r\n",
    "a negative version": b"GET /healthz HTTP/1.-1\r\n",
    "a longer version": b"GET /healthz HTTP/1.1.1\r\n",
    "an underscore in the version": b"GET /healthz HTTP/1_0.1\r\n",
    "small letters": b"GET /healthz http/1.1\r\n",
    "two spaces": b"GET  /healthz HTTP/1.1\r\n",
    "a leading space": b" GET /healthz HTTP/1.1\r\n",
    "a trailing space": b"GET /healthz HTTP/1.1 \r\n",
    "a tab": b"GET\t/healthz\tHTTP/1.1\r\n",
    "a small method": b"get /healthz HTTP/1.1\r\n",
    "NUL in the method": b"G\0T /healthz HTTP/1.1\r\n",
    "a long method": b"G" * 4000 + b" /healthz HTTP/1.1\r\n",
    "an absolute target": b"GET http://localhost/healthz HTTP/1.1\r\n",
    "another absolute target": b"GET //localhost/healthz HTTP/1.1\r\n",
    "an odd authority": b"GET //[ HTTP/1.1\r\n",
    "a fragment": b"GET /healthz#a HTTP/1.1\r\n",
    "no slash": b"GET healthz HTTP/1.1\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\n",
    "NUL in the target": b"GET /heal\0thz HTTP/1.1\r\n",
    "bytes in the target": b"GET /heal\xc3\xa9thz HTTP/1.1\r\n",
    "DEL in the target": b"GET /heal\x7fthz HTTP/1.1\r\n",
    "CR in the target": b"GET /heal\rthz HTTP/1.1\r\n",
    "junk": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    "two empty lines": b"\r\n\r\nGET /healthz HTTP/1.1\r\n",
}


@pytest.mark.parametrize("name", LINES)
def test_s31_a_first_line_that_is_none_is_refused(ingress: Ingress, name: str) -> None:
    refused(ingress, LINES[name] + b"Host: localhost\r\n\r\n", 400, 404, 405)


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/9.9"])
def test_s31_another_version_is_refused(ingress: Ingress, version: bytes) -> None:
    refused(ingress, b"GET /healthz " + version + b"\r\nHost: localhost\r\n\r\n", 400, 505)


def test_s31_bare_line_feeds_between_headers_are_refused(ingress: Ingress) -> None:
    refused(ingress, ingress.head("/routes/push/records", LENGTH).replace(b"\r\n", b"\n") + b"\n" + BODY, 400)
    refused(ingress, ingress.head("/routes/push/records", LENGTH + "\nX-A: b") + b"\r\n" + BODY, 400)
    refused(ingress, ingress.head("/routes/push/records", LENGTH) + b"\n" + BODY, 400)


def test_s31_http_1_1_without_a_host_is_refused(ingress: Ingress) -> None:
    refused(ingress, b"GET /healthz HTTP/1.1\r\n\r\n", 400)


BAD_CHUNKS = {
    "a sign": b"+2e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "0x": b"0x2e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an underscore": b"2_e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "no size": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "bare LF": b"2e\n" + BODY + b"\n0\n\n",
    "no end of a chunk": b"2e\r\n" + BODY + b"0\r\n\r\n",
    "a longer chunk than its size": b"2d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "more than 32 bits": b"100000000\r\n" + BODY,
    "a CR in an extension": b"2e;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a NUL in an extension": b"2e;a\0b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an extension without end": b"2e;" + b"x" * 9000,
    "a trailer of bare LF": b"2e\r\n" + BODY + b"\r\n0\r\nX: y\n\n",
    "a trailer without end": b"2e\r\n" + BODY + b"\r\n0\r\n" + b"X-Y: z\r\n" * 200,
    "leading space": b" 2e\r\n" + BODY + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_s31_chunks_that_are_none_are_refused(ingress: Ingress, name: str) -> None:
    refused(ingress, ingress.head("/routes/push/records", CHUNKED) + b"\r\n" + BAD_CHUNKS[name], 400)
    assert "framed" not in ingress.stored()


def test_s31_nothing_that_follows_chunks_on_a_connection_is_read(ingress: Ingress) -> None:
    before = ingress.stored()
    chunks = CHUNKS.replace(b"framed", b"behind")
    got = ingress.raw(ingress.head("/routes/push/records", CHUNKED) + b"\r\n" + chunks + smuggled(ingress))

    assert [each.status for each in got] == [202]
    assert got[0].closes
    assert set(ingress.stored()) - set(before) == {"behind"}


def test_s31_a_refusal_ends_the_connection_though_the_body_was_not_read(ingress: Ingress) -> None:
    """The body of a refused push is itself a whole request."""
    inner = smuggled(ingress)
    got = ingress.raw(
        ingress.head("/routes/push/records", f"Content-Length: {len(inner)}", proven=False) + b"\r\n" + inner
    )

    assert [each.status for each in got] == [401]
    assert got[0].closes
    assert "smuggled" not in ingress.stored()


def test_s31_requests_in_one_piece_are_answered_in_turn(ingress: Ingress) -> None:
    one = ingress.head("/routes/push/records", LENGTH) + b"\r\n" + BODY.replace(b"framed", b"first1")
    two = ingress.head("/routes/push/records/first1", "Connection: close", method="GET") + b"\r\n"
    got = ingress.raw(one + two)

    assert [each.status for each in got] == [202, 200]
    assert got[1].json["key"] == "first1"


@pytest.mark.parametrize("name", ["X_Odd", "Content_Type", "Content_Encoding", "X_Forwarded_For"])
def test_s31_a_name_with_an_underscore_is_nothing(ingress: Ingress, name: str) -> None:
    """Those who speak CGI would take it for one with a hyphen."""
    message = ingress.head("/routes/push/records", LENGTH, f"{name}: gzip", "Connection: close")
    (got,) = ingress.raw(message + b"\r\n" + BODY.replace(b"framed", b"scored"))

    assert got.status == 202
