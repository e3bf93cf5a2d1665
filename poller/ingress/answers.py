"""
What is answered: JSON, and problems as RFC 9457 has them.

A problem says what was wrong with the request, never what we know; ``type`` is ``about:blank``, so ``title`` is the status's own
phrase.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

#: What a server sends beside what was asked for.
ALWAYS: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes = b""
    type: str = "application/json"
    headers: Sequence[tuple[str, str]] = field(default_factory=tuple)

    @property
    def line(self) -> str:
        """Status and phrase."""
        return f"{self.status} {phrase(self.status)}"


class Problem(Exception):
    """
    The request is not done, and why.

    Args:
        status: Of the answer.

        detail: One line for whoever asked; nothing of the request's own text.

        reason: One word for log and metrics, where it is a refusal of who asks and not of what.

        headers: Beside the usual ones.

        why: More, for our own log alone.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        why: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.headers = tuple(headers)
        self.why = why or reason

    def answer(self) -> Answer:
        """Return what is sent."""
        told = {"type": "about:blank", "title": phrase(self.status), "status": self.status, "detail": self.detail}
        return Answer(
            status=self.status,
            body=json.dumps(told).encode(),
            type="application/problem+json",
            headers=self.headers,
        )


def json_answer(status: int, value: Any, headers: Sequence[tuple[str, str]] = ()) -> Answer:  # noqa: ANN401
    """Return *value* as JSON."""
    return Answer(status=status, body=json.dumps(value, ensure_ascii=False).encode(), headers=tuple(headers))


def phrase(status: int) -> str:
    """Return the words of a status, as RFC 9110 has them."""
    if status == 413:
        return "Content Too Large"  # Python 3.11 has the name of RFC 7231
    return HTTPStatus(status).phrase
