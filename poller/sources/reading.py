"""
From the values of a page to records: expressions to fields, one key, one version.

What cannot be read is one dead letter and stops nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from poller.formats import (
    Document,
    Expression,
    ExpressionFault,
    Flawed,
    Format,
    FormatFault,
    KeyFault,
    fingerprint,
    key_text,
)
from poller.model import Malformed, SourceRecord
from poller.sources.checkpoints import newer, version_order

#: Most characters that are kept of a record that cannot be read.
MAX_RAW = 64_000
#: Most records of one document; all of them are in memory at once.
MAX_RECORDS = 100_000


class Shape(Protocol):
    """The settings that say how records are read."""

    @property
    def key(self) -> str: ...
    @property
    def version(self) -> str | None: ...
    @property
    def checkpoint(self) -> str | None: ...
    @property
    def fields(self) -> Mapping[str, str]: ...
    @property
    def required(self) -> Sequence[str]: ...


@dataclass(kw_only=True)
class Read:
    """What one page holds."""

    records: tuple[SourceRecord, ...] = ()
    malformed: tuple[Malformed, ...] = ()
    #: What the checkpoint expression gave for each record, as it came.
    checkpoints: list[object] = field(default_factory=list)


class Reader:
    """
    Reads the records of pages, whatever their format.

    Args:
        format: What compiles the expressions: the format of the documents; `open_format("json")` for rows that are dicts.
    """

    def __init__(self, shape: Shape, format: Format) -> None:
        self._format = format
        self._key = format.compile(shape.key)
        self._version = None if shape.version is None else format.compile(shape.version)
        self._checkpoint = None if shape.checkpoint is None else format.compile(shape.checkpoint)
        self._fields = {name: format.compile(text) for name, text in shape.fields.items()}
        # Those of a detail are looked at once they are there.
        self._required = tuple(name for name in shape.required if name in self._fields)

    def rows(self, document: Document, records: Expression | None) -> list[object]:
        """
        Return the rows of *document*.

        Raises:
            FormatFault | ExpressionFault: It is not the document that the settings speak of.
        """
        rows = document.rows(records)
        if len(rows) > MAX_RECORDS:
            raise FormatFault(f"it holds more than {MAX_RECORDS} records; use paging")
        if document.names is not None and (self._key.column or "") not in {*document.names, ""}:
            # Another table altogether, or an error text: its rows would all be dead letters, and its end the last page.
            raise FormatFault(f'its header row has no column "{self._key.column}", which is the key')
        return rows

    def page(self, rows: Sequence[object]) -> Read:
        """Read the records in *rows*. A key that comes twice gives one record: the newer version, else the first."""
        found: dict[str, SourceRecord] = {}
        malformed: list[Malformed] = []
        checkpoints: list[object] = []
        for row in rows:
            if isinstance(row, Flawed):
                malformed.append(Malformed(reason=row.reason, raw=row.raw[:MAX_RAW]))
                continue
            key: str | None = None
            try:
                key = key_text(self._key.find(row))
                record = self._record(key, row)
                mark = None if self._checkpoint is None else self._checkpoint.find(row)
            except (ExpressionFault, KeyFault) as error:
                malformed.append(Malformed(reason=str(error), raw=self._format.raw(row, MAX_RAW), key=key))
                continue
            checkpoints.append(mark)
            before = found.get(key)
            if before is None or newer(record.version, before.version):
                found[key] = record
        return Read(records=tuple(found.values()), malformed=tuple(malformed), checkpoints=checkpoints)

    def _record(self, key: str, row: object) -> SourceRecord:
        fields = {name: expression.text_of(row) for name, expression in self._fields.items()}
        for name in self._required:
            if not fields[name].strip():
                raise KeyFault(f"the required field {name} is missing")
        version = "" if self._version is None else self._version.text_of(row)
        # A source may leave its version out until the first change.
        order = version_order(version) if version else None
        return SourceRecord(key=key, version=version or fingerprint(fields), fields=fields, order=order)
