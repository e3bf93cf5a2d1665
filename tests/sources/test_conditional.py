"""Conditional requests: they save bytes and never a record."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from poller.errors import TransientError
from poller.model import Page
from poller.sources.conditional import Unchanged
from poller.sources.http import HttpSource, HttpSourceSettings
from poller.sources.queries import Query
from tests.sources.fake import Asked, Fake, Say, serving

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


def source(fake: Fake, **keys: Any) -> HttpSource:
    given = {"type": "http", "url": f"{fake.url}/api", "key": "id", "fields": {"title": "subject"}}
    return HttpSource(HttpSourceSettings.model_validate({**given, **keys}))


def tagged(state: list[int], **headers: str) -> Any:
    """Return a source that says 304 where nothing has changed; *state* holds the ids of its records."""

    def answer(asked: Asked) -> Say:
        etag = f'"{len(state)}"'
        if asked.headers.get("If-None-Match") == etag:
            return Say(b"", status=304)
        return Say([{"id": n} for n in state], headers=headers or {"ETag": etag})

    return answer


def conditions(fake: Fake) -> list[str | None]:
    return [asked.headers.get("If-None-Match") or asked.headers.get("If-Modified-Since") for asked in fake.asked]


def test_an_unchanged_list_is_not_sent_again_and_a_changed_one_is() -> None:
    state = [1]
    with serving(tagged(state)) as fake:
        polled = source(fake)
        pages = [list(polled.poll(None)) for _ in range(3)]
        state.append(2)
        pages.append(list(polled.poll(None)))

    assert [[record.key for record in page.records] for (page,) in pages] == [["1"], [], [], ["1", "2"]]
    assert pages[1] == [Page(last=True)]
    assert conditions(fake) == [None, '"1"', '"1"', '"1"']


def test_a_304_keeps_the_checkpoint() -> None:
    with serving(tagged([1])) as fake:
        polled = source(fake, checkpoint="id")
        list(polled.poll("5"))
        (page,) = polled.poll("5")

    assert page == Page(checkpoint="5", last=True)


def test_another_checkpoint_or_another_question_is_asked_in_full() -> None:
    with serving(tagged([1])) as fake:
        polled = source(fake, checkpoint="id", params={"since": "{{ checkpoint }}"})
        for checkpoint in ("5", "6", "6", "5"):
            list(polled.poll(checkpoint))

    assert conditions(fake) == [None, None, '"1"', None]


def test_nothing_is_remembered_of_a_poll_that_was_not_read_to_its_end() -> None:
    with serving(tagged([1])) as fake:
        polled = source(fake)
        for _ in range(2):
            # The page was given away, and never committed.
            pages = polled.poll(None)
            next(pages)
            pages.close()  # type: ignore[attr-defined]
        list(polled.poll(None))
        pages = polled.poll(None)
        next(pages)
        pages.close()  # type: ignore[attr-defined]
        list(polled.poll(None))

    assert conditions(fake) == [None, None, None, '"1"', None]


def test_nothing_is_remembered_of_several_pages() -> None:
    def answer(asked: Asked) -> Say:
        number = int(asked.query["page"])
        return Say([{"id": number}] if number < 3 else [], headers={"ETag": '"x"'})

    with serving(answer) as fake:
        polled = source(fake, paging={"type": "page"})
        list(polled.poll(None))
        list(polled.poll(None))

    assert conditions(fake) == [None] * 6


def test_nothing_is_remembered_after_a_fault() -> None:
    answers = [
        Say([{"id": 1}], headers={"ETag": '"a"'}),
        Say({}, status=500),
        Say([{"id": 1}], headers={"ETag": '"a"'}),
    ]
    with serving(lambda _: answers.pop(0)) as fake:
        polled = source(fake)
        list(polled.poll(None))
        with pytest.raises(TransientError):
            list(polled.poll(None))
        list(polled.poll(None))

    assert conditions(fake) == [None, '"a"', None]


def test_a_304_that_nobody_asked_for_is_a_fault() -> None:
    with serving(lambda _: Say(b"", status=304)) as fake, pytest.raises(TransientError, match="304"):
        list(source(fake).poll(None))


@pytest.mark.parametrize(("age", "used"), [(59, False), (61, True), (-10, False)])
def test_a_time_of_change_serves_only_where_it_can_tell_two_states_apart(age: int, used: bool) -> None:
    changed = format_datetime(NOW - timedelta(seconds=age), usegmt=True)
    with serving(lambda _: Say([], headers={"Last-Modified": changed}, date=NOW)) as fake:
        polled = source(fake)
        list(polled.poll(None))
        list(polled.poll(None))

    assert conditions(fake) == [None, changed if used else None]


def test_post_queries_are_never_conditional() -> None:
    with serving(lambda _: Say([], headers={"ETag": '"a"'})) as fake:
        polled = source(fake, method="POST", body={"q": 1})
        list(polled.poll(None))
        list(polled.poll(None))

    assert conditions(fake) == [None, None]


def test_every_hour_the_whole_is_asked_for_whatever_the_source_believes() -> None:
    seconds = [0.0]
    with serving(tagged([1])) as fake:
        polled = source(fake)
        polled._unchanged = Unchanged(clock=lambda: seconds[0])
        for at in (0.0, 1800.0, 3599.0, 3601.0, 3602.0):
            seconds[0] = at
            list(polled.poll(None))

    assert conditions(fake) == [None, '"1"', '"1"', None, '"1"']


def test_validators_of_another_query_are_not_taken() -> None:
    assert Unchanged().take(Query(url="https://a.example/"), None) == {}
