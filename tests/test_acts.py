"""What operators may do to a delivery in each state."""

from datetime import UTC, datetime

import pytest

from poller.acts import Answer, Contents, Found, retried, skipped
from poller.model import State

LATER = datetime(2030, 1, 1, tzinfo=UTC)
DONE, KEPT, REFUSED = Answer.DONE, Answer.KEPT, Answer.REFUSED


def found(state: State, *, contents: Contents = Contents.THERE, **more: object) -> Found:
    return Found(**{"state": state, "claimed": False, "safe_after": None, "contents": contents, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [State.DEAD, State.WAITING, State.PENDING, State.READY, State.SKIPPED])
def test_retry_prepares_anew_whatever_is_surely_not_on_its_way(state: State) -> None:
    decision = retried(found(state))

    assert (decision.answer, decision.state) == (DONE, State.PENDING)


@pytest.mark.parametrize("state", [State.DEAD, State.WAITING, State.PENDING, State.READY])
def test_skip_gives_up_whatever_is_surely_not_on_its_way(state: State) -> None:
    decision = skipped(found(state))

    assert (decision.answer, decision.state) == (DONE, State.SKIPPED)


@pytest.mark.parametrize("state", [state for state in State if state not in {State.DELIVERED, State.SENDING}])
def test_what_may_be_on_the_wire_is_neither_written_anew_nor_given_up(state: State) -> None:
    in_doubt = found(state, safe_after=LATER)

    retry, skip = retried(in_doubt), skipped(in_doubt)

    assert (retry.answer, retry.state) == (KEPT, None)
    assert "until 2030-01-01T00:00:00Z" in retry.said
    assert skip.state is None
    assert skip.answer is (KEPT if state is State.SKIPPED else REFUSED)


def test_a_doubt_that_is_over_by_the_clock_alone_is_still_a_doubt() -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)

    assert retried(found(State.READY, safe_after=past)).answer is KEPT
    assert retried(found(State.UNKNOWN)).answer is KEPT
    assert skipped(found(State.UNKNOWN)).answer is REFUSED


def test_a_doubt_is_looked_up_at_once_unless_somebody_does_so_already() -> None:
    assert retried(found(State.UNKNOWN, safe_after=LATER)).look_now
    assert not retried(found(State.UNKNOWN, safe_after=LATER, claimed=True)).look_now


def test_an_attempt_under_way_is_left_to_end() -> None:
    assert (retried(found(State.SENDING)).answer, retried(found(State.SENDING)).state) == (KEPT, None)
    assert (skipped(found(State.SENDING)).answer, skipped(found(State.SENDING)).state) == (REFUSED, None)


def test_what_is_delivered_stays_so() -> None:
    for decision in (retried(found(State.DELIVERED, number="INC1")), skipped(found(State.DELIVERED, number="INC1"))):
        assert (decision.answer, decision.state) == (REFUSED, None)
        assert "INC1" in decision.said


def test_what_could_not_be_read_is_mended_at_its_source() -> None:
    dead = retried(found(State.DEAD, contents=Contents.UNREADABLE))
    given_up = retried(found(State.SKIPPED, contents=Contents.UNREADABLE))

    assert (dead.answer, dead.state) == (REFUSED, None)
    assert "source" in dead.said
    assert (given_up.answer, given_up.state) == (DONE, State.DEAD)
    assert skipped(found(State.DEAD, contents=Contents.UNREADABLE)).state is State.SKIPPED


def test_what_was_forgotten_cannot_be_prepared() -> None:
    decision = retried(found(State.SKIPPED, contents=Contents.FORGOTTEN))

    assert (decision.answer, decision.state) == (REFUSED, None)
    assert "retention" in decision.said
