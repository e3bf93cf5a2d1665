"""
Make a mapping test of a real record: its text, what the look-ups found for it, and what would be posted.

No secret is ever written: where one of the settings', or a token, stands in what would be saved, nothing is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from poller.clients.dictionary import DELIVERED
from poller.clients.query import Query
from poller.clients.servicenow import ServiceNowClient, ServiceNowSettings
from poller.commands.mapping.trying import OURS, tried
from poller.errors import PollerError
from poller.logs.redaction import holds_secret
from poller.model import Fields, Malformed, SourceRecord
from poller.settings import Settings
from poller.wiring import build_raw_source, look, sample_format

#: Tables that are asked about tables, not about what records name.
_ABOUT: Final = frozenset({"sys_dictionary", "sys_db_object"})
_LONGEST: Final = 64_000


class Outcome(Protocol):
    """What would become of the record."""

    @property
    def body(self) -> Fields | None: ...
    @property
    def reason(self) -> str | None: ...


class Recording(ServiceNowClient):
    """Remembers what look-ups found."""

    def __init__(self, settings: ServiceNowSettings) -> None:
        super().__init__(settings)
        #: Rows by table.
        self.found: dict[str, list[Fields]] = {}

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Ask, and keep what came."""
        rows = super().table_get(table, query, fields, limit)
        self.found.setdefault(table, []).extend(rows)
        return rows


def save(
    path: Path,
    settings: Settings,
    name: str,
    record: SourceRecord | Malformed,
    outcome: Outcome,
    client: Recording,
) -> str:
    """Write the mapping test of *record* into a new file; return "", or why that was not done."""
    route = settings.routes[name]
    raw = record.raw if isinstance(record, Malformed) else _raw(settings, name, record.key)
    if raw is None:
        return "its text could not be read a second time"
    if len(raw) >= _LONGEST:
        return f"its text is longer than {_LONGEST} characters"
    fields = record.fields if isinstance(record, SourceRecord) else {}
    extra = {key: str(value) for key, value in fields.items() if key not in (route.reading.fields or {})}
    table = getattr(route.sink, "table", "")
    text = "\n".join(
        [
            f"# Made by poller preview {name} --save; run by poller check --offline --tests {path.parent}",
            *_document(
                name, sample_format(route), raw, record.key, extra, _lookups(client, table, fields, outcome), outcome
            ),
            *_lengths(client, outcome),
            "",
        ]
    )
    if holds_secret(text):
        return "the record, or what would be posted, holds a secret of the settings; write the file by hand, without it"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123  by descriptor
            file.write(text)
    except OSError as error:
        return f"{error.strerror}"
    finding = tried(settings, path)
    return "" if finding.status == "ok" else f"it was written, and does not hold as it is: {finding.said}"


def _raw(settings: Settings, name: str, key: str) -> str | None:
    try:
        for page in look(settings.routes[name], build_raw_source(settings.routes[name]), None):
            for each in page.malformed:
                if each.key == key:
                    return each.raw
    except PollerError:
        return None
    return None


def _lookups(client: Recording, table: str, fields: Mapping[str, object], outcome: Outcome) -> dict[str, list[str]]:
    """Return what look-ups found that this record is about, as they stand in the file."""
    ids = {str(value) for value in (outcome.body or {}).values()}
    named = {str(value).strip().casefold() for value in fields.values()}
    found: dict[str, list[str]] = {}
    for where, rows in client.found.items():
        if where == table or where in _ABOUT:
            continue
        for row in rows:
            sys_id = str(row.get("sys_id") or "")
            for column, value in row.items():
                wanted = str(value).strip().casefold() in named if outcome.body is None else sys_id in ids
                if column in {"sys_id", "active"} or not value or not wanted:
                    continue
                ids_there = found.setdefault(f"{where}.{column}={value}", [])
                if sys_id not in ids_there:
                    ids_there.append(sys_id)
    return found


def _document(
    name: str,
    format: str,
    raw: str,
    key: str | None,
    extra: Mapping[str, str],
    lookups: Mapping[str, list[str]],
    outcome: Outcome,
) -> Iterator[str]:
    yield f"route = {_quoted(name)}"
    yield from ("", "[sample]", f'format = "{format}"', f"text = {_long(raw)}")
    if extra:
        yield from ("", "[sample.fields]", *(f"{_key(field)} = {_long(text)}" for field, text in extra.items()))
    if lookups:
        yield from ("", "[lookups]")
        for question, ids in lookups.items():
            found = _quoted(ids[0]) if len(ids) == 1 else f"[{', '.join(map(_quoted, ids))}]"
            yield f"{_quoted(question)} = {found}"
    yield from ("", "[expect]")
    if key is not None and outcome.body is not None:
        yield f"key = {_quoted(key)}"
    if outcome.body is None:
        yield f"reason = {_quoted(outcome.reason or '')}"
        return
    yield from ("", "[expect.fields]")
    for column, value in outcome.body.items():
        if column not in OURS:
            yield f"{_key(column)} = {_long(str(value))}"


def _lengths(client: Recording, outcome: Outcome) -> Iterator[str]:
    """Yield the lengths of columns that are other than delivered, where texts may have been cut to them."""
    found: dict[str, int] = {}
    for row in client.found.get("sys_dictionary", []):
        name, length = str(row.get("element") or ""), str(row.get("max_length") or "")
        delivered = DELIVERED.get(name)
        known = delivered.length if delivered else None
        if name in (outcome.body or {}) and length.isascii() and length.isdigit() and int(length) != known:
            found[name] = int(length)
    if found:
        yield from ("", "[lengths]", *(f"{name} = {length}" for name, length in found.items()))


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _quoted(name)


def _quoted(text: str) -> str:
    """Return *text* as a basic string of TOML, whose escapes are those of JSON, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _long(text: str) -> str:
    """Return *text* as it is between ''' where that is possible, for people to read and to change."""
    plain = all(sign in "\n\t" or sign.isprintable() for sign in text)
    if plain and "'''" not in text and not text.endswith("'") and ("\n" in text or '"' in text):
        return f"'''\n{text}'''"
    return _quoted(text)
