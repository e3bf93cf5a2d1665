"""The delivery protocol (guarantee 2.3), on both databases, with an instance that does what the test says."""

from __future__ import annotations

from poller.errors import (
    BlockedError,
    HeldError,
    PermanentError,
    PollerError,
    RefusedError,
    TransientError,
    UnknownOutcome,
)
from poller.model import Intent, Malformed, Page
from poller.store import Store
from poller.tables import checkpoints, proofs, records as records_table, routes
from tests.fakes import FakeSink, last, records
from tests.house import House


def after_commit(error: PollerError) -> object:
    """Meet *error* although the row was made."""

    def act(sink: FakeSink, intent: Intent) -> PollerError:
        sink.commit(intent)
        return error

    return act


def lost() -> UnknownOutcome:
    return UnknownOutcome("no answer")


def test_each_record_is_created_once_and_its_number_kept(house: House) -> None:
    house.source.pages = [last("1", "2", "3")]
    house.poll()
    house.turn()
    house.poll()
    house.turn()

    assert set(house.states().values()) == {"delivered"}
    assert len(house.sink.posts) == 3
    assert {row["number"] for row in house.rows(records_table)} == {"INC0000001", "INC0000002", "INC0000003"}


def test_the_first_create_goes_alone_until_the_guard_is_proven(house: House) -> None:
    house.source.pages = [last("1", "2", "3", "4", "5")]
    house.poll()
    house.executor.keeping = True
    house.turn()
    house.executor.release()  # the preparation
    house.turn()

    assert len(house.executor.kept) == 1

    house.executor.release()
    house.turn()

    assert len(house.executor.kept) == 4
    assert house.rows(proofs)[0]["sys_id"]


def test_a_lost_answer_does_not_make_a_second_incident(house: House) -> None:
    house.source.pages = [last("1")]
    house.sink.script = [after_commit(lost())]
    house.poll()
    house.turn()

    assert house.states() == {"1": "unknown"}

    house.let(seconds=1.1)

    assert house.states() == {"1": "delivered"}
    assert len(house.sink.posts) == 1
    assert house.outcomes() == ["unknown", "found"]


def test_under_settle_a_miss_means_nothing_until_no_copy_can_be_alive(store: Store) -> None:
    house = House(store, guard_mode="settle")
    house.source.pages = [last("1")]
    house.sink.script = [lost()]
    house.poll()
    house.turn()
    for _ in range(19):
        house.let(seconds=1)

    assert len(house.sink.posts) == 1
    assert house.sink.looks > 2

    house.let(seconds=2)
    house.turn()

    assert len(house.sink.posts) == 2
    assert house.states() == {"1": "delivered"}


def test_a_commit_after_an_early_look_is_found_by_the_last_one(store: Store) -> None:
    house = House(store, guard_mode="settle")
    house.source.pages = [last("1")]
    house.sink.script = [lost()]
    house.poll()
    house.turn()
    house.let(seconds=10)
    house.sink.commit(house.sink.posts[0])
    house.let(seconds=11)

    assert len(house.sink.posts) == 1
    assert house.states() == {"1": "delivered"}


def test_a_proven_sys_id_is_sent_again_at_once(house: House) -> None:
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    house.source.pages = [last("2")]
    house.sink.script = [lost()]
    house.poll()
    house.turn()
    house.let(seconds=1.1)

    first, again = house.sink.posts[1:]
    assert first.derived_sys_id == again.derived_sys_id
    assert first.with_sys_id
    assert again.with_sys_id
    assert again.attempt == 2


def test_another_sys_id_in_an_answer_switches_the_guard_off(house: House) -> None:
    house.sink.honours = False
    house.source.pages = [last("1", "2")]
    house.poll()
    house.turn()

    assert house.rows(proofs)[0]["sys_id"] is False or house.rows(proofs)[0]["sys_id"] == 0
    assert [post.with_sys_id for post in house.sink.posts] == [True, False]


def test_a_create_that_refuses_the_sys_id_is_sent_once_more_without(house: House) -> None:
    house.source.pages = [last("1")]
    house.sink.script = [PermanentError("403", insert_refused=True)]
    house.poll()
    house.turn()

    assert [post.with_sys_id for post in house.sink.posts] == [True, False]
    assert house.states() == {"1": "delivered"}
    assert not house.rows(proofs)[0]["sys_id"]


def test_blind_look_ups_stop_creation_after_one_record(house: House) -> None:
    house.sink.blind = True
    house.source.pages = [last("1", "2", "3")]
    house.poll()
    house.turn()
    house.let(minutes=30)

    assert len(house.sink.posts) == 1
    assert house.rows(routes)[0]["held_reason"] == "lookup_blind"


