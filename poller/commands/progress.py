"""A line on stderr that shows how far the work is, below the log where both go to the same terminal."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from typing import TextIO, cast

#: Redrawn at most so often, in seconds.
_PAUSE = 0.1
_CLEAR = "\r\x1b[K"


class Progress:
    """Draws ``[#####-----]  12 of 24  50%``; nothing at all where stderr is no terminal."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._lock = threading.Lock()
        self._line = ""
        self._drawn = 0.0

    def __call__(self, done: int, among: int) -> None:
        """Show that *done* of *among* are finished."""
        now = time.monotonic()
        if not self._shows or not among or (now - self._drawn < _PAUSE and done < among):
            return
        part = done / among
        line = f"[{'#' * int(30 * part):-<30}]  {done} of {among}  {part:.0%}"
        with self._lock:
            self._drawn = now
            if line != self._line:
                self._line = line
                sys.stderr.write(_CLEAR + line)
                sys.stderr.flush()

    def above(self, stream: TextIO) -> TextIO:
        """Return *stream*, or one in its place that keeps the line below what is written."""
        return cast("TextIO", _Above(self, stream)) if self._shows and stream.isatty() else stream

    def write_above(self, stream: TextIO, text: str) -> None:
        """Write *text* where the line is, and the line again below it."""
        with self._lock:
            stream.write((_CLEAR if self._line else "") + text)
            stream.flush()
            sys.stderr.write(self._line)
            sys.stderr.flush()

    def close(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._line:
                sys.stderr.write(_CLEAR)
                sys.stderr.flush()
            self._line, self._shows = "", False


class _Above(io.TextIOBase):
    """What the log writes to; it has no descriptor, so that every line comes through here."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._progress.write_above(self._stream, text)
        return len(text)
