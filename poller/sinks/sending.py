"""
One write to an HTTP receiver, once, and what its answer means. Shared by the sink ``http`` and by replies.

Whatever is not a clear yes or a clear no is an unknown outcome: the dispatcher then sends the same bytes with the same
``Idempotency-Key`` again, and a receiver that keeps the key drops the repeat.

Source: draft-ietf-httpapi-idempotency-key-header; RFC 9110; guarantee.md 2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import quote, urlsplit

from poller.clients.headers import merged
from poller.clients.http import Answer, HttpRemote, RemoteSettings, check_url
from poller.clients.oauth import Grant, credentials
from poller.clients.retry_after import retry_after
from poller.errors import BlockedError, Evidence, NotSentError, PermanentError, TransientError, UnknownOutcome
from poller.model import Intent, Receipt
from poller.translate import Template, compile_template
from poller.values import Secret

#: What a receiver may say "done" with, unless the settings know better.
ACCEPTED: Final = (200, 201, 202, 204)
METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")
#: The body of an answer that refuses is kept for `explain`, up to this; it is the receiver's text and not the record's.
_EXCERPT: Final = 300


def check_template(url: str, *, allow_plaintext: bool) -> str:
    """
    Return *url* if it can be filled for each record: its scheme and host stand in the settings.

    Raises:
        ValueError: It cannot.
    """
    beginning = url.partition("{")[0]
    parts = urlsplit(beginning)
    if "{" in url and (not parts.netloc or not parts.path):
        raise ValueError("templates may stand in the path and in the query; scheme and host are fixed")
    check_url(beginning if "{" in url else url, allow_plaintext=allow_plaintext)
    if "{" in url:
        compile_url(url)
    return url


def compile_url(url: str) -> Template:
    """Return the template of an address; each value is one segment or one value of it, whatever it holds."""
    return compile_template(url, escape=_segment)


def _segment(text: str) -> str:
    # A client tidies paths: ".." would lead somewhere else, and is nobody's key.
    if text in {".", ".."}:
        raise ValueError("a value is a dot or two, which an address cannot hold")
    return quote(text, safe="")


def remote_name(url: str) -> str:
    """Return scheme, host and port: under which requests in flight are counted."""
    parts = urlsplit(url.partition("{")[0])
    return f"{parts.scheme}://{parts.netloc}"


class Sending:
    """
    Sends to one receiver.

    Args:
        url: For the name of the receiver in messages.
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
        self._where = urlsplit(url.partition("{")[0]).netloc
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
        headers |= {"Idempotency-Key": intent.message_id, **grant.headers}

        def check() -> None:
            if not may_send(intent):
                raise NotSentError("the time or the lease of this attempt had run out before its first byte")

        try:
            answer = self._remote.request(
                self._method, url, headers=headers, body=body.encode("utf-8", "replace"), send_check=check
            )
        except ValueError as error:
            raise BlockedError(f"{self._where}: {error}") from None
        return self._judged(answer, grant)

    def _judged(self, answer: Answer, grant: Grant) -> Receipt:
        status = answer.status
        evidence = Evidence(status=status)
        said = f"{self._where} answered {status}"
        if status == 401:
            proved = grant.renewable and grant.proved
            self._credentials.drop(grant)
            if proved:
                raise TransientError(
                    f"{said}: the token has expired or was revoked", evidence=evidence, retry_after=timedelta(0)
                )
            raise BlockedError(f"{said} with fresh credentials; check auth", evidence=evidence)
        grant.proved = True
        if status in self._accepted:
            return Receipt(learnt="response", evidence=evidence)
        if status == 403:
            raise BlockedError(f"{said}; check auth, and what its owner may write", evidence=evidence)
        if status in {404, 405}:
            # The address is wrong for all records alike, far more often than for one.
            raise BlockedError(f"{said}; check url and method", evidence=evidence)
        if status == 429 or (status == 503 and "retry-after" in answer.headers):
            wait = retry_after(answer)
            raise TransientError(said, evidence=evidence, retry_after=wait, remote=True)
        if 400 <= status < 500 and status != 408:
            raise PermanentError(f"{said}: it does not take this message", evidence=evidence)
        if 300 <= status < 400:
            raise UnknownOutcome(f"{said}: redirects are never followed; set url to where it leads", evidence=evidence)
        raise UnknownOutcome(f"{said}, which says neither yes nor no", evidence=evidence)
