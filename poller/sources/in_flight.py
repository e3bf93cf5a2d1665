"""
Which files have been given away but not moved yet, kept in a small file beside those that are done.

Where records are told apart by file name and position, another file of the same name looks like one that was read
already. After a crash between the commit and the move, only this tells the two apart.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from poller.sources.inbox import candidates

#: Its name, in the folder of those that are done.
NAME = ".poller-reading.json"
_MOST = 10_000_000


def digest(content: bytes) -> str:
    """Return what tells this content from any other."""
    return hashlib.sha256(content).hexdigest()


class InFlight:
    """The list, in its file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, str] | None = None

    def add(self, digests: Mapping[str, str]) -> None:
        """
        Note files, by name, before they are given away.

        Raises:
            OSError: It cannot be written.
        """
        self._write({**self._read(), **digests})

    def remove(self, names: Iterable[str]) -> None:
        """
        Forget files that are moved.

        Raises:
            OSError: It cannot be written.
        """
        gone = {*names}
        self._write({name: mark for name, mark in self._read().items() if name not in gone})

    def read_before(self, name: str, content: bytes) -> bool:
        """Return whether a file of this name and content was given away before: it is on the list, or among those done."""
        wanted = digest(content)
        if self._read().get(name) == wanted:
            return True
        for candidate in candidates(name):
            try:
                there = (self._folder / candidate).lstat()
                if there.st_size == len(content) and digest((self._folder / candidate).read_bytes()) == wanted:
                    return True
            except OSError:
                return False
        return False

    def _read(self) -> dict[str, str]:
        if self._digests is None:
            try:
                text = (self._folder / NAME).read_bytes()[:_MOST]
                found = json.loads(text)
            except (OSError, ValueError, RecursionError):
                found = {}
            self._digests = {str(name): str(mark) for name, mark in found.items()} if isinstance(found, dict) else {}
        return self._digests

    def _write(self, digests: dict[str, str]) -> None:
        if digests == self._read():
            return
        beside = self._folder / f"{NAME}.tmp"
        with beside.open("w", encoding="utf-8") as file:
            json.dump(digests, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._folder / NAME)
        self._digests = digests
