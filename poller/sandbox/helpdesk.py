"""
The stand-in help desk: an external system with tickets, paged in every usual way.

===================================================  =======================================================
GET /api/tickets[?page=&per_page=]                   all, or one page by number (from 1)
GET /api/tickets/link?per_page=[&page=]              RFC 8288 ``Link`` with first, prev, next, last
GET /api/tickets/next?per_page=[&page=]              with ``next``, the address of the next page
GET /api/tickets/offset?offset=&limit=               with ``total``
GET /api/tickets/cursor?[cursor=]&limit=             with ``next_cursor`` and ``has_more``
POST /api/tickets/search                             a list by a JSON body: ``since``, ``limit`` and a place
GET /api/tickets/{id}[?format=xml]                   one, with its ``links``: what replies said, oldest first
PATCH /api/tickets/{id}                              changes the columns in the body; a new ``updated_at``
GET /api/users/{id}[?format=xml]                     an author: ``id``, ``login``
POST /api/tickets/{id}/links                         records a reply; 201; once for each ``Idempotency-Key``
POST /vendor/inbox                                   another system altogether, see `inbox`
===================================================  =======================================================

Every list takes ``since=2026-01-02T03:04:05Z`` (``updated_at`` at or after it) and answers with an ``ETag``;
what else it takes, formats and charsets among it, is told in `desk_lists`.
Control, not authenticated: ``/sandbox/tickets`` (GET, POST a ticket, a list or ``{"count", "users", "ticket"}``, DELETE
``[?id=]``), ``/sandbox/links``, ``/sandbox/calls`` (GET, DELETE), ``/sandbox/faults``, ``/sandbox/next``,
``/sandbox/reset``.
"""

import json
import re
import threading
import time
from dataclasses import replace

from poller.sandbox.control import Answer, many, one, routed
from poller.sandbox.desk_lists import Lists
from poller.sandbox.dice import Dice, Ordered
from poller.sandbox.faults import Spoiler, html
from poller.sandbox.inbox import Inbox, concerns, is_control
from poller.sandbox.ledger import moment
from poller.sandbox.options import Json, Switches
from poller.sandbox.reading import parameters
from poller.sandbox.renderings import one_as_xml
from poller.sandbox.store import Fields
from poller.sandbox.tickets import Tickets
from poller.sandbox.wire import Manner, Request, Response

_JSON = "application/json"
_TICKET = re.compile(r"/api/tickets/(\d{1,15})(/links)?", re.ASCII)
_USER = re.compile(r"/api/users/(\d{1,15})", re.ASCII)
_DESK = frozenset({"list", "reply", "inbox"})


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
    "reset_before": (False, _manner(Manner.RESET)),
    "stall": (True, _manner(Manner.STALL)),
    "stall_before": (False, _manner(Manner.STALL)),
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

    def __init__(
        self, *, tickets: Tickets, inbox: Inbox, switches: Switches, dice: Dice, users: tuple[str, ...] = ()
    ) -> None:
        self._tickets = tickets
        self._inbox = inbox
        self._lists = Lists(tickets)
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
        if is_control(request):
            return self._inbox.control(request)
        wanted = request.headers.get("x-sandbox-fault", "")
        fault = wanted if wanted in _FAULTS else self._dice.ordered(request) or self._dice.thrown(_kind(request))
        carried_out, response = self._answered(request, fault)
        if concerns(request) and carried_out is not None and carried_out.status == 202:
            lost = response.manner not in {Manner.SEND, Manner.DRIP}
            self._inbox.answered(carried_out, 0 if lost else response.status)
        call = {"time": round(request.arrived, 6), "method": request.method, "path": request.target, "fault": fault}
        self._calls.append(call | {"status": response.status, "answered": moment()})
        return response

    def _answered(self, request: Request, fault: str) -> tuple[Response | None, Response]:
        """Return what *request* came to, None where it was not carried out, and the answer that leaves."""
        if not fault:
            response = self._carried_out(request)
            return response, response
        first, spoil = _FAULTS[fault]
        carried_out = self._carried_out(request) if first else None
        return carried_out, spoil(carried_out or Response(200), self._switches)

    def _carried_out(self, request: Request) -> Response:
        if concerns(request):
            return self._received(request)
        if (key := self._switches.helpdesk_key) and request.headers.get("authorization") != f"Bearer {key}":
            return _status(401, "unauthorized")(Response(200), self._switches)
        path = request.path.rstrip("/")
        if found := _TICKET.fullmatch(path):
            return self._single(int(found[1]), request, reply=bool(found[2]))
        if (found := _USER.fullmatch(path)) and request.method == "GET":
            author = self._tickets.author(int(found[1]))
            return (
                self._shown(author, "user", request)
                if author
                else _status(404, "no such user")(Response(200), self._switches)
            )
        try:
            response = self._lists.answer(request)
        except ValueError as error:
            return _status(400, str(error))(Response(200), self._switches)
        return response or _status(404, "not found")(Response(200), self._switches)

    def _received(self, request: Request) -> Response:
        key, headers = self._switches.vendor_key, request.headers
        if key and headers.get("authorization") != f"Bearer {key}" and headers.get("x-api-key") != key:
            return _status(401, "unauthorized")(Response(200), self._switches)
        return self._inbox.take(request)

    def _shown(self, content: Fields, root: str, request: Request) -> Response:
        if parameters(request.query).get("format") == "xml":
            return Response(200, one_as_xml(content, root), "application/xml")
        return Response(200, json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace"), _JSON)

    def _single(self, number: int, request: Request, *, reply: bool) -> Response:
        ticket = self._tickets.get(number)
        if ticket is None:
            return _status(404, "no such ticket")(Response(200), self._switches)
        if reply:
            return self._linked(number, request)
        if request.method == "PATCH":
            return self._patched(number, request)
        return self._shown({**ticket, "links": self._tickets.linked(number)}, "ticket", request)

    def _linked(self, number: int, request: Request) -> Response:
        try:
            content = json.loads(request.body or b"{}")
        except ValueError:
            content = {"text": request.body.decode("utf-8", "replace")}
        link, known = self._tickets.link(number, content, request.headers)
        answer = Response(201, json.dumps(link).encode(), _JSON)
        if known:
            answer.headers.append(("Idempotency-Replayed", "true"))
        return answer

    def _patched(self, number: int, request: Request) -> Response:
        try:
            changed = self._tickets.change(number, one(request))
        except ValueError as error:
            return _status(400, str(error))(Response(200), self._switches)
        return self._shown(changed, "ticket", request)

    # Control.

    def _add(self, request: Request) -> Json:
        added = []
        for given in many(request):
            if "count" in given:
                users = [str(user) for user in given.get("users", ())] or list(self._users)
                for position in range(int(given["count"])):
                    requester = {"requester": {"login": users[position % len(users)]}} if users else {}
                    added.append(self._tickets.grow(**requester, **given.get("ticket", {}))["id"])
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


def _kind(request: Request) -> str:
    """Return the kind of call, as faults know it."""
    if concerns(request):
        return "inbox"
    return "reply" if request.method in {"POST", "PATCH"} else "list"
