"""
The source ``http``: polls any HTTP system that answers in JSON.

A record that cannot be read becomes a `Malformed` and the rest goes on; a page that cannot be read moves nothing. The
checkpoint that is handed out belongs to the poll's last page, since newest-first lists are the norm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from poller.clients.http import Answer, HttpRemote
from poller.clients.oauth import Grant, credentials
from poller.clients.retry_after import retry_after
from poller.errors import BlockedError, Evidence, TransientError
from poller.formats import ExpressionFault, FormatFault, compile_expression, parse_json
from poller.model import Page
from poller.sources.checkpoints import CheckpointFormat, Seen
from poller.sources.http_settings import HttpSourceSettings
from poller.sources.paging import Pager, Reply, Request
from poller.sources.reading import Reader
from poller.translate import TemplateFault, compile_template
from poller.values import Secret

__all__ = ["HttpSource", "HttpSourceSettings"]

#: Most records of one page; all of them are in memory at once.
MAX_RECORDS = 100_000

_CHARSET = re.compile(r'charset\s*=\s*"?([A-Za-z0-9._:+-]{1,40})', re.IGNORECASE)


class HttpSource:
    """
    One external system, polled.

    Args:
        remote: Left out: a client of its own.

        now: Stands in for the answer's Date where there is none.
    """

    settings = HttpSourceSettings

    def __init__(
        self,
        settings: HttpSourceSettings,
        *,
        remote: HttpRemote | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._remote = remote or HttpRemote(settings, connections=1)
        self._credentials = credentials(settings.auth, self._remote)
        self._now = now
        self._reader = Reader(settings)
        self._records = None if settings.records is None else compile_expression(settings.records)
        self._params = {
            name: compile_template(value) if isinstance(value, str) else value
            for name, value in settings.params.items()
        }
        self._where = urlsplit(settings.url).netloc
        self._format = CheckpointFormat(name=settings.checkpoint_format, overlap=settings.overlap)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._remote.close()

    def poll(self, checkpoint: str | None) -> Iterator[Page]:
        settings = self._settings
        resumes = settings.paging.resumes
        seen = self._seen(None if resumes else checkpoint)
        pager = settings.paging.pager(self._first(checkpoint), checkpoint)
        request: Request | None = pager.first()
        for _ in range(settings.paging.max_pages):
            assert request is not None  # noqa: S101  the loop ends with the last page
            answer = self._ask(request)
            document, rows = self._read(answer)
            read = self._reader.page(rows)
            refused = self._refused(seen, read.checkpoints, answer.date or self._now())
            # The way on is known before this page is given away: a page must not be the last and then have a fault.
            reply = Reply(document=document, rows=rows, link=answer.headers.get("link", ""))
            fault, request = self._after(pager, reply)
            yield Page(
                records=read.records,
                malformed=read.malformed,
                checkpoint=pager.checkpoint if resumes else seen.largest,
                last=fault is None and request is None,
                resume=resumes,
                refused=refused,
            )
            if fault is not None:
                raise fault
            if request is None:
                return
        raise TransientError(
            f"{self._where} has more than {settings.paging.max_pages} pages, so this poll is not whole; "
            "ask for less at once, or raise paging.max_pages"
        )

    def _seen(self, checkpoint: str | None) -> Seen:
        try:
            return Seen(self._format, checkpoint)
        except ValueError as error:
            raise BlockedError(f"the stored checkpoint is not understood: {error}; set it by poller rewind") from None

    def _refused(self, seen: Seen, values: list[object], answered: datetime) -> tuple[str, ...]:
        try:
            return seen.page(values, answered)
        except ValueError as error:
            raise BlockedError(
                f'"{self._settings.checkpoint}" gives no checkpoint that is understood: {error}; set checkpoint_format'
            ) from None

    def _after(self, pager: Pager, reply: Reply) -> tuple[TransientError | None, Request | None]:
        try:
            return None, pager.after(reply)
        except ExpressionFault as error:
            return TransientError(f"{self._where}: paging: {error}"), None
        except TransientError as error:
            return TransientError(f"{self._where}: {error}"), None

    def _first(self, checkpoint: str | None) -> Request:
        settings = self._settings
        handed = checkpoint
        if checkpoint is not None and not settings.paging.resumes and settings.checkpoint is not None:
            handed = self._format.handed(checkpoint)
        variables = {} if handed is None else {"checkpoint": handed}
        params: dict[str, str] = {}
        for name, value in self._params.items():
            if isinstance(value, Secret):
                params[name] = _revealed(value)
            elif handed is not None or "checkpoint" not in value.names:
                try:
                    params[name] = value.render(variables)
                except TemplateFault as error:
                    raise BlockedError(f"params.{name}: {error}") from None
        return Request(url=settings.url, params=params)

    def _ask(self, request: Request) -> Answer:
        """Return an answer with status 200."""
        answer = self._get(request)
        if answer.status == 200:
            return answer
        evidence = Evidence(status=answer.status)
        said = f"{self._where} answered {answer.status}"
        if answer.status in {401, 403}:
            raise BlockedError(f"{said}; check auth, and what its owner may read", evidence=evidence)
        if 300 <= answer.status < 400:
            raise TransientError(f"{said}: redirects are never followed; set url to where it leads", evidence=evidence)
        wait = retry_after(answer) if answer.status in {429, 503} else None
        raise TransientError(f"{said}, 200 was expected", evidence=evidence, retry_after=wait, remote=True)

    def _get(self, request: Request) -> Answer:
        headers = {"Accept": "application/json"}
        for name, value in self._settings.headers.items():
            headers = {kept: text for kept, text in headers.items() if kept.lower() != name.lower()}
            headers[name] = _revealed(value) if isinstance(value, Secret) else value
        grant, answer = self._get_as(request, headers)
        if answer.status == 401 and grant.renewable:
            # A GET may be repeated; a second refusal is one of fresh credentials.
            self._credentials.drop(grant)
            grant, answer = self._get_as(request, headers)
        if answer.status == 401:
            self._credentials.drop(grant)
        else:
            grant.proved = True
        return answer

    def _get_as(self, request: Request, headers: Mapping[str, str]) -> tuple[Grant, Answer]:
        grant = self._credentials.grant()
        try:
            return grant, self._remote.get(request.url, params=request.params, headers={**headers, **grant.headers})
        except ValueError as error:
            raise BlockedError(f"{self._where}: {error}") from None

    def _read(self, answer: Answer) -> tuple[object, list[object]]:
        """Return the document and its records."""
        stated = _CHARSET.search(answer.headers.get("content-type", ""))
        try:
            document = parse_json(answer.body, self._settings.encoding or (stated[1] if stated else None))
            rows = document if self._records is None else self._records.find(document)
        except (FormatFault, ExpressionFault) as error:
            raise self._broken(answer, str(error)) from None
        if not isinstance(rows, list):
            named = "the document" if self._records is None else f'"{self._records.text}"'
            raise self._broken(answer, f"{named} is no list of records")
        if len(rows) > MAX_RECORDS:
            raise self._broken(answer, f"it holds more than {MAX_RECORDS} records; use paging")
        return document, rows

    def _broken(self, answer: Answer, why: str) -> TransientError:
        return TransientError(
            f"{self._where} answered 200, but {why}; nothing of this page counts",
            evidence=Evidence(status=answer.status),
        )


def _revealed(secret: Secret) -> str:
    try:
        return secret.reveal()
    except OSError as error:
        raise BlockedError(f"secret file {error.filename} cannot be read: {error.strerror}") from None
