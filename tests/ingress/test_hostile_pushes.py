"""S11, S12, S32, S33, S34: what is in a push can neither stop the daemon, nor fill it, nor make it call anybody."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import zlib
from collections.abc import Iterator

import pytest

from tests.ingress.daemon import Ingress, files, running
from tests.ingress.wire import Got

XML = """
[routes.xml.push]
format = "xml"
records = "/tickets/ticket"
key = "@id"
[routes.xml.push.fields]
title = "title"
[routes.xml.sink]
type = "directory"
path = "out"
[routes.csv.push]
format = "csv"
key = "id"
[routes.csv.push.fields]
title = "title"
[routes.csv.sink]
type = "directory"
path = "out"
"""
MANY = 1_000_000

#: One daemon for all of them.
pytestmark = pytest.mark.xdist_group("ingress_hostile_pushes")


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    with running(
        tmp_path_factory.mktemp("hostile"), server='max_body = "20MB"', routes=files("push", "other") + XML
    ) as made:
        yield made


def refused(ingress: Ingress, got: Got, status: int = 400, route: str = "push") -> None:
    assert got.status == status, got
    assert got.headers["content-type"] == "application/problem+json"
    assert len(got.body) < 1000
    assert ingress.stored(route) == []


# S32: encodings.


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, gzip", "identity, gzip", "?"])
def test_s32_no_content_encoding_is_taken(ingress: Ingress, encoding: str) -> None:
    body = gzip.compress(json.dumps({"id": "zipped", "title": " " * 10_000_000}).encode())
    message = ingress.head("/routes/push/records", f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}")
    (got,) = ingress.raw(message + b"\r\n" + body)

    refused(ingress, got, 415)
    assert got.headers["accept-encoding"] == "identity"


def test_s32_what_is_compressed_without_saying_so_is_not_read(ingress: Ingress) -> None:
    for body in (gzip.compress(b'{"id": "zipped"}'), zlib.compress(b'{"id": "zipped"}')):
        refused(ingress, ingress.push(body))


# S33: JSON.

BOMBS = {
    "lists within lists": b"[" * 100_000 + b"]" * 100_000,
    "lists without end": b"[" * 1_000_000,
    "objects within objects": b'{"id":' * 100_000 + b"1" + b"}" * 100_000,
    "just too deep": b'{"id": "deep", "title": ' + b"[" * 101 + b"]" * 101 + b"}",
    "the same name twice": b'{"id": "one", "id": "two", "version": "1"}',
    "NaN": b'{"id": "nan", "title": NaN}',
    "Infinity": b'{"id": "inf", "title": -Infinity}',
    "not UTF-8": b'{"id": "caf\xe9", "title": "t"}',
    "an overlong slash": b'{"id": "\xc0\xaf", "title": "t"}',
    "an encoded surrogate": b'{"id": "\xed\xa0\x80", "title": "t"}',
    "UTF-16 that is none": b"\xff\xfe{\x00",
    "two documents": b'{"id": "a", "title": "t"}{"id": "b"}',
    "a comment": b'{"id": "a" /* b */}',
    "single quotes": b"{'id': 'a'}",
    "nothing": b"",
    "blanks": b"   ",
    "cut": b'{"id": "a", "title": "',
    "NUL behind it": b'{"id": "a", "title": "t"}\0',
    "text": b'"a"',
    "null": b"null",
    "HTML": b"<html></html>",
}


@pytest.mark.parametrize("name", BOMBS)
def test_s33_json_that_is_none_or_too_much_is_refused_whole(ingress: Ingress, name: str) -> None:
    refused(ingress, ingress.push(BOMBS[name]))
    assert not ingress.said("crashed")


def test_s33_a_million_names_and_a_number_of_ten_megabytes_do_not_stop_it(ingress: Ingress) -> None:
    before = ingress.memory()
    names = b"{" + b",".join(b'"%d":0' % number for number in range(MANY)) + b"}"
    refused(ingress, ingress.push(names))
    got = ingress.push(b'{"id": ' + b"9" * 10_000_000 + b', "version": "1"}', "dead")
    assert got.status == 404
    digits = ingress.push(b'{"id": "digits", "version": "digits", "title": ' + b"9" * 10_000_000 + b"}")
    assert digits.status == 202

    ingress.serves()
    assert ingress.memory() - before < 400_000_000
    assert sorted(ingress.stored()) == ["digits", "proper"]


ODD_KEYS = {
    "a lone surrogate": rb'{"id": "\ud800", "title": "t"}',
    "a lone surrogate in a list": rb'[{"id": "\udfff", "title": "t"}]',
    "a NUL": rb'{"id": "a\u0000b", "title": "t"}',
    "a huge number": b'[{"id": ' + b"1" * 5000 + b', "title": "t"}]',
    "a fraction": b'[{"id": 1.5, "title": "t"}]',
    "a list": b'[{"id": ["a"], "title": "t"}]',
    "an object": b'[{"id": {}, "title": "t"}]',
    "true": b'[{"id": true, "title": "t"}]',
    "null": b'[{"id": null, "title": "t"}]',
    "none": b'[{"title": "t"}]',
    "text instead of a record": b'["a"]',
    "numbers instead of a record": b"[1, 2.5, null, [[]]]",
    "very long": json.dumps([{"id": "k" * 100_000, "title": "t"}]).encode(),
}


@pytest.mark.parametrize("name", ODD_KEYS)
def test_s33_a_record_without_a_proper_key_is_a_dead_letter_or_refused(ingress: Ingress, name: str) -> None:
    got = ingress.push(ODD_KEYS[name])

    assert got.status in {202, 400}, got
    if got.status == 202:
        assert {record["state"] for record in got.json["records"]} == {"dead"}
        assert all(record["reason"] for record in got.json["records"])
    ingress.serves()


def test_s33_lone_surrogates_in_a_value_are_stored_as_what_can_be(ingress: Ingress) -> None:
    got = ingress.push(rb'{"id": "halved", "version": "\ud800", "title": "\ud800 and \udfff"}')

    assert got.status == 202
    assert ingress.record("halved").status == 200


# S11 and S12: XML, and CSV.

TICKET = "<ticket id='one'><title>t</title></ticket>"
XML_BOMBS = {
    "laughs": "<!DOCTYPE a [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]><tickets><ticket id='&b;'/></tickets>",
    "file": "<!DOCTYPE a [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><tickets><ticket id='1'><title>&a;</title></ticket></tickets>",
    "parameter": "<!DOCTYPE a [<!ENTITY % a SYSTEM 'http://127.0.0.1:{port}/a.dtd'> %a;]><tickets/>",
    "external DTD": "<!DOCTYPE a SYSTEM 'http://127.0.0.1:{port}/a.dtd'><tickets>" + TICKET + "</tickets>",
    "deep": "<tickets>" + "<a>" * 100_000 + "</a>" * 100_000 + "</tickets>",
    "unclosed": "<tickets>" + "<a>" * 100_000,
    "attributes": "<tickets><ticket id='1' " + " ".join(f"a{number}='1'" for number in range(200_000)) + "/></tickets>",
    "name": "<tickets><" + "a" * 10_000_000 + "/></tickets>",
    "quadratic": "<!DOCTYPE a [<!ENTITY a '" + "a" * 50_000 + "'>]><tickets>" + "&a;" * 50_000 + "</tickets>",
    "namespace": "<a:tickets/>",
    "not XML": "{}",
}


@pytest.mark.parametrize("name", XML_BOMBS)
def test_s11_s12_xml_bombs_are_refused_and_fetch_nothing(ingress: Ingress, name: str) -> None:
    with listening() as (port, calls):
        got = ingress.push(XML_BOMBS[name].replace("{port}", str(port)).encode(), "xml", kind="application/xml")

        refused(ingress, got, route="xml")
        assert calls == []
    assert b"root:" not in got.body


def test_xml_and_csv_are_taken_in_their_own_media_types_alone(ingress: Ingress) -> None:
    body = f"<?xml version='1.0' encoding='ISO-8859-1'?><tickets>{TICKET}</tickets>".encode("latin-1")
    refused(ingress, ingress.push(body, "xml", kind="application/json"), 415, "xml")
    refused(ingress, ingress.push(b"id,title\n1,t\n", "csv", kind="text/html"), 415, "csv")
    refused(ingress, ingress.push(b"\x00" * 5000, "csv", kind="text/csv"), 400, "csv")
    refused(ingress, ingress.push(b"name\n1\n", "csv", kind="text/csv"), 400, "csv")
    for kind in ("text/xml", "application/xml; charset=iso-8859-1", "application/vnd.tickets+xml"):
        assert ingress.push(body, "xml", kind=kind).status == 202
    rows = "id,title\n" + "".join(f"{number},Zürich\n" for number in range(1000))
    got = ingress.push(rows.encode("latin-1"), "csv", kind="text/csv; charset=iso-8859-1")

    assert ingress.stored("xml") == ["one"]
    assert (got.status, len(got.json["records"])) == (202, 1000)
    assert ingress.push(rows.encode(), "csv", kind="text/csv; charset=nonsense").status == 400
    assert len(ingress.stored("csv")) == 1000


# S34: nobody is called.


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """Yield a port, and who has called there."""
    calls: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    calls.append(str(listener.accept()[1]))

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], calls
        listener.shutdown(socket.SHUT_RDWR)


def test_s34_nothing_in_a_push_makes_us_call_anybody(ingress: Ingress) -> None:
    with listening() as (port, calls):
        url = f"http://127.0.0.1:{port}/"
        record = {"id": url, "version": url, "title": url, "url": url, "callback": url, "$ref": url, "@context": url}
        body = json.dumps(record).encode()
        told = ("X-Callback-Url", "Link", "Location", "Referer", "Origin", "X-Forwarded-Host", "X-Original-Url")
        lines = [f"{name}: {url}" for name in told]
        message = ingress.head("/routes/push/records", *lines, f"Content-Length: {len(body)}", "Connection: close")
        (got,) = ingress.raw(message + b"\r\n" + body)
        assert got.status == 202
        ringing = ingress.ask("POST", "/routes/push/poll", body, token=ingress.token())

        assert ringing.status == 404
        assert ingress.record(url).json["key"] == url
        assert calls == []
