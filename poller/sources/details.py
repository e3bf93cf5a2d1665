"""
Follow-up requests: what the list does not hold of a record is asked for by its own address, for new records alone.

A record whose detail is gone (404, 410), or whose value leads elsewhere than it may, is one dead letter. Any other fault
is one of the whole page: nothing of it counts, and the next poll asks again. Where the same record's detail fails poll after
poll while those of others are answered, it is that record: it is a dead letter too, and holds up nobody.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote, urljoin, urlsplit

from poller.clients.http import Answer
from poller.errors import Evidence, TransientError
from poller.formats import Expression, ExpressionFault, FormatFault, json_text, open_format
from poller.model import Malformed, SourceRecord
from poller.sources.asking import Asker
from poller.sources.detail_settings import DetailSettings
from poller.sources.http_settings import HttpSourceSettings
from poller.sources.links import same_host
from poller.sources.queries import Query
from poller.sources.reading import MAX_RAW
from poller.translate import TemplateFault, compile_template

#: What is kept of answers for other records: so many, and so many characters in all.
_MOST, _MOST_CHARACTERS = 10_000, 8_000_000
#: So many polls in a row a detail may fail before others are asked whether it is the source or the record.
_PATIENCE = 3
_UP = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


class _Gone(Exception):
    """This record's detail cannot be had. ``str`` is one line."""


