"""Queries that stand in a body: searches, GraphQL, forms."""

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from poller.errors import TransientError
from poller.model import Page
from poller.sources.http import HttpSource, HttpSourceSettings
from tests.sources.fake import Asked, Fake, Say, serving


def source(fake: Fake, **keys: Any) -> HttpSource:
    given = {"type": "http", "url": f"{fake.url}/search", "method": "POST", "records": "hits", "key": "id"}
    return HttpSource(HttpSourceSettings.model_validate({**given, "fields": {"title": "subject"}, **keys}))


def hits(*numbers: int, **more: Any) -> Say:
    return Say({"hits": [{"id": n, "at": n} for n in numbers], **more})


def keys(pages: list[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def test_a_table_is_sent_as_json_and_what_needs_the_checkpoint_is_left_out_at_first() -> None:
    body = {
        "query": {"range": {"at": {"gte": "{{ checkpoint }}"}}, "state": ["open", "{{ checkpoint }}"]},
        "size": 50,
        "deep": True,
        "ratio": 1.5,
        "nothing": None,
        "since": "{{ checkpoint | int }}",
        "plain": "{ no template }",
    }
    with serving(lambda _: hits(4711)) as fake:
        polled = source(fake, body=body, checkpoint="at")
        (page,) = polled.poll(None)
        list(polled.poll(page.checkpoint))

    first, second = (asked.sent for asked in fake.asked)
    rest = {"size": 50, "deep": True, "ratio": 1.5, "nothing": None, "plain": "{ no template }"}
    assert first == {"query": {"range": {"at": {}}, "state": ["open"]}, **rest}
    assert second == {
        "query": {"range": {"at": {"gte": "4711"}}, "state": ["open", "4711"]},
        "since": 4711,
        **rest,
    }
    assert [asked.method for asked in fake.asked] == ["POST", "POST"]
    assert fake.asked[0].headers["Content-Type"] == "application/json"


def test_a_list_is_sent_as_json_and_a_header_of_the_settings_counts_more() -> None:
    with serving(lambda _: hits(1)) as fake:
        list(source(fake, body=["a", {"b": 1}], headers={"content-type": "application/vnd.x+json"}).poll(None))

    assert fake.asked[0].sent == ["a", {"b": 1}]
    assert fake.asked[0].headers["content-type"] == "application/vnd.x+json"


def test_no_body_is_a_post_all_the_same() -> None:
    with serving(lambda _: hits(1)) as fake:
        list(source(fake).poll(None))

    assert (fake.asked[0].method, fake.asked[0].body) == ("POST", b"")


@pytest.mark.parametrize(
    ("paging", "body", "sent"),
    [
        ({"type": "offset", "size": 2}, {"from": "{{ offset }}", "size": 2}, [{"from": n, "size": 2} for n in (0, 2, 4, 5)]),
        ({"type": "page", "start": 0}, {"p": "{{ page }}"}, [{"p": n} for n in (0, 1, 2, 3)]),
        (
            {"type": "cursor", "cursor": "next"},
            {"query": "{ tickets }", "variables": {"after": "{{ cursor }}"}},
            [{"query": "{ tickets }", "variables": v} for v in ({}, {"after": "c1"}, {"after": "c2"})],
        ),
    ],
)  # fmt: skip
def test_the_place_in_the_list_stands_in_the_body(
    paging: dict[str, Any], body: dict[str, Any], sent: list[Any]
) -> None:
    def answer(asked: Asked) -> Say:
        given = asked.sent
        page = int(given.get("variables", {}).get("after", "c0")[1:]) + given.get("p", 0)
        start = given.get("from", page * 2)
        place = start // 2 + 1
        return hits(*range(start, min(5, start + 2)), next=f"c{place}" if place < 3 else None)

    with serving(answer) as fake:
        pages = list(source(fake, paging=paging, body=body).poll(None))

    assert keys(pages) == ["0", "1", "2", "3", "4"]
    assert [asked.sent for asked in fake.asked] == sent
    # What stands in the body stands nowhere else.
    assert all(asked.query == {} for asked in fake.asked)


def test_the_place_goes_into_the_query_where_no_template_asks_for_it() -> None:
    def answer(asked: Asked) -> Say:
        start = int(asked.query["offset"])
        return hits(*range(start, min(3, start + 2)))

    with serving(answer) as fake:
        pages = list(source(fake, paging={"type": "offset", "size": 2}, body={"q": "x"}).poll(None))

    assert keys(pages) == ["0", "1", "2"]
    assert fake.asked[1].query == {"offset": "2", "limit": "2"}
    assert all(asked.sent == {"q": "x"} for asked in fake.asked)


def test_a_param_may_use_the_place_too() -> None:
    def answer(asked: Asked) -> Say:
        given = json.loads(asked.query.get("filter", "{}"))
        return hits(given.get("after", 0) + 1, next=str(given.get("after", 0) + 1) if given.get("after", 0) < 2 else "")

    with serving(answer) as fake:
        params = {"filter": '{"after": {{ cursor }}}'}
        pages = list(source(fake, method="GET", paging={"type": "cursor", "cursor": "next"}, params=params).poll(None))

    assert keys(pages) == ["1", "2", "3"]


def test_a_text_is_sent_as_it_is() -> None:
    body = "q=open&since={{ checkpoint|default('') |urlencode }}{% if cursor is defined %}&cursor={{ cursor|urlencode }}{% endif %}"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    replies = [hits(1, next="a&b=c"), hits(2), hits()]
    with serving(lambda _: replies.pop(0)) as fake:
        polled = source(fake, body=body, headers=form, checkpoint="at", paging={"type": "cursor", "cursor": "next"})
        pages = list(polled.poll(None))
        list(polled.poll(pages[-1].checkpoint))

    sent = [dict(parse_qsl(asked.body.decode(), keep_blank_values=True)) for asked in fake.asked]
    assert sent == [
        {"q": "open", "since": ""},
        {"q": "open", "since": "", "cursor": "a&b=c"},
        {"q": "open", "since": "2"},
    ]
    assert fake.asked[0].headers["Content-Type"] == form["Content-Type"]


def test_an_outcome_that_is_not_known_is_simply_asked_again_by_the_next_poll() -> None:
    replies = [Say({}, status=502), hits(1)]
    with serving(lambda _: replies.pop(0)) as fake:
        polled = source(fake, body={"q": "x"})
        with pytest.raises(TransientError):
            list(polled.poll(None))
        pages = list(polled.poll(None))

    assert keys(pages) == ["1"]
    assert len(fake.asked) == 2


def test_a_link_is_followed_with_the_same_body_and_without_params() -> None:
    def answer(asked: Asked) -> Say:
        number = int(asked.query.get("page", "1"))
        return hits(number) if number == 2 else Say({"hits": [{"id": 1}]}, headers={"Link": '<?page=2>; rel="next"'})

    with serving(answer) as fake:
        pages = list(source(fake, body={"q": "x"}, params={"a": "b"}, paging={"type": "link"}).poll(None))

    assert keys(pages) == ["1", "2"]
    assert [asked.query for asked in fake.asked] == [{"a": "b"}, {"page": "2"}]
    assert all(asked.sent == {"q": "x"} for asked in fake.asked)
