"""``Retry-After``, as servers really send it: seconds, a date, nothing, and nonsense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from poller.clients.http import Answer, parse_date

SHORTEST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(hours=2)


def retry_after(answer: Answer) -> timedelta | None:
    """
    Return how long the answer asks us to wait, kept within one second and two hours; None: it does not say.

    A date is read against the answer's own Date, so that our clock need not agree with theirs.
    """
    text = answer.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        until = parse_date(text)
        if until is None:
            return None
        seconds = (until - (answer.date or datetime.now(UTC))).total_seconds()
    if seconds != seconds:  # noqa: PLR0124  not a number
        return None
    return timedelta(seconds=min(max(seconds, SHORTEST.total_seconds()), LONGEST.total_seconds()))
