"""
What goes on the wire: where to, the request line, the headers. No connection is known here.

Every header is looked at when its line is made, so that no value can end a line or begin another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from urllib3.util import parse_url

_UNSAFE: Final = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a request goes: a pool, and what stands in the request line and the Host header."""

    scheme: str
    host: str
    port: int
    #: Already percent-encoded, with the query if it has one.
    path: str
    #: The Host header.
    authority: str


def target_of(url: str) -> Target:
    """Return where *url* leads; whether it may be spoken to is checked elsewhere."""
    parts = parse_url(url)
    scheme, host = parts.scheme or "https", (parts.host or "").strip("[]")
    port = parts.port or (443 if scheme == "https" else 80)
    authority = (parts.host or "") + (f":{parts.port}" if parts.port else "")
    return Target(scheme=scheme, host=host, port=port, path=parts.request_uri, authority=authority)


def payload_of(method: str, target: Target, head: str, body: bytes | None, *, forward: bool) -> bytes:
    """
    Return a whole request.

    Args:
        head: Header lines, each with its line end.

        forward: It goes to a proxy, which wants the whole address.

    Raises:
        ValueError: *head* holds what no header may.
    """
    address = f"{target.scheme}://{target.authority}{target.path}" if forward else target.path
    length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
    text = f"{method} {address} HTTP/1.1\r\nHost: {target.authority}\r\n{head}{length}\r\n"
    # Line ends are taken out for the look at the rest: every header was checked for them when its line was made.
    if _UNSAFE.search(text.replace("\r\n", "")):
        raise ValueError("a header holds a character that no header may")
    return text.encode("latin-1") + (body or b"")


def header_line(name: str, value: str) -> str:
    """
    Return one header as a line.

    Raises:
        ValueError: *value* would end the line, or cannot be sent.
    """
    if _UNSAFE.search(value) or _UNSAFE.search(name) or ":" in name:
        raise ValueError(f"the value of header {name!r} holds a character that no header may")
    return f"{name}: {value}\r\n"
