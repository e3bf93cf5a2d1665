"""The settings of follow-up requests, ``[[routes.NAME.source.detail]]``, and which addresses they may ask."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from poller.clients.http import check_url
from poller.formats import open_format
from poller.sources.record_settings import Places, field_problems
from poller.translate import compile_template
from poller.values import Duration, Model

#: The address up to where a template may begin: the host is never made of a record.
_FIXED_HOST = re.compile(r"https?://[^/{}\s]+/", re.IGNORECASE)
#: A template that is nothing but one value: an address that the source itself gave.
_GIVEN = re.compile(r"\s*\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*")


class DetailSettings(Model):
    """One request for each new record: lists often hold only the ids of authors and texts."""

    url: Annotated[
        str,
        Field(
            description='"/api/users/{{ author_id }}", a whole address, or "{{ author_url }}" as the source gave it; '
            "values are percent-encoded, and a record whose value is empty is not asked for"
        ),
    ]
    fields: Annotated[
        dict[str, str], Field(min_length=1, description="name = expression on the answer; added to the record's fields")
    ]
    cache: Annotated[
        Duration, Field(ge=timedelta(0), description="how long the answer of one address serves other records too")
    ] = timedelta(hours=1)
    format: Annotated[
        Literal["json", "xml", "text"] | None,
        Field(
            description='left out: that of the list, where that is not csv; else json. text: the expression "@" is all of it'
        ),
    ] = None

    def given_by(self) -> str | None:
        """Return the field that holds the whole address, None where the address is written here."""
        found = _GIVEN.fullmatch(self.url)
        return found[1] if found else None

    def format_name(self, of_list: str) -> str:
        """Return the format of the answers, that of the list being *of_list*."""
        return self.format or ("json" if of_list == "csv" else of_list)


def detail_problems(
    details: Sequence[DetailSettings],
    fields: Mapping[str, str],
    *,
    of_list: str,
    namespaces: Mapping[str, str],
    allow_plaintext: bool,
) -> Places:
    """Yield what is wrong with the follow-up requests of a source, each at its own key."""
    known = {*fields, "key"}
    for index, detail in enumerate(details):
        yield from (((index, "url"), text) for text in _url_problems(detail, known, allow_plaintext=allow_plaintext))
        name = detail.format_name(of_list)
        answers = open_format(name, namespaces=namespaces if name == "xml" else None)
        for where, text in field_problems(detail.fields, answers):
            yield (index, "fields", *where), text
        for field in detail.fields:
            if field in known:
                yield (index, "fields", field), "is a field of the record already; give it another name"
        known |= {*detail.fields}


def _url_problems(detail: DetailSettings, known: set[str], *, allow_plaintext: bool) -> Iterator[str]:
    try:
        unknown = compile_template(detail.url).names - known
    except ValueError as error:
        yield str(error)
        return
    if unknown:
        yield f"unknown name {', '.join(sorted(unknown))[:80]}; known: {', '.join(sorted(known))}"
    if detail.given_by() is not None:
        return
    path = detail.url.startswith("/") and not detail.url.startswith("//")
    if not path and not _FIXED_HOST.match(detail.url):
        yield 'begins with "/" or with scheme, host and "/", written out: a host is never made of what a record holds'
    elif not path:
        try:
            parts = urlsplit(_FIXED_HOST.match(detail.url)[0])  # type: ignore[index]  # asked for above
            check_url(f"{parts.scheme}://{parts.netloc}/", allow_plaintext=allow_plaintext)
        except ValueError as error:
            yield str(error)
