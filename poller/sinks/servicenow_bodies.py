"""
From a record to the body that is frozen for it.

Templates are rendered, names are looked up for the whole batch at once, values are mapped, texts are made to fit their
columns. Nothing is written anywhere, and nothing is decided twice: what goes out is what was frozen.

Source: guarantee.md 2.3 (2); servicenow.md 4.1.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

from poller.clients.dictionary import DELIVERED, Columns, Dictionary
from poller.clients.query import Query
from poller.enrich import Found, Lookups
from poller.enrich.lookups import MISS_SECONDS
from poller.errors import BlockedError
from poller.identity import correlation_display
from poller.logs import get_logger
from poller.model import Fields, NotYet, Prepared, Ready, Record, Undeliverable
from poller.sinks.lengths import PLACES, fit
from poller.sinks.servicenow_settings import LookupField, MapField, ServiceNowSinkSettings, UserField
from poller.translate import TemplateFault

log = get_logger()

_SYS_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
_WHY: Final = {
    "ambiguous": "fits more than one row of",
    "inactive": "is not active in",
    "unknown": "is unknown to",
}


class Reader(Protocol):
    """What is needed of a ServiceNow client."""

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Return up to *limit* rows; see `poller.clients.servicenow`."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the names in one column are."""

    found: Mapping[str, Found]
    #: The sys_id to take for those that are unknown; None: there is no default, or no need of it.
    default: str | None


_Answers = Mapping[str, _Answer]


@dataclass(kw_only=True)
class _Draft:
    """One record on its way to a body."""

    record: Record
    #: What the templates gave, by column.
    texts: dict[str, str] = field(default_factory=dict)
    body: dict[str, str] = field(default_factory=dict)
    #: How each came about, by column.
    notes: dict[str, str] = field(default_factory=dict)
    #: Why it can never be sent.
    never: str | None = None
    #: Why it cannot be sent yet.
    waits: NotYet | None = None


