"""Records over HTTP: one or many come in, and each can be asked for under its key."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from poller.ingress.answers import Answer, Problem, json_answer
from poller.ingress.house import House
from poller.ingress.requests import Request
from poller.model import Kept

#: Media types by the format of the route; none at all is taken for the right one.
_TYPES: Final = {
    "json": ("application/json", "text/json"),
    "xml": ("application/xml", "text/xml"),
    "csv": ("text/csv", "application/csv"),
}


class Records:
    """
    Carries out the end points of records.

    Args:
        most: Bytes of a body.
    """

    def __init__(self, house: House, *, most: int) -> None:
        self._house = house
        self._most = most

    def push(self, request: Request, route: str) -> Answer:
        """
        Store what the body holds; the answer is given once it is committed.

        The same records again give the same answer, but for what has become of them meanwhile.

        Raises:
            Problem: Nothing was stored.

            KeyError: There is no such route.

            TransientError: The database did not take it.
        """
        reader = self._house.pushed(route)
        if reader is None:
            raise Problem(404, "this route takes no records; it has no push")
        if request.type and not _fits(request.type, reader.format):
            raise Problem(415, f"this route takes {_TYPES[reader.format][0]}")
        body = request.body(self._most)
        try:
            page = reader.read(body, request.charset)
        except (ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise Problem(400, f"the body cannot be read: {said}") from None
        kept = self._house.push(route, page)
        return json_answer(202, {"route": route, "records": [_brief(each) for each in kept]})

    def read(self, route: str, key: str) -> Answer:
        """
        Tell how a record stands.

        Raises:
            Problem: There is none of that key.

            KeyError: There is no such route.
        """
        found = self._house.record(route, key)
        if found is None:
            raise Problem(404, "there is no record of that key")
        return json_answer(
            200,
            {"route": route}
            | _brief(found)
            | {
                "version": found.version,
                "correlation_id": found.correlation_id,
                "first_seen": _instant(found.first_seen),
                "settled_at": _instant(found.settled_at),
            },
        )


def _fits(given: str, format: str) -> bool:
    return given in _TYPES[format] or given.endswith(f"+{format}")


def _brief(kept: Kept) -> dict[str, Any]:
    return {
        "key": kept.key,
        "state": kept.state,
        "number": kept.number,
        "sys_id": kept.sys_id,
        "reason": kept.reason,
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")
