"""The store's contract, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, insert, literal, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from poller.clock import Clock
from poller.dispatcher import Dispatcher
from poller.errors import DatabaseUnusable, SettingsError, UnknownOutcome
from poller.guard import Proof
from poller.identity import correlation_id
from poller.lifecycle import Claim, Verdict
from poller.migrate import upgrade
from poller.model import Malformed, Operation, Page, Receipt, State
from poller.store import Store, due, intents, leases, open_store, settling, standing
from poller.store.receiving import Counts, Receiver, receive
from poller.store.settling import Settled
from poller.store.standing import RemoteStanding, enter_route, fix_prefix
from poller.tables import attempts, deliveries, late_results, payloads, records, routes
from tests.fakes import last, records as some
from tests.house import House

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HOUR = timedelta(hours=1)

T = TypeVar("T")


@pytest.fixture
def receiver(store: Store) -> Receiver:
    return receiver_of(store, "helpdesk")


def receiver_of(store: Store, name: str, *, baseline: bool = False) -> Receiver:
    with store.write() as connection:
        row = enter_route(connection, name, None, now=NOW)
    return Receiver(
        route_id=row.id, identity=row.identity, prefix="test", operation=Operation.CREATE, baseline=baseline
    )


def take(store: Store, receiver: Receiver, page: Page) -> Counts:
    with store.write() as connection:
        return receive(connection, receiver, page, now=NOW)


def ask(store: Store, query: Any) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(query).all())


def count(store: Store, table: Any) -> int:
    return int(ask(store, select(func.count()).select_from(table))[0][0])


def at_once(number: int, act: Callable[[int], T]) -> list[T]:
    """Do the same in so many threads, which all begin together."""
    gate = threading.Barrier(number)

    def wait_and_act(index: int) -> T:
        gate.wait(timeout=20)
        return act(index)

    with ThreadPoolExecutor(number) as pool:
        return [one.result(timeout=60) for one in [pool.submit(wait_and_act, index) for index in range(number)]]


# Receiving.


def test_the_same_page_twice_is_one_row_each(store: Store, receiver: Receiver) -> None:
    page = Page(records=some(*map(str, range(1200))), last=True)

    first, again = take(store, receiver, page), take(store, receiver, page)

    assert (first.new, first.known, again.new, again.known) == (1200, 0, 0, 1200)
    assert (count(store, records), count(store, deliveries), count(store, payloads)) == (1200, 1200, 1200)


def test_the_same_page_from_four_threads_is_one_row_each(store: Store, receiver: Receiver) -> None:
    page = Page(records=some(*map(str, range(700))), last=True, checkpoint="5")

    counts = at_once(4, lambda _index: take(store, receiver, page))

    assert sum(each.new for each in counts) == 700
    assert sum(each.known for each in counts) == 3 * 700
    assert (count(store, records), count(store, deliveries), count(store, payloads)) == (700, 700, 700)


def test_overlapping_pages_in_other_orders_do_not_block_each_other(store: Store, receiver: Receiver) -> None:
    keys = [str(number) for number in range(300)]
    pages = [Page(records=some(*order), last=True) for order in (keys, keys[::-1], keys[150:] + keys[:150], keys[::-1])]

    def take_patiently(index: int) -> None:
        for _ in range(5):
            try:
                take(store, receiver, pages[index])
            except OperationalError as error:
                # PostgreSQL ends one of two that wait for each other; a poll tries again at its next time.
                if "deadlock" not in str(error):
                    raise
            else:
                return

    at_once(4, take_patiently)

    assert count(store, records) == 300


def test_a_record_whose_correlation_id_another_has_is_not_lost_without_a_word(store: Store, receiver: Receiver) -> None:
    take(store, receiver, last("1"))
    with store.write() as connection:
        connection.execute(update(records).values(correlation_id=correlation_id("test", receiver.identity, "2")))

    with pytest.raises(IntegrityError, match="correlation_id"):
        take(store, receiver, last("1", "2", checkpoint="further"))

    assert count(store, records) == 1


def test_the_same_key_in_two_routes_is_two_records(store: Store) -> None:
    one, other = receiver_of(store, "one"), receiver_of(store, "other")

    take(store, one, last("1"))
    take(store, other, last("1"))

    ids = [row[0] for row in ask(store, select(records.c.correlation_id))]
    assert sorted(ids) == sorted([correlation_id("test", "one", "1"), correlation_id("test", "other", "1")])


def test_the_checkpoint_moves_only_with_the_last_page(store: Store, receiver: Receiver) -> None:
    def value() -> str | None:
        with store.read() as connection:
            return standing.poll_standing(connection, receiver.route_id).value

    take(store, receiver, Page(records=some("1"), checkpoint="2026-01-01"))
    assert value() is None
    take(store, receiver, Page(records=some("2"), checkpoint="2026-01-02", last=True))
    assert value() == "2026-01-02"
    take(store, receiver, Page(records=some("3"), checkpoint="2026-01-03"))
    assert value() == "2026-01-02"
    take(store, receiver, Page(last=True))
    assert value() == "2026-01-02"
    take(store, receiver, Page(checkpoint="cursor", resume=True))
    assert value() == "cursor"


def test_a_page_that_breaks_off_leaves_nothing(store: Store, receiver: Receiver) -> None:
    def breaks_off() -> None:
        with store.write() as connection:
            receive(connection, receiver, last("1", checkpoint="9"), now=NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks_off()

    assert count(store, records) == 0
    with store.read() as connection:
        assert standing.poll_standing(connection, receiver.route_id).value is None


NASTY = ["", " ", "a\nb", "ключ", "🔑", "'; DROP TABLE records; --", "%", "_", "x" * 600, "null", "İ", "\x7f", "a\tb"]


def test_keys_of_all_kinds_are_kept_as_they_are(store: Store, receiver: Receiver) -> None:
    page = Page(records=some(*NASTY, description="\U0001f4a5 \u2028 '\" \\ %s :name"), last=True)

    take(store, receiver, page)
    again = take(store, receiver, page)

    assert again.known == len(NASTY)
    assert {row[0] for row in ask(store, select(records.c.key))} == set(NASTY)
    kept = {row[0] for row in ask(store, select(payloads.c.fields))}
    assert {json.loads(fields)["description"] for fields in kept} == {"\U0001f4a5 \u2028 '\" \\ %s :name"}


def test_what_cannot_be_a_key_is_a_dead_letter_and_the_rest_goes_on(store: Store, receiver: Receiver) -> None:
    page = Page(
        records=some("ok", "x" * 601),
        malformed=(Malformed(reason="no key", raw="{\x00\ud800}"), Malformed(reason="no title", raw="{}", key="7")),
        last=True,
    )

    counts = take(store, receiver, page)
    again = take(store, receiver, page)

    assert (counts.new, counts.malformed, again.new) == (1, 2, 0)
    assert len(counts.dead) == 3
    assert not again.dead
    states = Counter(row[0] for row in ask(store, select(deliveries.c.state)))
    assert states == {"pending": 1, "dead": 3}


def test_a_change_is_noted_and_makes_no_second_record(store: Store, receiver: Receiver) -> None:
    take(store, receiver, Page(records=some("1", version="1"), last=True))

    counts = take(store, receiver, Page(records=some("1", version="2"), last=True))
    again = take(store, receiver, Page(records=some("1", version="2"), last=True))

    assert (counts.new, counts.known, counts.changed, again.changed) == (0, 1, 1, 0)
    assert ask(store, select(records.c.version, records.c.seen_version)) == [("1", "2")]


def test_on_a_baseline_records_are_skipped(store: Store) -> None:
    take(store, receiver_of(store, "helpdesk", baseline=True), last("1", "2"))

    assert ask(store, select(deliveries.c.state, deliveries.c.reason).distinct()) == [("skipped", "baseline")]


# Claiming.


def ready(store: Store, receiver: Receiver, number: int) -> None:
    """Make so many deliveries with a frozen body."""
    take(store, receiver, Page(records=some(*map(str, range(number))), last=True))
    with store.write() as connection:
        connection.execute(update(deliveries).values(state="ready", body="{}"))


def claim(store: Store, receiver: Receiver, owner: str, limit: int, *, now: datetime = NOW) -> list[Claim]:
    """Take on what is due, as the dispatcher does: in one transaction."""
    with store.write() as connection:
        found = due.claims(connection, "helpdesk", receiver.route_id, State.READY, now=now, limit=limit)
        first = intents.reserve(connection, len(found)) if found else 0
        claims = [
            replace(each, epoch=each.epoch + 1, intent=replace(each.intent, attempt=1, number=first + index))
            for index, each in enumerate(found)
        ]
        intents.commit(connection, owner, claims, now=now, lease_until=now + timedelta(seconds=60))
    return claims


def test_claims_of_two_owners_are_disjoint(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 200)

    def claim_all(index: int) -> list[Claim]:
        mine: list[Claim] = []
        while some_more := claim(store, receiver, f"owner {index}", 7):
            mine += some_more
        return mine

    claimed = at_once(4, claim_all)

    ids = [each.id for mine in claimed for each in mine]
    numbers = [each.intent.number for mine in claimed for each in mine]
    # A claimer that found all rows locked may stop early; nobody may have what another has.
    assert len(ids) == len(set(ids))
    assert len(set(numbers)) == len(numbers)
    rest = claim(store, receiver, "the last", 500)
    assert len(ids) + len(rest) == 200
    assert reserved(store) == 200
    with store.read() as connection:
        assert intents.newest_number(connection) == 200


def reserved(store: Store) -> int:
    """Return how many intent numbers are given away."""
    with store.read() as connection:
        return int(standing.fact(connection, intents.INTENT) or 0)


@pytest.mark.postgres
def test_on_postgresql_claims_skip_what_another_is_claiming(postgres_url: str) -> None:
    with opened(postgres_url) as one, opened(postgres_url) as other:
        receiver = receiver_of(one, "helpdesk")
        ready(one, receiver, 10)
        with one.write() as held:
            mine = due.claims(held, "helpdesk", receiver.route_id, State.READY, now=NOW, limit=6)
            with other.write() as connection:
                others = due.claims(connection, "helpdesk", receiver.route_id, State.READY, now=NOW, limit=10)

        assert (len(mine), len(others)) == (6, 4)
        assert not {each.id for each in mine} & {each.id for each in others}


def settle(store: Store, each: Claim, owner: str, verdict: Verdict) -> list[Settled]:
    with store.write() as connection:
        return settling.settle(
            connection, owner, [Settled(claim=each, verdict=verdict, started=NOW, ended=NOW)], now=NOW
        )


RECEIPT = Receipt(learnt="response", sys_id="a" * 32, number="INC7", created_at="2026-01-02 03:04:05")
DELIVERED = Verdict(state=State.DELIVERED, outcome="delivered", receipt=RECEIPT)


def test_what_is_settled_is_kept(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 1)
    (mine,) = claim(store, receiver, "me", 5)

    assert settle(store, mine, "me", DELIVERED) == []

    assert ask(store, select(records.c.sys_id, records.c.number, records.c.created_at, records.c.settled_at)) == [
        ("a" * 32, "INC7", "2026-01-02 03:04:05", NOW)
    ]
    assert ask(store, select(deliveries.c.state, deliveries.c.owner, deliveries.c.attempts)) == [("delivered", None, 1)]
    assert ask(store, select(attempts.c.outcome, attempts.c.intent)) == [("delivered", 1)]


@pytest.mark.parametrize(
    "verdict", [DELIVERED, Verdict(state=State.DEAD, outcome="refused", reason="no", refused=True)]
)
def test_after_an_operator_raised_the_epoch_a_late_worker_changes_nothing(
    store: Store, receiver: Receiver, verdict: Verdict
) -> None:
    ready(store, receiver, 2)
    gone, mine = claim(store, receiver, "me", 5)
    with store.write() as connection:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id == gone.id)
            .values(epoch=deliveries.c.epoch + 1, state="skipped", owner=None)
        )

    with store.write() as connection:
        both = [Settled(claim=each, verdict=verdict, started=NOW, ended=NOW) for each in (gone, mine)]
        lost = settling.settle(connection, "me", both, now=NOW)

    assert [each.claim for each in lost] == [gone]
    states = dict(ask(store, select(deliveries.c.id, deliveries.c.state)))
    assert states == {gone.id: "skipped", mine.id: str(verdict.state)}
    assert ask(store, select(records.c.number).where(records.c.id == gone.record_id)) == [(None,)]
    # What it learnt is not thrown away.
    assert ask(store, select(late_results.c.number)) == ([("INC7",)] if verdict.receipt else [])
    assert count(store, attempts) == 2


def test_our_own_late_result_hides_nothing_of_its_successor(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 1)
    (mine,) = claim(store, receiver, "me", 5)
    late = replace(mine, epoch=mine.epoch - 1)

    with store.write() as connection:
        both = [Settled(claim=each, verdict=DELIVERED, started=NOW, ended=NOW) for each in (late, mine)]
        lost = settling.settle(connection, "me", both, now=NOW)

    assert [each.claim for each in lost] == [late]
    assert ask(store, select(records.c.number, records.c.settled_at)) == [("INC7", NOW)]


def test_an_intent_is_written_only_where_the_delivery_is_as_it_was_read(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 4)
    with store.read() as connection:
        read = due.claims(connection, "helpdesk", receiver.route_id, State.READY, now=NOW, limit=4)
    skipped, taken, *others = read
    with store.write() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == skipped.id).values(epoch=skipped.epoch + 1))
        connection.execute(update(deliveries).where(deliveries.c.id == taken.id).values(owner="another"))
    intended = [
        replace(each, epoch=each.epoch + 1, intent=replace(each.intent, attempt=1, number=number))
        for number, each in enumerate(read, 1)
    ]

    with store.write() as connection:
        held = intents.commit(connection, "me", intended, now=NOW, lease_until=NOW + timedelta(seconds=60))

    assert [each.id for each in held] == [each.id for each in others]
    assert {row.id for row in ask(store, select(deliveries.c.id).where(deliveries.c.state == "sending"))} == {
        each.id for each in others
    }


def test_an_intent_is_written_only_for_the_next_of_its_record(store: Store, receiver: Receiver) -> None:
    """An operator may have brought an earlier one back since this one was read."""
    ready(store, receiver, 1)
    with store.write() as connection:
        columns = [column for column in deliveries.c if column.name not in {"id", "version"}]
        copied = select(literal("later"), *columns)
        connection.execute(insert(deliveries).from_select(["version", *(each.name for each in columns)], copied))
        connection.execute(update(deliveries).where(deliveries.c.version != "later").values(state="skipped"))
    with store.write() as connection:
        (later,) = due.claims(connection, "helpdesk", receiver.route_id, State.READY, now=NOW, limit=2)
        connection.execute(update(deliveries).where(deliveries.c.version != "later").values(state="pending"))
        intended = replace(later, epoch=later.epoch + 1, intent=replace(later.intent, attempt=1, number=1))
        lease = NOW + timedelta(seconds=60)
        assert intents.commit(connection, "me", [intended], now=NOW, lease_until=lease) == []
        connection.execute(update(deliveries).where(deliveries.c.version != "later").values(state="delivered"))
        assert intents.commit(connection, "me", [intended], now=NOW, lease_until=lease) == [intended]


def test_another_owner_with_the_same_epoch_changes_nothing(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 1)
    (mine,) = claim(store, receiver, "me", 5)

    settle(store, mine, "somebody else", DELIVERED)

    assert ask(store, select(deliveries.c.state, deliveries.c.owner)) == [("sending", "me")]


def test_a_lease_that_holds_is_not_taken_over_and_one_that_ended_is(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 2)
    (first,) = claim(store, receiver, "first", 1)
    (second,) = claim(store, receiver, "second", 1)
    later = NOW + timedelta(seconds=61)
    with store.write() as connection:
        assert leases.take_over(connection, now=NOW + timedelta(seconds=59), everything=False) == []
        leases.renew(connection, "second", [second.id], lease_until=later + timedelta(seconds=60))
        taken = leases.take_over(connection, now=later, everything=False)
        leases.doubt(connection, receiver.route_id, safe_after=later + timedelta(seconds=330))

    assert taken == [(receiver.route_id, "sending", 1)]
    rows = {row.id: row for row in ask(store, select(deliveries))}
    assert (rows[first.id].state, rows[first.id].owner, rows[first.id].safe_after) == (
        "unknown",
        None,
        later + timedelta(seconds=330),
    )
    assert (rows[second.id].state, rows[second.id].owner) == ("sending", "second")
    assert ask(store, select(attempts.c.outcome)) == [("unknown",)]
    # The worker of the lost lease comes back with a number: it shortens the other's doubt.
    assert len(settle(store, first, "first", DELIVERED)) == 1
    assert ask(store, select(deliveries.c.state, deliveries.c.not_before).where(deliveries.c.id == first.id)) == [
        ("unknown", NOW)
    ]


def test_the_only_daemon_on_a_file_takes_everything_over_at_once(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 3)
    claim(store, receiver, "the dead one", 3)
    with store.write() as connection:
        taken = leases.take_over(connection, now=NOW, everything=True)

    assert taken == [(receiver.route_id, "sending", 3)]
    assert {row[0] for row in ask(store, select(deliveries.c.state))} == {"unknown"}


def test_a_doubt_is_forgotten_only_when_a_look_has_ended_it(store: Store, receiver: Receiver) -> None:
    ready(store, receiver, 1)
    (mine,) = claim(store, receiver, "me", 1)

    def kept() -> Any:
        return ask(store, select(deliveries.c.safe_after))[0][0]

    safe_after = NOW + timedelta(seconds=20)
    settle(store, mine, "me", Verdict(state=State.UNKNOWN, outcome="unknown", not_before=NOW, safe_after=safe_after))
    assert kept() == safe_after
    for verdict, expected in [
        (Verdict(state=State.UNKNOWN, looked=True), safe_after),
        (Verdict(state=State.READY, looked=True, safe_after=safe_after), safe_after),
        (Verdict(state=State.READY, looked=True, cleared=True), None),
    ]:
        with store.write() as connection:
            connection.execute(update(deliveries).values(owner="me"))
        settle(store, mine, "me", verdict)
        assert kept() == expected


# Two daemons.


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = open_store(url)
    try:
        upgrade(store.engine)
        yield store
    finally:
        store.close()


@pytest.mark.postgres
def test_two_dispatchers_on_one_postgresql_deliver_each_record_once(postgres_url: str) -> None:
    with opened(postgres_url) as one, opened(postgres_url) as other:
        house = House(one, concurrency=8)
        house.source.pages = [Page(records=some(*map(str, range(150))), last=True)]
        house.poll()
        pool = ThreadPoolExecutor(16)
        # Answers that get lost, some before and some after the row was made.
        plan = iter(range(10**6))
        original = house.sink.commit

        def commit(intent: Any) -> Receipt:
            number = next(plan)
            time.sleep(0.002)
            if number % 11 == 3:
                raise UnknownOutcome("lost before")
            receipt = original(intent)
            if number % 11 == 7:
                raise UnknownOutcome("lost after")
            return receipt

        house.sink.commit = commit  # type: ignore[method-assign]
        assert one.owner != other.owner
        both = [
            Dispatcher(each, Clock(), {"helpdesk": house.route}, pool, lease=timedelta(seconds=60))
            for each in (one, other)
        ]
        turning = [threading.Thread(target=each.run) for each in both]
        for dispatcher in both:
            dispatcher.start()
        for thread in turning:
            thread.start()
        wait_for(lambda: set(house.states().values()) == {"delivered"}, "all to be delivered")
        for dispatcher in both:
            dispatcher.stop()
        for thread in turning:
            thread.join(20)

        owners = Counter(post.correlation_id for post in house.sink.posts)
        rows = house.rows(records)
        assert len(house.sink.rows) == 150
        assert {row["sys_id"] for row in rows} == set(house.sink.rows.values())
        # An attempt was repeated only where its outcome was unknown.
        unknown = [row["outcome"] for row in house.rows(attempts)].count("unknown")
        assert sum(owners.values()) - 150 <= unknown
        pool.shutdown()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)


# How routes stand.


def test_previously_keeps_the_identity_over_renamings(store: Store) -> None:
    take(store, receiver_of(store, "old"), last("1"))
    with store.write() as connection:
        new = enter_route(connection, "new", "old", now=NOW)
        newest = enter_route(connection, "newest", "new", now=NOW)
        again = enter_route(connection, "newest", "new", now=NOW)
        # The setting stays there at the next starts.
        assert enter_route(connection, "newest", "old", now=NOW) == newest

    assert {new.identity, newest.identity, again.identity} == {"old"}
    assert new.id == newest.id == again.id
    assert take(store, replace(receiver_of(store, "newest"), identity=newest.identity), last("1")).known == 1


def test_a_new_route_under_a_former_name_is_another_one(store: Store) -> None:
    with store.write() as connection:
        enter_route(connection, "old", None, now=NOW)
        renamed = enter_route(connection, "new", "old", now=NOW)
        fresh = enter_route(connection, "old", None, now=NOW)

    assert fresh.id != renamed.id
    assert fresh.identity not in ("old", renamed.identity)
    assert correlation_id("p", fresh.identity, "1") != correlation_id("p", renamed.identity, "1")


def test_both_names_in_use_are_refused(store: Store) -> None:
    with store.write() as connection:
        enter_route(connection, "old", None, now=NOW)
        enter_route(connection, "new", None, now=NOW)

    with pytest.raises(SettingsError, match="both old and new") as raised, store.write() as connection:
        enter_route(connection, "new", "old", now=NOW)
    assert raised.value.problems[0].startswith("routes.new.previously")


def test_the_prefix_may_change_only_while_there_are_no_records(store: Store) -> None:
    with store.write() as connection:
        fix_prefix(connection, "one")
        fix_prefix(connection, "one")
        fix_prefix(connection, "two")
    take(store, receiver_of(store, "helpdesk"), last("1"))
    with store.write() as connection:
        fix_prefix(connection, "two")

    with pytest.raises(SettingsError, match=r'"three".*"two"'), store.write() as connection:
        fix_prefix(connection, "three")
    with store.write() as connection:
        fix_prefix(connection, "two")


@pytest.mark.parametrize("number", range(3))
def test_daemons_that_start_together_on_an_empty_database_do_not_trip_each_other(store: Store, number: int) -> None:
    def start(_index: int) -> tuple[int, int]:
        with store.write() as connection:
            fix_prefix(connection, "together")
            entered = [enter_route(connection, name, None, now=NOW).id for name in ("one", "other")]
        with store.write() as connection:
            return entered[0], intents.reserve(connection, 10)

    found = at_once(4, start)

    assert len({row_id for row_id, _ in found}) == 1
    assert sorted(first for _, first in found) == [1, 11, 21, 31]
    assert count(store, routes) == 2


def test_proofs_are_kept(store: Store) -> None:
    with store.write() as connection:
        assert standing.proof(connection, "x") == Proof()
        for found in (Proof(sys_id=True, lookup=True, why="a"), Proof(sys_id=False, lookup=True, why="b")):
            standing.keep_proof(connection, "x", found, now=NOW)
            assert standing.proof(connection, "x") == found
        assert standing.proof(connection, "y") == Proof()
    with store.read() as connection:
        assert standing.proof(connection, "x").sys_id is False


def test_pauses_and_holds_are_kept(store: Store) -> None:
    receiver = receiver_of(store, "helpdesk")
    paused = RemoteStanding(paused_until=NOW, failures=3, error="down")
    with store.write() as connection:
        standing.pause_remote(connection, "remote", paused)
        standing.hold_route(connection, receiver.route_id, "canary", "why", now=NOW, until=None)
        standing.poll_failed(connection, receiver.route_id, "503", now=NOW, until=NOW + HOUR)
    with store.read() as connection:
        assert standing.remote_standing(connection) == {"remote": paused}
        assert standing.routes_standing(connection)["helpdesk"].held_reason == "canary"
        poll = standing.poll_standing(connection, receiver.route_id)
        assert (poll.not_before, poll.failures) == (NOW + HOUR, 1)
    with store.write() as connection:
        standing.release_route(connection, receiver.route_id)
        standing.poll_finished(connection, receiver.route_id, now=NOW)
        assert standing.routes_standing(connection)["helpdesk"].held_reason is None
        assert standing.poll_standing(connection, receiver.route_id).not_before is None


@pytest.mark.parametrize("per_hour", [1, 7, 60, 1000])
def test_no_hour_sees_more_than_its_budget(store: Store, per_hour: int) -> None:
    spent: list[tuple[datetime, int]] = []
    now = NOW
    with store.write() as connection:
        # Greedy for an hour, idle for two, and greedy again: the burst comes at the worst moment.
        for step in range(400):
            now += HOUR * 2 if step == 200 else timedelta(seconds=(7, 30, 61)[step % 3])
            spent.append((now, standing.spend(connection, "remote", 50, per_hour, now=now)))

    for at, _ in spent:
        assert sum(number for when, number in spent if at <= when < at + HOUR) <= per_hour
    greedy = sum(number for _, number in spent)
    hours = (spent[-1][0] - NOW) / HOUR - 2
    assert greedy >= 0.5 * per_hour * hours - 1


def test_a_budget_is_shared_by_all_who_ask(store: Store) -> None:
    def spend(_index: int) -> int:
        with store.write() as connection:
            return standing.spend(connection, "remote", 10, 200, now=NOW)

    # The row is there first, as it is after the first request of all.
    first = spend(0)

    assert first + sum(at_once(4, spend)) == 10


# Durability.


def test_every_connection_to_sqlite_is_durable(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/poller.db") as store:
        for engine in (store.engine, store.reader):
            with engine.connect() as one, engine.connect() as other:
                for connection in (one, other) if engine is store.reader else (one,):
                    found = {
                        name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                    }
                    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


@pytest.mark.postgres
def test_every_connection_to_postgresql_is_durable(postgres_url: str) -> None:
    # The server of the tests has it off: ours must not depend on that.
    with opened(postgres_url) as store, store.read() as one, store.write() as other:
        for connection in (one, other):
            assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
            assert connection.execute(text("SHOW TimeZone")).scalar() == "UTC"


def test_a_writer_takes_its_lock_at_once_so_no_update_is_lost(store: Store) -> None:
    def raise_it(_index: int) -> None:
        for _ in range(25):
            with store.write() as connection:
                intents.reserve(connection, 1)

    with store.write() as connection:
        intents.reserve(connection, 1)
    at_once(4, raise_it)

    assert reserved(store) == 101


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    with store.write() as writing:
        intents.reserve(writing, 1)
        started = time.monotonic()
        with store.read() as connection:
            assert standing.fact(connection, intents.INTENT) is None
        assert time.monotonic() - started < 2


def test_the_files_are_their_owners_alone(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/poller.db") as store:
        store.take()
        receiver = receiver_of(store, "helpdesk")
        take(store, receiver, last("1"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    assert modes["poller.db"] == modes["poller.db-wal"] == modes["poller.db-shm"] == 0o600
    assert all(mode & 0o077 == 0 for mode in modes.values()), {name: oct(mode) for name, mode in modes.items()}


def test_one_daemon_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/poller.db"
    with opened(url) as store:
        store.take()
        with (
            opened(url) as other,
            pytest.raises(DatabaseUnusable, match=r"poller\.db is in use by another poller \(pid \d+\)"),
        ):
            other.take()
        take(store, receiver_of(store, "helpdesk"), last("1"))
    with opened(url) as store:
        store.take()


@dataclass(frozen=True)
class Bad:
    url: str
    says: str


@pytest.mark.parametrize(
    "bad",
    [
        Bad("sqlite:////nowhere/at/all/poller.db", "does not exist"),
        Bad("sqlite:///{here}", "cannot be used"),
        Bad("sqlite:///{here}/junk.db", "not a database"),
        Bad("postgresql+psycopg://nobody@127.0.0.1:1/none", "cannot be used"),
        Bad("nothing", "database.url"),
        Bad("mysql://x@y/z", "database.url"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(bad: Bad, tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"junk" * 5000)

    with pytest.raises(DatabaseUnusable) as raised:
        upgrade(open_store(bad.url.format(here=tmp_path)).engine)

    assert bad.says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable) as raised:
        open_store("postgresql+psycopg://nobody@127.0.0.1:1/none", password="hunter2")

    assert "hunter2" not in str(raised.value)


WRITER = """
import sys
from datetime import datetime, UTC
from poller.store import intents, open_store
from poller.store.receiving import receive, Receiver
from poller.store.standing import enter_route, poll_finished
from poller.model import Page, Operation, SourceRecord