class Details:
    """Completes records with what their details hold."""

    def __init__(
        self,
        settings: HttpSourceSettings,
        asker: Asker,
        *,
        charset: Callable[[Answer], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._details = [_Detail(each, settings, asker, charset, clock) for each in settings.detail]
        names = {name for each in settings.detail for name in each.fields}
        self._empty = dict.fromkeys(sorted(names), "")
        self._required = [name for name in settings.required if name in names]
        #: How often in a row each record's detail failed with an answer.
        self._failures: dict[str, int] = {}

    def complete(
        self, records: Sequence[SourceRecord], known: Callable[[Sequence[tuple[str, str]]], set[str]]
    ) -> tuple[tuple[SourceRecord, ...], tuple[Malformed, ...]]:
        """
        Return the records with the fields of their details, and those that cannot have them.

        Args:
            known: Which of these keys and versions need no details, since they are stored already.

        Raises:
            TransientError | BlockedError: As `Asker.ask`; nothing of the page counts.
        """
        if not self._details or not records:
            return tuple(records), ()
        for detail in self._details:
            detail.begin()
        there = known([(record.key, record.version) for record in records])
        whole: list[SourceRecord] = []
        malformed: list[Malformed] = []
        suspects: dict[str, TransientError] = {}
        for record in records:
            # The same names for each record, so that every template finds what it needs.
            fields = {**record.fields, **self._empty}
            try:
                if record.key not in there:
                    self._fill(record.key, fields)
                whole.append(replace(record, fields=fields))
            except _Gone as error:
                malformed.append(_dead(record, str(error)))
            except TransientError as error:
                if not suspects or not _of_one_record(error):
                    self._suspected(record.key, error)
                suspects[record.key] = error
                malformed.append(_dead(record, f"{error}; again and again, while others are answered"))
        if suspects:
            self._compare(suspects, records)
        for record in whole:
            self._failures.pop(record.key, None)
        return tuple(whole), tuple(malformed)

    def _suspected(self, key: str, error: TransientError) -> None:
        """Raise *error* unless it is time to ask whether others fare better."""
        if not _of_one_record(error):
            raise error
        self._failures[key] = count = self._failures.get(key, 0) + 1
        if count <= _PATIENCE:
            raise error

    def _compare(self, suspects: Mapping[str, TransientError], records: Sequence[SourceRecord]) -> None:
        """Raise unless the details of another record, known or not, are answered at this moment."""
        other = next((record for record in records if record.key not in suspects), None)
        if other is None:
            raise next(iter(suspects.values()))
        for detail in self._details:
            detail.forget()
        with suppress(_Gone):
            self._fill(other.key, {**other.fields, **self._empty})

    def _fill(self, key: str, fields: dict[str, str]) -> None:
        for detail in self._details:
            fields.update(detail.fields_for({**fields, "key": key}))
        for name in self._required:
            if not fields[name].strip():
                raise _Gone(f"the required field {name} is missing")


def _of_one_record(error: TransientError) -> bool:
    """Return whether *error* may be about one record: an answer that does not say that the source is busy or down."""
    return error.evidence.status is not None and error.evidence.status not in {408, 429, 503}


def _dead(record: SourceRecord, reason: str) -> Malformed:
    return Malformed(reason=reason, raw=json_text(record.fields, limit=MAX_RAW), key=record.key)


class _Detail:
    """One ``[[detail]]``."""

    def __init__(
        self,
        settings: DetailSettings,
        source: HttpSourceSettings,
        asker: Asker,
        charset: Callable[[Answer], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._asker, self._charset = asker, charset
        self._home = source.url
        self._url = compile_template(settings.url)
        self._given_by = settings.given_by()
        name = settings.format_name(source.format)
        self._format = open_format(name, namespaces=source.namespaces if name == "xml" else None)
        self._encoding = source.encoding if name == source.format else None
        self._expressions: dict[str, Expression] = {
            field: self._format.compile(text) for field, text in settings.fields.items()
        }
        self._kept = _Cache(settings.cache.total_seconds(), clock)
        #: Addresses without an answer that can be used, and why: for one page only, since they may be mended at any time.
        self._refused: dict[str, str] = {}
        self._named = f"{asker.where}, {settings.url}"

    def begin(self) -> None:
        """Begin a page: what could not be had before may be there now."""
        self._refused.clear()

    def forget(self) -> None:
        """Drop what is remembered of earlier answers."""
        self._kept.clear()

    def fields_for(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        if any(not fields[name].strip() for name in self._url.names):
            return {}
        url = self._address(fields)
        if url in self._refused:
            raise _Gone(self._refused[url])
        found = self._kept.get(url)
        if found is None:
            try:
                found = self._asked(url)
            except _Gone as error:
                self._refused[url] = str(error)
                raise
            self._kept.put(url, found)
        return found

    def _address(self, fields: Mapping[str, str]) -> str:
        if self._given_by is not None:
            try:
                return same_host(self._home, fields[self._given_by].strip())
            except TransientError:
                raise _Gone(f"{self._given_by} leads to another host than the source's; it was not asked") from None
        try:
            url = self._url.render({name: quote(fields[name], safe="") for name in self._url.names})
        except TemplateFault as error:
            raise _Gone(str(error)) from None
        if _UP.search(urlsplit(url).path):
            raise _Gone("the address of its detail would leave its folder; it was not asked")
        return urljoin(self._home, url)

    def _asked(self, url: str) -> Mapping[str, str]:
        query = Query(url=url)
        answer = self._asker.ask(query, {"Accept": self._format.accept}, accepted=frozenset({200, 404, 410}))
        if answer.status != 200:
            raise _Gone(f"its detail is not there: {self._named} answered {answer.status}")
        try:
            document = self._format.read(answer.body, self._encoding or self._charset(answer)).value
            return {name: expression.text_of(document) for name, expression in self._expressions.items()}
        except FormatFault as error:
            raise TransientError(
                f"{self._named} answered 200 to a detail, but {error}; json, xml and text are known, see detail.format",
                evidence=Evidence(status=200),
            ) from None
        except ExpressionFault as error:
            raise _Gone(f"its detail {self._named}: {error}") from None


class _Cache:
    """Answers by address, for a while; the longest unused go first."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._kept: OrderedDict[str, tuple[float, Mapping[str, str]]] = OrderedDict()
        self._characters = 0

    def clear(self) -> None:
        self._kept.clear()
        self._characters = 0

    def get(self, url: str) -> Mapping[str, str] | None:
        until, found = self._kept.get(url, (0.0, None))
        if found is None or self._clock() >= until:
            return None
        self._kept.move_to_end(url)
        return found

    def put(self, url: str, found: Mapping[str, str]) -> None:
        if not self._seconds:
            return
        if url in self._kept:
            self._characters -= _size(url, self._kept.pop(url)[1])
        self._kept[url] = (self._clock() + self._seconds, found)
        self._characters += _size(url, found)
        while self._kept and (len(self._kept) > _MOST or self._characters > _MOST_CHARACTERS):
            gone, (_, dropped) = self._kept.popitem(last=False)
            self._characters -= _size(gone, dropped)


def _size(url: str, found: Mapping[str, str]) -> int:
    return len(url) + sum(map(len, found.values()))
