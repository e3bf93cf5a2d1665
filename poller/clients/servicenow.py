"""
The ServiceNow Table API: rows by query, one row created.

It knows no route and repeats nothing by itself, with one exception: a read that was answered 401 is asked once more with
a new token. What answers mean is `poller.clients.answers`; which queries there can be is `poller.clients.query`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator

from poller.clients.address import check_instance
from poller.clients.answers import Created, created, evidence, is_sys_id, rows
from poller.clients.auth import AuthSettings
from poller.clients.http import Answer, BaseRemoteSettings, HttpRemote
from poller.clients.oauth import Credentials, Grant, TokenSource, credentials
from poller.clients.query import Query, check_field, check_table
from poller.clients.skew import Skew
from poller.errors import BlockedError, PollerError, TransientError, UnknownOutcome
from poller.model import Fields
from poller.values import Duration

#: How long a request that was given up may still be on its way (guarantee 2.3, 5).
TCP_BOUND = timedelta(seconds=10)
_GET = {"Accept": "application/json"}
_POST = {"Accept": "application/json", "Content-Type": "application/json"}


class ServiceNowSettings(BaseRemoteSettings):
    """The instance, and how it is spoken to."""

    instance: Annotated[str, Field(description='bare address of the instance: "https://acme.service-now.com"')]
    auth: Annotated[AuthSettings, Field(description="as whom; everything is done with this account's rights")]
    concurrency: Annotated[
        int, Field(ge=1, le=64, description="requests in flight; an instance works on four at a time and queues others")
    ] = 4
    requests_per_hour: Annotated[int, Field(ge=0, description="0: only what the instance itself allows")] = 0
    correlation_prefix: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
            description="this installation's name: never changed, and no two installations share one",
        ),
    ]
    duplicate_guard: Annotated[
        Literal["auto", "sys_id", "settle"],
        Field(
            description="what keeps an unknown outcome from becoming a second incident; auto: sys_id once proven, else settle"
        ),
    ] = "auto"
    max_execution: Annotated[
        Duration,
        Field(
            description="longest that the instance may still work on a request; lower only if its quota rule is known"
        ),
    ] = timedelta(seconds=310)

    @field_validator("instance")
    @classmethod
    def _bare(cls, url: str) -> str:
        return check_instance(url)

    @field_validator("duplicate_guard", mode="before")
    @classmethod
    def _no_fence(cls, value: object) -> object:
        if value == "fence":
            raise ValueError('"fence" is not built yet; use "auto", "sys_id" or "settle"')
        return value

    @field_validator("max_execution")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("this must be longer than nothing")
        return value

    @property
    def tcp_bound(self) -> timedelta:
        """How long what was written may still be delivered after we gave up: 10 s, in rehearsals less."""
        return min(TCP_BOUND, self.max_execution)


@dataclass(frozen=True, kw_only=True)
class Authenticated:
    """What asking for credentials came to; nothing secret is in it."""

    #: Whether they are renewed by asking for a token.
    token: bool
    #: Tells two credentials apart, and nothing else.
    mark: str
    #: Seconds that the token still lives; None: there is none.
    lives: float | None


class ServiceNowClient:
    """
    One instance, for any number of threads.

    Args:
        settings: ``[servicenow]``.

        connections: At the same time; None: ``concurrency``.

        wall: Our wall clock in seconds since 1970, to be compared with theirs.
    """

    def __init__(
        self,
        settings: ServiceNowSettings,
        *,
        connections: int | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.instance = settings.instance
        self._wall = wall
        self._skew = Skew()
        self._remote = HttpRemote(
            settings,
            # One more, so that a token can be asked for while all others wait for it.
            connections=(connections or settings.concurrency) + 1,
            writes=True,
            user_timeout=settings.tcp_bound.total_seconds(),
        )
        self._credentials: Credentials = credentials(
            settings.auth, self._remote, token_url=f"{self.instance}/oauth_token.do"
        )

    @property
    def skew_seconds(self) -> float:
        """Our clock minus theirs, as far as it is proven; see `poller.clients.skew`."""
        return self._skew.seconds

    @property
    def skew_measured(self) -> bool:
        """Whether any answer has told the time."""
        return self._skew.measured

    def authenticate(self) -> Authenticated:
        """
        Ask for what requests are sent with, as each request does.

        Raises:
            TransientError: No token just now.

            BlockedError: No token until a person changes something.
        """
        grant = self._credentials.grant()
        left = self._credentials.left if isinstance(self._credentials, TokenSource) else None
        mark = hashlib.sha256(repr(sorted(grant.headers.items())).encode()).hexdigest()
        return Authenticated(token=grant.renewable, mark=mark, lives=left)

    def identity(self) -> str:
        """Return instance and integration user: whose proof of a guard it is."""
        return f"{self.instance} {self._credentials.identity}"

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._remote.close()

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """
        Return up to *limit* rows of *table* that the instance says match *query*.

        Every row is to be compared with what was asked: an instance may drop conditions. *limit* rows are a page that
        may not be the last.

        Args:
            fields: Columns; none: all that we may read.

        Returns:
            Rows as ``{"sys_id": "9d38…", "number": "INC0010023"}``; a column that we may not read is left out or empty.

        Raises:
            ValueError: No query.

            TransientError: No whole and proper answer.

            BlockedError: We may not, or there is no such table.
        """
        if not str(query):
            raise ValueError("a look-up needs a condition")
        return self._rows(table, {**_asked(str(query), fields, limit), "sysparm_no_count": "true"})[0]

    def table_page(
        self, table: str, query: str, fields: Sequence[str], limit: int, *, offset: int = 0, display: bool = False
    ) -> tuple[list[Fields], int | None]:
        """
        Return one page of the rows that match an admin's query, and how many match before any row is hidden from us.

        Args:
            query: Encoded; whoever asks has put it together safely.

            offset: Rows to leave out, to get past rows that are hidden.

            display: Each value is ``{"value": …, "display_value": …}``.

        Returns:
            Rows, which may be fewer than *limit* although more follow; the count is None where the instance tells none.

        Raises:
            TransientError, BlockedError: As `table_get`.
        """
        params = _asked(query, fields, limit)
        params |= {"sysparm_offset": str(offset)} if offset else {}
        params |= {"sysparm_display_value": "all"} if display else {}
        return self._rows(table, params)

    def _rows(self, table: str, params: dict[str, str]) -> tuple[list[Fields], int | None]:
        url = self._url(table)
        grant = self._credentials.grant()
        answer = self._get(url, params, grant)
        if answer.status == 401:
            self._credentials.drop(grant)
            if not grant.renewable:
                raise self._unauthenticated(answer)
            grant = self._credentials.grant()
            answer = self._get(url, params, grant)
            if answer.status == 401:
                self._credentials.drop(grant)
                raise self._unauthenticated(answer)
        grant.proved = True
        counted = answer.headers.get("x-total-count") or ""
        total = int(counted) if counted.isascii() and counted.isdigit() and len(counted) < 12 else None
        try:
            secrets = self._credentials.secrets() if answer.status != 200 or not answer.is_json else ()
            return rows(answer, secrets), total
        except PollerError as error:
            raise _about(error, f"{table} look-up") from error

    def create(
        self,
        table: str,
        body: bytes,
        send_check: Callable[[], None] | None = None,
        *,
        fields: Sequence[str] = (),
    ) -> Created:
        """
        Create one row, once.

        Args:
            body: A JSON object.

            send_check: Called when token and connection are in hand, right before the first byte; raises to stop.

            fields: Columns of the answer besides ``sys_id`` and ``number``; none: all that there are.

        Raises:
            TransientError, PermanentError, RefusedError, BlockedError: Surely not done.

            UnknownOutcome: It may have been done.
        """
        return self._write("POST", self._url(table), f"{table} create", body, send_check, fields)

    def update(
        self,
        table: str,
        sys_id: str,
        body: bytes,
        send_check: Callable[[], None] | None = None,
        *,
        fields: Sequence[str] = (),
    ) -> Created:
        """
        Change one row, once; what is returned is the row as it is then.

        Raises:
            ValueError: No sys_id.

            TransientError, PermanentError, RefusedError, BlockedError: Surely not done.

            UnknownOutcome: It may have been done.
        """
        if not is_sys_id(sys_id):
            raise ValueError("no sys_id")
        made = self._write("PATCH", f"{self._url(table)}/{sys_id}", f"{table} update", body, send_check, fields)
        if made.sys_id != sys_id:
            raise UnknownOutcome(f"{table} update: the answer is about another row", evidence=made.evidence)
        return made

    def _write(
        self,
        method: str,
        url: str,
        subject: str,
        body: bytes,
        send_check: Callable[[], None] | None,
        fields: Sequence[str],
    ) -> Created:
        params = {"sysparm_exclude_reference_link": "true"}
        if fields:
            wanted = dict.fromkeys(("sys_id", "number", *fields))
            params["sysparm_fields"] = ",".join(check_field(field) for field in wanted)
        grant = self._credentials.grant()
        headers = _POST | dict(grant.headers)
        asked = self._wall()
        try:
            answer = self._remote.request(method, url, headers=headers, params=params, body=body, send_check=send_check)
        except UnknownOutcome as error:
            raise _about(error, subject) from error
        self._measure(asked, answer)
        if answer.status == 401:
            raise self._refused_write(grant, answer)
        grant.proved = True
        secrets = () if answer.status in {200, 201} and answer.is_json else self._credentials.secrets()
        try:
            return created(answer, secrets)
        except PollerError as error:
            raise _about(error, subject) from error

    def _get(self, url: str, params: dict[str, str], grant: Grant) -> Answer:
        asked = self._wall()
        answer = self._remote.get(url, headers=_GET | dict(grant.headers), params=params)
        self._measure(asked, answer)
        return answer

    def _refused_write(self, grant: Grant, answer: Answer) -> PollerError:
        """
        Return what a 401 to a write means; nothing was done.

        A token that was accepted before has expired or was revoked: a new attempt with its own intent will carry a new
        one. A token that never was accepted, or credentials that cannot be renewed, are for a person to look at.
        """
        self._credentials.drop(grant)
        if grant.renewable and grant.proved:
            return TransientError(
                "401: the token has expired or was revoked",
                evidence=evidence(answer, self._credentials.secrets()),
                retry_after=timedelta(0),
            )
        return self._unauthenticated(answer)

    def _unauthenticated(self, answer: Answer) -> BlockedError:
        return BlockedError(
            f"{self.instance}: 401 with fresh credentials; check auth, and that its user is active and may use the API",
            evidence=evidence(answer, self._credentials.secrets()),
        )

    def _measure(self, asked: float, answer: Answer) -> None:
        if (date := answer.date) is not None:
            self._skew.measure(asked, self._wall(), date)

    def _url(self, table: str) -> str:
        return f"{self.instance}/api/now/table/{check_table(table)}"


def _asked(query: str, fields: Sequence[str], limit: int) -> dict[str, str]:
    return {
        "sysparm_query": query,
        **({"sysparm_fields": ",".join(check_field(field) for field in fields)} if fields else {}),
        "sysparm_limit": str(limit),
        "sysparm_exclude_reference_link": "true",
        "sysparm_suppress_pagination_header": "true",
    }


def _about(error: PollerError, subject: str) -> PollerError:
    """Put the subject before the message, and keep the kind."""
    error.args = (f"{subject}: {error}",)
    return error
