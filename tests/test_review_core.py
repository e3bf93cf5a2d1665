"""What a fresh look at the core found: each test is one way to a double, a loss, a false burial or a standstill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import OperationalError, TimeoutError as PoolTimeout

from poller import recovery
from poller.errors import PermanentError, RefusedError, TransientError, UnknownOutcome
from poller.model import Intent, Prepared
from poller.route import Route
from poller.store import Store
from poller.store.receiving import Receiver
from poller.store.standing import enter_route, hold_route
from poller.tables import deliveries, facts, proofs, remotes, routes
from tests.fakes import FakeSource, last
from tests.house import House


@pytest.fixture
def house(store: Store) -> House:
    return House(store)


def lost() -> UnknownOutcome:
    return UnknownOutcome("no answer")


def prove(house: House) -> None:
    """Let one create through, so that the guard by sys_id is proven."""
    house.source.pages = [last("proof")]
    house.poll()
    house.turn()
    assert house.rows(proofs)[0]["sys_id"]


def other_route(house: House, name: str, **changes: Any) -> Route:
    """Return a second route to the same instance, entered in the database."""
    with house.store.write() as connection:
        entered = enter_route(connection, name, None, now=house.clock.now())
    receiver = Receiver(
        route_id=entered.id,
        identity=entered.identity,
        prefix="test",
        operation=house.sink.operation,
        baseline=False,
    )
    return replace(house.route, name=name, source=FakeSource(), receiver=receiver, **changes)


def posts_of(house: House, key: str) -> list[Intent]:
    return [post for post in house.sink.posts if post.key == key]


# Doubles: what was sent under one guard, and goes on under another.


def test_a_record_in_doubt_is_not_sent_without_its_sys_id_when_the_guard_goes_off(house: House) -> None:
    """1. sent with sys_id, unknown; 2. looked up, not there, ready at once; 3. the guard goes off before it is sent."""
    prove(house)
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

    assert [post.with_sys_id for post in posts_of(house, "doubt")] == [True]
    house.let(seconds=21)
    assert house.states()["doubt"] == "delivered"


def test_a_record_in_doubt_waits_when_the_settings_turn_to_settle(house: House) -> None:
    prove(house)
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

    assert len(posts_of(house, "doubt")) == 1


def test_a_route_blocked_in_doubt_is_not_sent_without_its_sys_id_after_settings_change(house: House) -> None:
    """The delivery stands at `ready` with a doubt; the operator chooses settle; nothing may go before the doubt ends."""
    prove(house)
    house.sink.script = [lost(), TransientError("503", remote=True, retry_after=timedelta(seconds=5))]
    house.source.pages = [last("doubt")]
    house.poll()
    house.turn()
    house.let(seconds=1.1)
    assert len(posts_of(house, "doubt")) == 2  # the second was surely refused
    house.dispatcher.replace_routes({"helpdesk": replace(house.route, guard_mode="settle")})
    house.let(seconds=6)
    house.turn()
    assert all(post.with_sys_id for post in posts_of(house, "doubt"))
    assert len(posts_of(house, "doubt")) == 2


def test_what_was_sent_without_a_sys_id_is_not_protected_by_one(house: House) -> None:
    """1. settle: sent without sys_id, unknown; 2. the settings turn to auto, long proven; 3. a miss means nothing yet."""
    prove(house)
    settle = replace(house.route, guard_mode="settle")
    house.dispatcher.replace_routes({"helpdesk": settle})
    house.clock.move(seconds=1)
    house.sink.script = [lost()]
    house.source.pages = [last("doubt")]
    house.poll()
    house.turn()
    assert [post.with_sys_id for post in posts_of(house, "doubt")] == [False]
    house.dispatcher.replace_routes({"helpdesk": house.route})
    house.let(seconds=1.1)
    house.turn()

    assert len(posts_of(house, "doubt")) == 1


# Doubles: time.


def test_a_wall_clock_set_forward_between_two_runs_ends_no_doubt(store: Store) -> None:
    if store.sqlite_path is None:
        return  # daemons on PostgreSQL go on from its clock, not from this machine's
    house = House(store, guard_mode="settle")
    prove_lookup(house)
    house.sink.script = [lost()]
    house.source.pages = [last("doubt")]
    house.poll()
    house.turn()
    assert house.states()["doubt"] == "unknown"
    house.clock.at += timedelta(hours=1)  # no second has passed
    house.store.owner = "another"
    house.dispatcher = house.dispatch()
    house.turn()

    assert len(posts_of(house, "doubt")) == 1


def prove_lookup(house: House) -> None:
    house.source.pages = [last("proof")]
    house.poll()
    house.turn()
    assert house.rows(proofs)[0]["lookup"]


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
    prove(house)
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
    prove_lookup(house)
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

    assert posts_of(house, "doubt") == []


# The database: commits that fail, or whose answer is lost, and commits that are gone.


class Failing:
    """Stands for `Store.write`: the next commits fail, or their answers are lost."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.real = store.write
        self.plan: list[str] = []
        store.write = self  # type: ignore[method-assign]

    @contextmanager
    def __call__(self) -> Iterator[Connection]:
        planned = self.plan.pop(0) if self.plan else ""
        if planned == "pool":
            raise PoolTimeout("QueuePool limit of size 5 overflow 10 reached")
        with self.real() as connection:
            yield connection
            if planned == "rolled back":
                raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))
        if planned == "answer lost":
            raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))


