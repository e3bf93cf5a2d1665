"""
From messages to records: what is in one, under which key, and which of them share a page.

A message that cannot be read is a dead letter with its text, under its own id; it is acknowledged like any other, since a
broker would bury it where nobody looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from poller.clients.stomp import Message
from poller.formats import ExpressionFault, FormatFault, KeyFault, key_text
from poller.formats.texts import storable
from poller.model import Malformed, Page, SourceRecord
from poller.sources.activemq_settings import ActivemqSourceSettings
from poller.sources.reading import MAX_RAW, Read, Reader

#: What a sender calls its message, the same for each copy of it; else the broker's own name for this copy.
_IDS: Final = ("x-message-id", "message-id")


class Messages:
    """Reads messages as the settings say."""

    def __init__(self, settings: ActivemqSourceSettings) -> None:
        self._settings = settings
        self._format = settings.open_format()
        self._reader = Reader(settings, self._format)
        self._records = None if settings.records is None else self._format.compile(settings.records)

    def read(self, message: Message) -> Read:
        """Return the records of a message; one that cannot be read gives one dead letter."""
        name = _name(message)
        try:
            rows = self._rows(message.body)
        except (FormatFault, ExpressionFault) as error:
            raw = storable(message.body[: 4 * MAX_RAW].decode("utf-8", "replace"))[:MAX_RAW]
            return Read(malformed=(Malformed(reason=f"the message cannot be read: {error}", raw=raw, key=name),))
        if not self._settings.by_message:
            return self._reader.page(rows)
        return self._by_message(name, rows)

    def _rows(self, body: bytes) -> list[object]:
        if len(body) > self._settings.max_body:
            raise FormatFault(f"it has {len(body)} bytes, more than max_body ({self._settings.max_body})")
        document = self._format.read(body, self._settings.encoding)
        if self._records is None and self._format.whole:
            return [document.value]
        return self._reader.rows(document, self._records)

    def _by_message(self, name: str | None, rows: list[object]) -> Read:
        """Read *rows*, each under the message's id; where there may be several, with its position, counted from 1."""
        records: list[SourceRecord] = []
        malformed: list[Malformed] = []
        several = self._records is not None or not self._format.whole
        for position, row in enumerate(rows, start=1):
            one = self._reader.page([row])
            key = f"{name}:{position}" if several else name
            if key is None or name is None:
                reason = "the message has no id that can be a key; set key"
                raw = self._format.raw(row, MAX_RAW)
                malformed.append(Malformed(reason=reason, raw=raw))
                continue
            records += [replace(record, key=key) for record in one.records]
            malformed += [replace(each, key=key) for each in one.malformed]
        return Read(records=tuple(records), malformed=tuple(malformed))


def _name(message: Message) -> str | None:
    for header in _IDS:
        try:
            return key_text(message.headers.get(header))
        except KeyFault:
            continue
    return None


@dataclass
class Batch:
    """Messages whose records are given away together, and acknowledged together."""

    messages: list[Message] = field(default_factory=list)
    records: dict[str, SourceRecord] = field(default_factory=dict)
    malformed: list[Malformed] = field(default_factory=list)

    def takes(self, read: Read) -> bool:
        """Return whether *read* may be put in; not where a key comes twice, since the later message must count."""
        return not any(record.key in self.records for record in read.records)

    def add(self, message: Message, read: Read) -> None:
        self.messages.append(message)
        self.records.update((record.key, record) for record in read.records)
        self.malformed += read.malformed

    def page(self) -> Page:
        return Page(records=tuple(self.records.values()), malformed=tuple(self.malformed))
