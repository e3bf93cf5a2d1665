"""
The stand-in instance: what the ServiceNow port answers, call by call.

A call is counted, gets its fault if any, waits its latency, shows its credentials, queues in its session, is
carried out, has its answer spoilt when the fault says so, and is written into the ledger.
"""

import gzip
import random
import secrets
import threading
import time
from dataclasses import replace

from poller.sandbox import faults
from poller.sandbox.batch import Batch
from poller.sandbox.clock import Clock
from poller.sandbox.control import Control
from poller.sandbox.dice import Dice
from poller.sandbox.faults import AFTER, BEFORE, CREATE, FAULTS, HEAD, LATE, READ, TOKEN, WRITE, Fault
from poller.sandbox.ledger import Ledger, moment
from poller.sandbox.oauth import Gate, bearer
from poller.sandbox.options import Options, Switches
from poller.sandbox.reading import Patience
from poller.sandbox.sessions import Sessions
from poller.sandbox.store import Fields
from poller.sandbox.table_api import TableApi, create_facts, path_of
from poller.sandbox.wire import Manner, Request, Response

_NO_CACHE = [
    ("Cache-Control", "no-cache,no-store,must-revalidate,max-age=-1"),
    ("Pragma", "no-store,no-cache"),
    ("Expires", "0"),
    ("X-Content-Type-Options", "nosniff"),
    ("Strict-Transport-Security", "max-age=63072000; includeSubDomains"),
    ("Server", "ServiceNow"),
]
INSTANCE = "sandbox"