def test_a_claim_whose_commit_was_not_answered_is_taken_back_even_beside_other_work(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn settled record 1 and claimed it again; its answer is lost; record 2 keeps the daemon busy."""
    monkeypatch.setattr("poller.dispatcher.IDLE", 0.0)
    prove(house)
    failing = Failing(house.store)
    house.executor.keeping = True
    house.source.pages = [last("1", "2")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.turn(1)
    order = [work.claims[0].intent.key for work in house.dispatcher._working.values()]
    kept, house.executor.kept = house.executor.kept, []
    from poller.errors import NotSentError

    house.sink.script = [NotSentError("late")]
    kept[order.index("1")]()
    failing.plan = ["answer lost"]
    house.turn(2)
    for _ in range(10):  # record 2 hangs, and its lease is renewed
        house.clock.move(seconds=21)
        house.turn(1)

    assert house.states()["2"] == "sending"
    rows = {row["id"]: row for row in house.rows(deliveries)}
    mine = [i for i, row in rows.items() if row["owner"] is not None and row["state"] == "sending"]
    assert set(mine) <= set(house.dispatcher._working)


def test_what_a_rolled_back_turn_learnt_of_the_guard_is_written_by_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.dispatcher.IDLE", 0.0)
    prove(house)
    failing = Failing(house.store)
    house.sink.honours = False
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.turn(1)
    house.executor.release()
    failing.plan = ["rolled back"]
    house.turn(2)
    house.clock.move(seconds=1)
    house.turn(1)

    assert not house.rows(proofs)[0]["sys_id"]


def test_an_exhausted_connection_pool_does_not_end_the_dispatcher(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.dispatcher.IDLE", 0.0)
    failing = Failing(house.store)
    house.source.pages = [last("1")]
    house.poll()
    failing.plan = ["pool"]
    house.turn()

    assert house.states() == {"1": "delivered"}


def test_a_failover_that_lost_commits_is_noticed_while_the_daemon_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F51: the standby knows the delivery as `ready`; its create has been sent, and its number is gone."""
    monkeypatch.setattr("poller.dispatcher.IDLE", 0.0)
    house = House(store, guard_mode="settle")
    prove_lookup(house)
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.executor.keeping = False
    with store.read() as connection:
        before = [dict(r) for r in connection.execute(select(facts)).mappings()]
    house.turn()
    assert house.states()["1"] == "delivered"
    failing = Failing(house.store)
    with failing.real() as connection:  # thrown back to before the intent
        connection.execute(update(deliveries).where(deliveries.c.attempts > 0, deliveries.c.record_id == 2).values(
            state="ready", attempts=0, owner=None, lease_until=None, epoch=1, safe_after=None))  # fmt: skip
        for fact in before:
            connection.execute(update(facts).where(facts.c.name == fact["name"]).values(value=fact["value"]))
    failing.plan = ["rolled back"]
    house.let(seconds=2)
    house.let(seconds=2)

    assert len(posts_of(house, "1")) == 1


def test_a_lost_database_does_not_lift_what_an_operator_has_to_lift(house: House) -> None:
    with house.store.write() as connection:
        hold_route(connection, house.route.id, "correlation_altered", "altered", now=house.clock.now(), until=None)
    assert not recovery.suspect(house.store, house.clock, {"helpdesk": house.route}, None)
    recovery.ask(house.store, house.clock, {"helpdesk": house.route})

    assert house.rows(routes)[0]["held_reason"] == "correlation_altered"


def test_another_daemons_hold_is_not_overwritten_by_a_stale_view(house: House) -> None:
    prove(house)
    with house.store.write() as connection:  # a refusal since the last success: the next success is written
        connection.execute(update(routes).values(refused_at=house.clock.now()))
    house.clock.move(seconds=1)
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.turn(1)
    house.clock.move(seconds=1)
    house.turn(1)
    with house.store.write() as connection:  # another daemon, between two refreshes
        hold_route(connection, house.route.id, "lookup_blind", "blind", now=house.clock.now(), until=None)
    house.executor.release()
    house.turn(1)

    assert house.rows(routes)[0]["held_reason"] == "lookup_blind"


def test_a_doubt_of_a_database_thrown_back_outlasts_the_attempts_that_it_forgot(store: Store) -> None:
    """F14: the copy knows attempt 1 as settled; attempt 2 was sent after the copy was made and commits late."""
    house = House(store, guard_mode="settle")
    prove_lookup(house)
    house.sink.script = [lost(), lost()]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    (copy,) = [row for row in house.rows(deliveries) if row["state"] == "unknown"]
    house.let(seconds=21)
    assert len(posts_of(house, "1")) == 2
    with store.write() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == copy["id"]).values(**copy))
    house.store.owner = "another"
    assert recovery.suspect(house.store, house.clock, {"helpdesk": house.route}, 5000)
    house.dispatcher = house.dispatch()
    assert recovery.ask(house.store, house.clock, {"helpdesk": house.route})
    house.dispatcher.look_anew()
    house.turn()
    house.clock.move(seconds=5)
    house.sink.commit(posts_of(house, "1")[1])
    for _ in range(20):
        house.let(seconds=1)
    house.turn()

    assert len(posts_of(house, "1")) == 2
    assert house.states()["1"] == "delivered"


