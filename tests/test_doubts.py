"""Attempts in doubt: each test is one way to a second incident, or to a record that waits for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from poller.errors import TransientError, UnknownOutcome
from poller.store import Store
from tests.fakes import last
from tests.house import House


def lost() -> UnknownOutcome:
    return UnknownOutcome("no answer")


# Doubles: what was sent under one guard, and goes on under another.


def test_a_record_in_doubt_is_not_sent_without_its_sys_id_when_the_guard_goes_off(house: House) -> None:
    """1. sent with sys_id, unknown; 2. looked up, not there, ready at once; 3. the guard goes off before it is sent."""
    house.prove()
    house.executor.keeping = True
    house.source.pages = [last("doubt", "liar")]
    house.poll()
    house.turn(1)
    house.executor.release()  # the preparation
    house.turn(1)
    by_key = {work.claims[0].intent.key: work for work in house.dispatcher._working.values()}
    assert by_key.keys() == {"doubt", "liar"}
    kept = house.executor.kept
    house.executor.kept = []
    order = [work.claims[0].intent.key for work in house.dispatcher._working.values()]
    doubt, liar = kept[order.index("doubt")], kept[order.index("liar")]
    house.sink.script = [lost()]
    doubt()
    house.turn(1)
    house.let(seconds=1.1)
    assert len(house.executor.kept) == 1  # the look-up
    house.sink.honours = False
    liar()  # comes back with another sys_id
    house.executor.release()
    house.executor.keeping = False
    house.turn()

    assert [post.with_sys_id for post in house.posts_of("doubt")] == [True]
    house.let(seconds=21)
    assert house.states()["doubt"] == "delivered"


def test_a_record_in_doubt_waits_when_the_settings_turn_to_settle(house: House) -> None:
    house.prove()
    house.executor.keeping = True
    house.sink.script = [lost()]
    house.source.pages = [last("doubt")]
    house.poll()
    for _ in range(2):
        house.turn(1)
        house.executor.release()
    house.turn(1)
    house.let(seconds=1.1)
    house.dispatcher.replace_routes({"helpdesk": replace(house.route, guard_mode="settle")})
    house.clock.move(seconds=0.6)
    house.executor.release()  # the look-up, asked under sys_id or not: it does not matter
    house.executor.keeping = False
    house.turn()

    assert len(house.posts_of("doubt")) == 1


def test_a_route_blocked_in_doubt_is_not_sent_without_its_sys_id_after_settings_change(house: House) -> None:
    """The delivery stands at `ready` with a doubt; the operator chooses settle; nothing may go before the doubt ends."""
    house.prove()
    house.sink.script = [lost(), TransientError("503", remote=True, retry_after=timedelta(seconds=5))]
    house.source.pages = [last("doubt")]
    house.poll()
    house.turn()
    house.let(seconds=1.1)
    assert len(house.posts_of("doubt")) == 2  # the second was surely refused
    house.dispatcher.replace_routes({"helpdesk": replace(house.route, guard_mode="settle")})
    house.let(seconds=6)
    house.turn()
    assert all(post.with_sys_id for post in house.posts_of("doubt"))
    assert len(house.posts_of("doubt")) == 2


def test_what_was_sent_without_a_sys_id_is_not_protected_by_one(house: House) -> None:
    """1. settle: sent without sys_id, unknown; 2. the settings turn to auto, long proven; 3. a miss means nothing yet."""
    house.prove()
    settle = replace(house.route, guard_mode="settle")
    house.dispatcher.replace_routes({"helpdesk": settle})
    house.clock.move(seconds=1)
    house.sink.script = [lost()]
    house.source.pages = [last("doubt")]
    house.poll()
    house.turn()
    assert [post.with_sys_id for post in house.posts_of("doubt")] == [False]
    house.dispatcher.replace_routes({"helpdesk": house.route})
    house.let(seconds=1.1)
    house.turn()

    assert len(house.posts_of("doubt")) == 1


# Doubles: time.


def test_a_wall_clock_set_forward_between_two_runs_ends_no_doubt(store: Store) -> None:
    if store.sqlite_path is None:
        return  # daemons on PostgreSQL go on from its clock, not from this machine's
    house = House(store, guard_mode="settle")
    house.prove_lookup()
    house.sink.script = [lost()]
    house.source.pages = [last("doubt")]
    house.poll()
    house.turn()
    assert house.states()["doubt"] == "unknown"
    house.clock.at += timedelta(hours=1)  # no second has passed
    house.store.owner = "another"
    house.dispatcher = house.dispatch()
    house.turn()

    assert len(house.posts_of("doubt")) == 1


def test_a_wall_clock_set_back_between_two_runs_stalls_nothing(house: House) -> None:
    house.source.pages = [last("1")]
    house.poll()
    house.clock.at -= timedelta(days=1)
    house.store.owner = "another"
    house.dispatcher = house.dispatch()
    house.turn()
    house.let(minutes=16)

    assert house.states() == {"1": "delivered"}


def test_a_process_frozen_between_commit_and_send_sends_nothing_after_its_lease(house: House) -> None:
    house.prove()
    house.dispatcher._mark = lambda *_: house.clock.move(minutes=10)  # SIGSTOP right after the commit
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.turn(1)
    (work,) = set(house.dispatcher._working.values())

    assert work.claims[0].intent.key == "1"
    assert work.claims[0].intent.number > 1
    assert not house.dispatcher.may_send(work.claims[0].intent.number)


def test_attempts_of_a_route_that_is_switched_off_at_the_start_stay_in_doubt(store: Store) -> None:
    house = House(store, guard_mode="settle")
    house.prove_lookup()
    house.executor.keeping = True
    house.source.pages = [last("doubt")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.turn(1)
    assert house.states()["doubt"] == "sending"
    house.executor.kept = []
    house.executor.keeping = False
    house.clock.move(seconds=61)
    house.store.owner = "another"
    route, house.route = house.route, house.route
    from poller.dispatcher import Dispatcher

    house.dispatcher = Dispatcher(
        house.store, house.clock, {}, house.executor, lease=timedelta(seconds=60), settle=timedelta(seconds=20)
    )
    house.dispatcher.start()
    house.turn(1)
    house.dispatcher.replace_routes({"helpdesk": route})
    house.let(seconds=2)

    assert house.posts_of("doubt") == []
