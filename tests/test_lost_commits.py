"""The database: commits that fail, commits whose answer is lost, and commits that are gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import OperationalError, TimeoutError as PoolTimeout

from poller import recovery
from poller.errors import UnknownOutcome
from poller.store import Store
from poller.store.standing import hold_route
from poller.tables import deliveries, facts, proofs, routes
from tests.fakes import last
from tests.house import House


def lost() -> UnknownOutcome:
    return UnknownOutcome("no answer")


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
    house.prove()
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
    house.prove()
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
    house.prove_lookup()
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

    assert len(house.posts_of("1")) == 1


def test_a_lost_database_does_not_lift_what_an_operator_has_to_lift(house: House) -> None:
    with house.store.write() as connection:
        hold_route(connection, house.route.id, "correlation_altered", "altered", now=house.clock.now(), until=None)
    assert not recovery.suspect(house.store, house.clock, {"helpdesk": house.route}, None)
    recovery.ask(house.store, house.clock, {"helpdesk": house.route})

    assert house.rows(routes)[0]["held_reason"] == "correlation_altered"


def test_another_daemons_hold_is_not_overwritten_by_a_stale_view(house: House) -> None:
    house.prove()
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
    house.prove_lookup()
    house.sink.script = [lost(), lost()]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    (copy,) = [row for row in house.rows(deliveries) if row["state"] == "unknown"]
    house.let(seconds=21)
    assert len(house.posts_of("1")) == 2
    with store.write() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == copy["id"]).values(**copy))
    house.store.owner = "another"
    assert recovery.suspect(house.store, house.clock, {"helpdesk": house.route}, 5000)
    house.dispatcher = house.dispatch()
    assert recovery.ask(house.store, house.clock, {"helpdesk": house.route})
    house.dispatcher.look_anew()
    house.turn()
    house.clock.move(seconds=5)
    house.sink.commit(house.posts_of("1")[1])
    for _ in range(20):
        house.let(seconds=1)
    house.turn()

    assert len(house.posts_of("1")) == 2
    assert house.states()["1"] == "delivered"


def test_under_settle_nothing_is_believed_to_bear_our_sys_id(house: House) -> None:
    """Proven long ago, then the settings turned to settle: what is created since is not found by the primary key."""
    house.prove()
    house.dispatcher.replace_routes({"helpdesk": replace(house.route, guard_mode="settle")})
    house.let(seconds=1)

    assert not house.dispatcher.primary(house.sink.guard_key())
