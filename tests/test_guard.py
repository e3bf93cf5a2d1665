"""Which guard is in force, and what each answer proves (guarantee 2.3, 7)."""

import pytest

from poller.errors import UnknownOutcome
from poller.guard import Proof, in_force, learn, refused
from poller.model import Guard, Receipt
from poller.store import Store
from poller.tables import proofs
from tests.fakes import last
from tests.house import House

UNKNOWN, PROVEN, REFUTED = Proof(), Proof(sys_id=True, lookup=True), Proof(sys_id=False)


@pytest.mark.parametrize(
    ("mode", "proof", "guard", "with_sys_id", "proving"),
    [
        ("auto", UNKNOWN, Guard.SETTLE, True, True),
        ("auto", PROVEN, Guard.SYS_ID, True, False),
        ("auto", Proof(sys_id=True, lookup=False), Guard.SYS_ID, True, True),
        ("auto", REFUTED, Guard.SETTLE, False, True),
        ("auto", Proof(sys_id=False, lookup=True), Guard.SETTLE, False, False),
        ("sys_id", UNKNOWN, Guard.SETTLE, True, True),
        ("sys_id", PROVEN, Guard.SYS_ID, True, False),
        ("sys_id", REFUTED, Guard.SETTLE, False, True),
        ("settle", UNKNOWN, Guard.SETTLE, False, True),
        ("settle", Proof(lookup=True), Guard.SETTLE, False, False),
        ("settle", PROVEN, Guard.SETTLE, False, False),
    ],
)
def test_what_is_in_force(mode: str, proof: Proof, guard: Guard, with_sys_id: bool, proving: bool) -> None:
    found = in_force(mode, proof)

    assert (found.guard, found.with_sys_id, found.proving) == (guard, with_sys_id, proving)
    assert found.why


@pytest.mark.parametrize("proof", [UNKNOWN, PROVEN, REFUTED, Proof(lookup=True)])
@pytest.mark.parametrize("mode", ["auto", "sys_id", "settle"])
def test_the_strong_guard_is_never_in_force_unproven(mode: str, proof: Proof) -> None:
    found = in_force(mode, proof)

    assert found.guard is Guard.SETTLE or proof.sys_id is True
    # Sent again at once, it must carry the very key that the instance refuses a second time.
    assert found.with_sys_id or found.guard is Guard.SETTLE


def made(*, learnt: str = "response", read_back: bool | None = None, honoured: bool | None = None) -> Receipt:
    return Receipt(learnt=learnt, sys_id="0" * 32, number="INC1", read_back=read_back, sys_id_honoured=honoured)


@pytest.mark.parametrize(
    ("before", "receipt", "sys_id", "lookup"),
    [
        # Kept *and* found again: both together are the proof.
        (UNKNOWN, made(honoured=True, read_back=True), True, True),
        (UNKNOWN, made(honoured=True, read_back=None), None, False),
        (UNKNOWN, made(honoured=True, read_back=False), None, False),
        # A lost answer that a look-up settles proves as much.
        (UNKNOWN, made(learnt="lookup", honoured=True), True, True),
        (UNKNOWN, made(learnt="lookup", honoured=None), None, True),
        # Another sys_id came back: off at once, proven or not.
        (UNKNOWN, made(honoured=False, read_back=True), False, True),
        (UNKNOWN, made(honoured=False), False, False),
        (PROVEN, made(honoured=False), False, True),
        # What is proven or refuted once stays.
        (PROVEN, made(honoured=True), True, True),
        (PROVEN, made(honoured=None), True, True),
        (REFUTED, made(honoured=True, read_back=True), False, True),
        (REFUTED, made(read_back=True), False, True),
        (REFUTED, made(), False, False),
    ],
)
def test_what_is_learnt(before: Proof, receipt: Receipt, sys_id: bool | None, lookup: bool) -> None:
    found = learn(before, receipt)

    assert (found.sys_id, found.lookup) == (sys_id, lookup)
    assert learn(found, receipt) == found


def test_a_create_that_went_through_without_the_refused_sys_id_settles_it() -> None:
    assert refused(UNKNOWN).sys_id is False
    assert refused(UNKNOWN).why != UNKNOWN.why


def lost() -> UnknownOutcome:
    return UnknownOutcome("no answer")


def test_a_guard_switched_off_does_not_let_an_attempt_in_doubt_go_out_without_its_sys_id(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.9)  # the jitter, so that the third attempt has to wait
    house = House(store)
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    assert house.rows(proofs)[0]["sys_id"] is True
    house.source.pages = [last("2")]
    house.sink.script = [lost(), lost()]
    house.poll()
    house.turn()
    house.let(seconds=1.1)
    in_doubt = house.sink.posts[1]
    assert [intent.key for intent in house.sink.posts] == ["1", "2", "2"]

    # While the third attempt waits for its moment, the instance stops keeping our sys_ids.
    house.sink.honours = False
    house.source.pages = [last("3")]
    house.poll()
    for _ in range(17):
        house.let(seconds=1)
    assert house.rows(proofs)[0]["sys_id"] is False

    # The first copy of 2 arrives late, but within the time in which it may.
    house.sink.commit(in_doubt)
    for _ in range(10):
        house.let(seconds=1)

    assert house.states() == {"1": "delivered", "2": "delivered", "3": "delivered"}
    assert [(i.key, i.with_sys_id) for i in house.sink.posts if i.key == "2" and not i.with_sys_id] == []


def test_an_attempt_in_doubt_that_bore_no_sys_id_is_not_sent_again_at_once(store: Store) -> None:
    """Settings went from ``settle`` to ``auto`` between two starts, and the proof is from before."""
    proven = House(store)
    proven.source.pages = [last("1")]
    proven.poll()
    proven.turn()
    settle = House(store, guard_mode="settle")
    settle.source.pages = [last("2")]
    settle.sink.script = [lost()]
    settle.poll()
    settle.turn()
    assert [(i.key, i.with_sys_id) for i in settle.sink.posts] == [("2", False)]

    auto = House(store)
    auto.sink = settle.sink
    object.__setattr__(auto.route, "sink", settle.sink)
    auto.let(seconds=1.1)
    auto.let(seconds=2)

    assert [i.key for i in settle.sink.posts] == ["2"]

    for _ in range(20):
        auto.let(seconds=1)
    assert [i.key for i in settle.sink.posts] == ["2", "2"]
