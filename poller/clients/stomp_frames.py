"""
Where one incoming STOMP frame ends and the next begins, in bytes as they come; what is in a frame is stomp-py's business.

Source: STOMP 1.2, "Augmented BNF".
"""

from __future__ import annotations

import re
from typing import Final

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*([^\r\n]*)")
_LINE_BREAKS: Final = re.compile(rb"[\r\n]+")
#: Bytes of a frame's head at most.
_HEAD: Final = 65536


class Unreadable(Exception):
    """What comes is no frame, or too large a one; nothing behind it can be trusted."""


class Incoming:
    """
    The bytes that have come and were not yet given away.

    Args:
        largest: Bytes of a frame.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._bytes = bytearray()
        self._looked = 0
        #: A frame came that is too large.
        self.oversized = False

    def add(self, data: bytes) -> None:
        self._bytes += data

    def take(self) -> bytes | None:
        """
        Return the next frame with the NUL at its end, a line break for those before it, or None where more is needed.

        Raises:
            Unreadable: There will be none.
        """
        if found := _LINE_BREAKS.match(self._bytes):
            del self._bytes[: found.end()]
            return b"\n"
        size = self._size()
        if max(size or 0, len(self._bytes) if size is None else 0) > self._largest:
            self.oversized = True
            raise Unreadable
        if size is None or size > len(self._bytes):
            return None
        frame = bytes(self._bytes[:size])
        if frame[-1]:
            raise Unreadable
        del self._bytes[:size]
        self._looked = 0
        return frame

    def _size(self) -> int | None:
        """Return how many bytes the first frame has; None where that cannot be said yet."""
        head = _HEAD_END.search(self._bytes, 0, _HEAD)
        if head is None:
            if len(self._bytes) >= _HEAD or 0 in self._bytes:
                raise Unreadable
            return None
        if length := _LENGTH.search(self._bytes, 0, head.start()):
            if not length[1].isdigit() or len(length[1]) > 12:
                raise Unreadable
            return head.end() + int(length[1]) + 1
        end = self._bytes.find(0, max(head.end(), self._looked))
        self._looked = len(self._bytes)
        return None if end < 0 else end + 1