def test_a_killed_process_leaves_doubt_and_not_a_double(house: House) -> None:
    house.source.pages = [last("1")]
    house.poll()
    house.executor.keeping = True
    house.turn()
    house.executor.release()
    house.turn()
    assert house.states() == {"1": "sending"}
    house.sink.commit(_intent_on_the_wire(house))
    house.executor.kept = []  # kill -9: its answer is never heard
    house.executor.keeping = False
    if house.store.sqlite_path is None:
        house.clock.move(seconds=61)  # another daemon takes over when the lease is out
    house.store.owner = "another"
    house.dispatcher = house.dispatch()
    house.turn()
    if house.store.sqlite_path is None:
        house.let(seconds=21)

    assert house.states() == {"1": "delivered"}
    assert house.sink.posts == []


def _intent_on_the_wire(house: House) -> Intent:
    (work,) = set(house.dispatcher._working.values())
    return work.claims[0].intent


def test_a_late_worker_changes_nothing_but_its_number_is_kept(house: House) -> None:
    house.source.pages = [last("1")]
    house.poll()
    house.executor.keeping = True
    house.turn()
    house.executor.release()
    house.turn()
    late = house.dispatcher
    house.clock.move(seconds=61)
    owner, house.store.owner = house.store.owner, "another"
    house.dispatcher = house.dispatch()
    assert house.states() == {"1": "unknown"}
    other, house.dispatcher = house.dispatcher, late
    house.store.owner = owner
    house.executor.keeping = False
    house.executor.release()
    late.stop()
    house.turn(1)

    from poller.tables import late_results

    assert house.states() == {"1": "unknown"}
    assert len(house.rows(late_results)) == 1
    house.dispatcher = other
    house.store.owner = "another"
    house.let(seconds=21)
    assert house.states() == {"1": "delivered"}
    assert len(house.sink.posts) == 1


def test_a_wrong_secret_buries_nothing(house: House) -> None:
    house.source.pages = [last("1", "2", "3")]
    house.sink.prepare_script = [BlockedError("401") for _ in range(5)]
    house.poll()
    house.turn()

    assert len(house.sink.prepared) == 1

    for _ in range(5):
        house.let(minutes=16)

    assert [len(batch) for batch in house.sink.prepared[1:5]] == [1, 1, 1, 1]
    house.let(minutes=16)
    assert set(house.states().values()) == {"delivered"}


def test_a_refusal_in_unknown_words_blocks_the_route_while_nothing_ever_went_through(house: House) -> None:
    house.source.pages = [last("1", "2")]
    house.sink.script = [RefusedError("403")]
    house.poll()
    house.turn()

    assert set(house.states().values()) == {"ready"}
    assert house.rows(routes)[0]["blocked_until"] is not None

    house.let(seconds=3)
    assert set(house.states().values()) == {"delivered"}
    assert house.rows(routes)[0]["blocked_until"] is None


def test_a_refusal_in_unknown_words_after_a_success_is_the_records_own(house: House) -> None:
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    house.source.pages = [last("2", "3")]
    house.sink.script = [RefusedError("403")]
    house.clock.move(seconds=1)
    house.poll()
    house.turn()

    assert sorted(house.states().values()) == ["dead", "delivered", "delivered"]


def test_a_poison_record_is_dead_alone(house: House) -> None:
    house.sink.dead_keys = {"7"}
    house.source.pages = [last(*map(str, range(20)))]
    house.poll()
    house.turn(30)

    states = house.states()
    assert states.pop("7") == "dead"
    assert set(states.values()) == {"delivered"}


def test_an_outage_uses_up_no_attempt_and_storms_nothing(house: House) -> None:
    house.source.pages = [last(*map(str, range(10)))]
    house.poll()
    house.sink.prepare_script = [TransientError("refused", remote=True) for _ in range(20)]
    house.turn()
    for _ in range(20):
        house.let(minutes=16)

    assert len(house.sink.prepared) <= 22
    house.let(minutes=16)
    house.turn(30)
    assert set(house.states().values()) == {"delivered"}


def test_retry_after_is_obeyed(house: House) -> None:
    from datetime import timedelta

    house.source.pages = [last("1", "2")]
    house.sink.script = [TransientError("429", remote=True, retry_after=timedelta(seconds=1800))]
    house.poll()
    house.turn()
    house.let(seconds=1790)

    assert len(house.sink.posts) == 1

    house.let(seconds=11)
    house.turn()
    assert set(house.states().values()) == {"delivered"}


