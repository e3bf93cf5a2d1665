"""Another version of a known record: updates collapse to the newest, messages do not, and both keep their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from poller.errors import PermanentError, UnknownOutcome
from poller.model import Malformed, Operation, Page, Receipt, SourceRecord
from poller.store import Store
from poller.store.reading import counts, record_lines, snapshot
from poller.store.standing import enter_route
from poller.tables import deliveries, records
from tests.fakes import Messages, last
from tests.house import House


def page(key: str, version: str, order: str | None = None, **fields: str) -> Page:
    return Page(records=(SourceRecord(key=key, version=version, fields=fields, order=order),), last=True)


def see(house: House, *pages: Page) -> None:
    for each in pages:
        house.source.pages = [each]
        assert house.poll()


@pytest.fixture
def sending(store: Store) -> House:
    """Every version is a message of its own."""
    return House.sending(store)


@pytest.fixture
def updating(house: House) -> House:
    """Another version updates the incident."""
    house.route = replace(house.route, receiver=replace(house.route.receiver, changes=Operation.UPDATE))
    house.dispatcher = house.dispatch()
    return house


def sent(house: House) -> list[tuple[str, str]]:
    return [(intent.key, intent.version) for intent in house.sink.posts]


def table(house: House) -> list[tuple[str, str, str]]:
    query = select(deliveries.c.operation, deliveries.c.version, deliveries.c.state).order_by(deliveries.c.id)
    with house.store.read() as connection:
        return [(row.operation, row.version, row.state) for row in connection.execute(query)]


def test_every_version_that_was_observed_is_sent_in_order(sending: House) -> None:
    see(sending, page("1", "a"), page("1", "b"), page("1", "c"), page("2", "a"))
    sending.turn(12)
    assert [each for each in sent(sending) if each[0] == "1"] == [("1", "a"), ("1", "b"), ("1", "c")]
    assert ("2", "a") in sent(sending)
    assert len({intent.message_id for intent in sending.sink.posts}) == 4


def test_a_version_seen_again_is_sent_once(sending: House) -> None:
    see(sending, page("1", "a"), page("1", "a"), page("1", "b"), page("1", "b"))
    sending.turn(12)
    assert sent(sending) == [("1", "a"), ("1", "b")]


def test_a_record_that_goes_back_to_what_it_was_is_sent_again(sending: House) -> None:
    see(sending, page("1", "a"), page("1", "b"), page("1", "a"), page("1", "b"))
    sending.turn(12)
    assert [version.partition("~")[0] for _, version in sent(sending)] == ["a", "b", "a", "b"]
    assert len({intent.message_id for intent in sending.sink.posts}) == 4


def test_an_older_version_is_ignored_where_versions_can_be_compared(sending: House) -> None:
    see(sending, page("1", "2", order="n2"), page("1", "1", order="n1"), page("1", "3", order="n3"))
    sending.turn(12)
    assert sent(sending) == [("1", "2"), ("1", "3")]


def test_a_dead_version_stops_those_behind_it_and_no_other_record(sending: House) -> None:
    sending.sink.script = [PermanentError("not valid")]
    see(sending, page("1", "a"))
    sending.turn()
    see(sending, page("1", "b"), page("2", "a"))
    sending.turn(12)
    assert sent(sending) == [("1", "a"), ("2", "a")]
    assert table(sending) == [("send", "a", "dead"), ("send", "b", "pending"), ("send", "a", "delivered")]


def test_an_unknown_outcome_is_sent_again_under_the_same_id_before_the_next_version(sending: House) -> None:
    sending.sink.script = [UnknownOutcome("no receipt"), UnknownOutcome("no receipt")]
    see(sending, page("1", "a"), page("1", "b"))
    sending.turn()
    for _ in range(4):
        sending.let(minutes=15)
    assert [version for _, version in sent(sending)] == ["a", "a", "a", "b"]
    assert len({intent.message_id for intent in sending.sink.posts}) == 2


def test_a_change_that_cannot_be_read_is_a_dead_letter_until_a_readable_version_comes(sending: House) -> None:
    see(sending, page("1", "a"))
    sending.turn()
    see(sending, Page(malformed=(Malformed(reason="no title", raw="{", key="1"),), last=True))
    sending.turn()
    assert [state for _, _, state in table(sending)] == ["delivered", "dead"]
    see(sending, page("1", "a"))
    sending.turn()
    assert [version.partition("~")[0] for _, version in sent(sending)] == ["a", "a"]


def test_an_update_waits_for_the_create_and_only_the_newest_is_sent(updating: House) -> None:
    see(updating, page("1", "a"), page("1", "b"), page("1", "c"))
    updating.turn(12)
    assert [(intent.operation, intent.version) for intent in updating.sink.posts] == [
        (Operation.CREATE, "a"),
        (Operation.UPDATE, "c"),
    ]
    assert table(updating) == [("create", "a", "delivered"), ("update", "b", "skipped"), ("update", "c", "delivered")]
    assert updating.rows(records)[0]["version"] == "c"


def test_an_update_carries_no_sys_id_of_ours_and_is_not_read_back(updating: House) -> None:
    see(updating, page("1", "a"), page("1", "b"))
    updating.turn(12)
    create, update = updating.sink.posts
    assert (create.with_sys_id, create.read_back) == (True, True)
    assert (update.with_sys_id, update.read_back) == (False, False)


def test_a_newer_version_takes_the_place_of_a_dead_update(updating: House) -> None:
    see(updating, page("1", "a"))
    updating.turn()
    updating.sink.script = [PermanentError("data policy")]
    see(updating, page("1", "b"))
    updating.turn()
    assert table(updating)[-1] == ("update", "b", "dead")
    see(updating, page("1", "c"))
    updating.turn(12)
    assert table(updating)[-2:] == [("update", "b", "skipped"), ("update", "c", "delivered")]


def test_a_record_that_was_there_before_the_route_is_not_updated(updating: House) -> None:
    updating.route = replace(updating.route, receiver=replace(updating.route.receiver, baseline=True))
    see(updating, page("1", "a"), page("1", "b"))
    updating.turn()
    assert table(updating) == [("create", "a", "skipped")]


def test_an_update_that_is_not_needed_is_skipped_and_says_why(updating: House) -> None:
    see(updating, page("1", "a"))
    updating.turn()
    updating.sink.commit = lambda _intent: Receipt(learnt="response", unneeded="the incident is closed")  # type: ignore[method-assign, assignment]
    see(updating, page("1", "b"))
    updating.turn()
    (line,) = _lines(updating)
    assert (line.shown, line.why) == ("delivered", "the incident is closed")
    assert table(updating)[-1] == ("update", "b", "skipped")


def _lines(house: House) -> list[Any]:
    with snapshot(house.store) as connection:
        return list(connection.execute(record_lines()))


# Replies.


@pytest.fixture
def replying(house: House) -> House:
    with house.store.write() as connection:
        beside = enter_route(connection, "helpdesk/reply", None, now=house.clock.now())
    replies = Messages()
    replies.remote, replies.operation = "origin", Operation.REPLY
    reply = replace(
        house.route,
        name="helpdesk/reply",
        source=None,
        sink=replies,
        receiver=replace(house.route.receiver, route_id=beside.id, operation=Operation.REPLY),
        policy=replace(house.route.policy, guarded=False),
    )
    house.route = replace(house.route, replies=beside.id)
    house.dispatcher.replace_routes({"helpdesk": house.route, "helpdesk/reply": reply})
    house.replies = replies  # type: ignore[attr-defined]
    return house


def test_a_reply_is_owed_for_each_incident_and_sent_once(replying: House) -> None:
    see(replying, last("1", "2"))
    replying.turn(12)
    assert sorted(intent.key for intent in replying.replies.posts) == ["1", "2"]  # type: ignore[attr-defined]
    assert {line.shown for line in _lines(replying)} == {"delivered"}


def test_a_reply_that_fails_touches_neither_the_incident_nor_its_route(replying: House) -> None:
    replying.replies.script = [PermanentError("gone")]  # type: ignore[attr-defined]
    see(replying, last("1"))
    replying.turn(12)
    (line,) = _lines(replying)
    assert (line.shown, line.number) == ("replying", "INC0000001")
    assert replying.rows(records)[0]["settled_at"] is not None
    assert [state for _, _, state in table(replying)] == ["delivered", "dead"]
    see(replying, last("2"))
    replying.turn(12)
    with snapshot(replying.store) as connection:
        assert counts(connection) == {"helpdesk": {"replying": 1, "delivered": 1}}


@pytest.mark.parametrize("changes", [None, Operation.UPDATE])
def test_another_version_takes_the_place_of_a_record_that_never_was_sent(
    house: House, changes: Operation | None
) -> None:
    house.route = replace(house.route, receiver=replace(house.route.receiver, changes=changes))
    house.sink.dead_keys = {"1"}
    see(house, page("1", "a"))
    house.turn(12)
    assert table(house) == [("create", "a", "dead")]
    house.sink.dead_keys = set()

    see(house, page("1", "b"))
    house.turn(12)

    assert table(house) == [("create", "b", "delivered")]
    assert sent(house) == [("1", "b")]
