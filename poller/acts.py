"""
Decide what becomes of a delivery that an operator acts on: retried, or skipped.

Pure, as `lifecycle` is: no clock, no database, no log. One rule stands above the operator's wish: what may be on the wire
is neither written anew nor given up, since an incident may come of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from poller.model import State

#: The states that each act may be asked for in bulk.
RETRIED = (State.DEAD, State.WAITING, State.PENDING, State.READY, State.UNKNOWN, State.SKIPPED)
SKIPPED = (State.DEAD, State.WAITING, State.PENDING, State.READY)


class Answer(StrEnum):
    """What an operator is told of one record."""

    DONE = "done"  #: as asked
    KEPT = "kept"  #: left as it is, and that is right so: it goes on by itself, or is there already
    REFUSED = "refused"  #: not possible


class Contents(StrEnum):
    """What is left of a record's contents."""

    THERE = "there"
    UNREADABLE = "unreadable"  #: it never could be read; its text is kept for `explain`
    FORGOTTEN = "forgotten"  #: deleted after their time (`[retention]`)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A delivery as the operator's act meets it."""

    state: State
    #: Somebody works on it at this moment.
    claimed: bool
    #: An attempt may have been made whose outcome is not known, until then at least.
    safe_after: datetime | None
    contents: Contents
    number: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is written, and what is said."""

    answer: Answer
    said: str
    #: None: it stays in its state.
    state: State | None = None
    #: Look at once what became of the attempt in doubt; its wait before another one stays.
    look_now: bool = False


def retried(found: Found) -> Decision:
    """Return what `retry` makes of a delivery: prepared anew, past the caches, unless an attempt is in doubt."""
    if found.state is State.DELIVERED:
        return Decision(answer=Answer.REFUSED, said=f"delivered as {found.number or 'an incident'}: nothing is owed")
    if found.state is State.SENDING:
        return Decision(answer=Answer.KEPT, said="an attempt is under way; what becomes of it is known soon")
    if _in_doubt(found):
        return Decision(
            answer=Answer.KEPT,
            said=f"outcome not known{_until(found)}; it is looked up now, and sent again only when that is safe",
            look_now=not found.claimed,
        )
    if found.contents is Contents.UNREADABLE:
        return _unreadable(found)
    if found.contents is Contents.FORGOTTEN:
        said = "its contents were deleted after their time, see [retention]: it cannot be prepared"
        return Decision(answer=Answer.REFUSED, said=said)
    return Decision(answer=Answer.DONE, said="prepared anew, past the caches", state=State.PENDING)


def skipped(found: Found) -> Decision:
    """Return what `skip` makes of a delivery: never delivered, unless an incident of it may exist."""
    if found.state is State.SKIPPED:
        return Decision(answer=Answer.KEPT, said="it is skipped already")
    if found.state is State.DELIVERED:
        return Decision(answer=Answer.REFUSED, said=f"delivered as {found.number or 'an incident'} already")
    if found.state is State.SENDING:
        said = "an attempt is under way and may make an incident; ask again when its outcome is known"
        return Decision(answer=Answer.REFUSED, said=said)
    if _in_doubt(found):
        said = f"outcome not known{_until(found)}: an incident of it may exist; it settles by itself, ask again then"
        return Decision(answer=Answer.REFUSED, said=said)
    return Decision(answer=Answer.DONE, said="not delivered any more", state=State.SKIPPED)


def _in_doubt(found: Found) -> bool:
    # Also after `safe_after` has passed: only a look-up that began later ends the doubt, and then there is none any more.
    return found.state is State.UNKNOWN or found.safe_after is not None


def _until(found: Found) -> str:
    return "" if found.safe_after is None else f" until {found.safe_after:%Y-%m-%dT%H:%M:%SZ} at the latest"


def _unreadable(found: Found) -> Decision:
    if found.state is State.SKIPPED:
        said = "a dead letter again; it cannot be read, but a readable version of it is received by itself"
        return Decision(answer=Answer.DONE, said=said, state=State.DEAD)
    said = (
        "it could not be read: mend it at its source, and the readable version is received by itself; "
        "where its source does not offer it any more, poller rewind"
    )
    return Decision(answer=Answer.REFUSED, said=said)
