"""
One write to an HTTP receiver, once, and what its answer means. Shared by the sink ``http`` and by replies.

Whatever is not a clear yes or a clear no is an unknown outcome: the dispatcher then sends the same bytes with the same
``Idempotency-Key`` again, and a receiver that keeps the key drops the repeat.

Source: draft-ietf-httpapi-idempotency-key-header; RFC 9110; guarantee.md 2.5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from poller.clients.auth import AuthSettings, TokenAuth
from poller.clients.headers import check_headers, merged
from poller.clients.http import Answer, HttpRemote, RemoteSettings
from poller.clients.oauth import Grant, credentials
from poller.clients.retry_after import retry_after
from poller.clients.revealing import reveal
from poller.errors import (
    BlockedError,
    Evidence,
    NotSentError,
    PermanentError,
    PollerError,
    TransientError,
    UnknownOutcome,
)
from poller.model import Intent, Receipt
from poller.sinks.addresses import remote_name
from poller.values import Secret

#: What a receiver may say "done" with, unless the settings know better.
ACCEPTED: Final = (200, 201, 202, 204)
#: Set here for each message; a second one would be a second meaning.
_RESERVED: Final = ("idempotency-key",)
#: Refused for now: others hold it (423), too early (425). 409 is one of them for a copy, see `Sending`.
_FOR_NOW: Final = frozenset({423, 425})


def check_sent(headers: dict[str, str | Secret], *, instead: str) -> dict[str, str | Secret]:
    """Return *headers* if they can be sent with each message; see `poller.clients.headers.check_headers`."""
    return check_headers(headers, instead=instead, reserved=_RESERVED)


def check_auth(auth: AuthSettings) -> None:
    """
    Say what is missing for the requests of a sink.

    Raises:
        ValueError: No address to ask for tokens.
    """
    if isinstance(auth, TokenAuth) and auth.token_url is None:
        raise ValueError("auth.token_url is required")


class Sending:
    """
    Sends to one receiver.

    Args:
        url: Of the settings. Frozen messages keep their path and query; scheme and host are always these, so that no
            credentials go where they did not belong when a body was frozen.
    """

    def __init__(
        self,
        settings: RemoteSettings,
        *,
        url: str,
        method: str,
        headers: Mapping[str, str | Secret],
        accepted: Collection[int],
        connections: int,
    ) -> None:
        self._method = method
        self._headers = headers
        self._accepted = frozenset(accepted)
        self._home = remote_name(url)
        self._where = urlsplit(self._home).netloc
        self._remote = HttpRemote(settings, connections=connections + 1, writes=True)
        self._credentials = credentials(settings.auth, self._remote)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._remote.close()

    def send(
        self, intent: Intent, url: str, body: str, content_type: str, may_send: Callable[[Intent], bool]
    ) -> Receipt:
        """
        Send one frozen body, once.

        Raises:
            NotSentError, TransientError, PermanentError, BlockedError: Surely not done.

            UnknownOutcome: It may have been done.
        """
        grant = self._credentials.grant()
        headers = merged({"Content-Type": content_type}, self._headers)
        headers = merged(headers, {"Idempotency-Key": intent.message_id, **grant.headers})
        url = self._home + url[len(remote_name(url)) :]

        def check() -> None:
            if not may_send(intent):
                raise NotSentError("the time or the lease of this attempt had run out before its first byte")

        try:
            answer = self._remote.request(
                self._method, url, headers=headers, body=body.encode("utf-8", "replace"), send_check=check
            )
        except ValueError as error:
            raise BlockedError(f"{self._where}: {error}") from None
        if answer.status == 401:
            raise self._not_authenticated(grant)
        grant.proved = True
        if answer.status in self._accepted:
            return Receipt(learnt="response", evidence=Evidence(status=answer.status))
        raise self._refusal(answer, copy=intent.attempt > 1)

    def _not_authenticated(self, grant: Grant) -> PollerError:
        """Return what a 401 means; nothing was done."""
        evidence, said = Evidence(status=401), f"{self._where} answered 401"
        proved = grant.renewable and grant.proved
        self._credentials.drop(grant)
        if proved:
            said = f"{said}: the token has expired or was revoked"
            return TransientError(said, evidence=evidence, retry_after=timedelta(0))
        return BlockedError(f"{said} with fresh credentials; check auth", evidence=evidence)

    def _refusal(self, answer: Answer, *, copy: bool) -> PollerError:
        """
        Return the error that an answer is, its status being none of those that mean: done.

        Args:
            copy: An earlier attempt was made, which the receiver may still be at work on: its 409 says so.
        """
        status, said = answer.status, f"{self._where} answered {answer.status}"
        proof = Evidence(status=status, excerpt=answer.text_excerpt(self._secrets()) or None)
        if status in {403, 407}:
            return BlockedError(f"{said}; check auth, and what its owner may write", evidence=proof)
        if status in {404, 405}:
            # The address is wrong for all records alike, far more often than for one.
            return BlockedError(f"{said}; check url and method", evidence=proof)
        if status == 429 or (status == 503 and "retry-after" in answer.headers):
            return TransientError(said, evidence=proof, retry_after=retry_after(answer), remote=True)
        if status in _FOR_NOW or (copy and status == 409):
            return TransientError(f"{said}: not now", evidence=proof)
        if 400 <= status < 500 and status != 408:
            return PermanentError(f"{said}: it does not take this message", evidence=proof)
        if 300 <= status < 400:
            return UnknownOutcome(f"{said}: redirects are never followed; set url to where it leads", evidence=proof)
        return UnknownOutcome(f"{said}, which says neither yes nor no", evidence=proof)

    def _secrets(self) -> tuple[str, ...]:
        """Return what a receiver may quote from our request, and nobody may see."""
        found = list(self._credentials.secrets())
        for value in self._headers.values():
            # One whose file is gone by now is in no answer either.
            with contextlib.suppress(BlockedError):
                found += [reveal(value)] if isinstance(value, Secret) else []
        return tuple(found)
