"""
A business rule on incidents: after each insert and update, once it is committed, it rings or sends the incident elsewhere.

It calls as an async business rule with RESTMessageV2 does: each call once, whatever comes of it, from several workers, so that
calls may overtake each other. What is still to be sent when the sandbox ends is lost.

================================  ================================================================
GET /sandbox/rules, POST          the rule; POST changes the keys that it names
GET /sandbox/rules/sent           ``{"sent": [...], "tokens", "waiting"}``; ``?after=N`` as elsewhere
GET /sandbox/rules/faults, POST   probabilities by name; POST replaces them all
================================  ================================================================

==========================  ==========================================================================================
ring                        addresses that get ``POST`` with ``{}``: doorbells
push                        addresses that get the incident as JSON, flat, every value a string
fields                      columns that are pushed; empty: all
query                       encoded query that the incident must match; empty: every incident
auth                        ``oauth`` (client credentials), ``basic`` (client_id and client_secret) or ``none``
token_url, client_id,       where the token comes from; ``client_auth`` is ``post`` or ``basic``; scope and resource are
client_secret, client_auth  sent where they are not empty
scope, resource
ca                          PEM file; authority of the receiver's certificate
delay                       seconds, or ``"500ms"``; the longest that the fault delayed takes
==========================  ==========================================================================================

A sending is ``{n, time, what, url, sys_id, number, sys_mod_count, fault, forged, status, error}``; status 0: no answer was
waited for, or none came. Options of the command line are named ``--rule-ring`` and so on. Faults are set by ``--rule-fault
NAME=PROB`` or by control, for both kinds or for one when written ``push:NAME`` or ``ring:NAME``; the seed is ``--seed``:
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from poller.sandbox.dice import Dice
from poller.sandbox.encoded_query import Row, Test, compiled, parse
from poller.sandbox.ledger import moment
from poller.sandbox.options import Json, Options, Rule
from poller.sandbox.outbound import Caller, CallError
from poller.sandbox.reading import Reader
from poller.sandbox.store import Store

_WORKERS = 4
_BOTH = frozenset({"ring", "push"})
FAULTS = {
    "lost": (_BOTH, "not sent at all"),
    "twice": (_BOTH, "sent, and sent again"),
    "delayed": (_BOTH, "sent after up to `delay`: later ones come first"),
    "forged": (_BOTH, "sent well, and by somebody else too: a made-up token, other fields"),
    "garbled": (frozenset({"push"}), "texts put into the JSON as they are: quotes end it early"),
    "deaf": (_BOTH, "sent, and hung up before the answer"),
}
KINDS = {name: kinds for name, (kinds, _) in FAULTS.items()}
FORGED = "forged by somebody"


def table() -> str:
    """Return the faults as text."""
    width = max(map(len, FAULTS)) + 2
    return "".join(f"  {name:{width}}{text}\n" for name, (_, text) in FAULTS.items())


@dataclass(frozen=True, kw_only=True)
class _Sending:
    what: str
    url: str
    row: Row
    fault: str
    forged: bool = False


class Rules:
    """Carries the rule out; for any number of threads."""

    def __init__(self, store: Store, reader: Reader, options: Options) -> None:
        self.rule = options.rule
        self._matches = _condition(reader, self.rule.query)
        self.dice = Dice(options.seed, options.rule.faults, kinds=KINDS)
        self._reader = reader
        self._caller = Caller()
        self._random = random.Random(options.seed)
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, _Sending]] = []
        self._count = itertools.count()
        self._busy = 0
        self._over = False
        self._sent: list[dict[str, Any]] = []
        self._threads = [threading.Thread(target=self._work, name="rule", daemon=True) for _ in range(_WORKERS)]
        store.watch("incident", self._committed)

    def start(self) -> None:
        """Begin to send; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    # Control.

    def shown(self) -> dict[str, Json]:
        """Return the rule."""
        return self.rule.shown()

    def change(self, wanted: Mapping[str, Json]) -> dict[str, Json]:
        """
        Take new values for the keys in *wanted*, and return the rule.

        Raises:
            ValueError: A key or a value that there is not.
        """
        rule = self.rule.changed(wanted)
        matches = _condition(self._reader, rule.query)
        self.rule, self._matches = rule, matches
        return rule.shown()

    def sent(self, after: int = 0) -> dict[str, Json]:
        """Return what was sent, oldest first, and how much is waiting."""
        with self._changed:
            waiting = len(self._queue) + self._busy
            return {"sent": self._sent[after:], "tokens": self._caller.tokens, "waiting": waiting}

    # What happens.

    def _committed(self, row: Row) -> None:
        rule = self.rule
        if not (rule.ring or rule.push) or not self._matches(row):
            return
        for what, urls in (("ring", rule.ring), ("push", rule.push)):
            for url in urls:
                self._thrown(rule, _Sending(what=what, url=url, row=row, fault=self.dice.thrown(what)))

    def _thrown(self, rule: Rule, sending: _Sending) -> None:
        """Put into the queue what the fault makes of *sending*."""
        with self._changed:
            match sending.fault:
                case "lost":
                    self._told(sending, 0, "lost")
                    return
                case "twice":
                    self._put(sending, 0.0)
                case "forged":
                    row = {**sending.row, "short_description": FORGED, "sys_mod_count": "999999"}
                    self._put(replace(sending, row=row, forged=True), 0.0)
            self._put(sending, self._random.uniform(0, rule.delay) if sending.fault == "delayed" else 0.0)
            self._changed.notify_all()

    def _put(self, sending: _Sending, delay: float) -> None:
        heapq.heappush(self._queue, (time.monotonic() + delay, next(self._count), sending))

    def _work(self) -> None:
        while (sending := self._next()) is not None:
            status, error = 0, ""
            try:
                bearer = secrets.token_urlsafe(32) if sending.forged else ""
                body = self._body(sending)
                deaf = sending.fault == "deaf"
                status = self._caller.post(self.rule, sending.url, body, deaf=deaf, bearer=bearer)
            except (CallError, ValueError) as problem:
                error = str(problem)
            with self._changed:
                self._busy -= 1
                self._told(sending, status, error)

    def _next(self) -> _Sending | None:
        """Return what is due, or None when all is over."""
        with self._changed:
            while not self._over:
                due = self._queue[0][0] - time.monotonic() if self._queue else None
                if due is not None and due <= 0:
                    self._busy += 1
                    return heapq.heappop(self._queue)[2]
                self._changed.wait(due)
        return None

    def _body(self, sending: _Sending) -> bytes:
        if sending.what == "ring":
            return b"{}"
        names = self.rule.fields or list(sending.row)
        shown = {name: sending.row.get(name, "") for name in names}
        if sending.fault == "garbled":
            # As a template does with ${field}: nothing is escaped, and a quote in a text ends the JSON early.
            texts = ",".join(f'"{name}":"{value} "so to speak""' for name, value in shown.items())
            return f"{{{texts}}}".encode("utf-8", "replace")
        return json.dumps(shown).encode()

    def _told(self, sending: _Sending, status: int, error: str) -> None:
        row = sending.row
        told = {"n": len(self._sent) + 1, "time": moment(), "what": sending.what, "url": sending.url}
        told |= {name: row[name] for name in ("sys_id", "number", "sys_mod_count")}
        told |= {"fault": sending.fault, "forged": sending.forged, "status": status, "error": error}
        self._sent.append(told)


def _condition(reader: Reader, text: str) -> Test:
    """Return the test of an encoded query; ValueError: a part of it is none, which would be left out silently."""
    query = parse(text, lambda path: reader.column("incident", path) is not None)
    if query.dropped:
        message = f"query: no conditions: {'^'.join(query.dropped)}"
        raise ValueError(message)
    return compiled(query, reader.context("incident", "system"))
