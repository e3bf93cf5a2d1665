"""
The WSGI application: which end point, who calls, how much, and one access line.

The order is that of cost: what nobody has proven costs a look at the head, the token, and a wait; only then is a body read.
"""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from poller import metrics
from poller.errors import TransientError
from poller.ingress import monitoring
from poller.ingress.answers import ALWAYS, Answer, Problem, json_answer
from poller.ingress.callers import Callers, not_allowed
from poller.ingress.endpoints import ENDPOINTS, Endpoint, find
from poller.ingress.house import House
from poller.ingress.limits import Buckets, Gauge, Quota, tightest
from poller.ingress.principal import before_waiting
from poller.ingress.records import Records
from poller.ingress.requests import Request
from poller.ingress.settings import ServerSettings
from poller.ingress.tokens import Proofs, Throttled
from poller.logs import get_logger

if TYPE_CHECKING:
    from poller.ingress.connection import Connection

log = get_logger()

#: What a client may ask in a minute, where its table does not say.
USUAL: Final = 6000
#: What a body of a token request may have, in bytes.
_FORM: Final = 8192

#: Refusals that wait for their turn whoever asks: a body that is not wanted costs more than one that is.
_DEAR: Final = frozenset({408, 413})

Start = Callable[[str, list[tuple[str, str]]], Any]


@dataclass
class _Told:
    """What the access line says besides."""

    endpoint: str = "unknown"
    route: str | None = None
    client: str | None = None
    why: str | None = None


