"""
The stand-in help desk's lists of tickets, paged in every usual way.

Besides the keys of its own way of paging, each list takes: ``since``; ``order=newest``; ``repeat=N``, the last N records
of a page once more at the beginning of the next; ``authors=ids``, only the number of a ticket's author; ``brief=1``, no
texts either; and what `poller.sandbox.renderings` takes.
"""

import base64
import json
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlencode

from poller.sandbox.options import Json
from poller.sandbox.reading import parameters
from poller.sandbox.renderings import rendered
from poller.sandbox.store import Fields
from poller.sandbox.tickets import Tickets
from poller.sandbox.wire import Request, Response

_LARGEST_PAGE = 10_000
_JSON = "application/json"
#: With none of these, a list is sent as it is kept: as JSON that was written once.
_RENDERED = frozenset({"format", "charset", "authors", "brief"})


class Lists:
    """Answers the lists below ``/api/tickets``."""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._ways: dict[str, Callable[[Request, dict[str, str]], Response]] = {
            "/api/tickets": self._paged,
            "/api/tickets/link": self._linked,
            "/api/tickets/next": self._next,
            "/api/tickets/offset": self._by_offset,
            "/api/tickets/cursor": self._by_cursor,
        }

    def answer(self, request: Request) -> Response | None:
        """
        Return the list that *request* asks for, None where it asks for something else.

        Raises:
            ValueError: What it asks for makes no sense.
        """
        path = request.path.rstrip("/")
        if path == "/api/tickets/search" and request.method == "POST":
            return self._search(request)
        if path not in self._ways or request.method not in {"GET", "HEAD"}:
            return None
        etag = f'"{self._tickets.version:x}"'
        if request.headers.get("if-none-match") == etag:
            return Response(304, headers=[("ETag", etag)])
        response = self._ways[path](request, parameters(request.query))
        response.headers.append(("ETag", etag))
        return response

    def _search(self, request: Request) -> Response:
        """``{"since", "page" | "offset" | "cursor", "limit", …}`` in the body; which of them stands there says the way."""
        wanted = json.loads(request.body or b"{}")
        if not isinstance(wanted, dict):
            message = "expected an object"
            raise ValueError(message)  # noqa: TRY004 - answered by 400
        given = {name: str(value) for name, value in wanted.items()}
        if "page" in given:
            return self._paged(request, {"per_page": given.get("limit", ""), **given})
        if "offset" in given:
            return self._by_offset(request, given)
        return self._by_cursor(request, given) if "limit" in given else self._paged(request, given)

    def _numbers(self, given: dict[str, str]) -> list[int]:
        numbers = self._tickets.numbers(given.get("since", ""))
        return numbers[::-1] if given.get("order") == "newest" else numbers

    def _list(self, given: dict[str, str], numbers: list[int], **more: Json) -> Response:
        if not _RENDERED & given.keys():
            tail = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items())
            body = b'{"tickets":[' + self._tickets.encoded(numbers) + b"]" + tail.encode() + b"}"
            return Response(200, body, _JSON)
        found = [ticket for number in numbers if (ticket := self._tickets.get(number)) is not None]
        if given.get("authors") == "ids" or given.get("brief"):
            found = [self._by_id(ticket, brief=bool(given.get("brief"))) for ticket in found]
        return rendered(found, more, given)

    def _by_id(self, ticket: Fields, *, brief: bool) -> Fields:
        hidden = {"requester", "subject", "body"} if brief else {"requester"}
        login = ticket.get("requester", {}).get("login", "")
        shown = {name: value for name, value in ticket.items() if name not in hidden}
        return {**shown, "author_id": self._tickets.author_id(str(login))}

    def _paged(self, _request: Request, given: dict[str, str]) -> Response:
        numbers = self._numbers(given)
        if "page" not in given and not given.get("per_page"):
            return self._list(given, numbers)
        size, page = _size(given, "per_page"), _whole(given, "page", 1)
        shown = _cut(numbers, (page - 1) * size, size, given)
        return self._list(given, shown, page=page, per_page=size, total=len(numbers))

    def _linked(self, request: Request, given: dict[str, str]) -> Response:
        numbers, size, page, last = self._place(given)

        def links() -> Iterator[str]:
            for name, target in (("first", 1), ("prev", page - 1), ("next", page + 1), ("last", last)):
                if 1 <= target <= last:
                    yield f'<{_address(request, given, target, size)}>; rel="{name}"'

        response = self._list(given, _cut(numbers, (page - 1) * size, size, given))
        response.headers.append(("Link", ", ".join(links())))
        return response

    def _next(self, request: Request, given: dict[str, str]) -> Response:
        numbers, size, page, last = self._place(given)
        following = _address(request, given, page + 1, size) if page < last else None
        return self._list(given, _cut(numbers, (page - 1) * size, size, given), next=following)

    def _place(self, given: dict[str, str]) -> tuple[list[int], int, int, int]:
        numbers = self._numbers(given)
        size, page = _size(given, "per_page"), _whole(given, "page", 1)
        return numbers, size, page, max(1, -(-len(numbers) // size))

    def _by_offset(self, _request: Request, given: dict[str, str]) -> Response:
        numbers = self._numbers(given)
        offset, limit = _whole(given, "offset", 0), _size(given, "limit")
        return self._list(given, _cut(numbers, offset, limit, given), total=len(numbers), offset=offset, limit=limit)

    def _by_cursor(self, _request: Request, given: dict[str, str]) -> Response:
        numbers, limit, after = self._numbers(given), _size(given, "limit"), _opened(given.get("cursor", ""))
        newest = given.get("order") == "newest"
        start = 0 if after is None else sum(1 for number in numbers if (number >= after if newest else number <= after))
        page = numbers[start : start + limit]
        more = len(numbers) > start + limit
        shown = _cut(numbers, start, limit, given)
        return self._list(given, shown, next_cursor=_closed(page[-1]) if more else None, has_more=more)


def _cut(numbers: list[int], start: int, size: int, given: dict[str, str]) -> list[int]:
    """Return a page, with the end of the one before it where ``repeat`` says so."""
    return [] if start >= len(numbers) else numbers[max(0, start - _whole(given, "repeat", 0)) : start + size]


def _address(request: Request, given: dict[str, str], page: int, size: int) -> str:
    query = urlencode({**given, "page": page, "per_page": size}, quote_via=quote)
    return f"{request.scheme}://{request.headers.get('host', 'localhost')}{request.path}?{query}"


def _whole(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < (1 if name == "page" else 0):
        message = f"{name}: not a whole number: {text!r}"
        raise ValueError(message)
    return int(text)


def _size(given: dict[str, str], name: str) -> int:
    return min(_LARGEST_PAGE, max(1, _whole(given, name, 100)))


def _closed(number: int) -> str:
    return base64.urlsafe_b64encode(f"after:{number}".encode()).decode().rstrip("=")


def _opened(cursor: str) -> int | None:
    if not cursor:
        return None
    try:
        return int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().removeprefix("after:"))
    except ValueError as error:
        message = f"cursor: not one of ours: {cursor!r}"
        raise ValueError(message) from error
