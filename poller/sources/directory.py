"""
The source ``directory``: takes the files that others put into a folder.

A file is given away page by page and moved to ``done`` once all of it is committed, which this generator learns by being
asked for the next page. A crash in between means that the file is read again, and all its records are known then. A file
that cannot be read goes to ``failed`` and stops no other; a record that cannot be read is a dead letter, and its file is done.

Who polls without saying what is `known` only looks: nothing is moved, nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from poller.errors import BlockedError, TransientError
from poller.formats import ExpressionFault, FormatFault, KeyFault, key_text
from poller.logs import get_logger
from poller.model import Malformed, Page, SourceRecord
from poller.ports import Known, nothing_known
from poller.sources.directory_settings import DirectorySourceSettings
from poller.sources.in_flight import InFlight, digest
from poller.sources.inbox import Changed, Entry, Inbox, Mark, Unfit, shown
from poller.sources.reading import Read, Reader

__all__ = ["DirectorySource", "DirectorySourceSettings"]

log = get_logger()

#: Records that are committed together; small files share a page.
PAGE = 1_000
#: Most files that share one.
_FILES = 500


@dataclass
class _Batch:
    """Files whose records are given away together."""

    files: list[Entry] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    records: dict[str, SourceRecord] = field(default_factory=dict)
    malformed: list[Malformed] = field(default_factory=list)

    def takes(self, read: Read) -> bool:
        """Return whether *read* may be put in; not where a key comes twice, since the later version must count."""
        if not self.files:
            return True
        if len(self.records) + len(self.malformed) + len(read.records) > PAGE or len(self.files) >= _FILES:
            return False
        return not any(record.key in self.records for record in read.records)

    def add(self, entry: Entry, content: bytes, read: Read) -> None:
        self.files.append(entry)
        self.digests[entry.name] = digest(content)
        self.records.update((record.key, record) for record in read.records)
        self.malformed += read.malformed

    def pages(self) -> Iterator[Page]:
        records = tuple(self.records.values())
        for start in range(0, max(len(records), len(self.malformed)), PAGE):
            end = start + PAGE
            yield Page(records=records[start:end], malformed=tuple(self.malformed[start:end]))


class DirectorySource:
    """
    One folder, polled.

    Args:
        inbox: Left out: the folder of the settings.
    """

    settings = DirectorySourceSettings

    def __init__(self, settings: DirectorySourceSettings, *, inbox: Inbox | None = None) -> None:
        self._settings = settings
        self._inbox = inbox or Inbox(settings.path, settings.glob, settle=settings.settle)
        self._in_flight = InFlight(settings.done)
        self._format = settings.open_format()
        self._reader = Reader(settings, self._format)
        self._records = None if settings.records is None else self._format.compile(settings.records)
        #: Files that are read and could not be moved, so that they are not read at every poll, and where they should go.
        self._stuck: dict[str, tuple[Mark, Path]] = {}
        self._troubles: list[str] = []

    def close(self) -> None:
        """Nothing is kept between two polls."""

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        looking = known is nothing_known
        entries, strange = self._inbox.look()
        self._check_folders()
        if not looking:
            self._make_folders()
            for name in strange:
                log.warning("file_skipped", file=shown(name), folder=str(self._inbox.path))
        self._troubles = []
        batch = _Batch()
        for entry in entries:
            if self._left_over(entry, looking=looking):
                continue
            try:
                content, read = self._read(entry, known)
            except Changed:
                continue
            except (Unfit, FormatFault, ExpressionFault) as error:
                batch.malformed += self._fail(entry, str(error), looking=looking)
                continue
            if not batch.takes(read):
                yield from self._give(batch, looking=looking)
                batch = _Batch()
            batch.add(entry, content, read)
        yield from self._give(batch, looking=looking)
        self._stuck = {name: stuck for name, stuck in self._stuck.items() if name in {each.name for each in entries}}
        if self._troubles:
            count = len(self._troubles)
            raise TransientError(f"{count} files are read and cannot be moved away; the first: {self._troubles[0]}")
        yield Page(last=True)

    def _give(self, batch: _Batch, *, looking: bool) -> Iterator[Page]:
        """Yield the pages of *batch*, then move its files: who asks for more has committed them."""
        noted = self._settings.positional and not looking and bool(batch.records)
        try:
            if noted:
                self._in_flight.add(batch.digests)
            yield from batch.pages()
            if looking:
                return
            for entry in batch.files:
                self._move(entry, self._settings.done)
            if noted:
                self._in_flight.remove(each.name for each in batch.files if each.name not in self._stuck)
        except OSError as error:
            raise BlockedError(f"the folder {self._settings.done} cannot be written to: {error.strerror}") from None

    def _check_folders(self) -> None:
        """Raise where a file could not be moved afterwards; it would be read at every start."""
        for folder in (self._settings.path, self._settings.done, self._settings.failed):
            there = next(each for each in (folder, *folder.parents) if each.exists())
            if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
                continue
            what = "cannot be written to" if there == folder else f"cannot be made in {there}"
            raise BlockedError(
                f"the folder {folder} {what}; let poller's user write to it, since files are to be moved"
            )

    def _make_folders(self) -> None:
        for folder in (self._settings.done, self._settings.failed):
            try:
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            except OSError as error:
                raise BlockedError(
                    f"the folder {folder} cannot be made: {error.strerror}; make it, and let poller's user write to it"
                ) from None

    # One file.

    def _read(self, entry: Entry, known: Known) -> tuple[bytes, Read]:
        content = self._inbox.read(entry, limit=self._settings.max_body)
        document = self._format.read(content, self._settings.encoding)
        rows = self._reader.rows(document, self._records)
        if not self._settings.positional:
            return content, self._reader.page(rows)
        read = self._by_position(entry.name, rows)
        self._check_namesake(entry, content, read, known)
        return content, read

    def _by_position(self, name: str, rows: list[object]) -> Read:
        """Read *rows*, each under the file's name and its position, counted from 1."""
        records: list[SourceRecord] = []
        malformed: list[Malformed] = []
        for position, row in enumerate(rows, start=1):
            try:
                key = key_text(f"{name}:{position}")
            except KeyFault:
                raise Unfit("its name cannot be part of a key; give it another one, or set key") from None
            one = self._reader.page([row])
            records += [replace(record, key=key) for record in one.records]
            malformed += [replace(each, key=key) for each in one.malformed]
        return Read(records=tuple(records), malformed=tuple(malformed))

    def _check_namesake(self, entry: Entry, content: bytes, read: Read, known: Known) -> None:
        """Raise where another file of this name was read before: its records would count as known, and be lost."""
        if not known([(record.key, record.version) for record in read.records]):
            return
        # Within the first poll of a baseline everything counts as known.
        if known([("", "")]) or self._in_flight.read_before(entry.name, content):
            return
        raise Unfit(
            "another file of this name was read before, and no key is set; set key, or name each file differently"
        )

    def _fail(self, entry: Entry, why: str, *, looking: bool) -> list[Malformed]:
        """Move a file that cannot be read to ``failed``; who only looks is given a record that says so."""
        if looking:
            return [Malformed(reason=f"the file {shown(entry.name)} cannot be read: {why}", raw="")]
        log.error("file_failed", file=shown(entry.name), folder=str(self._settings.failed), error=why)
        self._move(entry, self._settings.failed)
        return []

    def _move(self, entry: Entry, folder: Path) -> None:
        try:
            self._inbox.move(entry, folder)
            self._stuck.pop(entry.name, None)
        except Changed:
            # The next poll reads what it has become.
            self._stuck.pop(entry.name, None)
        except OSError as error:
            self._stuck[entry.name] = (entry.mark, folder)
            self._troubles.append(f"{shown(entry.name)} to {folder}: {error.strerror}")

    def _left_over(self, entry: Entry, *, looking: bool) -> bool:
        """Return whether *entry* is read already and only has to be moved; try that again."""
        mark, folder = self._stuck.get(entry.name, (None, self._settings.done))
        if mark != entry.mark:
            return False
        if not looking:
            self._move(entry, folder)
        return True
