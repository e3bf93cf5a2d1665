"""
Decide what becomes of a delivery.

Pure: no clock, no database, no log. The dispatcher calls it; the store carries it out. The states are those of
`poller.model.State`, the rules those of guarantee 2.3, and nothing else in the house decides a state.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from poller.errors import (
    BlockedError,
    Evidence,
    HeldError,
    NotSentError,
    PermanentError,
    PollerError,
    PreparationFault,
    RefusedError,
    TransientError,
    UnknownOutcome,
)
from poller.model import AlreadyThere, Guard, Intent, NotYet, Prepared, Ready, Receipt, State, Undeliverable

#: Looking up an unknown outcome again: doubling from the first to the last.
FIRST_LOOK, LAST_LOOK = timedelta(seconds=1), timedelta(seconds=60)
#: A remote's wish to wait is obeyed up to this.
LONGEST_RETRY_AFTER = timedelta(hours=2)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The numbers of ``[retry]`` and of the sink that decisions need."""

    base: timedelta = timedelta(seconds=2)
    cap: timedelta = timedelta(minutes=15)
    #: Refusals of one record until it is dead.
    attempts: int = 12
    #: From the end of an attempt until no copy of its request can be alive any more: ``tcp_bound`` + ``max_execution``.
    settle: timedelta = timedelta(0)
    #: False: an unknown outcome is not looked up but sent again (the receiver drops repeats).
    guarded: bool = True


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A delivery that this daemon has taken on, as it stands in the database."""

    id: int
    record_id: int
    route_id: int
    epoch: int
    state: State
    intent: Intent
    first_seen: datetime
    #: Refusals of this record so far.
    refusals: int = 0
    #: Look-ups since the last attempt.
    lookups: int = 0
    #: An earlier attempt is in doubt: no copy of it can be alive after this. None once a look-up after that found nothing.
    safe_after: datetime | None = None
    #: The guard in force when the attempt was committed.
    guard: Guard = Guard.SETTLE
    #: Send without our sys_id: the instance refused it once for this record.
    omit_sys_id: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the store writes for one delivery."""

    state: State
    #: One word for the table ``attempts``; None where no attempt was made.
    outcome: str | None = None
    not_before: datetime | None = None
    safe_after: datetime | None = None
    #: No earlier attempt is in doubt any more: ``safe_after`` is forgotten.
    cleared: bool = False
    reason: str | None = None
    body: str | None = None
    note: str | None = None
    receipt: Receipt | None = None
    refused: bool = False
    looked: bool = False
    omit_sys_id: bool = False
    evidence: Evidence = field(default_factory=Evidence)


def backoff(failures: int, policy: Policy) -> timedelta:
    """Return a wait with full jitter: between zero and ``base`` doubled *failures* times, at most ``cap``."""
    return _ceiling(failures, policy) * random.random()  # noqa: S311  it spreads load, it guards no secret


def _ceiling(failures: int, policy: Policy) -> timedelta:
    # In seconds: a base of days doubled thirty times is more than a timedelta can hold.
    doubled = policy.base.total_seconds() * 2.0 ** min(failures, 30)
    return timedelta(seconds=min(policy.cap.total_seconds(), doubled))


def pause(failures: int, policy: Policy, asked: timedelta | None) -> timedelta:
    """
    Return how long a whole remote or route waits after its *failures*-th failure in a row (1 for the first).

    A remote's own wish replaces our backoff. Without one, half of the wait is fixed, so that a probe never storms.
    """
    if asked is not None:
        return min(max(asked, timedelta(0)), LONGEST_RETRY_AFTER)
    ceiling = _ceiling(failures - 1, policy)
    return ceiling / 2 + ceiling / 2 * random.random()  # noqa: S311


def after_prepare(prepared: Prepared, *, now: datetime) -> Verdict:
    """Return what becomes of a delivery that was looked up and rendered."""
    match prepared:
        case Ready(body=body, note=note):
            return Verdict(state=State.READY, body=body, note=note, not_before=now)
        case AlreadyThere(receipt=receipt):
            return Verdict(state=State.DELIVERED, receipt=receipt, outcome="found")
        case Undeliverable(reason=reason):
            return Verdict(state=State.DEAD, reason=reason)
        case NotYet(reason=reason, until=until):
            return Verdict(state=State.WAITING, reason=reason, not_before=until)


