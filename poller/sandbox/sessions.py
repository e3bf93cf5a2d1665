"""
Sessions and rate rules: the limits an instance puts on its callers.

Calls that share a session cookie run one at a time; about ten may wait, the next get a 202 and are not carried
out. A client that sends no cookie gets a session of its own each time and never meets this.
"""

import contextlib
import re
import threading
from collections.abc import Iterator

from poller.sandbox.options import Switches
from poller.sandbox.wire import Request

_SESSION = re.compile(r"(?:glide_session_store|JSESSIONID)=([^;\s]+)")
_RULE = "5d3f0e1c0a0a0b0100d2a9d6c1f4e2b7"


class _Session:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = 0


class Sessions:
    """Knows who queues where."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}
        self._hour = 0
        self._calls = 0

    @contextlib.contextmanager
    def turn(self, request: Request) -> Iterator[bool]:
        """Wait for the session's turn; yields False when too many wait already."""
        found = _SESSION.search(request.headers.get("cookie", ""))
        if found is None:
            yield True
            return
        with self._lock:
            session = self._sessions.setdefault(found[1], _Session())
            admitted = session.waiting <= self._switches.session_queue
            session.waiting += admitted
        if not admitted:
            yield False
            return
        try:
            with session.lock:
                yield True
        finally:
            with self._lock:
                session.waiting -= 1
                if session.waiting == 0:
                    self._sessions.pop(found[1], None)

    def over_rate(self, limit: int, now: float) -> bool | None:
        """Count a call against a rule of *limit* an hour; None when there is no rule."""
        if limit <= 0:
            return None
        with self._lock:
            hour = int(now // 3600)
            if hour != self._hour:
                self._hour, self._calls = hour, 0
            self._calls += 1
            return self._calls > limit

    @staticmethod
    def rate_headers(limit: int, now: float) -> list[tuple[str, str]]:
        """Return the three headers every answer has where a rule matches."""
        reset = (int(now // 3600) + 1) * 3600
        return [("X-RateLimit-Limit", str(limit)), ("X-RateLimit-Reset", str(reset)), ("X-RateLimit-Rule", _RULE)]
