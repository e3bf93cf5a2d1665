"""
Which addresses may be spoken to.

Plain HTTP is for loopback; elsewhere the settings must say ``allow_plaintext = true``, and ServiceNow, token and
proxy addresses never may.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_BAD = re.compile(r"[\x00-\x20\x7f\\]")


def is_loopback(host: str) -> bool:
    """Return whether *host* is this very machine by name or by number; nothing is resolved."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, *, allow_plaintext: bool) -> None:
    """
    Refuse an address that must not be spoken to.

    Raises:
        ValueError: One line that says what is wrong. The address itself is not in it: it may hold a secret.
    """
    parts = _split(url)
    if parts.scheme not in {"http", "https"}:
        raise ValueError("an address begins with https:// (or http:// for this machine)")
    if not parts.hostname:
        raise ValueError("the address names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user or password in an address: use auth")
    if parts.scheme == "http" and not allow_plaintext and not is_loopback(parts.hostname):
        raise ValueError("plain http:// is for this machine only: use https://")


def check_instance(url: str) -> str:
    """
    Return a ServiceNow instance's address without a slash at its end.

    Raises:
        ValueError: It is no such address.
    """
    check_url(url, allow_plaintext=False)
    parts = _split(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError('the instance is its bare address, such as "https://acme.service-now.com"')
    return f"{parts.scheme}://{parts.netloc}"


def check_proxy(url: str) -> str:
    """
    Return a proxy's address.

    Raises:
        ValueError: It is no such address.
    """
    parts = _split(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user or password in a proxy's address: use proxy_username and proxy_password")
    if parts.scheme == "https":
        raise ValueError(
            'a proxy is spoken to in plain: write "http://host:port"; what passes through it to https:// is encrypted'
        )
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError('a proxy is written "http://host:port"; socks and others are not supported')
    return f"http://{parts.netloc}"


def _split(url: str) -> SplitResult:
    if _BAD.search(url):
        raise ValueError("the address holds a blank, a backslash or a control character")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("this is no proper address") from None
    return parts
