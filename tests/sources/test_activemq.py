"""The source ``activemq`` against a real broker: taken once it is safe, and not before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest
from pydantic import ValidationError

from poller.errors import BlockedError, TransientError
from poller.model import Page
from poller.ports import Looking
from poller.sources.activemq import PAGE, ActivemqSource, ActivemqSourceSettings
from tests import activemq
from tests.activemq import Broker, put, taken

pytestmark = pytest.mark.activemq


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with activemq.broker() as one:
        yield one


def nothing(_asked: Sequence[tuple[str, str]]) -> set[str]:
    """Stand for an empty store; not the port's own default, with which a source only looks."""
    return set()


def source_of(broker: Broker, destination: str, **keys: Any) -> ActivemqSource:
    given = {
        "type": "activemq", "url": broker.url, "destination": destination, "quiet": "500ms",
        "username": activemq.USER, "password": activemq.PASSWORD, "fields": {"title": "subject"},
    }  # fmt: skip
    return ActivemqSource(ActivemqSourceSettings.model_validate(given | keys))


def ticket(number: object, subject: str = "Printer") -> bytes:
    return json.dumps({"id": number, "subject": subject}).encode()


def keys(pages: Sequence[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def refused(**given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ActivemqSourceSettings.model_validate(
            {"type": "activemq", "url": "stomp://localhost", "destination": "/queue/q", "fields": {"a": "b"}, **given}
        )
    return " | ".join(str(detail["msg"]) for detail in caught.value.errors(include_input=False))


# Messages and records.


def test_messages_are_taken_in_order_and_the_queue_is_empty(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, *(ticket(number) for number in range(3 * PAGE + 5)))

    pages = list(source_of(broker, queue, key="id").poll(None, nothing))

    assert keys(pages) == [str(number) for number in range(3 * PAGE + 5)]
    assert [page.last for page in pages] == [False] * 4 + [True]
    assert taken(broker, queue) == []


def test_an_empty_queue_is_one_empty_page(broker: Broker) -> None:
    assert list(source_of(broker, broker.queue()).poll(None, nothing)) == [Page(last=True)]


def test_without_a_key_the_id_of_the_message_is_the_key(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, ticket(1), x_message_id="t\\c1")
    put(broker, queue, ticket(2))

    (page, _) = source_of(broker, queue).poll(None, nothing)

    assert page.records[0].key == "t:1"
    assert page.records[1].key.startswith("ID:")


def test_a_copy_with_the_same_id_is_the_same_record(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, ticket(1), ticket(1), x_message_id="m-1")

    pages = list(source_of(broker, queue).poll(None, nothing))

    assert {(record.key, record.version) for page in pages for record in page.records} == {
        ("m-1", pages[0].records[0].version)
    }
    assert taken(broker, queue) == []


def test_a_later_message_about_the_same_record_is_given_after_the_first_is_safe(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, ticket(1, "old"), ticket(2), ticket(1, "new"))

    pages = list(source_of(broker, queue, key="id").poll(None, nothing))

    titles = [[(record.key, record.fields["title"]) for record in page.records] for page in pages]
    assert titles == [[("1", "old"), ("2", "Printer")], [("1", "new")], []]


@pytest.mark.parametrize(
    ("given", "body", "wanted"),
    [
        ({"format": "xml"}, "<t><id>1</id><subject>Müll</subject></t>".encode(), [("m", "Müll")]),
        ({"format": "csv", "encoding": "latin-1"}, "id,subject\n1,Müll\n2,x".encode("latin-1"), [("m:1", "Müll"), ("m:2", "x")]),
        ({"records": "all"}, b'{"all": [{"subject": "a"}, {"subject": "b"}]}', [("m:1", "a"), ("m:2", "b")]),
        ({"records": "all", "key": "id"}, b'{"all": [{"id": 5, "subject": "a"}]}', [("5", "a")]),
        ({}, b'{"subject": "\\u0000"}', [("m", "\ufffd")]),
    ],
)  # fmt: skip
def test_every_format_is_read_as_elsewhere(
    broker: Broker, given: dict[str, Any], body: bytes, wanted: list[tuple[str, str]]
) -> None:
    queue = broker.queue()
    put(broker, queue, body, x_message_id="m")

    pages = list(source_of(broker, queue, **given).poll(None, nothing))

    assert [(record.key, record.fields["title"]) for page in pages for record in page.records] == wanted


# Dead letters.


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe\0", b"<!DOCTYPE a><a/>", b'{"a": NaN}', b"[" * 5000, b"\0\nSEND\n\nx\0"]
)
def test_a_message_that_cannot_be_read_is_a_dead_letter_with_its_text_and_stops_no_other(
    broker: Broker, body: bytes
) -> None:
    queue = broker.queue()
    put(broker, queue, body, x_message_id="bad")
    put(broker, queue, ticket(2), x_message_id="good")

    pages = list(source_of(broker, queue).poll(None, nothing))

    (dead,) = [each for page in pages for each in page.malformed]
    assert (dead.key, keys(pages)) == ("bad", ["good"])
    assert dead.raw == body.decode("utf-8", "replace").replace("\0", "\ufffd")
    assert taken(broker, queue) == []
    assert taken(broker, queue.replace("/queue/", "/queue/DLQ."), quiet=0.3) == []


def test_a_message_larger_than_max_body_is_a_dead_letter(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, ticket(1, "x" * 900_000), ticket(2))

    pages = list(source_of(broker, queue, max_body="100kB", key="id").poll(None, nothing))

    (dead,) = [each for page in pages for each in page.malformed]
    assert "max_body" in dead.reason
    assert len(dead.raw) == 64_000
    assert keys(pages) == ["2"]


def test_a_record_without_a_required_field_is_a_dead_letter_under_its_key(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, ticket(1, ""), x_message_id="m-1")

    pages = list(source_of(broker, queue, required=["title"]).poll(None, nothing))

    assert [each.key for page in pages for each in page.malformed] == ["m-1"]


# Safe before it is taken.


def test_f67_what_was_not_committed_comes_again_with_the_same_key(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, *(ticket(number) for number in range(2 * PAGE)))
    source = source_of(broker, queue)
    firsts = []
    for _ in range(8):
        # The commit failed, or this process was killed: nobody asks for the next page.
        pages = source.poll(None, nothing)
        firsts.append(next(pages))
        pages.close()  # type: ignore[attr-defined]

    again = list(source.poll(None, nothing))

    assert [keys([first]) for first in firsts] == [keys(again)[:PAGE]] * 8
    assert [record.fields["title"] for record in again[0].records] == ["Printer"] * PAGE
    assert len(set(keys(again))) == 2 * PAGE
    assert taken(broker, queue) == []
    assert taken(broker, queue.replace("/queue/", "/queue/DLQ."), quiet=0.3) == []


def test_f67_what_was_committed_while_the_broker_died_comes_again_and_is_known(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, *(ticket(number) for number in range(PAGE + 3)))
    source = source_of(broker, queue)
    pages = source.poll(None, nothing)
    first = next(pages)
    broker.kill()
    with pytest.raises(TransientError):
        next(pages)
    with pytest.raises(TransientError) as caught:
        list(source.poll(None, nothing))
    assert caught.value.remote
    broker.start()

    again = list(source.poll(None, nothing))

    assert [(each.key, each.version) for each in again[0].records] == [(e.key, e.version) for e in first.records]
    assert len(keys(again)) == PAGE + 3


def test_a_page_is_taken_once_the_next_one_is_asked_for(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, *(ticket(number) for number in range(2 * PAGE)))
    pages = source_of(broker, queue, key="id").poll(None, nothing)
    assert len(list(islice(pages, 2))) == 2
    pages.close()  # type: ignore[attr-defined]

    left = [json.loads(message.body)["id"] for message in taken(broker, queue)]

    assert left == list(range(PAGE, 2 * PAGE))


def test_two_daemons_on_one_queue_share_it_and_lose_nothing(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, *(ticket(number) for number in range(6 * PAGE)))
    first, second = (source_of(broker, queue, key="id").poll(None, nothing) for _ in range(2))
    pages = [next(first), next(second)]
    pages += [*first, *second]

    assert sorted(map(int, keys(pages))) == list(range(6 * PAGE))


# Looking.


def test_who_only_looks_takes_nothing(broker: Broker) -> None:
    queue = broker.queue()
    put(broker, queue, *(ticket(number) for number in range(PAGE + 1)))
    source = source_of(broker, queue, key="id")
    assert isinstance(source, Looking)

    looked = list(source.look(None))
    assumed = list(source.poll(None))

    assert keys(looked) == keys(assumed) == [str(number) for number in range(PAGE + 1)]
    assert [page.last for page in looked] == [False, False, True]
    assert len(taken(broker, queue)) == PAGE + 1


# Refusals and settings.


def test_a_wrong_password_or_no_rights_block_the_route(broker: Broker) -> None:
    for given in ({"password": "not-this-one"}, {"username": "reader"}):
        with pytest.raises(BlockedError) as caught:
            list(source_of(broker, broker.queue(), **given).poll(None, nothing))
        assert "not-this-one" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"destination": "/topic/t"}, "a topic keeps nothing"),
        ({"destination": "t"}, "one place"),
        ({"format": "csv", "records": "a"}, "CSV has none"),
        ({"key": "a["}, ""),
        ({"required": ["x"]}, "not among the fields"),
        ({"quiet": "0s"}, "greater than"),
    ],
)
def test_settings_that_make_no_sense_are_told(given: dict[str, Any], words: str) -> None:
    assert words in refused(**given)
