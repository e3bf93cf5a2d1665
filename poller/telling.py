"""Tell the log and the counts what became of deliveries: one canonical line each, after the commit that made it true."""

from __future__ import annotations

from collections.abc import Iterable

from poller import metrics
from poller.lifecycle import Verdict
from poller.logs import get_logger
from poller.model import Receipt, State
from poller.store.settling import Settled

log = get_logger()

_altered: set[tuple[str, str, str]] = set()


def tell_settled(settled: Iterable[Settled]) -> None:
    """Log and count what each delivery has come to."""
    for each in settled:
        verdict = each.verdict
        _count(each)
        match verdict.state:
            case State.DELIVERED:
                _delivered(each)
            case State.SKIPPED:
                log.info("record_skipped", **_who(each), reason=verdict.reason)
            case State.DEAD:
                log.error("record_dead", **_who(each), attempts=each.claim.intent.attempt, error=verdict.reason)
            case State.WAITING:
                log.warning("record_waiting", **_who(each), **_trouble(each, verdict))
            case State.UNKNOWN if verdict.outcome is not None:
                log.warning(
                    "record_unknown",
                    **_who(each),
                    **_trouble(each, verdict),
                    hint="it is looked up before any new attempt",
                )
            case _:
                log.debug("record_ready", **_who(each), reason=verdict.reason)


def _count(each: Settled) -> None:
    claim, verdict = each.claim, each.verdict
    route, operation = claim.intent.route, str(claim.intent.operation)
    # What goes on has the word for its attempt, where there was one; what has ended or waits, its state.
    outcome = verdict.outcome if verdict.state in {State.READY, State.UNKNOWN} else str(verdict.state)
    if outcome is not None and verdict.state is not State.PENDING:
        learnt = verdict.receipt.learnt if verdict.receipt else None
        metrics.attempted(route, operation, outcome, learnt)
    if verdict.state is State.DELIVERED:
        metrics.delivered(route, operation, (each.ended - claim.first_seen).total_seconds())
    in_doubt = claim.safe_after is not None or claim.state is State.UNKNOWN
    if in_doubt and (ended := _ended(verdict)):
        metrics.doubt_ended(route, ended)
    elif verdict.outcome == "unknown" and not in_doubt:
        metrics.doubted(route, "no_answer")


def _ended(verdict: Verdict) -> str | None:
    """Return how a doubt has ended, None: it goes on."""
    if verdict.state is State.DELIVERED:
        return verdict.receipt.learnt if verdict.receipt else None
    if verdict.state in {State.SKIPPED, State.DEAD}:
        return str(verdict.state)
    return "sent_again" if verdict.cleared else None


def _who(each: Settled) -> dict[str, object]:
    intent = each.claim.intent
    return {
        "route": intent.route,
        "key": intent.key,
        "correlation_id": intent.correlation_id,
        "state": str(each.verdict.state),
        "operation": str(intent.operation),
    }


def _trouble(each: Settled, verdict: Verdict) -> dict[str, object]:
    due_at = verdict.not_before.isoformat() if verdict.not_before else None
    return {"attempts": each.claim.intent.attempt, "error": verdict.reason, "due_at": due_at}


def _delivered(each: Settled) -> None:
    receipt, intent = each.verdict.receipt, each.claim.intent
    assert receipt is not None  # noqa: S101  nothing is delivered without one
    log.info(
        "record_delivered",
        **_who(each),
        number=receipt.number,
        sys_id=receipt.sys_id,
        attempts=intent.attempt,
        seconds=round((each.ended - each.claim.first_seen).total_seconds(), 3),
        learnt=receipt.learnt,
    )
    _tell_differences(each, receipt)


def _tell_differences(each: Settled, receipt: Receipt) -> None:
    for difference in receipt.differences:
        known = (each.claim.intent.route, difference.field, difference.kind)
        if known not in _altered:
            _altered.add(known)
            log.warning("field_altered", **_who(each), field=difference.field, kind=difference.kind)
