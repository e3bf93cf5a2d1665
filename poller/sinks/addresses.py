"""
The addresses of sinks: templates whose scheme and host stand in the settings, and whose values lead nowhere else.

Each value is percent-encoded as one segment of the path or one value of the query. Nothing is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from poller.clients.http import check_url
from poller.translate import Template, TemplateFault, compile_template

#: What Jinja puts something else in place of.
_PARTS: Final = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)


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
    Address(url)
    return url


class Address:
    """
    The address of each message: a template, in which each value is one segment or one value, whatever it holds.

    Raises:
        ValueError: It is no template, or its own path leads to and fro.
    """

    def __init__(self, url: str) -> None:
        self._template: Template = compile_template(url, escape=_encoded)
        fixed = _segments(_PARTS.sub("x", url))
        if "." in fixed or ".." in fixed:
            raise ValueError("its path has a dot or two for a name; write it without them")
        self._empty = fixed.count("")

    def of(self, variables: Mapping[str, object]) -> str:
        """
        Return the address for one record.

        Raises:
            TemplateFault: It would lead somewhere else.
        """
        url = self._template.render(variables)
        segments = _segments(url)
        if segments.count("") > self._empty:
            # "/tickets/" in place of "/tickets/7" is another resource: with DELETE, perhaps all of them.
            raise TemplateFault("url: a value in its path is empty, which would lead somewhere else")
        if "." in segments or ".." in segments:
            # Clients and servers tidy paths; encoded dots are dots all the same.
            raise TemplateFault("url: a value in its path is a dot or two, which would lead somewhere else")
        return url


def _segments(url: str) -> list[str]:
    return urlsplit(url).path.split("/")[1:]


def _encoded(text: str) -> str:
    return quote(text, safe="")


def remote_name(url: str) -> str:
    """Return scheme, host and port: under which requests in flight are counted."""
    parts = urlsplit(url.partition("{")[0])
    return f"{parts.scheme}://{parts.netloc}"