store = open_store(sys.argv[1])
now = datetime(2026, 1, 2, tzinfo=UTC)
with store.write() as connection:
    row = enter_route(connection, "helpdesk", None, now=now)
receiver = Receiver(route_id=row.id, identity="helpdesk", prefix="test", operation=Operation.CREATE, baseline=False)
first = int(sys.argv[2])
for number in range(first, first + 10**6):
    keys = tuple(SourceRecord(key=f"{number}-{i}", version="1", fields={"text": "x" * 500}) for i in range(20))
    with store.write() as connection:
        receive(connection, receiver, Page(records=keys, last=True, checkpoint=str(number)), now=now)
        intents.reserve(connection, 20)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_whole_transactions(store: Store, database_url: str) -> None:
    told = -1
    for round_ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, database_url, str(told + 1)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout
            for line in writer.stdout:
                told = int(line)
                if told % 10 == 9 - round_:
                    writer.send_signal(signal.SIGKILL)
                    break
            told = max([told, *map(int, writer.stdout.read().split())])
        wait_for(lambda: quiet(store), "the killed one's transaction to be undone")

        checkpoint = int(ask(store, text("SELECT value FROM checkpoints"))[0][0])
        # What was told is there; of what was not, all or nothing.
        assert checkpoint in (told, told + 1)
        assert count(store, records) == count(store, deliveries) == count(store, payloads) == 20 * (checkpoint + 1)
        assert reserved(store) == 20 * (checkpoint + 1)
        told = checkpoint
    if path := store.sqlite_path:
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def quiet(store: Store) -> bool:
    """Return whether nobody else has a transaction open."""
    if store.sqlite_path:
        return True
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    return bool(ask(store, text(query))[0][0] == 0)


def test_times_come_back_as_they_went_in(store: Store) -> None:
    moments = [NOW, datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 4, 11, 23, 47, 16, 854775, tzinfo=UTC)]
    for moment in moments:
        with store.write() as connection:
            row = enter_route(connection, f"r{moment.year}", None, now=moment)
        assert ask(store, select(routes.c.created_at).where(routes.c.id == row.id)) == [(moment,)]
