"""One request as the end points see it: taken out of WSGI, checked once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote_to_bytes

from poller.clients.address import is_loopback
from poller.ingress.answers import Problem
from poller.ingress.incoming import BadBody

if TYPE_CHECKING:
    from poller.ingress.connection import Connection

_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_BASIC: Final = re.compile(r"basic +([A-Za-z0-9+/]+=*)", re.IGNORECASE)
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9._:+-]{1,40})', re.IGNORECASE)
_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request."""

    method: str
    #: Decoded, one by one: a slash within a key is no separator.
    path: tuple[str, ...]
    #: Without its port, in lower case; "" where there is none.
    host: str
    environ: Mapping[str, Any]

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> Self:
        """
        Read a request.

        Raises:
            Problem: The path is none.
        """
        target = str(environ["REQUEST_URI"]).partition("?")[0]
        return cls(
            method=str(environ["REQUEST_METHOD"]),
            path=tuple(_decoded(part) for part in target.split("/")[1:]),
            host=_bare(str(environ.get("HTTP_HOST", ""))),
            environ=environ,
        )

    @property
    def connection(self) -> Connection:
        """The connection that it came on."""
        connection: Connection = self.environ["poller.connection"]
        return connection

    @property
    def peer(self) -> str:
        """The address that it came from; "unix" for a socket in the file system."""
        return str(self.environ.get("REMOTE_ADDR") or "unix")

    @property
    def from_here(self) -> bool:
        """Whether it came from this machine."""
        return self.peer == "unix" or is_loopback(self.peer)

    @property
    def authorization(self) -> str | None:
        """The header, None where there is none."""
        found = self.environ.get("HTTP_AUTHORIZATION")
        return None if found is None else str(found)

    @property
    def bearer(self) -> str | None:
        """The bearer token of the header; one in the address or in a cookie is nobody's."""
        found = _BEARER.fullmatch(self.authorization or "")
        return found[1] if found else None

    @property
    def basic(self) -> str | None:
        """What HTTP Basic brought, still encoded."""
        found = _BASIC.fullmatch(self.authorization or "")
        return found[1] if found else None

    @property
    def type(self) -> str:
        """The media type of the body, in lower case."""
        return str(self.environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()

    @property
    def charset(self) -> str | None:
        """The encoding that the media type states."""
        found = _CHARSET.search(str(self.environ.get("CONTENT_TYPE", "")))
        return found[1] if found else None

    def body(self, most: int) -> bytes:
        """
        Read the body.

        Raises:
            Problem: It is too large, encoded, too slow, or no proper body.
        """
        if str(self.environ.get("HTTP_CONTENT_ENCODING", "identity")).strip().lower() != "identity":
            raise Problem(
                415, "no Content-Encoding is taken; send it as it is", headers=[("Accept-Encoding", "identity")]
            )
        if int(self.environ.get("CONTENT_LENGTH") or 0) > most:
            raise too_large(most)
        try:
            found: bytes = self.environ["wsgi.input"].read(most + 1)
        except TimeoutError:
            raise Problem(408, "the body did not come in time") from None
        except BadBody as error:
            raise Problem(400, str(error)) from None
        if len(found) > most:
            raise too_large(most)
        return found

    def is_for(self, hosts: tuple[str, ...] | None, *, local: bool) -> bool:
        """
        Return whether its Host is one of ours, so that no page in somebody's browser reaches us under its own name.

        Args:
            hosts: As the settings have it.

            local: We listen where only this machine reaches us.
        """
        if hosts is not None:
            return self.host in {name.lower() for name in hosts} or _is_address(self.host)
        return not local or self.host in {"", "localhost"} or _is_address(self.host)


def too_large(most: int) -> Problem:
    """Return what is said of a body that is larger than *most* bytes."""
    return Problem(413, f"the body is larger than {most} bytes")


def _decoded(part: str) -> str:
    if _PERCENT.search(part):
        raise Problem(400, "the path holds a % that begins no encoded byte")
    try:
        found = unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise Problem(400, "the path is not UTF-8") from None
    if "\x00" in found:
        raise Problem(400, "the path holds a NUL")
    return found


def _bare(host: str) -> str:
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
