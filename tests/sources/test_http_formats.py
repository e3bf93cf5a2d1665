"""The source http with XML and CSV, over real sockets; what it shares with JSON is in test_http.py."""

from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

import pytest

from poller.errors import BlockedError, TransientError
from poller.model import Page
from poller.sources.http import HttpSource, HttpSourceSettings
from tests.sources.fake import Asked, Fake, Say, serving

XML: dict[str, Any] = {
    "format": "xml",
    "records": "/tickets/ticket",
    "key": "@id",
    "fields": {"username": "requester/login", "title": "subject"},
}
CSV: dict[str, Any] = {"format": "csv", "key": '"Ticket ID"', "fields": {"username": "login", "title": "subject"}}


def source(fake: Fake, **keys: Any) -> HttpSource:
    given = {"type": "http", "url": f"{fake.url}/api/tickets", **keys}
    return HttpSource(HttpSourceSettings.model_validate(given))


def xml(*numbers: int, head: str = "", **more: Any) -> bytes:
    rows = "".join(
        f'<ticket id="{n}"><subject>{escape(str(more.get("subject", f"t{n}")))}</subject>'
        f"<at>{more.get('at', n)}</at><requester><login>u{n}</login></requester></ticket>"
        for n in numbers
    )
    return f"<tickets {head}>{rows}</tickets>".encode()


def table(*numbers: int, **more: Any) -> bytes:
    rows = "".join(f'{n},"{more.get("subject", f"t{n}")}",u{n},{more.get("at", n)}\n' for n in numbers)
    return f"Ticket ID,subject,login,at\n{rows}".encode()