def test_twelve_refusals_of_one_record_and_it_is_dead(house: House) -> None:
    house.source.pages = [last("1")]
    house.sink.script = [TransientError("not now") for _ in range(30)]
    house.poll()
    house.turn()
    for _ in range(40):
        house.let(minutes=16)

    assert house.states() == {"1": "dead"}
    assert len(house.sink.posts) == 12


def test_a_dead_refusal_waits_for_an_earlier_attempt_in_doubt(house: House) -> None:
    house.source.pages = [last("0")]
    house.poll()
    house.turn()
    house.source.pages = [last("1")]
    house.sink.script = [lost(), PermanentError("data policy"), PermanentError("data policy")]
    house.poll()
    house.turn()
    house.let(seconds=1.1)

    assert house.states()["1"] == "unknown"

    house.sink.commit(house.sink.posts[1])  # the first attempt commits late after all
    house.let(seconds=21)
    assert house.states()["1"] == "delivered"


def test_a_hold_for_an_operator_creates_nothing_more(house: House) -> None:
    house.source.pages = [last("1", "2")]
    house.sink.prepare_script = [HeldError("collision", reason="collision", operator=True)]
    house.poll()
    house.turn()
    house.let(hours=5)

    assert house.sink.posts == []
    assert house.rows(routes)[0]["held_reason"] == "collision"


def test_a_hold_that_time_lifts_probes_again(house: House) -> None:
    house.source.pages = [last("1", "2")]
    house.sink.prepare_script = [HeldError("canary", reason="canary", operator=False)]
    house.poll()
    house.turn()
    assert house.rows(routes)[0]["held_reason"] == "canary"
    house.let(seconds=5)
    house.turn()

    assert set(house.states().values()) == {"delivered"}
    assert house.rows(routes)[0]["held_reason"] is None


def test_the_flood_guard_lets_so_many_through_within_an_hour(store: Store) -> None:
    house = House(store, max_new_per_hour=3)
    house.source.pages = [last(*map(str, range(8)))]
    house.poll()
    house.turn(20)

    assert len(house.sink.posts) == 3

    house.let(minutes=61)
    house.turn(20)
    assert len(house.sink.posts) == 6


def test_the_baseline_skips_what_was_there_before(store: Store) -> None:
    house = House(store, baseline=True)
    house.source.pages = [Page(records=records("1", "2")), TransientError("broken off")]
    assert not house.poll()
    house.let(minutes=1)
    house.source.pages = [last("1", "2", "3")]
    assert house.poll()
    house.source.pages = [last("3", "4")]
    assert house.poll()
    house.turn()

    assert house.states() == {"1": "skipped", "2": "skipped", "3": "skipped", "4": "delivered"}


def test_a_checkpoint_moves_only_with_the_last_page(house: House) -> None:
    house.source.pages = [Page(records=records("1"), checkpoint="10"), TransientError("page 2 is broken")]
    house.poll()

    assert house.rows(checkpoints)[0]["value"] is None
    assert house.states() == {"1": "pending"}

    house.clock.move(minutes=1)
    house.source.pages = [Page(records=records("1"), checkpoint="10"), last("2", checkpoint="20")]
    house.poll()
    house.poll()
    assert house.rows(checkpoints)[0]["value"] == "20"
    assert house.source.checkpoints == [None, None, "20"]


def test_a_failed_poll_waits_longer_each_time_and_a_restart_does_not_forget_it(house: House) -> None:
    house.source.pages = [TransientError("down")]
    assert not house.poll()
    assert house.poll()  # not due: the source is left alone

    assert len(house.source.checkpoints) == 1


def test_a_malformed_record_is_a_dead_letter_and_is_received_once_it_is_mended(house: House) -> None:
    house.source.pages = [
        Page(records=records("1"), malformed=(Malformed(reason="no title", raw='{"id": 2}', key="2"),), last=True)
    ]
    house.poll()
    house.turn()
    house.poll()

    assert house.states() == {"1": "delivered", "2": "dead"}

    house.source.pages = [last("1", "2", version="2")]
    house.poll()
    house.turn()
    assert house.states() == {"1": "delivered", "2": "delivered"}
    assert len(house.sink.posts) == 2


def test_hostile_keys_and_raw_texts_are_kept(house: House) -> None:
    raw = "\x00 \ud800 '; DROP TABLE records; --"
    house.source.pages = [
        Page(
            records=records("k" * 5000, "'; DROP TABLE records; --", "ключ"),
            malformed=(Malformed(reason="garbage", raw=raw),),
            last=True,
        )
    ]
    assert house.poll()
    house.turn()

    assert sorted(house.states().values()) == ["dead", "dead", "delivered", "delivered"]
