"""The source http over real sockets."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from poller.errors import BlockedError, TransientError
from poller.model import Page
from poller.sources import SOURCES
from poller.sources.http import HttpSource, HttpSourceSettings
from tests.sources.fake import Asked, Fake, Say, serving

FIELDS = {"username": "requester.login", "title": "subject"}


def source(fake: Fake, **keys: Any) -> HttpSource:
    given = {"type": "http", "url": f"{fake.url}/api/tickets", "records": "tickets", "key": "id", "fields": FIELDS}
    settings = HttpSourceSettings.model_validate({**given, **keys})
    return HttpSource(settings)


def ticket(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "subject": f"t{number}", "requester": {"login": f"u{number}"}, **more}


def keys(pages: list[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def whole(pages: list[Page]) -> bool:
    """Exactly one page is marked last, and it is the last one."""
    return [page.last for page in pages] == [False] * (len(pages) - 1) + [True]


def failing(polled: HttpSource, checkpoint: str | None = None) -> tuple[list[Page], Exception]:
    pages: list[Page] = []
    with pytest.raises((TransientError, BlockedError)) as caught:  # noqa: PT012  a generator fails while it is read
        for page in polled.poll(checkpoint):
            pages.append(page)  # noqa: PERF402  what came before the fault counts
    assert not any(page.last for page in pages)
    assert "\n" not in str(caught.value)
    return pages, caught.value


def test_the_table_holds_it() -> None:
    assert SOURCES["http"] is HttpSource
    assert SOURCES["http"].settings is HttpSourceSettings


def test_records_come_with_key_version_and_fields() -> None:
    with serving(lambda _: Say({"tickets": [ticket(1, v=7), ticket(2, requester=None)]})) as fake:
        (page,) = source(fake, version="v").poll(None)

    assert page.last
    assert [record.key for record in page.records] == ["1", "2"]
    assert page.records[0].fields == {"username": "u1", "title": "t1"}
    assert page.records[0].version == "7"
    assert page.records[1].fields["username"] == ""
    assert len(page.records[1].version) == 64


def test_a_version_of_its_own_making_changes_with_the_fields_alone() -> None:
    answers = iter([{"id": 1, "subject": "a", "x": 1}, {"x": 2, "subject": "a", "id": 1}, {"id": 1, "subject": "b"}])
    with serving(lambda _: Say({"tickets": [next(answers)]})) as fake:
        polled = source(fake)
        first, second, third = (next(iter(polled.poll(None))).records[0].version for _ in range(3))

    assert first == second != third


def test_a_document_that_is_a_list_needs_no_records() -> None:
    with serving(lambda _: Say([ticket(1)])) as fake:
        assert keys(list(source(fake, records=None).poll(None))) == ["1"]


def test_an_empty_source_gives_one_empty_last_page() -> None:
    with serving(lambda _: Say({"tickets": []})) as fake:
        (page,) = source(fake).poll(None)

    assert page == Page(last=True)


def test_a_param_that_needs_an_absent_checkpoint_is_left_out() -> None:
    with serving(lambda _: Say({"tickets": []})) as fake:
        polled = source(fake, params={"since": "{{ checkpoint }}", "state": "open"}, checkpoint="id")
        list(polled.poll(None))
        list(polled.poll("41"))

    assert [asked.query for asked in fake.asked] == [{"state": "open"}, {"state": "open", "since": "41"}]


def test_secrets_serve_in_params_and_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_FOR_TEST", "hush")
    with serving(lambda _: Say({"tickets": []})) as fake:
        list(
            source(fake, params={"k": {"env": "TOKEN_FOR_TEST"}}, headers={"X-Key": {"env": "TOKEN_FOR_TEST"}}).poll(
                None
            )
        )

    assert fake.asked[0].query == {"k": "hush"}
    assert fake.asked[0].headers["X-Key"] == "hush"


# Paging.


def by_offset(rows: list[Any], asked: Asked, cap: int = 10**9) -> list[Any]:
    start = int(asked.query["offset"])
    return rows[start : start + min(cap, int(asked.query["limit"]))]


def test_offset_reads_on_until_a_page_is_empty() -> None:
    rows = [ticket(number) for number in range(250)]
    # The source gives less than it is asked for: a short page is not the last one.
    with serving(lambda asked: Say({"tickets": by_offset(rows, asked, cap=30)})) as fake:
        pages = list(source(fake, paging={"type": "offset"}).poll(None))

    assert keys(pages) == [str(number) for number in range(250)]
    assert whole(pages)


def test_offset_with_total_asks_for_no_page_too_many() -> None:
    rows = [ticket(number) for number in range(250)]
    with serving(lambda asked: Say({"tickets": by_offset(rows, asked), "n": len(rows)})) as fake:
        pages = list(source(fake, paging={"type": "offset", "total": "n"}).poll(None))

    assert len(keys(pages)) == 250
    assert len(fake.asked) == 3
    assert whole(pages)


@pytest.mark.parametrize("gone", [range(50), range(100), range(240), range(150, 160)])
def test_f38_what_leaves_the_list_while_it_is_read_hides_nothing(gone: range) -> None:
    rows = [ticket(number) for number in range(250)]

    def answer(asked: Asked) -> Say:
        now = rows if len(fake.asked) == 1 else [row for row in rows if row["id"] not in gone]
        return Say({"tickets": by_offset(now, asked), "n": len(now)})

    with serving(answer) as fake:
        pages = list(source(fake, paging={"type": "offset", "total": "n"}).poll(None))

    assert {*keys(pages)} >= {str(number) for number in range(250) if number not in gone}
    assert whole(pages)


def test_a_source_without_paging_gives_its_one_page_once() -> None:
    with serving(lambda _: Say({"tickets": [ticket(1)]})) as fake:
        for paging in ({"type": "offset"}, {"type": "page"}):
            assert whole(list(source(fake, paging=paging).poll(None)))

    assert len(fake.asked) == 4


def test_page_numbers() -> None:
    def answer(asked: Asked) -> Say:
        number = int(asked.query["p"])
        return Say({"tickets": [ticket(number)] if number < 3 else []})

    with serving(answer) as fake:
        pages = list(
            source(fake, paging={"type": "page", "param": "p", "start": 0, "size_param": "s", "size": 1}).poll(None)
        )

    assert keys(pages) == ["0", "1", "2"]
    assert whole(pages)
    assert [asked.query for asked in fake.asked] == [{"p": str(number), "s": "1"} for number in range(4)]


def linked(asked: Asked, last: int) -> Say:
    number = int(asked.query.get("page", "1"))
    head = (
        {}
        if number == last
        else {"Link": f'</api/tickets?page={number + 1}>; title="a, b"; rel="prev Next", </x>; rel=last'}
    )
    return Say({"tickets": [ticket(number)]}, headers=head)


def test_link_follows_rel_next() -> None:
    with serving(lambda asked: linked(asked, 7)) as fake:
        pages = list(source(fake, paging={"type": "link"}, params={"q": "x"}).poll(None))

    assert keys(pages) == [str(number) for number in range(1, 8)]
    assert whole(pages)
    # The link says all: our own params are not put on it again.
    assert fake.asked[1].query == {"page": "2"}


def test_link_that_leads_back_ends_the_poll() -> None:
    with serving(lambda _: Say({"tickets": [ticket(1)]}, headers={"Link": '<?page=1>; rel="next"'})) as fake:
        assert whole(list(source(fake, paging={"type": "link"}).poll(None)))

    assert len(fake.asked) == 2


def test_s35_a_link_to_another_host_is_never_asked() -> None:
    with serving(lambda _: Say({"tickets": []})) as other:
        for link in (f"{other.url}/api", f"//{other.url[7:]}/x", "http://[", f"{other.url.replace('//', '//u:p@')}/"):
            say = Say({"tickets": [ticket(1)]}, headers={"Link": f'<{link}>; rel="next"'})
            with serving(lambda _, say=say: say) as fake:  # type: ignore[misc]
                pages, error = failing(source(fake, paging={"type": "link"}))
            assert keys(pages) == ["1"]
            assert "another host" in str(error)

    assert other.asked == []


def test_next_is_an_address_in_the_document_on_the_same_host() -> None:
    def answer(asked: Asked) -> Say:
        number = int(asked.query.get("after", "0"))
        # Behind a proxy: the right host, the wrong scheme cannot be told here; a relative one and a whole one can.
        link = [f"{fake.url}/api/tickets?after=1", "?after=2", None][number]
        return Say({"tickets": [ticket(number)], "links": {"next": link}})

    with serving(answer) as fake:
        pages = list(source(fake, paging={"type": "next", "next": "links.next"}).poll(None))

    assert keys(pages) == ["0", "1", "2"]
    assert whole(pages)


def cursored(asked: Asked, last: int) -> Say:
    number = int(asked.query.get("after", "c0")[1:])
    more = number < last
    return Say({"tickets": [ticket(number)], "next": f"c{number + 1}", "more": more})


def test_cursor_with_more() -> None:
    with serving(lambda asked: cursored(asked, 4)) as fake:
        pages = list(
            source(fake, paging={"type": "cursor", "param": "after", "cursor": "next", "more": "more"}).poll(None)
        )

    assert keys(pages) == ["0", "1", "2", "3", "4"]
    assert whole(pages)
    assert not any(page.resume for page in pages)


@pytest.mark.parametrize("more", [None, False, 0, "", "false", "No", "0", [], {}])
def test_more_counts_as_false(more: object) -> None:
    with serving(lambda _: Say({"tickets": [ticket(1)], "next": "c", "more": more})) as fake:
        pages = list(source(fake, paging={"type": "cursor", "param": "a", "cursor": "next", "more": "more"}).poll(None))

    assert len(fake.asked) == 1
    assert whole(pages)


@pytest.mark.parametrize("cycle", [["a"], ["a", "b"], ["a", "b", "c", "b"]])
def test_a_repeated_cursor_ends_the_poll(cycle: list[str]) -> None:
    def answer(asked: Asked) -> Say:
        return Say({"tickets": [ticket(len(fake.asked))], "next": cycle[(len(fake.asked) - 1) % len(cycle)]})

    with serving(answer) as fake:
        pages = list(source(fake, paging={"type": "cursor", "param": "after", "cursor": "next"}).poll(None))

    assert len(fake.asked) == len({*cycle}) + 1
    assert whole(pages)


@pytest.mark.parametrize(
    "paging",
    [{"type": "cursor", "param": "a", "cursor": "next"}, {"type": "link"}, {"type": "next", "next": "link"}],
)
def test_every_type_ends_on_an_empty_page(paging: dict[str, str]) -> None:
    say = Say({"tickets": [], "next": "c", "link": "/y"}, headers={"Link": '</y>; rel="next"'})
    with serving(lambda _: say) as fake:
        assert whole(list(source(fake, paging=paging).poll(None)))

    assert len(fake.asked) == 1


def test_resume_hands_the_last_cursor_to_the_next_poll() -> None:
    paging = {"type": "cursor", "param": "after", "cursor": "next", "more": "more", "resume": True}
    with serving(lambda asked: cursored(asked, 2)) as fake:
        polled = source(fake, paging=paging)
        pages = list(polled.poll(None))
        list(polled.poll(pages[-1].checkpoint))

    assert [(page.checkpoint, page.resume, page.last) for page in pages] == [
        ("c1", True, False),
        ("c2", True, False),
        ("c3", True, True),
    ]
    assert fake.asked[3].query == {"after": "c3"}


def test_resume_keeps_its_cursor_where_the_end_names_none() -> None:
    paging = {"type": "cursor", "param": "after", "cursor": "next", "resume": True}
    with serving(lambda _: Say({"tickets": [], "next": None})) as fake:
        (page,) = source(fake, paging=paging).poll("c9")

    assert (page.checkpoint, page.last) == ("c9", True)


def test_too_many_pages_are_not_a_whole_poll() -> None:
    with serving(lambda asked: cursored(asked, 10**6)) as fake:
        pages, error = failing(
            source(fake, paging={"type": "cursor", "param": "after", "cursor": "next", "max_pages": 5})
        )

    assert keys(pages) == ["0", "1", "2", "3", "4"]
    assert "max_pages" in str(error)


def test_f38_page_3_of_7_fails_and_the_checkpoint_stays() -> None:
    def answer(asked: Asked) -> Say:
        number = int(asked.query.get("page", "1"))
        return Say({}, status=500) if number == 3 else linked(asked, 7)

    with serving(answer) as fake:
        pages, error = failing(source(fake, paging={"type": "link"}, checkpoint="id"))

    assert keys(pages) == ["1", "2"]
    assert "500" in str(error)


# Faults.


@pytest.mark.parametrize("status", [201, 204, 206, 302, 404, 418, 500, 502])
def test_any_other_status_is_a_fault_for_later(status: int) -> None:
    with serving(
        lambda _: Say(b"" if status == 204 else {"tickets": []}, status=status, headers={"Location": "/y"})
    ) as fake:
        _, error = failing(source(fake))

    assert isinstance(error, TransientError)
    assert error.evidence.status == status
    assert len(fake.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_block_the_route(status: int) -> None:
    with serving(lambda _: Say({}, status=status)) as fake:
        _, error = failing(source(fake, auth={"type": "basic", "username": "u", "password": "p"}))

    assert isinstance(error, BlockedError)
    assert fake.asked[0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_handed_on(status: int) -> None:
    with serving(lambda _: Say({}, status=status, headers={"Retry-After": "7"})) as fake:
        _, error = failing(source(fake))

    assert isinstance(error, TransientError)
    assert error.retry_after == timedelta(seconds=7)


BROKEN = {
    "html": (b"<!DOCTYPE html><html>Log in</html>", "HTML"),
    "cut": (b'{"tickets": [{"id": 1}, {"id"', "cut"),
    "empty": (b"", "empty"),
    "object": (b'{"tickets": {"id": 1}}', "no list"),
    "null": (b'{"tickets": null}', "no list"),
    "missing": (b"{}", "no list"),
    "deep": (b'{"tickets": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested"),
    "twice": (b'{"tickets": [], "tickets": [{"id": 1}]}', "twice"),
    "nan": (b'{"tickets": [NaN]}', "NaN"),
    "infinity": (b'{"tickets": [-Infinity]}', "Infinity"),
    "latin-1": ('{"tickets": [{"id": "é"}]}'.encode("latin-1"), "utf-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_f43_s33_a_page_that_cannot_be_read_is_a_fault_and_moves_nothing(name: str) -> None:
    body, word = BROKEN[name]
    with serving(lambda _: Say(body)) as fake:
        pages, error = failing(source(fake, checkpoint="id"))

    assert pages == []
    assert isinstance(error, TransientError)
    assert word in str(error)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xef\xbb\xbf" + json.dumps({"tickets": [{"id": "é"}]}, ensure_ascii=False).encode(), "application/json"),
        ('{"tickets": [{"id": "é"}]}'.encode("latin-1"), "application/json; charset=ISO-8859-1"),
        ('{"tickets": [{"id": "é"}]}'.encode("utf-16"), "application/json"),
        ('{"tickets": [{"id": "é"}]}'.encode(), "text/html"),
    ],
)
def test_f43_text_is_read_in_the_encoding_that_is_stated(body: bytes, kind: str) -> None:
    with serving(lambda _: Say(body, headers={"Content-Type": kind})) as fake:
        assert keys(list(source(fake).poll(None))) == ["é"]


def test_f43_a_body_over_the_cap_is_a_fault() -> None:
    with serving(lambda _: Say(b"[" + b" " * 3_000_000 + b"]")) as fake:
        _, error = failing(source(fake, max_body="1MB"))

    assert "max_body" in str(error)


def test_a_drip_is_cut_off_by_the_deadline() -> None:
    with serving(lambda _: Say(b" " * 10_000, drip=0.05)) as fake:
        started = datetime.now(UTC)
        failing(source(fake, deadline="700ms", read_timeout="5s"))

        assert datetime.now(UTC) - started < timedelta(seconds=4)


def test_nobody_there_is_a_fault_for_later() -> None:
    with serving(lambda _: Say({})) as fake:
        polled = source(fake)
    _, error = failing(polled)

    assert isinstance(error, TransientError)


# Records that cannot be read.

KEYS = [None, "", 1.5, True, [1], {"a": 1}, "a\x00b", "a\nb", "\ud800", "x" * 3000]


def test_f43_a_key_that_is_none_makes_one_dead_letter_and_the_rest_goes_on() -> None:
    rows: list[Any] = [ticket(1), *({"id": key, "subject": "s"} for key in KEYS), {}, None, 5, "text", [], ticket(2)]
    with serving(lambda _: Say({"tickets": rows})) as fake:
        (page,) = source(fake).poll(None)

    assert [record.key for record in page.records] == ["1", "2"]
    assert len(page.malformed) == len(rows) - 2
    assert page.last
    for each in page.malformed:
        each.raw.encode()
        each.reason.encode()
        assert "\n" not in each.reason
        assert "\x00" not in each.raw
    assert json.loads(page.malformed[2].raw) == {"id": 1.5, "subject": "s"}


def test_a_required_field_that_is_missing_keeps_the_key() -> None:
    rows = [ticket(1, subject=None), ticket(2, subject=" "), ticket(3)]
    with serving(lambda _: Say({"tickets": rows})) as fake:
        (page,) = source(fake, required=["title"]).poll(None)

    assert [each.key for each in page.malformed] == ["1", "2"]
    assert "title" in page.malformed[0].reason
    assert keys([page]) == ["3"]


def test_f44_an_expression_that_does_not_fit_is_one_dead_letter_among_1000() -> None:
    rows = [ticket(number, tags=["a"]) for number in range(1000)]
    rows[500]["tags"] = 5
    with serving(lambda _: Say({"tickets": rows})) as fake:
        (page,) = source(fake, fields={"tags": "join(',', tags)"}).poll(None)

    assert len(page.records) == 999
    assert page.malformed[0].key == "500"
    assert "join()" in page.malformed[0].reason


def test_the_raw_text_is_cut() -> None:
    with serving(lambda _: Say({"tickets": [{"x": "y" * 100_000}]})) as fake:
        (page,) = source(fake).poll(None)

    assert len(page.malformed[0].raw) == 64_000


def test_values_become_text() -> None:
    body = b"""{"tickets": [{"id": 123456789012345678901234567890, "a": 1.10, "b": true, "c": null, "d": [1, {"e": "\\u00e9"}],
        "f": "nul\\u0000 half\\ud800", "g": 1e999}]}"""
    with serving(lambda _: Say(body)) as fake:
        (page,) = source(fake, fields={name: name for name in "abcdefg"}).poll(None)

    assert page.records[0].key == "123456789012345678901234567890"
    assert page.records[0].fields == {
        "a": "1.10",
        "b": "true",
        "c": "",
        "d": '[1,{"e":"é"}]',
        "e": "",
        "f": "nul\ufffd half\ufffd",
        "g": "1e999",
    }


def test_s17_template_text_in_a_record_stays_literal() -> None:
    with serving(lambda _: Say({"tickets": [ticket(1, subject="{{ 7*7 }}")]})) as fake:
        (page,) = source(fake).poll(None)

    assert page.records[0].fields["title"] == "{{ 7*7 }}"


@pytest.mark.parametrize(("first", "second", "kept"), [(1, 1, "a"), (1, 2, "b"), (2, 1, "a"), ("x", "y", "b")])
def test_f37_a_key_twice_on_a_page_is_one_record(first: object, second: object, kept: str) -> None:
    rows = [ticket(1, subject="a", v=first), ticket(1, subject="b", v=second)]
    with serving(lambda _: Say({"tickets": rows})) as fake:
        (page,) = source(fake, version="v").poll(None)

    assert [record.fields["title"] for record in page.records] == [kept]


# Checkpoints.

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


def stamped(*stamps: Any) -> Say:
    return Say({"tickets": [ticket(number, at=stamp) for number, stamp in enumerate(stamps)]}, date=NOW)


def polled(fake: Fake, checkpoint: str | None = None, **more: Any) -> list[Page]:
    keys = {"checkpoint": "at", "params": {"since": "{{ checkpoint }}"}, **more}
    return list(source(fake, **keys).poll(checkpoint))


@pytest.mark.parametrize(
    ("stamps", "largest"),
    [
        (["2026-06-01T10:00:00Z", "2026-06-01T11:30:00+02:00", "2026-06-01T09:59:59.999Z"], "2026-06-01T10:00:00Z"),
        # The hour that comes twice when summer time ends.
        (["2025-10-26T02:30:00+02:00", "2025-10-26T02:10:00+01:00"], "2025-10-26T02:10:00+01:00"),
        ([9, 10, 8], "10"),
        (["9", "10"], "10"),
        ([1780000000, 1780000001.5, 1780000001], "1780000001.5"),
        ([None, "2026-06-01T10:00:00Z", None], "2026-06-01T10:00:00Z"),
        (["2026-06-01T10:00:00Z", "nonsense", 5], "2026-06-01T10:00:00Z"),
    ],
)
def test_the_largest_is_the_checkpoint(stamps: list[Any], largest: str) -> None:
    with serving(lambda _: stamped(*stamps)) as fake:
        pages = polled(fake)

    assert pages[-1].checkpoint == largest
    assert len(keys(pages)) == len(stamps)


def test_newest_first_lists_take_the_largest_of_all_pages() -> None:
    rows = [ticket(number, at=number) for number in range(50, 0, -1)]
    with serving(lambda asked: Say({"tickets": by_offset(rows, asked)})) as fake:
        pages = polled(fake, paging={"type": "offset", "size": 10})

    assert len(keys(pages)) == 50
    assert pages[-1].checkpoint == "50"
    assert whole(pages)


def test_f40_ten_pages_of_one_timestamp_are_all_taken() -> None:
    rows = [ticket(number, at="2026-06-01T10:00:00Z") for number in range(100)]
    with serving(lambda asked: Say({"tickets": by_offset(rows, asked)}, date=NOW)) as fake:
        pages = polled(fake, paging={"type": "offset", "size": 10})

    assert len({*keys(pages)}) == 100
    assert len(fake.asked) == 11
    assert whole(pages)


FUTURE = ["2026-06-01T12:00:01Z", "2026-06-01T14:00:01+02:00", "2099-01-01T00:00:00Z", 4070908800, 4070908800000]


@pytest.mark.parametrize("future", FUTURE)
def test_f45_a_value_later_than_the_answer_never_moves_it(future: Any) -> None:
    before = "2026-06-01T11:00:00Z" if isinstance(future, str) else "1780000000"
    with serving(lambda _: stamped(before, future)) as fake:
        (page,) = polled(fake)

    assert page.checkpoint == before
    assert page.refused == (str(future),)
    assert keys([page]) == ["0", "1"]


def test_f45_only_future_values_leave_the_checkpoint_where_it_was() -> None:
    with serving(lambda _: stamped("2099-01-01T00:00:00Z")) as fake:
        (first,) = polled(fake)
        (second,) = polled(fake, "2026-06-01T11:00:00Z")

    assert first.checkpoint is None
    assert second.checkpoint == "2026-06-01T11:00:00Z"


def test_a_value_of_the_same_second_as_the_answer_is_not_later() -> None:
    with serving(lambda _: stamped("2026-06-01T12:00:00.999Z")) as fake:
        (page,) = polled(fake)

    assert page.checkpoint == "2026-06-01T12:00:00.999Z"


def test_an_answer_without_date_is_held_against_our_own_clock() -> None:
    with serving(lambda _: Say({"tickets": [ticket(1, at="2999-01-01T00:00:00Z")]}, no_date=True)) as fake:
        (page,) = polled(fake)

    assert page.checkpoint is None
    assert page.refused


def test_a_re_read_window_does_not_take_the_checkpoint_back() -> None:
    with serving(lambda _: stamped("2026-06-01T10:57:00Z")) as fake:
        (page,) = polled(fake, "2026-06-01T11:00:00Z")

    assert page.checkpoint == "2026-06-01T11:00:00Z"


@pytest.mark.parametrize(
    ("stored", "format", "handed"),
    [
        ("2026-06-01T11:00:00Z", None, "2026-06-01T10:55:00Z"),
        ("2026-06-01T00:01:00.123+02:00", None, "2026-05-31T23:56:00.123+02:00"),
        ("2026-06-01 11:00:00", "iso", "2026-06-01 10:55:00"),
        ("1780000000", None, "1779999700"),
        ("1780000000123", None, "1779999700123"),
        ("1780000000.25", "epoch", "1779999700.25"),
        ("01.06.2026 00:02", "%d.%m.%Y %H:%M", "31.05.2026 23:57"),
        ("4711", None, "4711"),
    ],
)
def test_the_overlap_is_taken_off_a_time_in_its_own_writing(stored: str, format: str | None, handed: str) -> None:
    with serving(lambda _: Say({"tickets": []})) as fake:
        (page,) = polled(fake, stored, overlap="5m", checkpoint_format=format)

    assert fake.asked[0].query == {"since": handed}
    assert page.checkpoint == stored


def test_a_format_that_nobody_recognises_must_be_stated() -> None:
    with serving(lambda _: stamped("01.06.2026 10:00", "31.05.2026 12:00")) as fake:
        pages, error = failing(source(fake, checkpoint="at"))
        (stated,) = polled(fake, checkpoint_format="%d.%m.%Y %H:%M")

    assert pages == []
    assert "checkpoint_format" in str(error)
    assert stated.checkpoint == "01.06.2026 10:00"


def test_a_stored_checkpoint_of_another_format_is_said_clearly() -> None:
    with serving(lambda _: stamped()) as fake:
        _, error = failing(source(fake, checkpoint="at"), "next tuesday")

    assert "rewind" in str(error)
    assert fake.asked == []


def test_the_first_checkpoint_is_handed_out_until_there_is_one() -> None:
    with serving(lambda _asked: Say({"tickets": [{"id": 7, "title": "t"}]})) as fake:
        polled = source(fake, params={"since": "{{ checkpoint }}"}, checkpoint="id", first_checkpoint="0")
        list(polled.poll(None))
        list(polled.poll("7"))

    assert [asked.query["since"] for asked in fake.asked] == ["0", "7"]
