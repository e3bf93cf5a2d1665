"""
The vendor's inbox on the help desk's port: an HTTP endpoint that keeps what it is sent, as any other system would.

===============================  =============================================================================
POST, PUT, PATCH /vendor/inbox   stores the request; 202 ``{"received": n}``; anything may follow in the path
GET /vendor/inbox[?after=N]      ``{"messages": [...], "repeats": how many}``, oldest first, numbered ``n``
GET /vendor/inbox/N              one of them
GET /vendor/inbox/N/body         its body, byte by byte, with its Content-Type
DELETE /vendor/inbox             empties it; the numbers go on
===============================  =============================================================================

A message is ``{n, method, path, headers, body, bytes, time, key, repeat, differs, answered}``: ``key`` its ``Idempotency-Key``,
``repeat`` how many came with that key before it, ``differs`` whether its body is not the first one's, ``answered`` the status, 0
where the answer was lost and null while it is still to come. A repeat is stored too, and its answer carries
``Idempotency-Replayed: true``. Faults befall the first kind of call alone, as kind ``inbox``: ``lost_answer``, ``reset``,
``500_after`` store it first; ``500``, ``429``, ``503``, ``reset_before`` do not. The switch ``vendor_key`` demands
``Authorization: Bearer KEY`` or ``X-Api-Key: KEY`` of it. Reading and emptying is control, and needs nothing.
"""

from __future__ import annotations

import json
import re
import threading

from poller.sandbox.options import Json
from poller.sandbox.reading import parameters
from poller.sandbox.store import Fields, Store
from poller.sandbox.wire import Request, Response

PATH = "/vendor/inbox"
_ONE = re.compile(rf"{PATH}/(\d{{1,9}})(/body)?", re.ASCII)
_JSON = "application/json"
_STORED = frozenset({"POST", "PUT", "PATCH"})


def concerns(request: Request) -> bool:
    """Tell whether *request* goes to the inbox."""
    return request.path == PATH or request.path.startswith(PATH + "/")


def is_control(request: Request) -> bool:
    """Tell whether *request* looks at the inbox or empties it."""
    return concerns(request) and request.method not in _STORED


class Inbox:
    """Keeps what it is sent, for as long as the sandbox's state lives."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._messages: dict[int, Fields] = {}
        self._came: dict[str, list[int]] = {}  # by Idempotency-Key: the messages with it
        self._last = 0
        store.reads("inbox", self._keep)
        store.reads("inbox answered", self._mark)
        store.reads("inbox emptied", self._empty)

    def take(self, request: Request) -> Response:
        """Store *request* and answer it."""
        key = request.headers.get("idempotency-key", "")
        body = request.body.decode("utf-8", "surrogateescape")
        with self._lock:
            before = self._came.get(key, [])
            message = {
                "n": self._last + 1,
                "method": request.method,
                "path": request.target,
                "headers": request.headers,
                "body": body,
                "bytes": len(request.body),
                "time": round(request.arrived, 6),
                "key": key,
                "repeat": len(before),
                "differs": bool(before) and self._messages[before[0]]["body"] != body,
                "answered": None,
            }
            self._store.write("inbox", message)
            self._keep(message)
        answer = Response(202, json.dumps({"received": message["n"]}).encode(), _JSON)
        if message["repeat"]:
            answer.headers.append(("Idempotency-Replayed", "true"))
        return answer

    def answered(self, taken: Response, status: int) -> None:
        """Remember what became of the answer *taken*; 0: it was lost."""
        mark = [json.loads(taken.body)["received"], status]
        with self._lock:
            self._store.write("inbox answered", mark)
            self._mark(mark)

    def control(self, request: Request) -> Response:
        """Show what is kept, or forget it."""
        if request.path == PATH and request.method == "DELETE":
            return self._emptied()
        if request.path == PATH and request.method == "GET":
            return self._listed(request)
        found = _ONE.fullmatch(request.path)
        message = self._messages.get(int(found[1])) if found and request.method == "GET" else None
        if found is None or message is None:
            return _json(404, {"error": f"no {request.method} {request.path} in the vendor's inbox"})
        if not found[2]:
            return _json(200, message)
        kind = message["headers"].get("content-type", "application/octet-stream")
        return Response(200, message["body"].encode("utf-8", "surrogateescape"), kind)

    def _listed(self, request: Request) -> Response:
        after = parameters(request.query).get("after", "0")
        if not (after.isascii() and after.isdigit()):
            return _json(400, {"error": f"after: not a whole number: {after!r}"})
        with self._lock:
            shown = [message for n, message in self._messages.items() if n > int(after)]
            return _json(200, {"messages": shown, "repeats": sum(bool(one["repeat"]) for one in shown)})

    def _emptied(self) -> Response:
        with self._lock:
            count = len(self._messages)
            self._store.write("inbox emptied", self._last)
            self._empty(self._last)
        return _json(200, {"removed": count})

    def _keep(self, message: Fields) -> None:
        self._messages[message["n"]] = message
        self._last = message["n"]
        if message["key"]:
            self._came.setdefault(message["key"], []).append(message["n"])

    def _mark(self, mark: Json) -> None:
        if (message := self._messages.get(mark[0])) is not None:
            message["answered"] = mark[1]

    def _empty(self, last: Json) -> None:
        self._messages.clear()
        self._came.clear()
        self._last = last


def _json(status: int, content: Json) -> Response:
    # In ASCII, since a body may hold bytes that are no text.
    return Response(status, json.dumps(content).encode(), _JSON)
