"""
From what the workers bring back to what is written: a verdict for each delivery, and the effects beyond it.

Asks `lifecycle` and `guard`, decides nothing by itself, and touches no database: `dispatcher` writes what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from poller import lifecycle
from poller.errors import (
    BlockedError,
    HeldError,
    NotSentError,
    PermanentError,
    PollerError,
    TransientError,
    UnknownOutcome,
)
from poller.guard import InForce
from poller.model import Guard, Ready, Receipt
from poller.route import Route
from poller.store.settling import Settled
from poller.store.standing import RouteStanding
from poller.work import Done, Look, Prepare, Send


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one piece of work says about its route and its remote."""

    #: As it was when the work was handed out; the settings may have others by now.
    route: Route
    #: Before its first byte: what began before a pause says nothing about it.
    began: datetime
    #: A delivery went through.
    succeeded: bool = False
    #: The route had nothing to send after a proper answer: a probe that went well.
    proper: bool = False
    #: The remote gave a proper answer, whatever it was.
    answered: bool = False
    #: A create was refused.
    refused: bool = False
    #: The whole route waits.
    blocked: PollerError | None = None
    #: The remote failed as a whole.
    failed: PollerError | None = None
    #: The outcome of a write is not known: counts towards pausing the remote.
    unknown: PollerError | None = None
    receipts: tuple[tuple[lifecycle.Claim, Receipt], ...] = ()
    #: A create that had been refused with our sys_id went through without it.
    without_sys_id: bool = False


@dataclass(kw_only=True)
class Judged:
    """Everything of one turn."""

    settled: list[Settled] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


def judge(done: list[Done], standings: dict[str, RouteStanding], guards: dict[str, InForce], now: datetime) -> Judged:
    """
    Return what becomes of all that *done* concerns.

    Args:
        standings: Of each route, by name.

        guards: What is in force, by the route's name.

        now: The turn's time; waits after an attempt count from its own end.
    """
    judged = Judged()
    # Of several refusals in one turn, the first may be its record's; then the route has had no success since.
    refused: set[str] = set()
    for each in done:
        name = each.work.route.name
        match each.work:
            case Prepare():
                _prepared(each, each.work, judged, now)
            case Send():
                was = standings.get(name)
                succeeded = was is not None and was.succeeded_since_refusal and name not in refused
                _sent(each, each.work, judged, succeeded)
                if judged.effects[-1].refused:
                    refused.add(name)
            case Look():
                # A route that was taken out of the settings meanwhile has none in force: then the careful one.
                in_force = guards.get(name)
                _looked(each, each.work, judged, in_force.guard if in_force else Guard.SETTLE, now)
    return judged


def _prepared(done: Done, work: Prepare, judged: Judged, now: datetime) -> None:
    route = work.route
    if isinstance(done.result, PollerError):
        for claim in work.claims:
            verdict = lifecycle.after_prepare_failed(
                claim, done.result, now=now, policy=route.policy, alone=len(work.claims) == 1
            )
            judged.settled.append(_settled(claim, verdict, done))
        judged.effects.append(
            _effect(done, blocked=_blocking(done.result, succeeded=False), failed=_failing(done.result))
        )
        return
    assert isinstance(done.result, list)  # noqa: S101  what Route.prepare returns
    receipts: list[tuple[lifecycle.Claim, Receipt]] = []
    anything = False
    for claim, prepared in zip(work.claims, done.result, strict=True):
        assert prepared is not None  # noqa: S101
        assert not isinstance(prepared, Receipt)  # noqa: S101
        verdict = lifecycle.after_prepare(prepared, now=now)
        anything = anything or isinstance(prepared, Ready)
        if verdict.receipt is not None:
            receipts.append((claim, verdict.receipt))
        judged.settled.append(_settled(claim, verdict, done))
    judged.effects.append(_effect(done, proper=not anything, receipts=tuple(receipts)))


def _sent(done: Done, work: Send, judged: Judged, succeeded: bool) -> None:  # noqa: FBT001
    claim, route, result = work.claims[0], work.route, done.result
    assert isinstance(result, Receipt | PollerError)  # noqa: S101  what Route.deliver returns
    verdict = lifecycle.after_attempt(
        claim, result, now=done.ended, policy=route.policy, succeeded_since_refusal=succeeded
    )
    judged.settled.append(_settled(claim, verdict, done))
    if isinstance(result, Receipt):
        without = claim.omit_sys_id and result.learnt == "response"
        judged.effects.append(_effect(done, succeeded=True, receipts=((claim, result),), without_sys_id=without))
        return
    omitting = verdict.omit_sys_id and not claim.omit_sys_id
    judged.effects.append(
        _effect(
            done,
            refused=isinstance(result, PermanentError) and not omitting,
            blocked=None if omitting else _blocking(result, succeeded=succeeded),
            failed=_failing(result),
            unknown=result if isinstance(result, UnknownOutcome) else None,
        )
    )


def _looked(done: Done, work: Look, judged: Judged, guard: Guard, now: datetime) -> None:
    route = work.route
    if isinstance(done.result, PollerError):
        for claim in work.claims:
            verdict = lifecycle.after_look_failed(claim, done.result, now=now, policy=route.policy)
            judged.settled.append(_settled(claim, verdict, done))
        judged.effects.append(
            _effect(done, blocked=_blocking(done.result, succeeded=False), failed=_failing(done.result))
        )
        return
    assert isinstance(done.result, list)  # noqa: S101  what Route.find returns
    receipts: list[tuple[lifecycle.Claim, Receipt]] = []
    for claim, found in zip(work.claims, done.result, strict=True):
        assert found is None or isinstance(found, Receipt)  # noqa: S101
        verdict = lifecycle.after_look(claim, found, started=done.started, now=now, guard=guard, policy=route.policy)
        if found is not None:
            receipts.append((claim, found))
        judged.settled.append(_settled(claim, verdict, done))
    judged.effects.append(_effect(done, receipts=tuple(receipts)))


def _settled(claim: lifecycle.Claim, verdict: lifecycle.Verdict, done: Done) -> Settled:
    return Settled(claim=claim, verdict=verdict, started=done.started, ended=done.ended)


def _effect(  # noqa: PLR0913  one keyword for each thing that can be said
    done: Done,
    *,
    succeeded: bool = False,
    proper: bool = False,
    refused: bool = False,
    blocked: PollerError | None = None,
    failed: PollerError | None = None,
    unknown: PollerError | None = None,
    receipts: tuple[tuple[lifecycle.Claim, Receipt], ...] = (),
    without_sys_id: bool = False,
) -> Effect:
    return Effect(
        route=done.work.route,
        began=done.started,
        answered=not isinstance(done.result, PollerError) or isinstance(done.result, PermanentError | BlockedError),
        succeeded=succeeded,
        proper=proper,
        refused=refused,
        blocked=blocked,
        failed=failed,
        unknown=unknown,
        receipts=receipts,
        without_sys_id=without_sys_id,
    )


def _blocking(error: PollerError, *, succeeded: bool) -> PollerError | None:
    return error if lifecycle.concerns_route(error, succeeded_since_refusal=succeeded) else None


def _failing(error: PollerError) -> PollerError | None:
    wanted = isinstance(error, TransientError) and error.remote and not isinstance(error, NotSentError)
    return error if wanted and not isinstance(error, HeldError) else None
