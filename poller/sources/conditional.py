"""
Conditional requests: where nothing has changed, the source says so in a few bytes.

Nothing may be lost for it. So validators are kept only after a poll that was one page, read to its end and committed;
they serve for the very same request alone; and every hour the whole is asked for all the same, whatever the source
believes has not changed. They live in memory: a new process asks for everything.

Source: RFC 9110 sections 8.8 and 13.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from poller.clients.http import Answer, parse_date
from poller.sources.queries import Query

#: Longest time in seconds for which a source is believed that nothing has changed.
_LONGEST = 3600.0
#: A time of change has a grain of one second, so one this close to the answer may not tell two states apart.
_STRONG = timedelta(seconds=60)


@dataclass(frozen=True)
class _Kept:
    query: Query
    checkpoint: str | None
    headers: Mapping[str, str]
    until: float


class Unchanged:
    """What is known of the last whole poll."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: _Kept | None = None

    def take(self, query: Query, checkpoint: str | None) -> Mapping[str, str]:
        """Return the conditions for a poll that begins with *query*; until `keep` is called again there are none."""
        kept, self._taken, self._kept = self._kept, self._kept, None
        if kept is None or (kept.query, kept.checkpoint) != (query, checkpoint) or self._clock() >= kept.until:
            return {}
        return kept.headers

    def keep(self, query: Query, checkpoint: str | None, answer: Answer) -> None:
        """Remember the validators of *answer*, the one page of a poll that is committed."""
        if answer.status == 304:
            self._kept = self._taken
        elif query.method == "GET" and (headers := _conditions(answer)):
            self._kept = _Kept(query, checkpoint, headers, self._clock() + _LONGEST)

    _taken: _Kept | None = None


def _conditions(answer: Answer) -> dict[str, str]:
    if etag := answer.headers.get("etag", "").strip():
        return {"If-None-Match": etag}
    changed = answer.headers.get("last-modified", "").strip()
    moment, date = parse_date(changed), answer.date
    if moment is None or date is None or date - moment < _STRONG:
        return {}
    return {"If-Modified-Since": changed}
