"""What operators do, beside a dispatcher that goes on; on both databases."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from poller.acts import Answer
from poller.errors import PermanentError, TransientError, UnknownOutcome
from poller.migrate import upgrade
from poller.model import Intent, Malformed, Page, Prepared, Receipt, Record, State
from poller.store import Store, open_store, operating, reviving
from poller.store.lives import life
from poller.store.reading import counts, snapshot
from poller.store.reviving import Told, Wish
from poller.tables import acts, checkpoints, deliveries, payloads, records as records_table
from tests.fakes import FakeSink, last, records
from tests.house import House


def act(house: House, name: str, *keys: str, state: State | None = None, reason: str = "because") -> list[Told]:
    wish = Wish(act=name, route_id=house.route.id, reason=reason, state=state)
    with house.store.read() as connection:
        if state is not None:
            ids = reviving.in_state(connection, house.route.id, state)
        else:
            ids = list(reviving.with_keys(connection, house.route.id, keys).values())
    return list(reviving.carry_out(house.store, wish, ids, house.clock.now))


def retry(house: House, *keys: str, **more: Any) -> Told:
    (told,) = act(house, "retry", *keys, **more)
    return told


def skip(house: House, *keys: str, **more: Any) -> Told:
    (told,) = act(house, "skip", *keys, **more)
    return told


def lost_answer(sink: FakeSink, intent: Intent) -> Receipt:
    sink.commit(intent)
    raise UnknownOutcome("no answer")


def never_arrived(sink: FakeSink, intent: Intent) -> Receipt:
    raise UnknownOutcome("no answer")


def started(house: House, *keys: str) -> House:
    house.source.pages = [last(*keys)]
    house.poll()
    house.turn()
    return house


# Retry.


def test_a_dead_record_is_looked_up_anew_past_the_caches(house: House) -> None:
    house.sink.dead_keys = {"1"}
    started(house, "1")
    asked: list[bool] = []
    prepare = house.sink.prepare

    def noting(batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        asked.append(fresh)
        return prepare(batch, now=now)

    house.sink.prepare = noting  # type: ignore[method-assign]
    house.sink.dead_keys = set()

    told = retry(house, "1", reason="the user is there now")
    house.let(seconds=1)

    assert (told.was, told.now, told.answer) == ("dead", "pending", Answer.DONE)
    assert house.states() == {"1": "delivered"}
    assert asked == [True]


def test_a_retry_is_seen_within_a_second_by_a_dispatcher_that_nobody_wakes(store: Store) -> None:
    # A whole batch that waits for hours: the dispatcher has no reason of its own to ask again before.
    house = House(store, concurrency=1, policy={"base": timedelta(hours=9), "cap": timedelta(hours=9)})
    house.sink.prepare_script = [TransientError("away", remote=False)]
    started(house, *map(str, range(50)))
    assert Counter(house.states().values()) == {"pending": 50}
    act(house, "retry", "7")

    house.clock.move(seconds=1)
    house.turn()

    assert house.states()["7"] == "delivered"


def test_a_retried_record_has_all_its_attempts_before_it(house: House) -> None:
    house.sink.script = [TransientError("locked")] * 100
    started(house, "1")
    for _ in range(40):
        house.let(hours=1)
    assert house.states() == {"1": "dead"}

    retry(house, "1")
    house.let(seconds=1)

    assert house.states() == {"1": "waiting"}
    assert house.rows(deliveries)[0]["refusals"] == 1


def test_a_waiting_record_is_due_now(house: House) -> None:
    house.sink.script = [TransientError("full", remote=False)]
    started(house, "1")
    assert house.states() == {"1": "waiting"}

    assert retry(house, "1").now == "pending"
    house.clock.move(seconds=1)
    house.turn()

    assert house.states() == {"1": "delivered"}


def test_an_unknown_outcome_keeps_its_wait_and_its_body(house: House) -> None:
    house.sink.script = [never_arrived]
    started(house, "1")
    before = house.rows(deliveries)[0]

    told = retry(house, "1")
    house.let(seconds=1)

    after = house.rows(deliveries)[0]
    assert (told.answer, told.now) == (Answer.KEPT, "unknown")
    assert after["state"] == "unknown"
    assert (after["safe_after"], after["body"]) == (before["safe_after"], before["body"])
    assert len(house.sink.posts) == 1


def test_an_unknown_outcome_is_looked_up_at_once(house: House) -> None:
    house.sink.script = [lost_answer]
    started(house, "1")
    with house.store.write() as connection:
        connection.execute(update(deliveries).values(not_before=deliveries.c.safe_after))

    assert "outcome not known until" in retry(house, "1").said
    house.clock.move(seconds=1)
    house.turn()

    assert house.states() == {"1": "delivered"}
    assert len(house.sink.posts) == 1


def test_an_attempt_under_way_is_left_alone(house: House) -> None:
    started(house)
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    house.executor.release()
    house.turn()
    assert house.states() == {"1": "sending"}

    assert retry(house, "1").answer is Answer.KEPT
    assert skip(house, "1").answer is Answer.REFUSED
    house.executor.release()
    house.turn()

    assert house.states() == {"1": "delivered"}
    assert len(house.sink.posts) == 1


@pytest.mark.parametrize(("name", "becomes"), [("retry", "pending"), ("skip", "skipped")])
def test_a_result_that_comes_after_the_act_changes_nothing(house: House, name: str, becomes: str) -> None:
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn(1)
    assert house.rows(deliveries)[0]["owner"] is not None

    act(house, name, "1")
    house.dispatcher.stop()
    house.executor.release()
    house.turn()

    row = house.rows(deliveries)[0]
    assert (row["state"], row["body"], row["owner"]) == (becomes, None, None)


def test_a_record_taken_out_of_a_workers_hands_is_delivered_once(house: House) -> None:
    house.executor.keeping = True
    house.source.pages = [last("1")]
    house.poll()
    house.turn(1)
    retry(house, "1")
    house.let(seconds=1)
    for _ in range(6):
        house.executor.release()
        house.turn(1)

    assert house.states() == {"1": "delivered"}
    assert len(house.sink.posts) == 1


def test_a_record_that_could_not_be_read_is_not_retried(house: House) -> None:
    house.source.pages = [Page(malformed=(Malformed(reason="no key", raw="{}", key="1"),), last=True)]
    house.poll()

    told = retry(house, "1")

    assert told.answer is Answer.REFUSED
    assert house.states() == {"1": "dead"}
    assert house.rows(acts) == []


def test_a_readable_version_of_a_dead_letter_is_received_but_not_of_a_skipped_one(house: House) -> None:
    bad = [Malformed(reason="no title", raw=f"{key}", key=key) for key in ("1", "2", "3")]
    house.source.pages = [Page(malformed=tuple(bad), last=True)]
    house.poll()
    act(house, "skip", "2", "3")
    assert retry(house, "3").now == "dead"

    house.source.pages = [last("1", "2", "3", version="2")]
    house.poll()
    house.let(seconds=1)

    assert house.states() == {"1": "delivered", "2": "skipped", "3": "delivered"}
    versions = {row["key"]: row["version"] for row in house.rows(records_table)}
    kept = {row["version"] for row in house.rows(deliveries) if row["state"] == "skipped"}
    assert kept == {versions["2"]}


def test_a_record_whose_contents_are_gone_is_not_retried(house: House) -> None:
    started(house, "1")
    house.sink.dead_keys = {"2"}
    started(house, "2")
    skip(house, "2")
    with house.store.write() as connection:
        connection.execute(payloads.delete())

    assert "retention" in retry(house, "2").said
    assert retry(house, "1").answer is Answer.REFUSED
    assert house.states() == {"1": "delivered", "2": "skipped"}


# Skip.


def test_a_skipped_record_is_never_delivered_and_its_retry_revives_it(house: House) -> None:
    house.sink.dead_keys = {"1"}
    started(house, "1")
    house.sink.dead_keys = set()

    assert skip(house, "1", reason="not wanted").now == "skipped"
    started(house, "1")
    assert house.sink.rows == {}
    assert house.rows(records_table)[0]["settled_at"] is not None
    assert house.rows(records_table)[0]["reason"] == "not wanted"

    assert retry(house, "1").now == "pending"
    house.let(seconds=1)

    assert house.states() == {"1": "delivered"}
    assert house.rows(records_table)[0]["reason"] is None


def test_what_the_baseline_skipped_is_revived(store: Store) -> None:
    house = House(store, baseline=True)
    started(house, "1")
    assert house.states() == {"1": "skipped"}

    retry(house, "1")
    house.let(seconds=1)

    assert house.states() == {"1": "delivered"}


def test_an_outcome_in_doubt_is_not_skipped(house: House) -> None:
    house.sink.script = [lost_answer]
    started(house, "1")
    assert house.states() == {"1": "unknown"}

    assert skip(house, "1").answer is Answer.REFUSED
    house.let(seconds=1)

    assert house.states() == {"1": "delivered"}


# In bulk, and what is kept.


def test_all_records_of_a_state_and_of_no_other(house: House) -> None:
    house.sink.dead_keys = {str(number) for number in range(250)}
    started(house, *map(str, range(300)))
    for _ in range(40):
        house.let(seconds=1)
    assert Counter(house.states().values()) == {"dead": 250, "delivered": 50}

    told = act(house, "skip", state=State.DEAD)

    assert len(told) == 250
    assert Counter(house.states().values()) == {"skipped": 250, "delivered": 50}
    with snapshot(house.store) as connection:
        assert counts(connection) == {"helpdesk": {"delivered": 50, "skipped": 250}}
    assert len(house.rows(acts)) == 250


def test_a_record_that_left_the_state_meanwhile_is_left_alone(house: House) -> None:
    house.sink.dead_keys = {"1", "2"}
    started(house, "1", "2")
    wish = Wish(act="skip", route_id=house.route.id, reason="r", state=State.DEAD)
    with house.store.read() as connection:
        ids = reviving.in_state(connection, house.route.id, State.DEAD)
    retry(house, "1")

    told = list(reviving.carry_out(house.store, wish, ids, house.clock.now))

    assert [each.key for each in told] == ["2"]
    assert house.states() == {"1": "pending", "2": "skipped"}


def test_what_would_be_done_is_told_and_nothing_changes(house: House) -> None:
    house.sink.dead_keys = {"1"}
    started(house, "1")
    wish = Wish(act="retry", route_id=house.route.id, reason="r")
    with house.store.read() as connection:
        (told,) = reviving.foresee(connection, wish, [house.rows(records_table)[0]["id"]])

    assert (told.was, told.now) == ("dead", "pending")
    assert house.states() == {"1": "dead"}
    assert house.rows(acts) == []


def test_each_act_is_kept_and_shown_in_the_life_of_the_record(house: House) -> None:
    house.sink.dead_keys = {"1"}
    started(house, "1")
    retry(house, "1", reason="user was made")
    skip(house, "1", reason="twice the same")
    with house.store.write() as connection:
        operating.rewind(connection, house.route.id, "7", "lost a day", now=house.clock.now())

    with snapshot(house.store) as connection:
        found = life(connection, "helpdesk", "1")

    assert found is not None
    assert [(each.act, each.whole_route, each.reason) for each in found.acts] == [
        ("retry", False, "was dead; reason given: user was made"),
        ("skip", False, "was pending; reason given: twice the same"),
        ("rewind", True, "from the beginning to 7: lost a day"),
    ]
    assert all(each.who for each in found.acts)


@pytest.mark.postgres
def test_a_row_that_another_transaction_holds_is_waited_for_alone(postgres_url: str) -> None:
    store = open_store(postgres_url)
    upgrade(store.engine)
    house = House(store)
    house.sink.dead_keys = {"1", "2"}
    started(house, "1", "2")
    ids = [row["id"] for row in house.rows(records_table)]
    wish = Wish(act="skip", route_id=house.route.id, reason="r")
    with house.store.write() as other:
        other.execute(select(deliveries.c.id).where(deliveries.c.record_id == ids[0]).with_for_update())
        told = reviving.carry_out(house.store, wish, ids, house.clock.now)
        assert next(told).key == "2"
    assert next(told).key == "1"
    assert house.states() == {"1": "skipped", "2": "skipped"}
    store.close()


# Rewind.


def checkpoint(house: House) -> Any:
    return house.rows(checkpoints)[0]["value"]


def rewind(house: House, value: str | None) -> None:
    with house.store.write() as connection:
        operating.rewind(connection, house.route.id, value, "r", now=house.clock.now())


def test_after_a_rewind_nothing_known_is_delivered_again(house: House) -> None:
    house.source.pages = [last("1", "2", checkpoint="20")]
    house.poll()
    house.turn()

    rewind(house, None)
    house.source.pages = [last("1", "2", "3", checkpoint="20")]
    house.poll()
    house.let(seconds=1)

    assert house.source.checkpoints == [None, None]
    assert len(house.sink.posts) == len(house.sink.rows) == 3


@pytest.mark.parametrize("resume", [False, True])
def test_a_poll_under_way_does_not_undo_a_rewind(house: House, resume: bool) -> None:
    house.source.pages = [last("1", checkpoint="20")]
    house.poll()

    def pages(since: str | None, known: object = None) -> Any:
        yield Page(records=records("2"), checkpoint="25", resume=resume)
        rewind(house, "10")
        yield Page(records=records("3"), checkpoint="30", resume=resume)
        yield Page(records=records("4"), checkpoint="40", last=True, resume=resume)

    house.source.poll = pages  # type: ignore[method-assign,assignment]
    assert house.poll()

    assert checkpoint(house) == "10"
    assert len(house.states()) == 4


def test_pages_with_a_cursor_move_the_checkpoint_one_after_the_other(house: House) -> None:
    house.source.pages = [
        Page(records=records("1"), checkpoint="a", resume=True),
        Page(records=records("2"), checkpoint="b", resume=True),
        Page(last=True, checkpoint="c", resume=True),
    ]
    assert house.poll()

    assert checkpoint(house) == "c"


# All at once.


class Counting(FakeSink):
    """An instance that counts rows, and refuses a second one only where its key is the same, as ServiceNow does."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()
        self.late: list[tuple[datetime, Intent]] = []

    def commit(self, intent: Intent) -> Receipt:
        if intent.with_sys_id and intent.correlation_id in self.rows:
            raise PermanentError("already there", insert_refused=True)
        self.made[intent.correlation_id] += 1
        return super().commit(intent)

    def arrive(self, now: datetime) -> None:
        """Let come what was on its way."""
        for at, intent in [each for each in self.late if each[0] <= now]:
            self.late.remove((at, intent))
            if not (intent.with_sys_id and intent.correlation_id in self.rows):
                self.commit(intent)