def test_under_settle_nothing_is_believed_to_bear_our_sys_id(house: House) -> None:
    """Proven long ago, then the settings turned to settle: what is created since is not found by the primary key."""
    prove(house)
    house.dispatcher.replace_routes({"helpdesk": replace(house.route, guard_mode="settle")})
    house.let(seconds=1)

    assert not house.dispatcher.primary(house.sink.guard_key())


# Routes that come and go.


def test_a_route_removed_while_it_is_looked_up_does_not_end_the_dispatcher(house: House) -> None:
    prove(house)
    house.sink.script = [lost()]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    house.executor.keeping = True
    house.let(seconds=1.1)
    assert len(house.executor.kept) == 1
    house.dispatcher.replace_routes({})
    house.clock.move(seconds=1)
    house.turn(1)
    house.executor.release()
    house.turn(1)

    assert house.states()["1"] in {"ready", "unknown"}


def test_a_route_renamed_while_it_sends_does_not_end_the_dispatcher(house: House) -> None:
    house.source.pages = [last("1")]
    house.poll()
    house.executor.keeping = True
    house.turn(1)
    house.executor.release()
    house.turn(1)
    assert house.states()["1"] == "sending"
    with house.store.write() as connection:
        enter_route(connection, "service-desk", "helpdesk", now=house.clock.now())
    house.clock.move(seconds=1)
    house.turn(1)  # before the new routes are handed over
    house.dispatcher.replace_routes({"service-desk": replace(house.route, name="service-desk")})
    house.turn(1)
    house.executor.release()
    house.turn(1)

    assert house.states()["1"] == "delivered"


def test_a_route_added_in_the_middle_of_a_turn_waits_for_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.turn()
    added = other_route(house, "second")
    effects = house.dispatcher._effects
    refresh = effects.refresh

    def at_once(*arguments: Any) -> None:
        refresh(*arguments)
        house.dispatcher.routes = {"helpdesk": house.route, "second": added}  # what replace_routes does, on SIGHUP

    monkeypatch.setattr(effects, "refresh", at_once)
    house.turn(1)


# Burials.


def test_inserts_that_are_refused_from_the_first_on_block_the_route_and_bury_nothing(house: House) -> None:
    """403 "Error during insert" for every record while nothing ever went through: the route's fault, not theirs."""
    house.sink.script = [PermanentError("403: error during insert", insert_refused=True) for _ in range(40)]
    house.source.pages = [last("1", "2", "3")]
    house.poll()
    house.turn(20)

    assert "dead" not in house.states().values()