class Bodies:
    """
    Makes bodies for one route.

    Args:
        settings: ``[routes.NAME.sink]``.

        reader: The client.

        addable: Where the rest of a text that is too long may be kept, besides columns that are sent anyway.
    """

    def __init__(self, settings: ServiceNowSinkSettings, reader: Reader, *, addable: Collection[str] = PLACES) -> None:
        self._settings = settings
        self._addable = addable
        self._templates = settings.templates()
        unknown = settings.unknown_user
        misses = (
            min(MISS_SECONDS, unknown.interval / timedelta(seconds=2)) if unknown.policy == "wait" else MISS_SECONDS
        )
        # Whoever waits is to be asked for anew when the time has come.
        self._lookups = Lookups(reader, misses=misses)
        self.dictionary = Dictionary(reader, settings.table, (*settings.fields, *PLACES))
        self._told: set[str] = set()

    def render(self, batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        """
        Return what is to be sent for each record, in their order; no `AlreadyThere` among it.

        Args:
            now: For a policy that waits.

            fresh: Past the caches.

        Raises:
            TransientError, BlockedError: About the whole batch.
        """
        drafts = [self._draft(record) for record in batch]
        if all(draft.never for draft in drafts):
            return [Undeliverable(reason=draft.never or "") for draft in drafts]
        columns = self.dictionary.columns()
        self._check_columns(columns)
        answers = self._find([draft for draft in drafts if draft.never is None], fresh=fresh)
        return [self._prepared(draft, answers, columns, now) for draft in drafts]

    def _check_columns(self, columns: Columns) -> None:
        """Raise where a column is not there: the instance would drop what is sent for it, without a word."""
        for name in self._settings.fields:
            if name in columns.absent:
                close = difflib.get_close_matches(name, columns.by_name.keys() | DELIVERED.keys(), n=1)
                hint = f"did you mean {close[0]}?" if close else "poller check compares them all"
                raise BlockedError(
                    f"{self._settings.table} has no column {name}, says its sys_dictionary: what is sent there would be lost; {hint}"
                )

    def _draft(self, record: Record) -> _Draft:
        draft = _Draft(record=record)
        variables = {"key": record.key, "version": record.version, **record.fields}
        for name, template in self._templates.items():
            try:
                draft.texts[name] = template.render(variables)
            except TemplateFault as error:
                draft.never = f"{name}: {error}"
                break
        return draft

    # Look-ups, for all at once.

    def _find(self, drafts: Sequence[_Draft], *, fresh: bool) -> _Answers:
        answers: dict[str, _Answer] = {}
        for name, form in self._settings.fields.items():
            if isinstance(form, UserField | LookupField):
                names = dict.fromkeys(draft.texts[name] for draft in drafts)
                found = self._lookups.find(self._settings.question(form), names, fresh=fresh)
                needed = any(one.sys_id is None for one in found.values())
                answers[name] = _Answer(found=found, default=self._default(name, form, fresh=fresh) if needed else None)
        return answers

    def _default(self, name: str, form: UserField | LookupField, *, fresh: bool) -> str | None:
        """Return the sys_id of what is taken for an unknown name; None where nothing is."""
        key, given = "unknown_user.username", self._settings.unknown_user.username
        if isinstance(form, LookupField):
            key, given = "default", form.default
        if given is None:
            return None
        question = self._settings.question(form)
        found = self._lookups.find(question, [given], fresh=fresh)[given]
        if found.sys_id is None:
            raise BlockedError(
                f"{name}: what {key} names {_WHY[found.how]} {question.table}; correct it, or make it there"
            )
        return found.sys_id

    # One record.

    def _prepared(self, draft: _Draft, answers: _Answers, columns: Columns, now: datetime) -> Prepared:
        if draft.never is None:
            for name in self._settings.fields:
                self._fill(draft, name, answers, now)
            self._check_references(draft, columns)
        if draft.never is not None:
            return Undeliverable(reason=draft.never)
        if draft.waits is not None:
            return draft.waits
        body, cuts = fit(draft.body, columns.by_name, self._addable)
        self._tell(draft.record, cuts)
        body["correlation_id"] = draft.record.correlation_id
        body["correlation_display"] = correlation_display(draft.record.route, draft.record.key)
        notes = [f"{name}: {note}" for name, note in (draft.notes | cuts).items()]
        return Ready(body=json.dumps(body), note="\n".join(notes) or None)

    def _fill(self, draft: _Draft, name: str, answers: _Answers, now: datetime) -> None:
        form, text = self._settings.fields[name], draft.texts[name]
        match form:
            case UserField():
                text = self._user(draft, name, form, answers[name], now)
            case LookupField():
                text = self._row(draft, name, form, answers[name])
            case MapField():
                text = _mapped(draft, name, form)
        if text:
            draft.body[name] = text

    def _user(self, draft: _Draft, name: str, form: UserField, answer: _Answer, now: datetime) -> str:
        one = answer.found[draft.texts[name]]
        draft.notes[name] = one.how
        if one.sys_id is not None:
            return one.sys_id
        # The name itself is the record's text, which is shown nowhere.
        why = f"{name}: the user named by the record {_WHY[one.how]} sys_user ({', '.join(form.by)})"
        match self._settings.unknown_user.policy:
            case "omit":
                draft.notes[name] = "omitted"
            case "default":
                draft.notes[name] = "default"
                return answer.default or ""
            case "wait":
                self._wait(draft, why, now)
            case _:
                draft.never = draft.never or why
        return ""

    def _wait(self, draft: _Draft, why: str, now: datetime) -> None:
        unknown = self._settings.unknown_user
        until = draft.record.first_seen + unknown.patience
        if now >= until:
            hours = unknown.patience / timedelta(hours=1)
            draft.never = draft.never or f"{why}; it has been waited for {hours:g} h"
        elif draft.waits is None:
            at = min(now + unknown.interval, until)
            draft.waits = NotYet(reason=f"{why}; asked again until {until:%Y-%m-%d %H:%M:%S} UTC", until=at)

    def _row(self, draft: _Draft, name: str, form: LookupField, answer: _Answer) -> str:
        text = draft.texts[name]
        one = answer.found[text]
        if not text.strip() and form.default is None:
            return ""
        draft.notes[name] = one.how
        if one.sys_id is not None:
            return one.sys_id
        if form.default is not None:
            draft.notes[name] = "default"
            return answer.default or ""
        if form.unknown == "omit":
            draft.notes[name] = "omitted"
        else:
            reason = f"{name}: the name given by the record {_WHY[one.how]} {form.lookup} ({', '.join(form.by)})"
            draft.never = draft.never or reason
        return ""

    def _check_references(self, draft: _Draft, columns: Columns) -> None:
        """Refuse a text for a reference: the instance would store it as it is, cut to 32 characters."""
        for name, text in draft.body.items():
            column = columns.by_name.get(name)
            if column is not None and column.kind == "reference" and not _SYS_ID.fullmatch(text):
                table = column.reference or "TABLE"
                draft.never = draft.never or (
                    f"{name}: the column refers to {table} and takes a sys_id, and what the template gave is none; "
                    f'use {{ lookup = "{table}", by = "name", value = "…" }}'
                )

    def _tell(self, record: Record, cuts: Mapping[str, str]) -> None:
        for name, note in cuts.items():
            if name not in self._told:
                self._told.add(name)
                log.warning("text_cut", route=record.route, key=record.key, field=name, reason=note)


def _mapped(draft: _Draft, name: str, form: MapField) -> str:
    """Return what is sent for the record's value: an exact one before those of other case."""
    text = draft.texts[name].strip()
    found = form.map.get(text, form.folded.get(text.casefold()))
    if found is not None:
        draft.notes[name] = "mapped"
        return found
    if form.default is not None:
        draft.notes[name] = "default"
        return form.default
    if text:
        draft.never = draft.never or f"{name}: map has nothing for the record's value, and there is no default"
    return ""
