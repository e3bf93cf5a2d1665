"""
How a business rule calls out, as a RESTMessageV2 with an authentication profile does: one request, no second try.

The token comes from the token URL by client credentials, is kept until it expires, and is fetched anew after a 401, once.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlencode, urlsplit

from poller.sandbox.options import Rule

_TIMEOUT = 10.0  # RESTMessageV2's own, to connect; a whole answer may take longer there
_MARGIN = 5.0  # seconds before its end a token is not used any more


class CallError(Exception):
    """There was no answer, or no token; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """One answer; status 0: it was not waited for."""

    status: int
    body: bytes = b""


class Caller:
    """Calls out with the credentials of a rule; for any number of threads."""

    def __init__(self) -> None:
        self.tokens = 0  # how often a token was fetched
        self._lock = threading.Lock()
        self._token = ""
        self._known: tuple[str, ...] = ()  # whose the token is
        self._expires = 0.0

    def post(self, rule: Rule, url: str, body: bytes, *, deaf: bool = False, bearer: str = "") -> int:
        """
        Send *body* and return the status of the answer, 0 where nobody waits for it.

        Args:
            deaf: Hang up as soon as it is sent.

            bearer: This token, instead of one of the rule's own.

        Raises:
            CallError: There was no answer, or no token.
        """
        proof = f"Bearer {bearer}" if bearer else self._proof(rule)
        called = _call(rule, url, body, _headers("application/json", proof), deaf=deaf)
        if called.status == 401 and not bearer and rule.auth == "oauth":
            self._forget(proof)
            called = _call(rule, url, body, _headers("application/json", self._proof(rule)), deaf=deaf)
        return called.status

    def _proof(self, rule: Rule) -> str:
        if rule.auth == "basic":
            return _basic(rule)
        return f"Bearer {self._access(rule)}" if rule.auth == "oauth" else ""

    def _access(self, rule: Rule) -> str:
        whose = (rule.token_url, rule.client_id, rule.client_secret, rule.scope, rule.resource)
        with self._lock:
            if self._known != whose or time.monotonic() >= self._expires:
                self._token, life = self._fetched(rule)
                self._expires = time.monotonic() + max(1.0, life - _MARGIN)
                self._known = whose
            return self._token

    def _forget(self, proof: str) -> None:
        with self._lock:
            if proof == f"Bearer {self._token}":
                self._known = ()

    def _fetched(self, rule: Rule) -> tuple[str, float]:
        self.tokens += 1
        form = {"grant_type": "client_credentials", "scope": rule.scope, "resource": rule.resource}
        if rule.client_auth == "post":
            form |= {"client_id": rule.client_id, "client_secret": rule.client_secret}
        body = urlencode({name: value for name, value in form.items() if value}).encode()
        proof = _basic(rule) if rule.client_auth == "basic" else ""
        called = _call(rule, rule.token_url, body, _headers("application/x-www-form-urlencoded", proof))
        try:
            answer = json.loads(called.body)
            return str(answer["access_token"]), float(answer.get("expires_in", 1800))
        except (ValueError, KeyError, TypeError) as error:
            message = f"no token: {rule.token_url} answered {called.status}"
            raise CallError(message) from error


def _basic(rule: Rule) -> str:
    pair = f"{quote(rule.client_id, safe='')}:{quote(rule.client_secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _headers(kind: str, proof: str) -> dict[str, str]:
    given = {"Content-Type": kind, "Accept": "application/json", "User-Agent": "ServiceNow/1.0"}
    return given | ({"Authorization": proof} if proof else {})


def _call(rule: Rule, url: str, body: bytes, headers: dict[str, str], *, deaf: bool = False) -> Called:
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=rule.ca or None)
        connection: HTTPConnection = HTTPSConnection(parts.netloc, timeout=_TIMEOUT, context=context)
    else:
        connection = HTTPConnection(parts.netloc, timeout=_TIMEOUT)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, headers)
        if deaf:
            return Called(status=0)
        answer = connection.getresponse()
        return Called(status=answer.status, body=answer.read())
    except (OSError, HTTPException) as error:
        message = f"{type(error).__name__}: {error}"
        raise CallError(message) from error
    finally:
        connection.close()
