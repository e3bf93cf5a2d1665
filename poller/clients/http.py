"""
An HTTP remote: one session, fixed limits, and errors that say whether anything was sent.

It knows no protocol above HTTP. The environment's proxy, CA and ``.netrc`` are never used; cookies are never kept.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from typing import Annotated, Self
from urllib.parse import quote, urlencode

import requests
from pydantic import Field, field_validator, model_validator

from poller import __version__
from poller.clients.address import check_proxy, check_url
from poller.clients.auth import AuthSettings, NoAuth
from poller.clients.lines import Target, header_line, target_of
from poller.clients.revealing import reveal
from poller.clients.tls import TlsSettings, Trust
from poller.clients.transport import Limits, Transport
from poller.errors import TransientError, UnknownOutcome
from poller.values import Duration, Model, Secret, Size

__all__ = ["Answer", "HttpRemote", "ReachSettings", "RemoteSettings", "TlsSettings", "check_url"]

_STATIC = f"User-Agent: incident-poller/{__version__}\r\nAccept-Encoding: gzip\r\n"
_SHOWN = 300


class ReachSettings(Model):
    """How a remote is reached, and what is waited for; not as whom."""

    tls: Annotated[TlsSettings, Field(description="private authority, our own certificate")] = TlsSettings()
    proxy: Annotated[
        str | None, Field(description='"http://host:port"; the environment\'s proxy variables are never used')
    ] = None
    proxy_username: Annotated[
        str | None, Field(min_length=1, description="with proxy_password: HTTP Basic for the proxy alone")
    ] = None
    proxy_password: Annotated[Secret | None, Field(description="of proxy_username")] = None
    connect_timeout: Annotated[Duration, Field(description="until the connection stands")] = timedelta(seconds=10)
    read_timeout: Annotated[Duration, Field(description="the longest silence within an answer")] = timedelta(seconds=70)
    deadline: Annotated[Duration, Field(description="for a whole answer, however it drips")] = timedelta(minutes=5)
    max_body: Annotated[Size, Field(gt=0, description="the largest answer, decoded")] = 20_000_000

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, url: str | None) -> str | None:
        return None if url is None else check_proxy(url)

    @model_validator(mode="after")
    def _proxy_credentials(self) -> Self:
        if (self.proxy_username is None) != (self.proxy_password is None):
            raise ValueError("proxy_username and proxy_password go together")
        if self.proxy_username is not None and self.proxy is None:
            raise ValueError("proxy_username is for a proxy, and proxy is not given")
        if self.proxy_username is not None and ":" in self.proxy_username:
            raise ValueError("proxy_username holds a colon, where HTTP Basic begins the password")
        return self

    @field_validator("connect_timeout", "read_timeout", "deadline")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("this must be longer than nothing")
        return value


class _WhoSettings(Model):
    auth: Annotated[AuthSettings, Field(description="who asks")] = NoAuth()


# Keys stand in the documents in the order of the bases, the last one first.
class BaseRemoteSettings(ReachSettings, _WhoSettings):
    """The keys that every HTTP remote has."""


class RemoteSettings(BaseRemoteSettings):
    """An HTTP source, an HTTP sink or a reply."""

    allow_plaintext: Annotated[bool, Field(description="plain http:// to another machine; never for tokens")] = False


class Headers(Mapping[str, str]):
    """The headers of an answer; names in any case, values of repeated ones joined by commas."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            self._pairs[key] = f"{self._pairs[key]}, {value}" if key in self._pairs else value

    def __getitem__(self, name: str) -> str:
        return self._pairs[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes
    #: What was asked, without the query.
    url: str

    @property
    def date(self) -> datetime | None:
        """The Date header."""
        return parse_date(self.headers.get("date"))

    @property
    def is_json(self) -> bool:
        """Whether it says to be JSON."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind == "application/json" or kind.endswith("+json")

    def text_excerpt(self, secrets: tuple[str, ...] = ()) -> str:
        """Return the first 300 characters on one line, without *secrets*."""
        # More than is shown, or a secret over the cut would stay in part.
        text = self.body[:8192].decode("utf-8", "replace")
        for secret in sorted(secrets, key=len, reverse=True):
            for form in {secret, quote(secret), quote(secret, safe="")} if secret else ():
                text = text.replace(form, "**********")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN]


@lru_cache(maxsize=64)
def parse_date(text: str | None) -> datetime | None:
    """Return an HTTP date in UTC, None where there is none."""
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@lru_cache(maxsize=512)
def _target(url: str, plaintext: bool) -> Target:  # noqa: FBT001  a cache takes no names cheaply
    check_url(url, allow_plaintext=plaintext)
    return target_of(url)


@lru_cache(maxsize=512)
def _lines(pairs: tuple[tuple[str, str], ...]) -> str:
    return "".join(header_line(name, value) for name, value in pairs)


def _for_proxy(settings: ReachSettings) -> Callable[[], str] | None:
    """Return what says to the proxy who we are; made anew for each connection."""
    username, password = settings.proxy_username, settings.proxy_password
    if username is None or password is None:
        return None
    return lambda: "Basic " + base64.b64encode(f"{username}:{reveal(password)}".encode()).decode()


class HttpRemote:
    """
    One HTTP remote, for any number of threads.

    Args:
        settings: Limits, TLS and proxy; ``auth`` is the caller's business (`poller.clients.oauth.credentials`).

        connections: To one host at the same time; further calls wait.

        writes: Its requests change something: then a connection that was given up can deliver nothing any more.

        user_timeout: With *writes*, seconds that the kernel may try to deliver what was written.
    """

    def __init__(
        self, settings: ReachSettings, *, connections: int = 8, writes: bool = False, user_timeout: float = 10.0
    ) -> None:
        self._limits = Limits(
            connect=settings.connect_timeout.total_seconds(),
            read=settings.read_timeout.total_seconds(),
            deadline=settings.deadline.total_seconds(),
            max_body=settings.max_body,
        )
        self._plaintext = isinstance(settings, RemoteSettings) and settings.allow_plaintext
        self._transport = Transport(
            connections=connections,
            limits=self._limits,
            context=Trust(settings.tls).context,
            proxy=settings.proxy,
            proxy_authorization=_for_proxy(settings),
            user_timeout=user_timeout if writes else None,
        )
        self.session = requests.Session()
        # REQUESTS_CA_BUNDLE would replace our CA, .netrc our Authorization header.
        self.session.trust_env = False
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.session.mount("https://", self._transport)
        self.session.mount("http://", self._transport)

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.session.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        deadline: float | None = None,
        send_check: Callable[[], None] | None = None,
    ) -> Answer:
        """
        Send one request, once, and return its whole answer, whatever its status.

        Args:
            params: Added to the query of *url*.

            deadline: Seconds for this call; None: that of the settings. Never longer than that.

            send_check: Called right before the first byte; it raises to stop.

        Raises:
            ValueError: The address or a header may not be sent.

            TransientError: Surely nothing of the request was sent.

            BlockedError: The proxy asks for credentials.

            UnknownOutcome: Anything may have happened: timeout, cut, too large, garbled.
        """
        target = _target(url, self._plaintext)
        if params:
            glue = "&" if "?" in target.path else "?"
            path = f"{target.path}{glue}{urlencode(params, quote_via=quote, safe=':,')}"
            target = Target(
                scheme=target.scheme, host=target.host, port=target.port, path=path, authority=target.authority
            )
        limits = self._limits
        if deadline is not None and deadline < limits.deadline:
            limits = Limits(connect=limits.connect, read=limits.read, deadline=deadline, max_body=limits.max_body)
        head = _STATIC + (_lines(tuple(headers.items())) if headers else "")
        reply = self._transport.exchange(method, target, head, body, limits, send_check=send_check)
        return Answer(
            status=reply.status, headers=Headers(reply.headers.items()), body=reply.body, url=url.partition("?")[0]
        )

    def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """
        Ask something that changes nothing: where its outcome is not known, it is simply asked again later.

        Raises:
            ValueError, TransientError, BlockedError: As `request`.
        """
        try:
            return self.request("GET", url, headers=headers, params=params, deadline=deadline)
        except UnknownOutcome as error:
            raise TransientError(str(error), evidence=error.evidence, remote=True) from error