def test_rights_taken_away_while_several_are_in_flight_bury_one_at_most(house: House) -> None:
    prove(house)
    house.clock.move(seconds=1)
    house.executor.keeping = True
    house.source.pages = [last("1", "2", "3", "4")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.turn(1)
    house.sink.script = [RefusedError("403") for _ in range(4)]
    house.executor.release()
    house.turn(1)

    assert list(house.states().values()).count("dead") <= 1


# Waiting: too long, too short, or for nothing.


def test_idle_minutes_use_up_no_budget(store: Store) -> None:
    house = House(store, requests_per_hour=100)
    for _ in range(60):
        house.let(seconds=1)
    house.source.pages = [last("1")]
    house.poll()
    house.turn()

    assert house.states() == {"1": "delivered"}


def test_a_slow_budget_is_not_spent_on_turns_that_send_nothing(store: Store) -> None:
    house = House(store, requests_per_hour=100)
    second = other_route(house, "second", requests_per_hour=100)
    house.dispatcher.replace_routes({"helpdesk": house.route, "second": second})
    house.source.pages = [last(*map(str, range(5)))]
    house.poll()
    for _ in range(120):  # ten minutes: 5 + 15 requests
        house.let(seconds=5)

    assert set(house.states().values()) == {"delivered"}


def test_a_route_with_nothing_to_send_does_not_take_the_one_create_of_another(house: House) -> None:
    second = other_route(house, "second")
    house.dispatcher.replace_routes({"helpdesk": house.route, "second": second})
    house.turn(3)
    for start in (0, 1):
        house.dispatcher._claiming._turn = start
        house.source.pages = [last(f"key-{start}")]
        house.poll()
        with house.store.write() as connection:
            connection.execute(proofs.delete())
        house.dispatcher.look_anew()
        house.executor.keeping = True
        house.turn(1)
        house.executor.release()
        house.turn(1)
        assert len(house.executor.kept) == 1, start
        house.executor.keeping = False
        house.executor.release()
        house.turn()


def test_once_waits_for_a_look_up_that_others_depend_on(house: House) -> None:
    """The first create is in doubt for a second; what waits behind it is due now and cannot go: not quiet yet."""
    house.sink.script = [lambda sink, intent: sink.commit(intent) and lost()]
    house.source.pages = [last("1", "2", "3")]
    house.poll()
    house.turn()
    assert sorted(house.states().values()) == ["ready", "ready", "unknown"]

    until = house.dispatcher.quiet_until()
    assert until is not None
    assert until <= house.clock.now() + timedelta(seconds=5)


def test_a_probe_that_got_no_answer_does_not_resume_the_remote(house: House) -> None:
    house.source.pages = [last("1", "2")]
    house.sink.prepare_script = [
        TransientError("refused", remote=True),
        TransientError("timeout after the request was sent"),
        TransientError("timeout after the request was sent"),
    ]
    house.poll()
    house.turn()
    house.let(minutes=1)

    assert house.rows(remotes)[0]["failures"] > 0


def test_look_ups_that_fail_again_and_again_come_ever_later(house: House) -> None:
    """500 or a time-out to the preparation's question: not once a second for ever."""
    house.sink.prepare_script = [TransientError("500") for _ in range(5000)]
    house.source.pages = [last("1")]
    house.poll()
    for _ in range(360):
        house.let(seconds=10)

    assert len(house.sink.prepared) < 60


def test_the_longest_wish_to_wait_is_obeyed_where_several_failed_at_once(store: Store) -> None:
    house = House(store, concurrency=2)
    prove(house)
    house.executor.keeping = True
    house.source.pages = [last("1", "2", "3", "4", "5", "6")]
    house.poll()
    house.turn(1)
    house.executor.release()
    house.turn(1)
    assert len(house.executor.kept) == 2
    house.sink.script = [
        TransientError("no connection", remote=True),
        TransientError("429", remote=True, retry_after=timedelta(minutes=30)),
    ]
    house.executor.keeping = False
    house.executor.release()
    posts = len(house.sink.posts)
    for _ in range(20):
        house.let(minutes=1)

    assert len(house.sink.posts) == posts


def test_a_record_that_breaks_the_preparation_of_its_batch_is_dead_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(batch: Any, **_: Any) -> list[Prepared]:
        house.sink.prepared.append(tuple(record.key for record in batch))
        if any(record.key == "7" for record in batch):
            raise OverflowError("a fault of ours")
        return [house.sink._prepared(record) for record in batch]

    monkeypatch.setattr(house.sink, "prepare", prepare)
    house.source.pages = [last(*map(str, range(20)))]
    house.poll()
    for _ in range(40):
        house.let(minutes=16)

    states = house.states()
    assert states.pop("7") == "dead"
    assert set(states.values()) == {"delivered"}
