"""
An opaque token, asked about at its provider (RFC 7662). Whatever is not clear is `Undecided`: nobody comes in on a guess.

Answers are remembered by the SHA-256 of the token, good ones until the token expires and a minute at most, so that a withdrawn
one is found out; bad ones for some seconds, apart from the good ones, so that a flood of them displaces none.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import orjson

from poller.clients.http import Answer, HttpRemote
from poller.clients.revealing import reveal
from poller.clock import Clock
from poller.errors import PollerError, UnknownOutcome
from poller.ingress.auth_settings import AuthSettings, ClientSettings
from poller.ingress.principal import Principal, Refused, Undecided, about_to_wait
from poller.ingress.tokens.claims import (
    check_form,
    check_kind,
    check_source,
    check_times,
    check_unclaimed,
    client_of,
    scopes_of,
)
from poller.ingress.tokens.lasting import Lasting
from poller.ingress.tokens.rights import principal
from poller.logs import get_logger

log = get_logger()

#: Seconds that an answer is believed.
_GOOD: Final = 60.0
_BAD: Final = 10.0
_MOST: Final = 4096
#: Calls at the same time; each holds a thread of the server.
_CALLS: Final = 4
_BEARER: Final = frozenset({"bearer", "access_token"})


class _Call:
    """A call under way: whoever brings the same token waits for its outcome."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.outcome: Principal | Refused | Undecided = Undecided("the call was given up")


class IntrospectionVerifier:
    """
    Judges tokens by asking their provider.

    Args:
        remote: Bounded in time and size; follows no redirect.

        wall: Seconds since 1970.

        clock: Monotonic seconds.

        count: Called with ``introspected`` or ``introspection_failed``, for the metrics.
    """

    def __init__(
        self,
        settings: AuthSettings,
        remote: HttpRemote,
        clients: Mapping[str, ClientSettings],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = Clock.monotonic,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._remote = remote
        self._clients = clients
        self._wall = wall
        self._clock = clock
        self._count = count
        self._told_at = float("-inf")
        self._untold = 0
        self._lock = threading.Lock()
        self._calls: dict[bytes, _Call] = {}
        self._good: Lasting[bytes, Principal] = Lasting(_MOST, clock)
        self._bad: Lasting[bytes, str] = Lasting(_MOST, clock)

    def verify(self, token: str) -> Principal:
        digest = hashlib.sha256(check_form(token).encode()).digest()
        if (known := self._good.get(digest)) is not None:
            return known
        if (why := self._bad.get(digest)) is not None:
            raise Refused(why)
        about_to_wait()
        outcome = self._asked(token, digest)
        if isinstance(outcome, Principal):
            return outcome
        # A new one for each caller: a traceback is not shared between threads.
        raise Refused(outcome.why) if isinstance(outcome, Refused) else Undecided(outcome.why)

    def close(self) -> None:
        self._remote.close()

    def _asked(self, token: str, digest: bytes) -> Principal | Refused | Undecided:
        """Ask, or wait for whoever asks about the same token just now."""
        with self._lock:
            call = self._calls.get(digest)
            first = call is None
            if call is None:
                if len(self._calls) >= _CALLS:
                    raise Undecided("too many tokens are being asked about", retry_after=timedelta(seconds=1))
                call = self._calls[digest] = _Call()
        if not first:
            if not call.ended.wait(self._settings.deadline.total_seconds() + 1):
                raise Undecided("the provider is being asked")
            return call.outcome
        try:
            call.outcome = self._outcome(token, digest)
        finally:
            with self._lock:
                del self._calls[digest]
            call.ended.set()
        return call.outcome

    def _outcome(self, token: str, digest: bytes) -> Principal | Refused | Undecided:
        try:
            claims = self._claims(token)
        except Undecided as error:
            self._tell(error.why)
            return error
        self._count("introspected")
        try:
            found, seconds = self._judged(claims)
        except Refused as error:
            self._bad.put(digest, error.why, _BAD)
            return error
        self._good.put(digest, found, seconds)
        return found

    def _tell(self, why: str) -> None:
        """Log a failure, but once a minute at most: each caller makes one while the provider is away."""
        self._count("introspection_failed")
        with self._lock:
            self._untold += 1
            now, calls = self._clock(), self._untold
            if now - self._told_at < _GOOD:
                return
            self._told_at, self._untold = now, 0
        log.warning("introspection_failed", error=why, calls=calls)

    def _claims(self, token: str) -> Mapping[str, Any]:
        """
        Return what the provider says of *token*; ``active`` is true or false in it.

        Raises:
            Undecided: It does not answer, or not as RFC 7662 has it.
        """
        answer = self._answer(token)
        # 401 is about our own credentials, never about the token.
        if answer.status != 200:
            raise Undecided(f"introspection_url answers {answer.status}")
        try:
            found = orjson.loads(answer.body)
        except (ValueError, RecursionError):
            raise Undecided("introspection_url answers with no JSON") from None
        if not isinstance(found, dict) or not isinstance(found.get("active"), bool):
            raise Undecided("introspection_url does not say whether the token is active")
        return found

    def _answer(self, token: str) -> Answer:
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        try:
            self._sign(form, headers)
            body = urlencode(form).encode()
            deadline = self._settings.deadline.total_seconds()
            began = self._clock()
            try:
                return self._send(headers, body, deadline)
            except UnknownOutcome:
                # Most likely a connection that the provider closed as we wrote. Asking changes nothing, so it is asked once more,
                # within the time of the first.
                left = deadline - (self._clock() - began)
                if left <= 0:
                    raise
                return self._send(headers, body, left)
        except (PollerError, ValueError) as error:
            raise Undecided(f"introspection_url: {error}") from None

    def _sign(self, form: dict[str, str], headers: dict[str, str]) -> None:
        """Put our own id and secret where the settings say; the secret is read anew each time."""
        settings = self._settings
        assert settings.client_id is not None and settings.client_secret is not None  # noqa: PT018, S101  as the settings demand
        secret = reveal(settings.client_secret)
        if settings.client_auth == "basic":
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": settings.client_id, "client_secret": secret}

    def _send(self, headers: Mapping[str, str], body: bytes, deadline: float) -> Answer:
        url = self._settings.introspection_url or ""
        return self._remote.request("POST", url, headers=headers, body=body, deadline=deadline)

    def _judged(self, claims: Mapping[str, Any]) -> tuple[Principal, float]:
        """Return whose token it is, and for how many seconds that may be believed."""
        settings = self._settings
        if claims["active"] is not True:
            raise Refused("not active")
        kind = claims.get("token_type")
        if (kind is not None or settings.require_typ) and (not isinstance(kind, str) or kind.lower() not in _BEARER):
            raise Refused("token_type is not a bearer token's")
        check_kind(claims)
        check_unclaimed(claims)
        check_source(claims, settings)
        now = self._wall()
        expires = check_times(claims, now=now, leeway=settings.leeway.total_seconds())
        seconds = _GOOD if expires is None else min(_GOOD, expires - now)
        return principal(client_of(claims, settings), scopes_of(claims, settings), self._clients), seconds