def after_prepare_failed(claim: Claim, error: PollerError, *, now: datetime, policy: Policy, alone: bool) -> Verdict:
    """
    Return what becomes of a delivery whose preparation got no answer: it stays as it is, each time a little later.

    Args:
        alone: It was the only one of its batch. Then a fault of ours in preparing it is its own, and counts.
    """
    if isinstance(error, PreparationFault):
        # Counted from the first time on: whoever was in such a batch is prepared alone from now on.
        verdict = _record_refused(claim, error, now=now, policy=policy)
        return replace(verdict, outcome=None) if alone else Verdict(state=claim.state, not_before=now, refused=True)
    wait = backoff(claim.lookups, policy)
    return Verdict(state=claim.state, not_before=now + wait, reason=str(error), looked=True)


def after_attempt(
    claim: Claim, outcome: Receipt | PollerError, *, now: datetime, policy: Policy, succeeded_since_refusal: bool
) -> Verdict:
    """
    Return what becomes of a delivery after one attempt.

    Args:
        now: The end of the attempt: its socket is closed.

        succeeded_since_refusal: A create of the route went through since the route's last refusal.
    """
    if isinstance(outcome, Receipt) and outcome.unneeded is not None:
        return Verdict(state=State.SKIPPED, outcome="unneeded", reason=outcome.unneeded, evidence=outcome.evidence)
    if isinstance(outcome, Receipt):
        return Verdict(state=State.DELIVERED, receipt=outcome, outcome="delivered", evidence=outcome.evidence)
    verdict = _after_error(claim, outcome, now=now, policy=policy, succeeded=succeeded_since_refusal)
    earlier = claim.safe_after
    if verdict.state is not State.UNKNOWN and policy.guarded and earlier is not None:
        # A refusal settles only its own attempt: an earlier one may still commit, or has since the last look-up, so
        # ask before anything is final.
        return Verdict(
            state=State.UNKNOWN,
            outcome=verdict.outcome,
            not_before=_look_at(claim, now, earlier) if verdict.state is State.DEAD else verdict.not_before,
            safe_after=earlier,
            reason=verdict.reason,
            refused=verdict.refused,
            omit_sys_id=verdict.omit_sys_id,
            evidence=verdict.evidence,
        )
    return verdict


def _after_error(claim: Claim, error: PollerError, *, now: datetime, policy: Policy, succeeded: bool) -> Verdict:
    reason = str(error)
    evidence = error.evidence
    match error:
        case UnknownOutcome():
            safe_after = max(now + policy.settle, claim.safe_after or now)
            wait = FIRST_LOOK if policy.guarded else backoff(claim.intent.attempt, policy)
            return Verdict(
                state=State.UNKNOWN,
                outcome="unknown",
                not_before=min(now + wait, safe_after) if policy.guarded else now + wait,
                safe_after=safe_after,
                reason=reason,
                evidence=evidence,
            )
        case NotSentError():
            return Verdict(state=State.READY, outcome="not_sent", not_before=now, reason=reason)
        case TransientError(retry_after=None, remote=False):
            return _record_refused(claim, error, now=now, policy=policy)
        case TransientError(retry_after=asked):
            wait = backoff(0, policy) if asked is None else min(asked, LONGEST_RETRY_AFTER)
            return Verdict(
                state=State.WAITING, outcome="later", not_before=now + wait, reason=reason, evidence=evidence
            )
        case BlockedError() | HeldError():
            return Verdict(state=State.READY, outcome="route_refused", not_before=now, reason=reason, evidence=evidence)
        case PermanentError(insert_refused=True) if claim.intent.with_sys_id and claim.guard is Guard.SETTLE:
            # Unproven, our choice of sys_id may be the cause: the same record once more without it (guarantee 2.3, 7).
            return Verdict(
                state=State.READY,
                outcome="refused",
                not_before=now,
                reason=reason,
                omit_sys_id=True,
                evidence=evidence,
            )
        case PermanentError() if _doubtful(error) and not succeeded:
            return Verdict(state=State.READY, outcome="route_refused", not_before=now, reason=reason, evidence=evidence)
        case PermanentError():
            return Verdict(state=State.DEAD, outcome="refused", reason=reason, refused=True, evidence=evidence)
    return Verdict(
        state=State.UNKNOWN, outcome="unknown", not_before=now, safe_after=now + policy.settle, reason=reason
    )


