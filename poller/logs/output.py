"""
Write lines to stdout without ever waiting for whoever reads them.

Lines go into a bounded queue and one thread writes them. When the reader is slow (a full pipe, a stopped terminal, the
journal under pressure) or gone, work goes on: what does not fit is counted and told by ``lines_dropped`` once lines get through.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import TextIO

#: What may wait for its reader: lines, and bytes.
MAX_LINES = 20_000
MAX_BYTES = 8_000_000
#: Lines are collected this long and written together: one write and one change of threads for many lines.
_GATHER = 0.005
_BATCH = 1_000


class Output:
    """One stream, its queue and its thread."""

    def __init__(self, stream: TextIO | None, on_dropped: Callable[[int], object]) -> None:
        self.dropped = 0
        self._on_dropped = on_dropped
        self._stream = stream
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # A descriptor of our own: if somebody closed 1 and a database came to sit on it, lines would go in there.
            self._descriptor = os.dup(stream.fileno()) if stream is not None else None
        self._queue: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        # Each is changed by one side only, so neither needs a lock.
        self._taken = self._written = 0
        self._told = 0
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Take one line, with its newline, or drop it. Called with the handler's lock held."""
        full = self._queue.qsize() >= MAX_LINES or self._taken - self._written > MAX_BYTES
        # What the writing thread itself has to say is that lines were dropped: that one always fits.
        if full and threading.current_thread() is not self._thread:
            self.dropped += 1
            return
        self._taken += len(line)
        self._queue.put(line)

    def flush(self, timeout: float) -> bool:
        """Wait until everything put so far is written, at most *timeout* seconds. Returns whether it is."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout)

    def _run(self) -> None:
        while True:
            batch, marks = self._gather()
            data = b"".join(batch)
            written = self._write(data)
            self._written += len(data)
            if not written:
                self._lost += len(batch)
            for mark in marks:
                mark.set()
            if written and (missing := self.dropped + self._lost - self._told) > 0:
                self._told += missing
                self._on_dropped(missing)

    def _gather(self) -> tuple[list[bytes], list[threading.Event]]:
        lines: list[bytes] = []
        marks: list[threading.Event] = []
        item = self._queue.get()
        if isinstance(item, bytes):
            time.sleep(_GATHER)
        while True:
            if isinstance(item, bytes):
                lines.append(item)
            else:
                marks.append(item)
                break
            if len(lines) >= _BATCH:
                break
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        return lines, marks

    def _write(self, data: bytes) -> bool:
        """Write all of *data*; False where nobody will ever read it."""
        if not data:
            return False
        try:
            if self._descriptor is not None:
                self._write_descriptor(self._descriptor, data)
                return True
            if self._stream is not None:
                self._stream.write(data.decode("utf-8", "replace"))
                self._stream.flush()
                return True
        except (OSError, ValueError):  # closed, or its reader is gone
            return False
        return False

    @staticmethod
    def _write_descriptor(descriptor: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                select.select([], [descriptor], [], 1.0)  # somebody made it non-blocking


class OutputHandler(logging.Handler):
    """Hands formatted lines to the output. Never raises."""

    def __init__(self, output: Output, level: int) -> None:
        super().__init__(level)
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.output.put(self._line(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # noqa: BLE001  a line less is better than a delivery less
            self.output.dropped += 1

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception:  # noqa: BLE001  another library's line whose arguments do not fit
            record.msg, record.args = str(record.msg), None
            return self.format(record)


_current: list[Output] = []


def use(output: Output) -> None:
    """Make *output* the one that `flush` speaks of."""
    if not _current:
        atexit.register(flush)
    _current[:] = [output]


def flush(timeout: float = 1.0) -> bool:
    """Wait until what was logged so far is written, at most *timeout* seconds. Returns whether it is."""
    return all(output.flush(timeout) for output in _current)