class Instance:
    """Answers the requests of the ServiceNow port."""

    def __init__(  # noqa: PLR0913 - put together in one place, Sandbox
        self,
        *,
        options: Options,
        switches: Switches,
        clock: Clock,
        gate: Gate,
        api: TableApi,
        ledger: Ledger,
        dice: Dice,
        control: Control,
        patience: Patience,
    ) -> None:
        self.url = ""  # known when the port is
        self._switches = switches
        self._clock = clock
        self._gate = gate
        self._api = api
        self._ledger = ledger
        self._dice = dice
        self._control = control
        self._patience = patience
        self._sessions = Sessions(switches)
        self._batch = Batch(self._item)
        self._random = random.Random(options.seed)
        self._late: set[threading.Thread] = set()
        self._node = secrets.token_hex(16)

    # Faults.

    def greet(self, request: Request) -> bool:
        """Choose the fault of *request*; False when it is a reset before the body."""
        if request.path.startswith("/sandbox/"):
            return True
        wanted = request.headers.get("x-sandbox-fault", "")
        if wanted not in FAULTS:
            wanted = self._dice.ordered(request) or self._dice.thrown(_kind(request))
        request.fault = wanted
        fault = FAULTS.get(wanted)
        if fault is None or fault.when != HEAD:
            return True
        self._ledger.enter(_counted(request))
        self._ledger.leave()
        self._ledger.add(self._entry(request) | {"status": 0, "answered": moment()})
        return False

    def answer(self, request: Request) -> Response:
        """Answer *request*."""
        if request.path.startswith("/sandbox/"):
            return self._control.answer(request)
        if not request.fault:
            request.fault = self._dice.ordered(request)  # one ordered by what the body says
        active = self._ledger.enter(_counted(request))
        entry = self._entry(request)
        try:
            response = self._crowded(active) or self._faulted(request, entry)
        finally:
            self._ledger.leave()
        if "correlation_id" not in entry and _kind(request) == CREATE:
            entry |= {**create_facts(request), "committed": False}  # it arrived, whatever became of it
        entry |= {"status": response.status if response.manner in {Manner.SEND, Manner.DRIP, Manner.CUT} else 0}
        entry["answered"] = moment()
        self._ledger.add(entry)
        if request.method == "HEAD":
            response = replace(response, body=b"")
        return self._packed(request, response)

    def _crowded(self, active: int) -> Response | None:
        limit = self._switches.semaphore
        return faults.html(429, "Too Many Requests") if limit and active > limit else None

    def _entry(self, request: Request) -> Fields:
        entry: Fields = {
            "time": round(request.arrived, 6),
            "method": request.method,
            "path": request.target,
            "kind": _counted(request),
            "fault": request.fault,
            "transaction": secrets.token_hex(6),
        }
        if request.path == "/api/now/table/incident" and request.method == "POST":
            entry["cookies"] = bool(request.headers.get("cookie"))
        return entry

    def _faulted(self, request: Request, entry: Fields) -> Response:
        if self._switches.latency > 0:
            time.sleep(self._switches.latency)
        fault = FAULTS.get(request.fault)
        if fault is None or _kind(request) not in fault.kinds:
            return self._carried_out(request, entry)
        if fault.name == "token_expired":
            self._gate.kill(bearer(request) or "")
            return self._carried_out(request, entry)
        if fault.name == "access_denied":
            return Response(401, b'{"error_description":"access_denied","error":"server_error"}')
        if fault.when == BEFORE:
            return fault.spoil(Response(200), self._switches)
        if fault.when == LATE:
            return self._carried_out_late(request, entry, fault)
        delay = self._lateness() if fault.when == "slow" else 0.0
        response = self._carried_out(request, entry, delay)
        failed = response.status >= 400
        return fault.spoil(response, self._switches) if fault.when == AFTER and not failed else response

    def _lateness(self) -> float:
        late = self._switches.late
        return self._random.uniform(0.2, 1.0) if late is None else late

    def _carried_out_late(self, request: Request, entry: Fields, fault: Fault) -> Response:
        """Drop the client now; commit when it is gone."""
        # The credentials are looked at now: what runs on was let in.
        if self._gate.user(request) is None:
            return self._carried_out(request, entry)
        delay = self._lateness()
        after = {key: value for key, value in entry.items() if key not in {"status", "answered"}} | {
            "kind": "late commit"
        }

        def run() -> None:
            self._patience.sleep(delay)
            request.identity = self._gate.user(request) or identity
            response = self._api.call(request, self.url, after)
            self._ledger.add(after | {"status": response.status, "answered": moment()})
            self._late.discard(thread)

        identity = self._gate.user(request) or ""
        thread = threading.Thread(target=run, name="late-commit", daemon=True)
        self._late.add(thread)
        thread.start()
        return fault.spoil(Response(200), self._switches)

    def finish(self) -> None:
        """Let what is still running commit; the sandbox ends."""
        for thread in list(self._late):
            thread.join(2.0)

    # Calls.

    def _carried_out(self, request: Request, entry: Fields, delay: float = 0.0) -> Response:
        if request.path == "/oauth_token.do":
            return self._gate.issue(request)
        if request.path == "/oauth_revoke_token.do":
            return self._gate.revoke(request)
        if not request.path.startswith("/api/"):
            return faults.html(404, "Page not found")
        identity = self._gate.user(request)
        if identity is None:
            return self._gate.unauthenticated(INSTANCE)
        request.identity = identity
        limit = self._switches.rate_limit
        if (over := self._sessions.over_rate(limit, self._clock.now())) is not None:
            headers = self._sessions.rate_headers(limit, self._clock.now())
            if over:
                response = faults.limited(self._switches, limit)
                response.headers += headers
                return response
        else:
            headers = []
        with self._sessions.turn(request) as admitted:
            response = self._executed(request, entry, delay) if admitted else Response(202, b"", "")
        response.headers = [*self._headers(entry), *headers, *response.headers]
        return response

    def _executed(self, request: Request, entry: Fields, delay: float) -> Response:
        if override := request.headers.get("x-http-method-override"):
            request = replace(request, method=override.upper())
        if request.path in {"/api/now/batch", "/api/now/v1/batch"}:
            return self._batch.call(request)
        return self._api.call(request, self._host(request), entry, delay=delay, short=self._switches.short_answer)

    def _item(self, request: Request) -> Response:
        """Carry out one item of a batch, which has its own entry in the ledger."""
        entry = self._entry(request) | {"batch": True}
        response = self._api.call(request, self.url, entry, short=self._switches.short_answer)
        self._ledger.add(entry | {"status": response.status, "answered": moment()})
        return response

    def _host(self, request: Request) -> str:
        """Return the address links carry: the one the client called us by."""
        host = request.headers.get("host")
        return f"{self.url.partition('://')[0]}://{host}" if host else self.url

    def _headers(self, entry: Fields) -> list[tuple[str, str]]:
        node = self._node
        return [
            ("X-Is-Logged-In", "true"),
            ("X-Transaction-ID", entry["transaction"]),
            ("Server-Timing", "sem_wait;dur=0, sesh_wait;dur=0"),
            *_NO_CACHE,
            ("Set-Cookie", f"glide_user_route=glide.{node}; Max-Age=2147483647; Path=/; HttpOnly"),
            ("Set-Cookie", f"glide_session_store={secrets.token_hex(16).upper()}; Max-Age=1800; Path=/; HttpOnly"),
            ("Set-Cookie", f"BIGipServerpool_{INSTANCE}=1.2.3; path=/; Httponly"),
        ]

    def _packed(self, request: Request, response: Response) -> Response:
        if not (self._switches.gzip and response.body and "gzip" in request.headers.get("accept-encoding", "")):
            return response
        headers = [*response.headers, ("Content-Encoding", "gzip")]
        return replace(response, body=gzip.compress(response.body, 1), headers=headers)


def _kind(request: Request) -> str:
    """Return the kind of call, as faults know it."""
    if request.path.startswith("/oauth"):
        return TOKEN
    if request.method in {"GET", "HEAD"}:
        return READ
    parts = path_of(request.path)
    return CREATE if request.method == "POST" and parts is not None and parts[2] == "incident" else WRITE


def _counted(request: Request) -> str:
    """Return the kind of call, as the counts name it: ``token``, ``incident POST``, ``sys_user GET``, ``other``."""
    if request.path == "/oauth_token.do":
        return "token"
    parts = path_of(request.path)
    return f"{parts[2]} {request.method}" if parts is not None else "other"