class App:
    """The application; for any number of threads."""

    def __init__(self, settings: ServerSettings, house: House, proofs: Proofs) -> None:
        self._settings = settings
        self._proofs = proofs
        self._callers = Callers(proofs=proofs)
        self._house = house
        self._records = Records(house, most=settings.max_body)
        self._buckets = Buckets()
        self._under_way = Gauge(settings.concurrency)

    def close(self) -> None:
        """Let go of the connections to who judges tokens."""
        self._proofs.close()

    @property
    def under_way(self) -> int:
        """How many requests of somebody who is known are being answered."""
        return self._under_way.count

    def __call__(self, environ: Mapping[str, Any], start_response: Start) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        started = time.monotonic()
        told = _Told()
        answer = self._answered(environ, told)
        connection: Connection = environ["poller.connection"]
        if answer.status < HTTPStatus.BAD_REQUEST:
            connection.acquaint()
        elif answer.status == HTTPStatus.UNAUTHORIZED:
            connection.estrange()
        # A client may take its time to read what it asked for.
        connection.end_turn(vain=True)
        seconds = time.monotonic() - started
        metrics.request_answered(told.endpoint, answer.status, seconds)
        level = "warning" if answer.status >= 500 else "debug" if told.endpoint in monitoring.QUIET else "info"
        getattr(log, level)(
            "request_answered",
            route=told.route,
            method=environ["REQUEST_METHOD"],
            endpoint=told.endpoint,
            status=answer.status,
            client=told.client,
            peer=environ.get("REMOTE_ADDR") or "unix",
            seconds=round(seconds, 4),
            why=told.why,
        )
        own = {name.lower() for name, _ in answer.headers}
        always = [(name, value) for name, value in ALWAYS if name.lower() not in own]
        headers = [("Content-Type", answer.type), ("Content-Length", str(len(answer.body))), *always, *answer.headers]
        start_response(answer.line, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _answered(self, environ: Mapping[str, Any], told: _Told) -> Answer:
        try:
            return self._answer(Request.of(environ), told)
        except Problem as problem:
            told.why = problem.why or problem.detail
            if not environ["poller.connection"].proven or problem.status in _DEAR:
                self._wait(environ, problem.reason or f"http_{problem.status}")
            elif problem.reason is not None:
                metrics.refused(problem.reason)
            return problem.answer()
        except TransientError as error:
            told.why = str(error)
            return Problem(503, "it was not stored; try again", headers=[("Retry-After", "1")]).answer()
        except ConnectionError:
            # The client is gone, or is to go without a word: cheroot ends the connection and says nothing.
            raise
        except Exception:  # noqa: BLE001  whoever asks must be answered; told with its place, never with its data
            log.error("crashed", exception=traceback.format_exc())
            return Problem(500, "something went wrong here; our log says what").answer()

    @staticmethod
    def _wait(environ: Mapping[str, Any], reason: str) -> None:
        """Have the answer to whoever has proven nothing wait for its turn; where too many wait, end without a word."""
        if not environ["poller.connection"].refuse(reason):
            raise BrokenPipeError(errno.EPIPE, "refused without a word")

    def _answer(self, request: Request, told: _Told) -> Answer:
        settings = self._settings
        if not request.is_for(settings.hosts, local=settings.local):
            raise Problem(421, "this is not the host that was asked for; see server.hosts", reason="host")
        endpoint, values = find(request)
        told.endpoint, told.route = endpoint.template, values.get("route")
        if endpoint.act is not None and not (endpoint.name == "metrics" and request.from_here and settings.local):
            return self._known(request, endpoint, values, told)
        # Whoever asks these is never known.
        if endpoint.name not in monitoring.PROMPT:
            request.connection.end_turn()
        if endpoint.name == "token":
            return self._token(request, told)
        return monitoring.answer(endpoint.name, self._house)

    def _known(self, request: Request, endpoint: Endpoint, values: Mapping[str, str], told: _Told) -> Answer:
        with before_waiting(request.connection.end_turn):
            principal = self._callers.caller(request)
        told.client = principal.client
        request.connection.prove()
        route = values.get("route", "")
        act = endpoint.act or ""
        quota = self._take(self._limits(principal.client))
        if not (principal.may(act, route) if route else act in principal.scopes):
            raise not_allowed(act, route or "any")
        # Only now: who may not speak of a route must not use up what others may.
        if route:
            quota = tightest(quota, self._take({f"route {route}": self._pushed(route)}))
        with self._under_way.enter() as room:
            if not room:
                raise Problem(503, "too many requests are under way", reason="busy", headers=[("Retry-After", "1")])
            answer = self._done(request, endpoint, values)
        if quota is None:
            return answer
        return Answer(
            status=answer.status, body=answer.body, type=answer.type, headers=(*answer.headers, *quota.headers())
        )

    def _limits(self, client: str, what: str = "client") -> dict[str, int]:
        named = self._settings.clients.get(client)
        own = USUAL if named is None else named.requests_per_minute
        return {f"{what} {client}": own, "all": self._settings.requests_per_minute}

    def _take(self, limits: Mapping[str, int]) -> Quota | None:
        quota = self._buckets.take(limits)
        if quota is not None and quota.wait:
            raise Problem(429, "more requests than are taken in a minute", reason="quota", headers=quota.headers())
        return quota

    def _pushed(self, route: str) -> int:
        try:
            reader = self._house.pushed(route)
        except KeyError:
            return 0
        return reader.requests_per_minute if reader is not None else 0

    def _done(self, request: Request, endpoint: Endpoint, values: Mapping[str, str]) -> Answer:
        if endpoint.name == "metrics":
            return monitoring.answer(endpoint.name, self._house)
        try:
            if endpoint.name == "push":
                return self._records.push(request, values["route"])
            if endpoint.name == "record":
                return self._records.read(values["route"], values["key"])
            return self._ring(request, values["route"])
        except KeyError:
            raise Problem(404, "there is no such route") from None

    def _ring(self, request: Request, route: str) -> Answer:
        if not self._house.polled(route):
            raise Problem(404, "this route polls nothing")
        request.body(self._settings.max_body)
        self._house.ring(route)
        return json_answer(202, {"route": route, "poll": "soon"})

    def _token(self, request: Request, told: _Told) -> Answer:
        endpoint = self._proofs.endpoint
        if endpoint is None:
            raise Problem(404, "no tokens are given out here")
        body = request.body(_FORM)
        kind = str(request.environ.get("CONTENT_TYPE", ""))

        def proven(client: str) -> None:
            told.client = client
            request.connection.prove()
            # Beside its other requests, so that a client of few has its token and its share.
            quota = self._buckets.take(self._limits(client, "tokens of"))
            if quota is not None and quota.wait:
                metrics.refused("quota")
                raise Throttled("more tokens than are given in a minute", retry_after=timedelta(seconds=quota.wait))

        status, headers, value = endpoint.answer(body, kind, request.authorization, request.peer, proven)
        if status == 401:
            self._wait(request.environ, "invalid_client")
        return json_answer(status, value, headers)


__all__ = ["ENDPOINTS", "App"]
