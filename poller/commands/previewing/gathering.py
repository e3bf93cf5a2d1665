"""
What a route would do with its next records: polled, mapped, looked up, held against what was done before.

Nothing is written anywhere: no record, no checkpoint, no database that is not there, no incident.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final, Protocol, runtime_checkable

from poller.commands.opening import reading
from poller.errors import DatabaseUnusable
from poller.identity import correlation_id, derived_sys_id, message_id
from poller.model import (
    AlreadyThere,
    Fields,
    Malformed,
    NotYet,
    Operation,
    Page,
    Prepared,
    Ready,
    Record,
    SourceRecord,
    Undeliverable,
)
from poller.ports import Sink, Source
from poller.settings import Route, Settings
from poller.store import reading as listings
from poller.store.earlier import Earlier, earlier
from poller.store.rows import chunks, dump, load
from poller.store.standing import routes_standing
from poller.translate import TemplateFault
from poller.wiring import look

#: A sink prepares so many at once.
_BATCH: Final = 50


@runtime_checkable
class Renders(Protocol):
    """A sink that says what it would send also for what is there already."""

    def render(self, batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        """Return what would be sent for each record."""
        ...


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the database knows; nothing where there is none."""

    checkpoint: str | None = None
    #: What correlation ids are made from.
    identity: str
    #: A first poll of a route with ``first_run = "baseline"``: what it finds is skipped.
    baseline: bool
    earlier: Mapping[str, Earlier] = field(default_factory=dict)
    #: Why the database could not be looked at, where it is there.
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One record, and what would become of it."""

    key: str | None
    version: str | None
    #: ``create``, ``known``, ``there``, ``baseline``, ``waits``, ``undeliverable``, ``malformed``.
    outcome: str
    reason: str | None = None
    #: What would be posted, or was; None where nothing can be.
    body: Fields | None = None
    #: How each look-up came about.
    notes: tuple[str, ...] = ()
    state: str | None = None
    number: str | None = None
    #: What was posted before, where it is kept.
    before: Fields | None = None
    #: What the record gives for each column that is looked up or mapped; for the operator's eyes, never for a log.
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def differing(self) -> dict[str, str]:
        """Return each column that is not as it was posted: ``changed``, ``new`` or ``gone``."""
        if self.before is None or self.body is None:
            return {}
        found = {}
        for name in dict.fromkeys((*self.body, *self.before)):
            if self.body.get(name) != self.before.get(name):
                found[name] = "new" if name not in self.before else "gone" if name not in self.body else "changed"
        return found


def seen(settings: Settings, name: str, route: Route) -> Seen:
    """Look at what the database knows of a route; it is not made where it is not there."""
    nothing = Seen(identity=route.previously or name, baseline=route.first_run == "baseline")
    try:
        with reading(settings) as store, store.read() as connection:
            there = routes_standing(connection)
            standing = there.get(name) or there.get(route.previously or "")
            if standing is None:
                return Seen(identity=name, baseline=nothing.baseline)
            marks = {line.name: line.checkpoint for line in listings.route_lines(connection)}
            return Seen(
                checkpoint=marks.get(standing.name),
                identity=standing.identity,
                baseline=nothing.baseline and not standing.baseline_done,
            )
    except DatabaseUnusable as error:
        said = str(error)
        first = "does not exist yet" in said or "lacks" in said
        return Seen(identity=name, baseline=nothing.baseline, fault=None if first else said)


def known(settings: Settings, name: str, keys: Collection[str]) -> dict[str, Earlier]:
    """Return those of *keys* that were seen before."""
    try:
        with reading(settings) as store, store.read() as connection:
            return earlier(connection, name, keys)
    except DatabaseUnusable:
        return {}


def polled(
    source: Source, route: Route, checkpoint: str | None, *, limit: int | None, key: str | None
) -> Iterator[SourceRecord | Malformed]:
    """
    Yield records of one poll: the first page, or as many as are wanted, or the one with *key*.

    Raises:
        TransientError, BlockedError: The source did not answer.
    """
    pages = look(route, source, None if key is not None else checkpoint)
    if limit is None and key is None:
        pages = islice(pages, 1)
    found = chain.from_iterable(_of(page) for page in pages)
    if key is not None:
        found = chain(each for each in found if each.key == key)
    yield from islice(found, 1 if key is not None else limit)


def _of(page: Page) -> Iterator[SourceRecord | Malformed]:
    yield from page.records
    yield from page.malformed


def prepared(sink: Sink, found: Sequence[SourceRecord], *, name: str, prefix: str, before: Seen) -> Iterator[Shown]:
    """
    Yield what would become of each record.

    Raises:
        TransientError, BlockedError, HeldError: About all of them.
    """
    now = datetime.now(UTC)
    for some in chunks(found, _BATCH):
        batch = [_record(each, name, prefix, before.identity, now) for each in some]
        answers = sink.prepare(batch, now=now)
        there = [record for record, answer in zip(batch, answers, strict=True) if isinstance(answer, AlreadyThere)]
        again = iter(sink.render(there, now=now) if there and isinstance(sink, Renders) else [])
        for record, answer in zip(batch, answers, strict=True):
            body = next(again, None) if isinstance(answer, AlreadyThere) else answer
            yield _shown(record, answer, body, before)


def _record(each: SourceRecord, name: str, prefix: str, identity: str, now: datetime) -> Record:
    # As the database would give it back: text and numbers may come through JSON as something else.
    return Record(
        route=name,
        key=each.key,
        version=each.version,
        fields=load(dump(each.fields)),
        correlation_id=correlation_id(prefix, identity, each.key),
        derived_sys_id=derived_sys_id(prefix, identity, each.key),
        first_seen=now,
        message_id=message_id(correlation_id(prefix, identity, each.key), Operation.CREATE, each.version),
    )


def _shown(record: Record, answer: Prepared, rendered: Prepared | None, before: Seen) -> Shown:
    was = before.earlier.get(record.key)
    outcome, reason, number = "create", None, was.number if was else None
    if was is not None:
        outcome = "known"
    elif isinstance(answer, AlreadyThere):
        outcome, number = "there", answer.receipt.number
    elif before.baseline:
        outcome, reason = "baseline", "first_run is baseline, and no whole poll has ended yet"
    body, notes = (_body(rendered.body), rendered.note or "") if isinstance(rendered, Ready) else (None, "")
    if isinstance(rendered, Undeliverable):
        outcome, reason = ("known", rendered.reason) if was else ("undeliverable", rendered.reason)
    if isinstance(rendered, NotYet):
        outcome, reason = ("known", rendered.reason) if was else ("waits", rendered.reason)
    return Shown(
        key=record.key,
        version=record.version,
        outcome=outcome,
        reason=reason or (was.reason if was else None),
        body=body,
        notes=tuple(notes.splitlines()),
        state=was.state if was else None,
        number=number,
        before=was.body if was else None,
    )


def _body(text: str) -> Fields:
    """Return a frozen body as it is shown: by its columns, or as one document."""
    try:
        found: object = load(text)
    except ValueError:
        return {"document": text}
    return found if isinstance(found, dict) else {"document": text}


def given(route: Route, each: SourceRecord) -> dict[str, str]:
    """Return what the templates of columns that are looked up or mapped give for a record."""
    if route.sink.type != "servicenow":
        return {}
    variables = {"key": each.key, "version": each.version, **load(dump(each.fields))}
    found = {}
    for name, template in route.sink.templates().items():
        if not isinstance(route.sink.fields[name], str):
            with suppress(TemplateFault):  # which is the record's reason then
                found[name] = template.render(variables)
    return found


def broken(each: Malformed) -> Shown:
    """Return a record that could not be read; its text is not shown."""
    return Shown(key=each.key, version=None, outcome="malformed", reason=each.reason)
