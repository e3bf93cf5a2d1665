"""
The mark file, beside the database: the newest intent that was committed, its delivery and that one's epoch.

A database that is behind it was thrown back in time (guarantee 2.3, 8). It is rewritten without fsync after each group
commit and before the requests of that commit leave: it survives a killed process, and is only a hint after a power cut.
"""

from __future__ import annotations

import os
from pathlib import Path


class Mark:
    """
    One mark file.

    Args:
        path: Made when first written; None: there is nowhere to keep one.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: int | None = None

    def read(self) -> tuple[int, int, int] | None:
        """Return intent number, delivery and epoch in the file, None where there is no readable one."""
        if self._path is None:
            return None
        try:
            number, delivery_id, epoch = self._path.read_text(encoding="ascii").split()
            return int(number), int(delivery_id), int(epoch)
        except (OSError, ValueError):
            return None

    def write(self, number: int, delivery_id: int, epoch: int) -> None:
        """Put this intent in the place of the former one; a disk that refuses is not worth stopping for."""
        if self._path is None:
            return
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Always as long, so that no cut is ever needed.
            os.pwrite(self._file, b"%020d %020d %020d\n" % (number, delivery_id, epoch), 0)
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
