"""
An HTTP remote: one session, fixed limits, and errors that say whether anything was sent.

It knows no protocol above HTTP. The environment's proxy, CA and ``.netrc`` are never used; cookies are never kept.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from urllib.parse import quote, urlencode

import certifi
import requests
from pydantic import Field, ValidationInfo, field_validator, model_validator
from urllib3.util.ssl_ import create_urllib3_context

from poller import __version__
from poller.clients.address import check_proxy, check_url
from poller.clients.auth import AuthSettings, NoAuth
from poller.clients.transport import Limits, Target, Transport, header_line, target_of
from poller.errors import TransientError, UnknownOutcome
from poller.values import Duration, Model, Size

__all__ = ["Answer", "HttpRemote", "RemoteSettings", "TlsSettings", "check_url"]

_STATIC = f"User-Agent: incident-poller/{__version__}\r\nAccept-Encoding: gzip\r\n"
_SHOWN = 300


class TlsSettings(Model):
    """Whom we trust and who we are. There is no switch that turns verification off."""

    #: PEM; then these alone are trusted, instead of the public ones.
    ca: Path | None = None
    #: PEM, ours, with its chain.
    certificate: Path | None = None
    #: PEM, without a pass phrase; left out: it stands in `certificate`.
    key: Path | None = None

    @field_validator("ca", "certificate", "key")
    @classmethod
    def _readable(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        base = (info.context or {}).get("base")
        path = (base or Path()) / path
        if not path.is_file():
            raise ValueError(f"{path} does not exist")
        return path

    @model_validator(mode="after")
    def _loads(self) -> TlsSettings:
        if self.key is not None and self.certificate is None:
            raise ValueError("a key needs its certificate")
        try:
            self.context()
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"ca, certificate or key cannot be loaded: {error.strerror or 'not PEM'}") from None
        return self

    def context(self) -> ssl.SSLContext:
        """Return what verifies a server, from TLS 1.2 on."""
        context: ssl.SSLContext = create_urllib3_context(ssl_minimum_version=ssl.TLSVersion.TLSv1_2)
        # Named, and not the library's default, which would ask SSL_CERT_FILE of the environment.
        context.load_verify_locations(cafile=str(self.ca or certifi.where()))
        if self.certificate is not None:
            # An encrypted key would otherwise ask for its pass phrase on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        return context


class BaseRemoteSettings(Model):
    """The keys that every HTTP remote has."""

    auth: AuthSettings = NoAuth()
    tls: TlsSettings = TlsSettings()
    #: ``http://host:port``.
    proxy: str | None = None
    connect_timeout: Duration = timedelta(seconds=10)
    #: The longest silence.
    read_timeout: Duration = timedelta(seconds=70)
    #: For a whole answer, however it drips.
    deadline: Duration = timedelta(minutes=5)
    #: Of an answer, decoded.
    max_body: Size = Field(default=20_000_000, gt=0)

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, url: str | None) -> str | None:
        return None if url is None else check_proxy(url)

    @field_validator("connect_timeout", "read_timeout", "deadline")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("this must be longer than nothing")
        return value


class RemoteSettings(BaseRemoteSettings):
    """An HTTP source, an HTTP sink or a reply."""

    #: Plain ``http://`` to another machine.
    allow_plaintext: bool = False


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
        self, settings: BaseRemoteSettings, *, connections: int = 8, writes: bool = False, user_timeout: float = 10.0
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
            context=settings.tls.context(),
            proxy=settings.proxy,
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