def _record_refused(claim: Claim, error: PollerError, *, now: datetime, policy: Policy) -> Verdict:
    """Return what becomes of a delivery that was refused for now: only these use up ``attempts``."""
    if claim.refusals + 1 >= policy.attempts:
        reason = f"refused {claim.refusals + 1} times; the last: {error}"
        return Verdict(state=State.DEAD, outcome="refused", reason=reason, refused=True, evidence=error.evidence)
    return Verdict(
        state=State.WAITING,
        outcome="later",
        not_before=now + backoff(claim.refusals, policy),
        reason=str(error),
        refused=True,
        evidence=error.evidence,
    )


def concerns_route(error: PollerError, *, succeeded_since_refusal: bool) -> bool:
    """Return whether the whole route waits because of *error*, and one record probes."""
    if _doubtful(error):
        return not succeeded_since_refusal
    return isinstance(error, BlockedError | HeldError)


def _doubtful(error: PollerError) -> bool:
    """Return whether a refusal does not say by itself whether the record or the route is at fault."""
    return isinstance(error, RefusedError) or (isinstance(error, PermanentError) and error.insert_refused)


def after_look(
    claim: Claim, found: Receipt | None, *, started: datetime, now: datetime, guard: Guard, policy: Policy
) -> Verdict:
    """
    Return what becomes of a delivery in doubt after it was looked up.

    Args:
        found: None: not there. That means nothing until no copy of the request can be alive any more.

        started: When the question was asked: an answer that began earlier proves nothing.

        guard: The one in force now.
    """
    if found is not None and found.unneeded is not None:
        return Verdict(state=State.SKIPPED, outcome="unneeded", reason=found.unneeded, evidence=found.evidence)
    if found is not None:
        return Verdict(state=State.DELIVERED, receipt=found, outcome="found", evidence=found.evidence)
    # One whose wait nobody has set was taken over just now: the careful assumption.
    safe_after = claim.safe_after or started + policy.settle
    over = started >= safe_after
    if over or (claim.safe_after is not None and may_repeat(claim, guard)):
        # The first new attempt goes at once, later ones ever later: a sick instance is not stormed.
        wait = backoff(claim.intent.attempt, policy) if claim.intent.attempt > 1 else timedelta(0)
        return Verdict(
            state=State.READY,
            not_before=now + wait,
            safe_after=None if over else claim.safe_after,
            cleared=over,
            reason="not found",
            looked=True,
        )
    return Verdict(
        state=State.UNKNOWN,
        not_before=_look_at(claim, now, safe_after),
        safe_after=safe_after,
        reason="not found yet",
        looked=True,
    )


def may_repeat(claim: Claim, guard: Guard) -> bool:
    """
    Return whether *claim* may be sent again while an earlier attempt is in doubt.

    Only where the instance refuses a second row with the same key, and only if the attempt in doubt bore that key: it may
    have been sent under another guard.
    """
    if claim.safe_after is None:
        return True
    return guard is Guard.SYS_ID and claim.intent.with_sys_id and not claim.omit_sys_id


def after_look_failed(claim: Claim, error: PollerError, *, now: datetime, policy: Policy) -> Verdict:
    """Return what becomes of a delivery in doubt when even the question got no answer: ask again later."""
    return Verdict(
        state=State.UNKNOWN,
        not_before=now + max(FIRST_LOOK, backoff(claim.lookups, policy)),
        safe_after=claim.safe_after,
        reason=str(error),
        looked=True,
    )


def _look_at(claim: Claim, now: datetime, safe_after: datetime) -> datetime:
    """Return when to look next: early and often, and surely once at the end of the wait."""
    wait = min(LAST_LOOK, FIRST_LOOK * float(2 ** min(claim.lookups, 10)))
    return min(now + wait, max(safe_after, now))