def moves(house: House, sink: Counting, dice: random.Random) -> list[Callable[[], object]]:
    keys: list[str] = []

    def late(_sink: FakeSink, intent: Intent) -> Receipt:
        # Whatever an instance does with a request, it has done within `settle`.
        sink.late.append((house.clock.now() + house.route.policy.settle * dice.random() * 0.95, intent))
        raise UnknownOutcome("no answer")

    def misfortune() -> None:
        sink.script.append(dice.choice([late, late, late, lost_answer, never_arrived, TransientError("busy")]))

    def time() -> None:
        house.clock.move(seconds=dice.choice([0.5, 1, 3, 12]))
        sink.arrive(house.clock.now())

    def crash() -> None:
        house.executor.kept.clear()
        house.dispatcher = house.dispatch()

    def work() -> None:
        house.executor.release()
        house.turn(2)

    def some() -> list[str]:
        return dice.sample(keys, dice.randint(0, len(keys)))

    def retry_what_is_under_way() -> None:
        act(house, "retry", *[key for key, state in house.states().items() if state in {"sending", "unknown"}])

    def new() -> None:
        keys.append(str(len(keys)))
        house.source.pages = [last(*keys)]
        house.poll()

    steps = {
        misfortune: 3,
        time: 3,
        new: 1,
        work: 4,
        lambda: house.turn(1): 6,
        crash: 1,
        retry_what_is_under_way: 3,
        lambda: act(house, "retry", *some()): 2,
        lambda: act(house, "skip", *some()): 1,
        lambda: sink.dead_keys.symmetric_difference_update(some()[:1]): 1,
    }
    return [step for step, weight in steps.items() for _ in range(weight)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("guard", ["settle", "auto"])
def test_a_storm_of_acts_never_makes_a_second_incident(store: Store, guard: str, seed: int) -> None:
    house = House(store, guard_mode=guard)
    sink = house.sink = Counting()
    house.route = replace(house.route, sink=sink)
    house.dispatcher = house.dispatch()
    house.executor.keeping = True
    dice = random.Random(seed)
    possible = moves(house, sink, dice)

    for _ in range(150):
        dice.choice(possible)()

    # At rest: everything is wanted, nothing goes wrong any more.
    sink.script, sink.dead_keys, house.executor.keeping = [], set(), False
    house.executor.release()
    for round_ in range(60):
        house.clock.move(seconds=30)
        sink.arrive(house.clock.now())
        house.dispatcher.wake()
        house.turn(8)
        if round_ % 10 == 0:
            act(house, "retry", *house.states())
    assert set(house.states().values()) == {"delivered"}
    assert set(sink.made.values()) == {1}, sink.made
    assert len(sink.made) == len(house.states())
