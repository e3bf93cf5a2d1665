"""
Ask an HTTP source: one request, its credentials and headers, and what its status means for the poll.

Everything asked here changes nothing there, so an outcome that is not known is simply asked for again by the next poll.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from poller.clients.headers import merged
from poller.clients.http import Answer, HttpRemote
from poller.clients.oauth import Grant, credentials
from poller.clients.retry_after import retry_after
from poller.errors import BlockedError, Evidence, TransientError, UnknownOutcome
from poller.sources.http_settings import HttpSourceSettings
from poller.sources.queries import Query


class Asker:
    """
    Asks one source, as its settings say.

    Args:
        remote: Left out: a client of its own.
    """

    def __init__(self, settings: HttpSourceSettings, remote: HttpRemote | None = None) -> None:
        self._headers = settings.headers
        self._remote = remote or HttpRemote(settings, connections=1)
        self._credentials = credentials(settings.auth, self._remote)
        self._home = urlsplit(settings.url)[:2]
        #: The source's name in messages.
        self.where = self._home[1]

    def close(self) -> None:
        """Close the connections that are kept."""
        self._remote.close()

    def ask(self, query: Query, headers: Mapping[str, str], *, accepted: frozenset[int] = frozenset({200})) -> Answer:
        """
        Return an answer whose status is *accepted*.

        Args:
            headers: Besides those of the settings, which count more.

        Raises:
            TransientError: Another status, or no whole answer.

            BlockedError: 401 or 403 with fresh credentials, or the request cannot be sent at all.
        """
        parts = urlsplit(query.url)
        answer = self._asked(query, headers, ours=parts[:2] == self._home)
        if answer.status in accepted:
            return answer
        evidence = Evidence(status=answer.status)
        said = f"{parts.netloc} answered {answer.status}"
        if answer.status in {401, 403}:
            raise BlockedError(f"{said}; check auth, and what its owner may read", evidence=evidence)
        if 300 <= answer.status < 400:
            raise TransientError(f"{said}: redirects are never followed; set url to where it leads", evidence=evidence)
        wait = retry_after(answer) if answer.status in {429, 503} else None
        raise TransientError(f"{said}, 200 was expected", evidence=evidence, retry_after=wait, remote=True)

    def _asked(self, query: Query, headers: Mapping[str, str], *, ours: bool) -> Answer:
        if not ours:
            # Neither token nor API key ever goes to another host than that of the settings' url.
            return self._sent(query, headers)
        headers = self._own_headers(query, headers)
        grant, answer = self._sent_as(query, headers)
        if answer.status == 401 and grant.renewable:
            # What changes nothing may be repeated; a second refusal is one of fresh credentials.
            self._credentials.drop(grant)
            grant, answer = self._sent_as(query, headers)
        if answer.status == 401:
            self._credentials.drop(grant)
        else:
            grant.proved = True
        return answer

    def _own_headers(self, query: Query, given: Mapping[str, str]) -> dict[str, str]:
        headers = dict(given)
        if query.body is not None:
            headers["Content-Type"] = "application/json"
        return merged(headers, self._headers)

    def _sent_as(self, query: Query, headers: Mapping[str, str]) -> tuple[Grant, Answer]:
        grant = self._credentials.grant()
        return grant, self._sent(query, {**headers, **grant.headers})

    def _sent(self, query: Query, headers: Mapping[str, str]) -> Answer:
        try:
            return self._remote.request(query.method, query.url, params=query.params, headers=headers, body=query.body)
        except UnknownOutcome as error:
            raise TransientError(str(error), evidence=error.evidence, remote=True) from error
        except ValueError as error:
            raise BlockedError(f"{urlsplit(query.url).netloc}: {error}") from None
