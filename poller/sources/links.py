"""Links: where ``rel="next"`` leads, and that an address from a document stays on the host of the settings."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from poller.errors import TransientError

_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[\w!#$&+.^`|~*-]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s",;]*))?)*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


def next_link(header: str) -> str | None:
    """Return the target of ``rel="next"`` in a ``Link`` header, None where there is none."""
    for target, attributes in _LINK.findall(header):
        found = _REL.search(attributes)
        if found and "next" in (found[1] or found[2] or "").lower().split():
            return str(target).strip()
    return None


def same_host(url: str, link: str) -> str:
    """
    Return *link*, relative to *url*, with the scheme and host of *url* itself.

    Behind a proxy, sources name themselves by http:// though they are asked by https://: the credentials stay on our
    address all the same.

    Raises:
        TransientError: It leads elsewhere. Nothing is asked there, and the poll is not whole.
    """
    try:
        ours, theirs = urlsplit(url), urlsplit(urljoin(url, link))
        elsewhere = _host(theirs) != _host(ours)
    except ValueError:
        elsewhere = True
        ours = theirs = urlsplit(url)
    if elsewhere:
        raise TransientError("the next page is said to be on another host; it was not asked")
    return urlunsplit((ours.scheme, ours.netloc, theirs.path, theirs.query, ""))


def _host(parts: SplitResult) -> tuple[str, int | None]:
    if parts.scheme not in _PORTS or parts.username is not None or parts.password is not None:
        raise ValueError("no address")
    # The usual port of http and https is one and the same place.
    return (parts.hostname or "").lower().rstrip("."), None if parts.port in (
        None,
        _PORTS[parts.scheme],
    ) else parts.port
