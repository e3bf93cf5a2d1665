"""
Who calls, as far as it is proven; and what it means where it is not.

Knows no HTTP: `bearer` finds the proof in a request, the verifiers in `tokens` judge it, `app` turns the errors into answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A caller that has proven who it is."""

    #: The client's id: what limits and access lines go by. Never a token.
    client: str
    #: What it may do: ``records:write`` on every route, ``records:write:helpdesk`` on that one alone.
    scopes: frozenset[str]
    #: The routes it may speak of; None: all of them.
    routes: frozenset[str] | None = None

    def may(self, act: str, route: str) -> bool:
        """Return whether it may do *act* (``records:write``, ``records:read``, ``poll``) on *route*."""
        if self.routes is not None and route not in self.routes:
            return False
        return not self.scopes.isdisjoint((act, f"{act}:{route}"))


class Refused(Exception):
    """
    The proof does not hold: 401.

    Args:
        why: For our own log; a caller learns no more than ``invalid_token``.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Undecided(Exception):
    """Nobody can say now whether the proof holds, since who knows does not answer: 503, never 401."""

    def __init__(self, why: str, *, retry_after: timedelta = timedelta(seconds=5)) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after = retry_after


class _Waiting(threading.local):
    """What this thread does before it waits."""

    before: Callable[[], object] | None = None


_waiting = _Waiting()


@contextmanager
def before_waiting(act: Callable[[], object]) -> Iterator[None]:
    """Have *act* called within the block before who calls is waited for."""
    _waiting.before = act
    try:
        yield
    finally:
        _waiting.before = None


def about_to_wait() -> None:
    """Say that what comes next may take long: a provider is asked, or a secret is checked slowly."""
    if _waiting.before is not None:
        _waiting.before()


class Verifier(Protocol):
    """Judges bearer tokens; for any number of threads."""

    def verify(self, token: str) -> Principal:
        """
        Return whose token it is.

        Raises:
            Refused: It is nobody's, or not for us.

            Undecided: Who could tell does not answer.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
