"""
A folder that others write files into: which of them are whole, what is in them, and moving them away.

Nobody on the other side is trusted to wait or to be kind: files grow while they are looked at, are replaced between two
calls, are links or pipes, have names that are no text. A file is known by its inode, size and time together (`Mark`), and
whatever is read or moved must still be that one. Nothing is ever overwritten.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from poller.errors import BlockedError

#: Names of files that are being written, by the custom of most programs.
_UNFINISHED = (".tmp", ".part")
#: Longest part of a name that is kept where a number is put behind it; 255 bytes is the most that Linux takes.
_LONGEST_STEM = 230


class Mark(NamedTuple):
    """What tells a file from one of the same name, and from itself once it is written to."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> Mark:
        """Return the mark of what was looked at."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Entry:
    """A file as it was when the folder was looked at."""

    name: str
    mark: Mark


class Changed(Exception):
    """The file is not any more what was looked at; it is to be looked at again."""


class Unfit(Exception):
    """The file cannot be taken. ``str`` is one line without the file's text."""


@dataclass
class _Look:
    mark: Mark
    since: float
    #: It was something else before, so its own time does not tell that it is whole.
    changed: bool


class Inbox:
    """
    One folder.

    Args:
        settle: A file that has not changed for so long counts as whole.

        now: Seconds since 1970, to hold against the times of files.

        monotonic: Seconds, to hold two looks against each other.
    """

    def __init__(
        self,
        path: Path,
        glob: str,
        *,
        settle: timedelta,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._glob = glob
        self._settle = settle.total_seconds()
        self._now = now
        self._monotonic = monotonic
        self._looks: dict[str, _Look] = {}
        self._strange: set[str] = set()

    def look(self) -> tuple[list[Entry], list[str]]:
        """
        Return the files that are whole, oldest first, and the names of what is met for the first time and is no file.

        Raises:
            BlockedError: The folder is not there, or cannot be looked into.
        """
        found, strange = [], set()
        for entry in self._entries():
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone since
            if stat.S_ISREG(status.st_mode):
                found.append(Entry(entry.name, Mark.of(status)))
            elif not stat.S_ISDIR(status.st_mode):
                strange.add(entry.name)
        met, self._strange = sorted(strange - self._strange), strange
        self._looks = {each.name: self._looked(each) for each in found}
        ready = [each for each in found if self._settled(self._looks[each.name])]
        return sorted(ready, key=lambda each: (each.mark.modified, os.fsencode(each.name))), met

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                yield from (entry for entry in entries if self._wanted(entry.name))
        except OSError as error:
            raise BlockedError(f"the folder {self.path} cannot be looked into: {error.strerror}") from None

    def _wanted(self, name: str) -> bool:
        if name.startswith(".") and not self._glob.startswith("."):
            return False
        if name.endswith(_UNFINISHED) and not self._glob.endswith(_UNFINISHED):
            return False
        return fnmatchcase(name, self._glob)

    def _looked(self, entry: Entry) -> _Look:
        before = self._looks.get(entry.name)
        if before is not None and before.mark == entry.mark:
            return before
        return _Look(entry.mark, self._monotonic(), changed=before is not None)

    def _settled(self, look: _Look) -> bool:
        if self._monotonic() - look.since >= self._settle:
            return True
        return not look.changed and self._now() - look.mark.modified / 1e9 >= self._settle

    def read(self, entry: Entry, *, limit: int) -> bytes:
        """
        Return what is in the file.

        Raises:
            Changed: It grew, was replaced, or is gone.

            Unfit: It is longer than *limit* bytes, or this user may not read it.
        """
        if entry.mark.size > limit:
            raise Unfit(f"it has {entry.mark.size} bytes, more than max_body ({limit})")
        # Neither a link out of the folder nor a pipe without a writer, should one have taken its place.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            with open(os.open(self.path / entry.name, flags), "rb") as file:  # noqa: PTH123  by descriptor
                before = Mark.of(os.fstat(file.fileno()))
                content = file.read(limit + 1) if before == entry.mark else b""
                after = Mark.of(os.fstat(file.fileno()))
        except PermissionError:
            raise Unfit("this user may not read it") from None
        except OSError as error:
            raise Changed(str(error.strerror)) from None
        if not before == after == entry.mark or len(content) != entry.mark.size:
            raise Changed("it is being written")
        return content

    def move(self, entry: Entry, folder: Path) -> str:
        """
        Move the file into *folder* under its own name, or that with a number behind it; return the name.

        Raises:
            Changed: It is not any more what was looked at, and stays; or it is gone, which is just as well.

            OSError: It cannot be moved, and stays.
        """
        source = self.path / entry.name
        self._check(source, entry)
        target = _reserved(folder, entry.name)
        try:
            source.rename(target)
        except OSError:
            target.unlink(missing_ok=True)
            raise
        try:
            self._check(target, entry)
        except Changed:
            # It was replaced between the two looks, and what was moved has not been read.
            _put_back(target, source)
            raise
        return target.name

    def _check(self, path: Path, entry: Entry) -> None:
        try:
            found = Mark.of(path.lstat())
        except FileNotFoundError:
            raise Changed("it is gone") from None
        if found != entry.mark:
            raise Changed("it is being written")


def candidates(name: str) -> Iterator[str]:
    """Yield the names that a file of this name may get in another folder: its own, then with numbers behind it."""
    yield name
    stem = os.fsdecode(os.fsencode(name)[:_LONGEST_STEM])
    yield from (f"{stem}.{number}" for number in range(1, 1_000_000))


def _reserved(folder: Path, name: str) -> Path:
    """Return a path in *folder* that was free and is ours now, so that the move replaces nothing of anybody's."""
    for candidate in candidates(name):
        try:
            os.close(os.open(folder / candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            continue
        return folder / candidate
    raise OSError(0, "there are too many files of this name")


def _put_back(target: Path, source: Path) -> None:
    """Undo a move, without replacing what may be there again by now."""
    try:
        os.link(target, source, follow_symlinks=False)
    except OSError as error:
        raise OSError(
            error.errno, f"it was replaced while it was read, and lies unread in {target}; put it back"
        ) from None
    target.unlink()


def shown(name: str) -> str:
    """Return a file's name for a log or an error: one line of printable text, whatever it is made of."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)
