"""What becomes of a delivery: every branch, and what no order of events may lead to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import event, given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from poller.errors import (
    BlockedError,
    Evidence,
    HeldError,
    NotSentError,
    PermanentError,
    PollerError,
    RefusedError,
    TransientError,
    UnknownOutcome,
)
from poller.lifecycle import (
    FIRST_LOOK,
    LAST_LOOK,
    LONGEST_RETRY_AFTER,
    Claim,
    Policy,
    Verdict,
    after_attempt,
    after_look,
    after_look_failed,
    after_prepare,
    after_prepare_failed,
    backoff,
    concerns_route,
    may_repeat,
    pause,
)
from poller.model import AlreadyThere, Guard, Intent, NotYet, Operation, Ready, Receipt, State, Undeliverable

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTLE = timedelta(seconds=20)
POLICY = Policy(settle=SETTLE)
UNGUARDED = Policy(settle=SETTLE, guarded=False)
EVIDENCE = Evidence(status=418, excerpt="what came")
RECEIPT = Receipt(learnt="response", sys_id="0" * 32, number="INC1", evidence=EVIDENCE)


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


INTENT = Intent(
    route="helpdesk",
    key="1",
    version="1",
    operation=Operation.CREATE,
    body="{}",
    correlation_id="p:r:k",
    derived_sys_id="0" * 32,
    attempt=1,
    with_sys_id=True,
    number=7,
)
CLAIM = Claim(id=1, record_id=1, route_id=1, epoch=1, state=State.SENDING, intent=INTENT, first_seen=NOW)
#: An attempt before this one may still commit; or its time is over, and nobody has looked since.
ALIVE, OVER = NOW + s(10), NOW - s(10)


def attempted(
    claim: Claim, outcome: Receipt | PollerError, *, policy: Policy = POLICY, succeeded: bool = True
) -> Verdict:
    return after_attempt(claim, outcome, now=NOW, policy=policy, succeeded_since_refusal=succeeded)


# After an attempt. Each kind of error, with no earlier attempt in doubt: state, outcome, counted as a refusal.

TRANSIENT = TransientError("busy", evidence=EVIDENCE)
ASKED = TransientError("429", retry_after=s(30), remote=True, evidence=EVIDENCE)
REMOTE = TransientError("down", remote=True)
NOT_SENT = NotSentError("too late")
BLOCKED = BlockedError("no rights", evidence=EVIDENCE)
HELD = HeldError("blind", reason="canary", operator=False)
PERMANENT = PermanentError("data policy", evidence=EVIDENCE)
INSERT_REFUSED = PermanentError("insert refused", insert_refused=True)
REFUSED = RefusedError("some 403", evidence=EVIDENCE)
LOST = UnknownOutcome("no answer", evidence=EVIDENCE)


@dataclass(frozen=True, kw_only=True)
class Case:
    error: PollerError
    state: State
    outcome: str
    refused: bool = False
    succeeded: bool = True
    omit: bool = False
    guard: Guard = Guard.SETTLE
    with_sys_id: bool = True
    refusals: int = 0


CASES = {
    "unknown": Case(error=LOST, state=State.UNKNOWN, outcome="unknown"),
    "not sent": Case(error=NOT_SENT, state=State.READY, outcome="not_sent"),
    "record refused for now": Case(error=TRANSIENT, state=State.WAITING, outcome="later", refused=True),
    "refused for the last time": Case(error=TRANSIENT, state=State.DEAD, outcome="refused", refused=True, refusals=11),
    "remote asked for a pause": Case(error=ASKED, state=State.WAITING, outcome="later"),
    "remote asked, however often": Case(error=ASKED, state=State.WAITING, outcome="later", refusals=99),
    "remote down": Case(error=REMOTE, state=State.WAITING, outcome="later"),
    "route blocked": Case(error=BLOCKED, state=State.READY, outcome="route_refused"),
    "route held": Case(error=HELD, state=State.READY, outcome="route_refused"),
    "record refused": Case(error=PERMANENT, state=State.DEAD, outcome="refused", refused=True),
    "route refused, perhaps": Case(error=REFUSED, state=State.READY, outcome="route_refused", succeeded=False),
    "record refused, since others went through": Case(
        error=REFUSED, state=State.DEAD, outcome="refused", refused=True, succeeded=True
    ),
    "our sys_id refused, perhaps": Case(error=INSERT_REFUSED, state=State.READY, outcome="refused", omit=True),
    "insert refused without our sys_id": Case(
        error=INSERT_REFUSED, state=State.DEAD, outcome="refused", refused=True, with_sys_id=False
    ),
    "insert refused with a proven sys_id": Case(
        error=INSERT_REFUSED, state=State.DEAD, outcome="refused", refused=True, guard=Guard.SYS_ID
    ),
    "an error of no kind": Case(error=PollerError("what"), state=State.UNKNOWN, outcome="unknown"),
}


def claim_of(case: Case, **more: object) -> Claim:
    intent = replace(INTENT, with_sys_id=case.with_sys_id)
    return replace(CLAIM, intent=intent, guard=case.guard, refusals=case.refusals, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("policy", [POLICY, UNGUARDED], ids=["guarded", "unguarded"])
def test_an_attempt_with_no_earlier_one_in_doubt(case: Case, policy: Policy) -> None:
    found = attempted(claim_of(case), case.error, policy=policy, succeeded=case.succeeded)

    assert (found.state, found.outcome, found.refused, found.omit_sys_id) == (
        case.state,
        case.outcome,
        case.refused,
        case.omit,
    )
    assert str(case.error) in (found.reason or "")
    assert found.receipt is None
    assert (found.safe_after is not None) == (found.state is State.UNKNOWN)
    if found.state is not State.DEAD:
        assert found.not_before is not None


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("guard", list(Guard))
@pytest.mark.parametrize("earlier", [ALIVE, OVER], ids=["alive", "over"])
def test_whatever_comes_while_an_earlier_attempt_is_in_doubt_is_looked_up_first(
    case: Case, guard: Guard, earlier: datetime
) -> None:
    claim = replace(claim_of(case, safe_after=earlier), guard=guard)

    found = attempted(claim, case.error, succeeded=case.succeeded)

    assert found.state is State.UNKNOWN
    assert found.outcome is not None
    assert found.not_before is not None
    assert found.safe_after is not None
    # Never shortened.
    assert found.safe_after >= earlier
    assert not found.cleared
    # What was refused is still counted.
    dead = replace(claim, safe_after=None)
    assert found.refused == attempted(dead, case.error, succeeded=case.succeeded).refused


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_unguarded_sink_does_not_look(case: Case) -> None:
    claim = claim_of(case, safe_after=ALIVE)

    assert attempted(claim, case.error, policy=UNGUARDED, succeeded=case.succeeded).state is case.state


@pytest.mark.parametrize("earlier", [None, OVER, ALIVE])
@pytest.mark.parametrize("policy", [POLICY, UNGUARDED])
def test_a_receipt_ends_it_whatever_was_before(earlier: datetime | None, policy: Policy) -> None:
    found = attempted(replace(CLAIM, safe_after=earlier, refusals=50), RECEIPT, policy=policy)

    assert (found.state, found.outcome, found.receipt, found.evidence) == (
        State.DELIVERED,
        "delivered",
        RECEIPT,
        EVIDENCE,
    )


@pytest.mark.parametrize("error", [LOST, TRANSIENT, ASKED, BLOCKED, PERMANENT, REFUSED])
def test_the_evidence_is_kept(error: PollerError) -> None:
    assert attempted(CLAIM, error).evidence == EVIDENCE
    assert attempted(replace(CLAIM, safe_after=ALIVE), error).evidence == EVIDENCE


def test_an_unknown_outcome_waits_until_no_copy_can_be_alive_and_is_looked_up_early() -> None:
    found = attempted(CLAIM, LOST)

    assert found.safe_after == NOW + SETTLE
    assert found.not_before == NOW + FIRST_LOOK


def test_a_second_unknown_outcome_never_shortens_the_wait_of_the_first() -> None:
    assert attempted(replace(CLAIM, safe_after=NOW + s(90)), LOST).safe_after == NOW + s(90)
    assert attempted(replace(CLAIM, safe_after=NOW + s(9)), LOST).safe_after == NOW + SETTLE


def test_a_wait_of_nothing_is_looked_up_at_once() -> None:
    found = attempted(CLAIM, LOST, policy=Policy(settle=s(0)))

    assert found.safe_after == found.not_before == NOW


def test_a_remotes_wish_is_obeyed_up_to_two_hours() -> None:
    for asked, wait in [
        (s(0), s(0)),
        (s(30), s(30)),
        (s(7200), s(7200)),
        (s(7201), s(7200)),
        (timedelta(days=400), s(7200)),
    ]:
        error = TransientError("429", retry_after=asked, remote=True)
        assert attempted(CLAIM, error).not_before == NOW + wait
        assert pause(1, POLICY, asked) == wait
        assert pause(30, POLICY, asked) == wait
    assert pause(1, POLICY, s(-5)) == s(0)
    assert s(7200) == LONGEST_RETRY_AFTER


def test_only_refusals_of_the_record_itself_use_up_its_attempts() -> None:
    claim = CLAIM
    for _ in range(200):
        for error in (LOST, ASKED, REMOTE, BLOCKED, HELD, NOT_SENT, RefusedError("403")):
            found = attempted(claim, error, succeeded=False)
            assert not found.refused
            assert found.state is not State.DEAD
    states = []
    found = attempted(CLAIM, TRANSIENT)
    for refusals in range(12):
        found = attempted(replace(CLAIM, refusals=refusals), TRANSIENT)
        states.append(found.state)
        assert found.refused

    assert states == [State.WAITING] * 11 + [State.DEAD]
    assert "12 times" in (found.reason or "")


@pytest.mark.parametrize(
    ("error", "succeeded", "route"),
    [
        (BLOCKED, True, True),
        (HELD, True, True),
        (REFUSED, True, False),
        (REFUSED, False, True),
        (PERMANENT, False, False),
        (TRANSIENT, False, False),
        (ASKED, False, False),
        (LOST, False, False),
        (NOT_SENT, False, False),
    ],
)
def test_which_errors_concern_the_whole_route(error: PollerError, succeeded: bool, route: bool) -> None:
    assert concerns_route(error, succeeded_since_refusal=succeeded) is route


# Waits.


@given(st.integers(0, 10_000), st.integers(1, 10**6), st.integers(0, 10**6))
def test_the_backoff_has_full_jitter_below_its_ceiling(failures: int, base: int, more: int) -> None:
    policy = Policy(base=s(base), cap=s(base + more))
    ceiling = min(policy.cap, s(base * 2 ** min(failures, 30)) if failures < 20 else policy.cap)

    assert timedelta(0) <= backoff(failures, policy) <= ceiling
    assert timedelta(0) <= pause(failures + 1, policy, None) <= ceiling
    # A route's or remote's pause is never next to nothing.
    assert pause(failures + 1, policy, None) >= min(s(base), ceiling) / 2


def test_the_jitter_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    for dice, wait, probe in [(0.0, s(0), s(4)), (0.5, s(4), s(6)), (1.0, s(8), s(8))]:
        monkeypatch.setattr("random.random", lambda dice=dice: dice)
        assert backoff(2, POLICY) == wait
        assert pause(3, POLICY, None) == probe


# Preparing.


@pytest.mark.parametrize(
    ("prepared", "expected"),
    [
        (Ready(body="{}", note="exact"), Verdict(state=State.READY, body="{}", note="exact", not_before=NOW)),
        (AlreadyThere(receipt=RECEIPT), Verdict(state=State.DELIVERED, receipt=RECEIPT, outcome="found")),
        (Undeliverable(reason="no user"), Verdict(state=State.DEAD, reason="no user")),
        (
            NotYet(reason="no user yet", until=ALIVE),
            Verdict(state=State.WAITING, reason="no user yet", not_before=ALIVE),
        ),
    ],
)
def test_after_preparing(prepared: Ready | AlreadyThere | Undeliverable | NotYet, expected: Verdict) -> None:
    assert after_prepare(prepared, now=NOW) == expected


@pytest.mark.parametrize("state", [State.PENDING, State.WAITING])
@pytest.mark.parametrize("error", [TRANSIENT, BLOCKED, HELD])
def test_a_batch_without_an_answer_stays_as_it_is(state: State, error: PollerError) -> None:
    found = after_prepare_failed(replace(CLAIM, state=state), error, now=NOW, policy=POLICY, alone=False)

    assert found.state is state
    assert not found.refused
    assert found.not_before is not None
    assert NOW <= found.not_before <= NOW + POLICY.base


# Looking.


def looked(claim: Claim, found: Receipt | None, *, guard: Guard = Guard.SETTLE, took: float = 0.5) -> Verdict:
    return after_look(claim, found, started=NOW, now=NOW + s(took), guard=guard, policy=POLICY)


@pytest.mark.parametrize("guard", list(Guard))
@pytest.mark.parametrize("earlier", [None, OVER, ALIVE])
def test_a_hit_ends_it_at_once(guard: Guard, earlier: datetime | None) -> None:
    receipt = replace(RECEIPT, learnt="lookup")

    found = looked(replace(CLAIM, safe_after=earlier), receipt, guard=guard)

    assert (found.state, found.receipt, found.outcome) == (State.DELIVERED, receipt, "found")


@pytest.mark.parametrize(
    ("earlier", "guard", "with_sys_id", "omit", "state", "cleared"),
    [
        (ALIVE, Guard.SETTLE, True, False, State.UNKNOWN, False),
        (ALIVE, Guard.SETTLE, False, False, State.UNKNOWN, False),
        (ALIVE, Guard.SYS_ID, True, False, State.READY, False),
        # The attempt in doubt bore no sys_id that the instance could refuse a second time.
        (ALIVE, Guard.SYS_ID, False, False, State.UNKNOWN, False),
        (ALIVE, Guard.SYS_ID, True, True, State.UNKNOWN, False),
        (OVER, Guard.SETTLE, True, False, State.READY, True),
        (OVER, Guard.SYS_ID, True, False, State.READY, True),
        (OVER, Guard.SYS_ID, False, False, State.READY, True),
        (NOW, Guard.SETTLE, False, False, State.READY, True),
        (NOW + s(0.000001), Guard.SETTLE, False, False, State.UNKNOWN, False),
        # The answer came after the wait was over, but the question was asked before.
        (NOW + s(0.4), Guard.SETTLE, False, False, State.UNKNOWN, False),
    ],
)
def test_a_miss(earlier: datetime, guard: Guard, with_sys_id: bool, omit: bool, state: State, cleared: bool) -> None:
    claim = replace(CLAIM, safe_after=earlier, omit_sys_id=omit, intent=replace(INTENT, with_sys_id=with_sys_id))

    found = looked(claim, None, guard=guard)

    assert (found.state, found.cleared, found.looked) == (state, cleared, True)
    assert found.safe_after == (None if cleared else earlier)
    assert found.receipt is None


def test_the_first_new_attempt_goes_at_once_and_later_ones_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    waits = []
    for attempt in (1, 2, 3, 20):
        claim = replace(CLAIM, safe_after=OVER, intent=replace(INTENT, attempt=attempt))
        found = looked(claim, None, took=0)
        assert found.not_before
        waits.append((found.not_before - NOW).total_seconds())

    assert waits == [0, 8, 16, POLICY.cap.total_seconds()]


def test_looks_come_early_and_often_and_surely_once_at_the_end() -> None:
    claim, at, looks = replace(CLAIM, safe_after=NOW + s(330)), NOW, []
    while True:
        found = after_look(claim, None, started=at, now=at, guard=Guard.SETTLE, policy=POLICY)
        if found.state is State.READY:
            break
        assert found.not_before is not None
        at = found.not_before
        looks.append((at - NOW).total_seconds())
        claim = replace(claim, lookups=claim.lookups + 1)

    assert looks[:6] == [1, 3, 7, 15, 31, 63]
    assert max(later - earlier for earlier, later in pairwise(looks)) <= LAST_LOOK.total_seconds()
    assert looks[-1] == 330


@pytest.mark.parametrize("lookups", [0, 5, 1000])
@pytest.mark.parametrize("earlier", [OVER, ALIVE])
def test_a_question_without_an_answer_proves_nothing(lookups: int, earlier: datetime) -> None:
    claim = replace(CLAIM, safe_after=earlier, lookups=lookups)

    found = after_look_failed(claim, TRANSIENT, now=NOW, policy=POLICY)

    assert (found.state, found.safe_after, found.cleared) == (State.UNKNOWN, earlier, False)
    assert found.not_before is not None
    assert NOW + FIRST_LOOK <= found.not_before <= NOW + max(POLICY.cap, FIRST_LOOK)


def test_what_may_be_sent_again_while_in_doubt() -> None:
    doubtful = replace(CLAIM, safe_after=OVER)

    assert may_repeat(CLAIM, Guard.SETTLE)
    assert may_repeat(doubtful, Guard.SYS_ID)
    assert not may_repeat(doubtful, Guard.SETTLE)
    assert not may_repeat(replace(doubtful, omit_sys_id=True), Guard.SYS_ID)
    assert not may_repeat(replace(doubtful, intent=replace(INTENT, with_sys_id=False)), Guard.SYS_ID)


# No order of events makes a second incident.
#
# The model keeps a delivery as the store does (its columns, `coalesce`, the take-over) and the world as it is: each
# attempt in doubt commits at some moment until its `safe_after`, or never. Time only ever moves forward.

DURATIONS = st.sampled_from([0.0, 0.001, 0.5, 1.0, 3.0, 10.0, 19.999, 20.0, 21.0, 60.0, 400.0])
SURE = [TRANSIENT, ASKED, REMOTE, NOT_SENT, BLOCKED, HELD, PERMANENT, INSERT_REFUSED, REFUSED]


@dataclass
class Sent:
    """One attempt as the world knows it."""

    ended: datetime
    with_sys_id: bool
    #: When its row is made, if nothing forbids it; None: never.
    commits_at: datetime | None
    in_doubt: bool


@dataclass
class World:
    """An instance that keeps our sys_id until it does not, and every row that was made."""

    honours_until: datetime | None = None
    attempts: list[Sent] = field(default_factory=list)

    def rows(self, at: datetime) -> int:
        """Return how many incidents there are at a moment."""
        taken = False
        count = 0
        made = [attempt for attempt in self.attempts if attempt.commits_at is not None and attempt.commits_at <= at]
        for attempt in sorted(made, key=lambda attempt: attempt.commits_at or at):
            honoured = attempt.with_sys_id and (self.honours_until is None or attempt.ended <= self.honours_until)
            if honoured and taken:
                continue  # the primary key refuses it
            taken = taken or honoured
            count += 1
        return count


class Delivery(RuleBasedStateMachine):
    """One delivery through any order of attempts, looks, crashes, refusals and waits, under `settle`."""

    mode: ClassVar[str] = "settle"

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.claim = replace(CLAIM, state=State.READY, intent=replace(INTENT, attempt=0, with_sys_id=False))
        self.not_before = NOW
        self.world = World()
        self.last_miss: datetime | None = None

    def guard_now(self) -> tuple[Guard, bool]:
        """Return the guard in force and whether the sys_id is sent along."""
        return Guard.SETTLE, False

    def write(self, verdict: Verdict) -> None:
        """Do as `store.settling.settle` does."""
        claim = self.claim
        self.claim = replace(
            claim,
            state=verdict.state,
            safe_after=None if verdict.cleared else verdict.safe_after or claim.safe_after,
            refusals=claim.refusals + verdict.refused,
            lookups=claim.lookups + 1 if verdict.looked else 0,
            omit_sys_id=verdict.omit_sys_id or claim.omit_sys_id,
        )
        self.not_before = verdict.not_before or self.not_before

    def due(self) -> None:
        self.now = max(self.now, self.not_before)

    @precondition(lambda self: self.claim.state in (State.READY, State.WAITING))
    @rule(
        took=DURATIONS,
        sure=st.sampled_from([*SURE, None]),
        delay=st.none() | st.floats(0, 1),
        crash=st.booleans(),
        succeeded=st.booleans(),
    )
    def send(self, took: float, sure: PollerError | None, delay: float | None, crash: bool, succeeded: bool) -> None:
        self.due()
        guard, with_sys_id = self.guard_now()
        if not may_repeat(self.claim, guard):
            self.claim = replace(self.claim, state=State.UNKNOWN)
            return
        with_sys_id = with_sys_id and not self.claim.omit_sys_id
        self.check_safe(with_sys_id)
        attempt = self.claim.intent.attempt + 1
        intent = replace(self.claim.intent, attempt=attempt, with_sys_id=with_sys_id)
        self.claim = replace(self.claim, state=State.SENDING, intent=intent, guard=guard, lookups=0)
        started, self.now = self.now, self.now + s(took)
        in_doubt = crash or sure is None
        window = self.now + SETTLE - started
        commits_at = started + window * delay if in_doubt and delay is not None else None
        self.world.attempts.append(Sent(self.now, with_sys_id, commits_at, in_doubt))
        if crash:
            # `take_over` and `doubt`.
            self.claim = replace(self.claim, state=State.UNKNOWN, safe_after=self.now + SETTLE, lookups=0)
            self.not_before = self.now
            return
        outcome = sure or LOST
        self.write(after_attempt(self.claim, outcome, now=self.now, policy=POLICY, succeeded_since_refusal=succeeded))

    def check_safe(self, with_sys_id: bool) -> None:
        """Hold that no earlier attempt in doubt can still make a row."""
        for attempt in self.world.attempts:
            if attempt.in_doubt:
                event("sent again after an attempt in doubt")
                assert attempt.ended + SETTLE <= self.now, "sent again while a copy may be alive"
                assert self.last_miss is not None
                assert attempt.ended + SETTLE <= self.last_miss, "nobody has looked since it died"
        assert self.world.rows(self.now) == 0, "sent again although the incident is there"

    @precondition(lambda self: self.claim.state is State.UNKNOWN)
    @rule(took=DURATIONS, answered=st.booleans())
    def look(self, took: float, answered: bool) -> None:
        self.due()
        started, self.now = self.now, self.now + s(took)
        if not answered:
            self.write(after_look_failed(self.claim, TRANSIENT, now=self.now, policy=POLICY))
            return
        found = replace(RECEIPT, learnt="lookup") if self.world.rows(started) else None
        if found is None:
            self.last_miss = started
        guard, _ = self.guard_now()
        self.write(after_look(self.claim, found, started=started, now=self.now, guard=guard, policy=POLICY))

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += s(seconds)

    @precondition(lambda self: self.claim.state is State.DEAD)
    @rule()
    def retried_by_an_operator(self) -> None:
        self.claim = replace(self.claim, state=State.READY, refusals=0)
        self.not_before = self.now

    @invariant()
    def never_two(self) -> None:
        if hasattr(self, "world"):
            assert self.world.rows(self.now + timedelta(days=1)) <= 1

    @invariant()
    def never_dead_with_an_incident(self) -> None:
        if hasattr(self, "world") and self.claim.state is State.DEAD:
            assert self.world.rows(self.now + timedelta(days=1)) == 0


class DeliveryByOurSysId(Delivery):
    """The same under a guard that is proven, switched off and unproven in between, while copies are on their way."""

    guard: Guard = Guard.SETTLE
    with_sys_id: bool = True
    broken: bool = False

    def guard_now(self) -> tuple[Guard, bool]:
        return self.guard, self.with_sys_id

    def check_safe(self, with_sys_id: bool) -> None:
        if not (self.guard is Guard.SYS_ID and with_sys_id):
            super().check_safe(with_sys_id)
            return
        # The instance still refuses a second row with this key: every attempt in doubt must bear it.
        for attempt in self.world.attempts:
            if attempt.in_doubt and attempt.ended + SETTLE > (self.last_miss or NOW - SETTLE):
                event("sent again under the sys_id")
                assert attempt.with_sys_id

    @initialize(proven=st.booleans())
    def choose(self, proven: bool) -> None:
        self.guard, self.with_sys_id = (Guard.SYS_ID, True) if proven else (Guard.SETTLE, False)

    @precondition(lambda self: not self.broken and self.guard is Guard.SETTLE)
    @rule()
    def proven(self) -> None:
        self.guard, self.with_sys_id = Guard.SYS_ID, True

    @precondition(lambda self: self.with_sys_id)
    @rule(chosen=st.booleans())
    def switched_off(self, chosen: bool) -> None:
        """By the settings, which say ``settle`` now; or because the instance keeps our sys_ids no more."""
        self.guard, self.with_sys_id = Guard.SETTLE, False
        if not chosen and not self.broken:
            self.broken = True
            self.world.honours_until = self.now


@pytest.mark.parametrize("machine", [Delivery, DeliveryByOurSysId])
def test_no_order_of_events_makes_a_second_incident(machine: type[Delivery]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=300, stateful_step_count=25, deadline=None, database=None)
    )