def keys(pages: list[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def whole(pages: list[Page]) -> bool:
    return [page.last for page in pages] == [False] * (len(pages) - 1) + [True]


def failing(polled: HttpSource, checkpoint: str | None = None) -> tuple[list[Page], Exception]:
    pages: list[Page] = []
    with pytest.raises((TransientError, BlockedError)) as caught:  # noqa: PT012  a generator fails while it is read
        for page in polled.poll(checkpoint):
            pages.append(page)  # noqa: PERF402  what came before the fault counts
    assert not any(page.last for page in pages)
    assert "\n" not in str(caught.value)
    return pages, caught.value


def test_records_of_xml_and_csv_are_the_same_records() -> None:
    bodies = {"xml": xml(1, 2), "csv": table(1, 2)}
    with serving(lambda asked: Say(bodies[asked.path.rpartition("/")[2]])) as fake:
        (one,) = source(fake, **XML, url=f"{fake.url}/xml").poll(None)
        (two,) = source(fake, **CSV, url=f"{fake.url}/csv").poll(None)

    assert one == two
    assert one.records[0].key == "1"
    assert one.records[0].fields == {"username": "u1", "title": "t1"}
    assert [asked.headers["Accept"] for asked in fake.asked] == ["application/xml, text/xml;q=0.9", "text/csv"]


def test_namespaces_and_the_children_of_the_root() -> None:
    body = b'<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>urn:1</id><title>a</title></entry></feed>'
    atom = {"format": "xml", "namespaces": {"a": "http://www.w3.org/2005/Atom"}, "key": "a:id"}
    with serving(lambda _: Say(body)) as fake:
        pages = [
            next(iter(source(fake, **atom, records=records, fields={"t": "a:title"}).poll(None)))
            for records in (None, "a:entry", "/a:feed/a:entry")
        ]

    assert [page.records[0].fields for page in pages] == [{"t": "a"}] * 3


@pytest.mark.parametrize(
    ("settings", "body", "kind"),
    [
        (XML, "<?xml version='1.0' encoding='iso-8859-1'?><tickets><ticket id='é'/></tickets>".encode("latin-1"), "text/xml"),
        (XML, "<tickets><ticket id='é'/></tickets>".encode("latin-1"), "text/xml; charset=iso-8859-1"),
        ({**XML, "encoding": "cp1252"}, "<tickets><ticket id='é'/></tickets>".encode("cp1252"), "text/xml; charset=utf-8"),
        (CSV, "Ticket ID\né".encode("latin-1"), 'text/csv; charset="ISO-8859-1"; header=present'),
        ({**CSV, "encoding": "latin-1"}, "Ticket ID\né".encode("latin-1"), "text/csv; charset=utf-8"),
        (CSV, "Ticket ID\né".encode("utf-16"), "text/csv"),
    ],
)  # fmt: skip
def test_f43_the_encoding_of_the_settings_counts_more_than_that_of_the_server(
    settings: dict[str, Any], body: bytes, kind: str
) -> None:
    with serving(lambda _: Say(body, headers={"Content-Type": kind})) as fake:
        assert keys(list(source(fake, **settings).poll(None))) == ["é"]


@pytest.mark.parametrize(
    ("settings", "body", "words"),
    [
        (XML, b"<html><body>Log in</body></html>", "HTML"),
        (XML, b"<!DOCTYPE tickets [<!ENTITY a 'b'>]><tickets/>", "DOCTYPE"),
        (XML, b"<tickets><ticket id='1'", "cut off"),
        (XML, b"<error/>", "another root"),
        (XML, b"", "empty"),
        ({**XML, "records": "count(ticket)"}, b"<tickets/>", "elements"),
        (CSV, b"<html>", "HTML"),
        (CSV, b"", "header row"),
        (CSV, b"Service unavailable\n", 'no column "Ticket ID"'),
        (CSV, b'Ticket ID,subject\n1,"abc', "cut off"),
        (CSV, b"Ticket ID,subject,subject\n", "twice"),
    ],
)
def test_f43_a_page_that_cannot_be_read_is_a_fault_and_moves_nothing(
    settings: dict[str, Any], body: bytes, words: str
) -> None:
    with serving(lambda _: Say(body)) as fake:
        pages, error = failing(source(fake, **settings, checkpoint="at"))

    assert pages == []
    assert isinstance(error, TransientError)
    assert words in str(error)


def test_f43_an_error_document_in_the_middle_is_not_the_end_of_the_list() -> None:
    """Its records would be none, as on the page behind the last one; the checkpoint would move past the rest."""

    def answer(asked: Asked) -> Say:
        return Say(xml(int(asked.query["page"])) if asked.query["page"] != "3" else b"<fault>busy</fault>")

    with serving(answer) as fake:
        pages, error = failing(source(fake, **{**XML, "records": "//ticket"}, paging={"type": "page"}))

    assert keys(pages) == ["1", "2"]
    assert "another root" in str(error)


def test_an_empty_list_may_have_a_root_of_its_own() -> None:
    """Some frameworks name the root after what is in it, and have another name for nothing; the poll then ends as it began."""
    bodies = [xml(1), b'<nil-classes type="array"/>']
    with serving(lambda _: Say(bodies.pop(0))) as fake:
        polled = source(fake, **{**XML, "records": "ticket"}, checkpoint="at")
        (first,) = polled.poll(None)
        (second,) = polled.poll(first.checkpoint)

    assert keys([first]) == ["1"]
    assert second == Page(checkpoint="1", last=True)


def test_f43_f44_a_row_that_cannot_be_read_is_one_dead_letter_and_the_rest_goes_on() -> None:
    body = table(1) + b"2,short\n" + table(3)[27:] + b"4,a,b,c,d,e\n,no key,x,1\n" + table(5)[27:]
    with serving(lambda _: Say(body)) as fake:
        (page,) = source(fake, **CSV).poll(None)

    assert keys([page]) == ["1", "3", "5"]
    assert [each.reason for each in page.malformed] == [
        "the row has 2 cells, and the header row 4",
        "the row has 6 cells, and the header row 4",
        "the key is empty",
    ]
    assert page.malformed[2].raw == '{"Ticket ID":"","subject":"no key","login":"x","at":"1"}'


def test_f44_a_poison_element_among_1000_is_one_dead_letter() -> None:
    body = xml(*range(500)).replace(b"</tickets>", b"<ticket><subject>poison</subject></ticket></tickets>")
    body = body.replace(b"</tickets>", b"") + xml(*range(500, 999)).partition(b">")[2]
    with serving(lambda _: Say(body)) as fake:
        (page,) = source(fake, **XML).poll(None)

    assert len(page.records) == 999
    (dead,) = page.malformed
    assert dead.raw == "<ticket><subject>poison</subject></ticket>"


def test_required_and_template_text_and_formulas() -> None:
    with serving(
        lambda asked: Say(xml(1, subject="{{ 7*7 }}") if "xml" in asked.path else table(1, subject="=1+1"))
    ) as fake:
        (one,) = source(fake, **XML, url=f"{fake.url}/xml", required=["title"]).poll(None)
        (two,) = source(fake, **CSV, url=f"{fake.url}/csv", required=["title"]).poll(None)
        with serving(lambda _: Say(xml(1, subject=" "))) as other:
            (three,) = source(other, **XML, required=["title"]).poll(None)

    assert one.records[0].fields["title"] == "{{ 7*7 }}"  # S17
    assert two.records[0].fields["title"] == "=1+1"  # S10
    assert three.malformed[0].reason == "the required field title is missing"


# Paging.


def numbers(asked: Asked, count: int, size: int = 10) -> list[int]:
    """Return which of *count* records a page holds."""
    if "offset" in asked.query:
        start = int(asked.query["offset"])
    else:
        start = (int(asked.query.get("page") or asked.query.get("after") or 1) - 1) * size
    return list(range(start, min(count, start + size)))


def paged(asked: Asked) -> Say:
    """Answer every way of paging at once, in XML, or CSV where the path says so."""
    number = int(asked.query.get("page") or asked.query.get("after") or 1) + 1
    shown = numbers(asked, 95)
    link = f'<{asked.path}?page={number}>; rel="next"' if number <= 10 else ""
    if asked.path.endswith("csv"):
        return Say(table(*shown), headers={"Link": link} if link else {})
    head = f'total="95" more="{"true" if number <= 10 else "false"}"'
    head += f' next="{asked.path}?page={number}" after="{number}"' if number <= 10 else ""
    return Say(xml(*shown, head=head), headers={"Link": link} if link else {})


PAGINGS: list[dict[str, Any]] = [
    {"type": "link"},
    {"type": "next", "next": "@next"},
    {"type": "page"},
    {"type": "offset", "size": 10},
    {"type": "offset", "size": 10, "total": "@total"},
    {"type": "cursor", "param": "after", "cursor": "@after"},
    {"type": "cursor", "param": "after", "cursor": "/tickets/@after", "more": "@more"},
    {"type": "cursor", "param": "after", "cursor": "@after", "more": "@more = 'true'"},
]


@pytest.mark.parametrize("paging", PAGINGS)
def test_every_paging_type_of_xml(paging: dict[str, Any]) -> None:
    with serving(paged) as fake:
        pages = list(source(fake, **XML, paging=paging).poll(None))

    assert keys(pages) == [str(n) for n in range(95)]
    assert whole(pages)


@pytest.mark.parametrize("paging", [{"type": "link"}, {"type": "page"}, {"type": "offset", "size": 10}])
def test_every_paging_type_of_csv(paging: dict[str, Any]) -> None:
    with serving(paged) as fake:
        pages = list(source(fake, **CSV, url=f"{fake.url}/csv", paging=paging).poll(None))

    assert keys(pages) == [str(n) for n in range(95)]
    assert whole(pages)


@pytest.mark.parametrize(("settings", "body"), [(XML, xml(1)), (CSV, table(1))])
def test_a_source_without_paging_gives_its_one_page_once(settings: dict[str, Any], body: bytes) -> None:
    with serving(lambda _: Say(body)) as fake:
        for kind in ("offset", "page"):
            assert whole(list(source(fake, **settings, paging={"type": kind}).poll(None)))

    assert len(fake.asked) == 4


def test_s34_s35_a_next_address_in_xml_never_leads_to_another_host() -> None:
    with serving(lambda _: Say(xml(2))) as other:
        for where in (f"{other.url}/x", "file:///etc/passwd", "gopher://x/", "//127.0.0.2/"):
            with serving(lambda _, where=where: Say(xml(1, head=f'next="{where}"'))) as fake:  # type: ignore[misc]
                pages, error = failing(source(fake, **XML, paging={"type": "next", "next": "@next"}))
            assert keys(pages) == ["1"]
            assert "another host" in str(error)

    assert other.asked == []


def test_s34_a_redirect_of_the_source_is_not_followed() -> None:
    with serving(lambda _: Say(xml(2))) as other:
        for status in (301, 302, 303, 307, 308):
            with serving(lambda _, status=status: Say(b"", status=status, headers={"Location": other.url})) as fake:  # type: ignore[misc]
                _, error = failing(source(fake, **XML, auth={"type": "bearer", "token": "t"}))
            assert "redirects are never followed" in str(error)

    assert other.asked == []


# Checkpoints: in XML and CSV, everything is text.

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("settings", [XML, CSV])
@pytest.mark.parametrize(
    ("stamp", "format", "handed"),
    [
        ("2026-06-01T11:00:00Z", None, "2026-06-01T10:55:00Z"),
        (" 2026-06-01T11:00:00Z ", None, "2026-06-01T10:55:00Z"),
        ("1780000000", None, "1779999700"),
        ("1780000000.123", None, "1779999700.123"),
        ("1780000000.123", "epoch", "1779999700.123"),
        ("1780000000123", "epoch", "1779999700123"),
        ("1.78e9", "epoch", "1779999700"),
        ("2026-06-01 11:00:00", "iso", "2026-06-01 10:55:00"),
        ("01.06.2026 00:02", "%d.%m.%Y %H:%M", "31.05.2026 23:57"),
        ("20260601000200", "%Y%m%d%H%M%S", "20260531235700"),
        ("4711", None, "4711"),
    ],
)
def test_checkpoints_that_are_text(settings: dict[str, Any], stamp: str, format: str | None, handed: str) -> None:
    body = (xml if settings is XML else table)(1, at=stamp)
    more = {"checkpoint": "at", "checkpoint_format": format, "params": {"since": "{{ checkpoint }}"}, "overlap": "5m"}
    with serving(lambda _: Say(body, date=NOW)) as fake:
        polled = source(fake, **settings, **more)
        (page,) = polled.poll(None)
        list(polled.poll(page.checkpoint))

    assert page.checkpoint == stamp.strip()
    assert fake.asked[1].query == {"since": handed}


@pytest.mark.parametrize("settings", [XML, CSV])
def test_f45_a_future_value_that_is_text_never_moves_it(settings: dict[str, Any]) -> None:
    body = (xml if settings is XML else table)(1, at="4070908800")
    with serving(lambda _: Say(body, date=NOW)) as fake:
        (page,) = source(fake, **settings, checkpoint="at").poll("1780000000")

    assert (page.checkpoint, page.refused) == ("1780000000", ("4070908800",))
    assert keys([page]) == ["1"]
