"""
The errors, sorted by what happens next and not by what went wrong.

Every edge (source, sink, client) raises one of these and nothing else for a fault it understands. Who decides what
follows is `lifecycle`; who carries it out is the dispatcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """
    What an answer looked like, fit to be kept and shown: never a token, never a record's text.

    It becomes one row of the table ``attempts``.
    """

    #: HTTP status of the answer; None where there was none.
    status: int | None = None
    #: ServiceNow's ``X-Transaction-ID``, which its own logs are searched by.
    transaction_id: str | None = None
    #: At most 300 characters of the answer, secrets taken out.
    excerpt: str | None = None


class PollerError(Exception):
    """
    The root. ``str(error)`` is one line: subject, what was expected, what came.

    Args:
        message: One line for a person.

        evidence: The answer that led here, where there was one.
    """

    def __init__(self, message: str, *, evidence: Evidence | None = None) -> None:
        super().__init__(message)
        self.evidence = evidence or Evidence()


class TransientError(PollerError):
    """
    Surely not done; this record later.

    Args:
        retry_after: What the remote asked for; None: our own backoff.

        remote: True where the cause is the remote as a whole (refused connection, 429) and not this record. Then
            everything for the remote waits, and one request probes it.
    """

    def __init__(
        self,
        message: str,
        *,
        evidence: Evidence | None = None,
        retry_after: timedelta | None = None,
        remote: bool = False,
    ) -> None:
        super().__init__(message, evidence=evidence)
        self.retry_after = retry_after
        self.remote = remote


class PermanentError(PollerError):
    """
    Surely not done; this record never, until an operator says otherwise.

    Args:
        insert_refused: True for a ServiceNow 403 on a create with no incident found behind it. Where the create
            carried our sys_id and that was never proven, the sys_id may be the reason (guarantee 2.3, 7).
    """

    def __init__(self, message: str, *, evidence: Evidence | None = None, insert_refused: bool = False) -> None:
        super().__init__(message, evidence=evidence)
        self.insert_refused = insert_refused


class RefusedError(PermanentError):
    """
    Surely not done, and the answer does not say whether the record or the whole route is at fault.

    A 403 or 404 in words that are not known. `lifecycle` decides by the route's last success (guarantee 2.3, 6).
    """


class BlockedError(PollerError):
    """Surely not done; the whole route waits and one record probes. Nothing is buried."""


class HeldError(PollerError):
    """
    Surely not done, and no further create may be sent on this route until the cause is gone.

    Args:
        reason: One word for ``status`` and the log: ``canary``, ``lookup_blind``, ``clock``, ``correlation_altered``.

        operator: True where only an operator lifts it (``poller release ROUTE``); False where we ask again by ourselves.
    """

    def __init__(self, message: str, *, reason: str, operator: bool, evidence: Evidence | None = None) -> None:
        super().__init__(message, evidence=evidence)
        self.reason = reason
        self.operator = operator


class UnknownOutcome(PollerError):
    """It may have been done. Ask before sending again."""


class PreparationFault(TransientError):
    """Surely not done: a fault of ours in preparing. Where a record meets it alone and again and again, it is the record."""


class NotSentError(TransientError):
    """The worker saw that its time or its lease had run out before the first byte, so nothing was sent."""


class DatabaseUnusable(Exception):
    """The database cannot be used: absent, locked by another daemon, of a newer release, corrupt. Exit code 75."""


class SettingsError(Exception):
    """
    Nothing starts. Exit code 78.

    Args:
        problems: One line each, ``settings.toml:12: routes.helpdesk.every: …``.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
