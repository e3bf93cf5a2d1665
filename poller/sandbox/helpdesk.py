"""
The stand-in help desk: an external system with tickets, paged in every usual way.

===================================================  =======================================================
GET /api/tickets[?page=&per_page=]                   all, or one page by number (from 1)
GET /api/tickets/link?per_page=[&page=]              RFC 8288 ``Link`` with first, prev, next, last
GET /api/tickets/offset?offset=&limit=               with ``total``
GET /api/tickets/cursor?[cursor=]&limit=             with ``next_cursor`` and ``has_more``
GET /api/tickets/{id}                                one
POST /api/tickets/{id}/links                         records a reply; 201
===================================================  =======================================================

Every list takes ``since=2026-01-02T03:04:05Z`` (``updated_at`` at or after it) and answers with an ``ETag``.
Control, not authenticated: ``/sandbox/tickets`` (GET, POST a ticket, a list or ``{"count", "users"}``, DELETE
``[?id=]``), ``/sandbox/links``, ``/sandbox/calls`` (GET, DELETE), ``/sandbox/faults``, ``/sandbox/next``,
``/sandbox/reset``.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote, urlencode

from poller.sandbox.control import Answer, many, one, routed
from poller.sandbox.dice import Dice, Ordered
from poller.sandbox.faults import Spoiler, html
from poller.sandbox.ledger import moment
from poller.sandbox.options import Json, Switches
from poller.sandbox.reading import parameters
from poller.sandbox.store import Fields
from poller.sandbox.tickets import Tickets
from poller.sandbox.wire import Manner, Request, Response

_JSON = "application/json"
_TICKET = re.compile(r"/api/tickets/(\d{1,15})(/links)?", re.ASCII)
_LARGEST_PAGE = 10_000
_DESK = frozenset({"list", "reply"})


def _manner(manner: Manner) -> Spoiler:
    return lambda response, switches: replace(response, manner=manner, pace=switches.slow)


def _status(status: int, text: str) -> Spoiler:
    def spoil(_response: Response, switches: Switches) -> Response:
        answer = Response(status, json.dumps({"error": text}).encode(), _JSON)
        if status in {429, 503} and switches.retry_after != "missing":
            answer.headers.append(("Retry-After", switches.retry_after))
        return answer

    return spoil


def _slow(response: Response, switches: Switches) -> Response:
    time.sleep(switches.slow)
    return response


# name: (carried out first?, how the answer is spoilt)
_FAULTS: dict[str, tuple[bool, Spoiler]] = {
    "400": (False, _status(400, "bad request")),
    "401": (False, _status(401, "unauthorized")),
    "403": (False, _status(403, "forbidden")),
    "404": (False, _status(404, "not found")),
    "429": (False, _status(429, "slow down")),
    "500": (False, _status(500, "internal error")),
    "500_after": (True, _status(500, "internal error")),
    "502": (False, lambda _response, _switches: html(502, "502 Bad Gateway")),
    "503": (False, _status(503, "maintenance")),
    "html_200": (False, lambda _response, _switches: html(200, "Maintenance")),
    "truncated_json": (
        True,
        lambda response, _switches: replace(response, body=response.body[: len(response.body) * 2 // 3]),
    ),
    "cut_connection": (True, _manner(Manner.CUT)),
    "lost_answer": (True, _manner(Manner.DROP)),
    "reset": (True, _manner(Manner.RESET)),
    "stall": (True, _manner(Manner.STALL)),
    "slow_drip": (True, _manner(Manner.DRIP)),
    "slow": (True, _slow),
    "empty_200": (False, lambda _response, _switches: Response(200, b"", _JSON)),
    "null_200": (False, lambda _response, _switches: Response(200, b"null", _JSON)),
    "bom": (True, lambda response, _switches: replace(response, body=b"\xef\xbb\xbf" + response.body)),
    "latin_1": (
        True,
        lambda response, _switches: replace(response, body=response.body.decode().encode("latin-1", "replace")),
    ),
}
KINDS = dict.fromkeys(_FAULTS, _DESK)


class HelpDesk:
    """Answers the requests of the help desk's port."""

    def __init__(self, *, tickets: Tickets, switches: Switches, dice: Dice, users: tuple[str, ...] = ()) -> None:
        self._tickets = tickets
        self._switches = switches
        self._dice = dice
        self._users = users
        self._calls: list[Fields] = []
        self._growth: threading.Thread | None = None
        self._ended = threading.Event()
        self._routes: dict[tuple[str, str], Answer] = {
            ("GET", "/sandbox/tickets"): lambda _request: {"tickets": tickets.all()},
            ("POST", "/sandbox/tickets"): self._add,
            ("DELETE", "/sandbox/tickets"): self._remove,
            ("GET", "/sandbox/links"): lambda _request: {"links": tickets.links},
            ("GET", "/sandbox/calls"): lambda _request: {"calls": list(self._calls)},
            ("DELETE", "/sandbox/calls"): self._forget_calls,
            ("GET", "/sandbox/faults"): lambda _request: dice.chances,
            ("POST", "/sandbox/faults"): self._set_faults,
            ("POST", "/sandbox/next"): self._order,
            ("POST", "/sandbox/reset"): self._reset,
        }

    # Growth.

    def grow(self, every: float) -> None:
        """Begin to add a ticket every so many seconds."""

        def run() -> None:
            while not self._ended.wait(every):
                self._tickets.grow()

        self._growth = threading.Thread(target=run, name="helpdesk-growth", daemon=True)
        self._growth.start()

    def finish(self) -> None:
        """Stop growing."""
        self._ended.set()
        if self._growth is not None:
            self._growth.join(2.0)

    # Calls.

    def greet(self, _request: Request) -> bool:
        """Take every request."""
        return True

    def answer(self, request: Request) -> Response:
        """Answer *request*."""
        if request.path.startswith("/sandbox/"):
            return routed(request, self._routes)
        wanted = request.headers.get("x-sandbox-fault", "")
        kind = "reply" if request.method == "POST" else "list"
        fault = wanted if wanted in _FAULTS else self._dice.ordered(request) or self._dice.thrown(kind)
        if not fault:
            response = self._carried_out(request)
        else:
            first, spoil = _FAULTS[fault]
            response = spoil(self._carried_out(request) if first else Response(200), self._switches)
        call = {"time": round(request.arrived, 6), "method": request.method, "path": request.target, "fault": fault}
        self._calls.append(call | {"status": response.status, "answered": moment()})
        return response

    def _carried_out(self, request: Request) -> Response:
        if (key := self._switches.helpdesk_key) and request.headers.get("authorization") != f"Bearer {key}":
            return _status(401, "unauthorized")(Response(200), self._switches)
        path = request.path.rstrip("/")
        if found := _TICKET.fullmatch(path):
            return self._single(int(found[1]), request, reply=bool(found[2]))
        paging = {"/api/tickets": self._paged, "/api/tickets/link": self._linked}
        paging |= {"/api/tickets/offset": self._by_offset, "/api/tickets/cursor": self._by_cursor}
        if path not in paging or request.method not in {"GET", "HEAD"}:
            return _status(404, "not found")(Response(200), self._switches)
        etag = f'"{self._tickets.version:x}"'
        if request.headers.get("if-none-match") == etag:
            return Response(304, headers=[("ETag", etag)])
        try:
            response = paging[path](request, parameters(request.query))
        except ValueError as error:
            return _status(400, str(error))(Response(200), self._switches)
        response.headers.append(("ETag", etag))
        return response

    def _single(self, number: int, request: Request, *, reply: bool) -> Response:
        ticket = self._tickets.get(number)
        if ticket is None:
            return _status(404, "no such ticket")(Response(200), self._switches)
        if not reply:
            return Response(200, json.dumps(ticket, ensure_ascii=False).encode("utf-8", "backslashreplace"), _JSON)
        try:
            content = json.loads(request.body or b"{}")
        except ValueError:
            content = {"text": request.body.decode("utf-8", "replace")}
        link = self._tickets.link(number, content, request.headers)
        return Response(201, json.dumps(link).encode(), _JSON)

    def _list(self, numbers: list[int], **more: Json) -> Response:
        tail = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items())
        return Response(200, b'{"tickets":[' + self._tickets.encoded(numbers) + b"]" + tail.encode() + b"}", _JSON)

    def _paged(self, _request: Request, given: dict[str, str]) -> Response:
        numbers = self._tickets.numbers(given.get("since", ""))
        if "page" not in given and "per_page" not in given:
            return self._list(numbers)
        size, page = _size(given, "per_page"), _whole(given, "page", 1)
        return self._list(numbers[(page - 1) * size : page * size], page=page, per_page=size, total=len(numbers))

    def _linked(self, request: Request, given: dict[str, str]) -> Response:
        numbers = self._tickets.numbers(given.get("since", ""))
        size, page = _size(given, "per_page"), _whole(given, "page", 1)
        last = max(1, -(-len(numbers) // size))
        base = f"http://{request.headers.get('host', 'localhost')}{request.path}"

        def links() -> Iterator[str]:
            for name, target in (("first", 1), ("prev", page - 1), ("next", page + 1), ("last", last)):
                if 1 <= target <= last:
                    query = urlencode({**given, "page": target, "per_page": size}, quote_via=quote)
                    yield f'<{base}?{query}>; rel="{name}"'

        response = self._list(numbers[(page - 1) * size : page * size])
        response.headers.append(("Link", ", ".join(links())))
        return response

    def _by_offset(self, _request: Request, given: dict[str, str]) -> Response:
        numbers = self._tickets.numbers(given.get("since", ""))
        offset, limit = _whole(given, "offset", 0), _size(given, "limit")
        return self._list(numbers[offset : offset + limit], total=len(numbers), offset=offset, limit=limit)

    def _by_cursor(self, _request: Request, given: dict[str, str]) -> Response:
        numbers = self._tickets.numbers(given.get("since", ""))
        limit, after = _size(given, "limit"), _opened(given.get("cursor", ""))
        left = [number for number in numbers if number > after]
        page = left[:limit]
        more = len(left) > limit
        return self._list(page, next_cursor=_closed(page[-1]) if more else None, has_more=more)

    # Control.

    def _add(self, request: Request) -> Json:
        added = []
        for given in many(request):
            if "count" in given:
                users = [str(user) for user in given.get("users", ())] or list(self._users)
                for position in range(int(given["count"])):
                    requester = {"requester": {"login": users[position % len(users)]}} if users else {}
                    added.append(self._tickets.grow(**requester)["id"])
            else:
                added.append(self._tickets.keep(given)["id"])
        return {"added": added}

    def _remove(self, request: Request) -> Json:
        number = parameters(request.query).get("id")
        return {"removed": self._tickets.remove(int(number) if number else None)}

    def _forget_calls(self, _request: Request) -> Json:
        self._calls.clear()
        return {}

    def _set_faults(self, request: Request) -> Json:
        self._dice.replace(one(request))
        return self._dice.chances

    def _order(self, request: Request) -> Json:
        wanted = one(request)
        if "page" in wanted:
            wanted["contains"] = f"page={wanted.pop('page')}"
        self._dice.order(Ordered(**wanted))
        return {}

    def _reset(self, _request: Request) -> Json:
        self._dice.forget()
        return {}


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


def _opened(cursor: str) -> int:
    if not cursor:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().removeprefix("after:"))
    except ValueError as error:
        message = f"cursor: not one of ours: {cursor!r}"
        raise ValueError(message) from error
