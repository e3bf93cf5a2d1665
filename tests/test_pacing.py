"""Records buried for another's fault, and waits that are too long, too short, or for nothing."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from poller.errors import PermanentError, RefusedError, TransientError, UnknownOutcome
from poller.lanes import Lanes
from poller.model import Prepared
from poller.store import Store
from poller.tables import proofs, remotes
from tests.fakes import last
from tests.house import House
from tests.scenarios.world import wait_for


def lost() -> UnknownOutcome:
    return UnknownOutcome("no answer")


# Burials.


def test_inserts_that_are_refused_from_the_first_on_block_the_route_and_bury_nothing(house: House) -> None:
    """403 "Error during insert" for every record while nothing ever went through: the route's fault, not theirs."""
    house.sink.script = [PermanentError("403: error during insert", insert_refused=True) for _ in range(40)]
    house.source.pages = [last("1", "2", "3")]
    house.poll()
    house.turn(20)

    assert "dead" not in house.states().values()


def test_rights_taken_away_while_several_are_in_flight_bury_one_at_most(house: House) -> None:
    house.prove()
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
    second = house.other_route("second", requests_per_hour=100)
    house.dispatcher.replace_routes({"helpdesk": house.route, "second": second})
    house.source.pages = [last(*map(str, range(5)))]
    house.poll()
    for _ in range(120):  # ten minutes: 5 + 15 requests
        house.let(seconds=5)

    assert set(house.states().values()) == {"delivered"}


def test_a_route_with_nothing_to_send_does_not_take_the_one_create_of_another(house: House) -> None:
    second = house.other_route("second")
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
    house.prove()
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


# Gathering what has finished, while the connections have plenty to do.


@pytest.fixture
def gathering(store: Store, monkeypatch: pytest.MonkeyPatch) -> House:
    """A dispatcher all of whose connections have plenty to do, and that would gather for an hour."""
    monkeypatch.setattr("poller.dispatcher.GATHER", 3600.0)
    monkeypatch.setattr(Lanes, "plenty", True)
    return House.sending(store)


@pytest.mark.timeout(120)
def test_what_came_during_a_turn_is_not_kept_waiting(gathering: House) -> None:
    gathering.dispatcher.wake()
    gathering.turn(1)
    gathering.source.pages = [last("1")]
    gathering.poll()
    gathering.turn(2)

    assert gathering.sink.posts, "its preparation had ended before the turn that handed it out"


@pytest.mark.timeout(120)
def test_sends_that_ended_are_gathered_until_there_is_something_better_to_do(gathering: House) -> None:
    gathering.source.pages = [last(*map(str, range(5)))]
    gathering.poll()
    gathering.executor.keeping = True
    gathering.turn(1)
    gathering.executor.release()
    gathering.turn(1)
    turning = threading.Thread(target=gathering.turn, args=(1,), daemon=True)
    gathering.executor.release()
    turning.start()
    wait_for(lambda: gathering.dispatcher._finished.qsize() == 4, "the first to be taken up")
    assert set(gathering.states().values()) == {"sending"}
    gathering.dispatcher.wake()
    turning.join(30)

    assert set(gathering.states().values()) == {"delivered"}
