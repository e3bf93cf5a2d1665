"""
XSLT, kept away from everything: no file, no network, no Python, and a process of its own that ends when it takes too long.

`document()`, `xsl:include` and `xsl:import` are refused, extension elements that write files too (guarantee.md S14, S15).
The process serves one document after another and is started again when it has ended. It is a new Python and no fork: the
daemon has threads. Of ``xsl:output`` the method counts, ``xml`` or ``text``; what is sent is UTF-8 in any case.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from lxml import etree

from poller.errors import TransientError
from poller.translate.markup import LARGEST, read_own

#: CPU seconds for one document, so that a busy machine makes no faults.
PATIENCE: Final = 10.0
#: By the clock it may take as many times that.
_SLOWER: Final = 6.0
_XSL: Final = "{http://www.w3.org/1999/XSL/Transform}"
_SCRIPT: Final = Path(__file__).with_name("transforming.py")


class StylesheetFault(ValueError):
    """The stylesheet gave nothing for this document. ``str`` is one line without the document's texts."""


class _Ended(Exception):
    """The process has ended of itself, or was ended by the system."""


def load_stylesheet(path: Path) -> Stylesheet:
    """
    Read and compile a stylesheet.

    Raises:
        ValueError: It is none, or wants something from outside; with the file and its line.
    """
    sheet = read_own(path)
    for name in ("include", "import"):
        if (found := sheet.find(f".//{_XSL}{name}")) is not None:
            raise ValueError(f"{path}: line {found.sourceline}: xsl:{name} is not offered; put all into one file")
    methods = {each.get("method", "xml"): each.sourceline for each in sheet.findall(f"{_XSL}output")}
    for method, line in methods.items():
        if method not in {"xml", "text"}:
            raise ValueError(f"{path}: line {line}: the output method is xml or text")
    try:
        etree.XSLT(sheet, access_control=etree.XSLTAccessControl.DENY_ALL)  # type: ignore[attr-defined]
    except etree.XSLTParseError as error:
        lines = [entry.line for entry in error.error_log if entry.line > 0]
        where = f"line {lines[0]}: " if lines else ""
        raise ValueError(f"{path}: {where}is no stylesheet: {' '.join(str(error).split())[:200]}") from None
    return Stylesheet(etree.tostring(sheet, encoding="UTF-8"), text="text" in methods)


class Stylesheet:
    """
    One stylesheet, for any number of threads; they wait for each other.

    Args:
        data: As `load_stylesheet` has found it good.

        text: Its output is text and no XML.

        patience: CPU seconds for one document.
    """

    def __init__(self, data: bytes, *, text: bool = False, patience: float = PATIENCE) -> None:
        self.text = text
        self._data = data
        self._patience = patience
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def transform(self, document: str) -> str:
        """
        Return what the stylesheet makes of a document; XML comes without declaration.

        Raises:
            StylesheetFault: Nothing, or too much, or not in time.
            TransientError: This machine cannot start a process now.
        """
        data = document.encode("utf-8", "replace")
        with self._lock:
            try:
                answer = self._asked(data)
            except _Ended:
                # Whatever it was, such as the system's want of memory: it may have been none of this document's doing.
                answer = self._asked_again(data)
        kind, text = answer[:1], answer[1:].decode("utf-8", "replace")
        if kind == b"e":
            raise StylesheetFault(text)
        return text

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _asked_again(self, data: bytes) -> bytes:
        try:
            return self._asked(data)
        except _Ended as error:
            raise StylesheetFault(
                f"the stylesheet's process ended twice ({error}), as when it needs too much memory"
            ) from None

    def _asked(self, data: bytes) -> bytes:
        until = time.monotonic() + self._patience * _SLOWER
        process = self._running()
        try:
            self._write(process, data)
            (size,) = struct.unpack("!I", self._read(process, 4, until))
            if size > LARGEST:
                raise StylesheetFault(f"the stylesheet makes more than {LARGEST} bytes of it")
            return self._read(process, size, until)
        except StylesheetFault:
            self._end()
            raise
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)  # it has closed its end already; its own exit code tells more than that of being killed
            code = self._end()
            if code == -signal.SIGXCPU:
                raise self._too_long() from None
            raise _Ended(f"exit code {code}") from None

    def _too_long(self) -> StylesheetFault:
        return StylesheetFault(f"the stylesheet takes longer than {self._patience:g} s")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own script
                [sys.executable, "-I", str(_SCRIPT), str(self._patience)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise TransientError(f"the stylesheet's process cannot be started: {error.strerror}") from error
        with contextlib.suppress(OSError):  # if it has ended already, its answer will say so
            self._write(self._process, self._data)
        return self._process

    def _write(self, process: subprocess.Popen[bytes], data: bytes) -> None:
        assert process.stdin is not None  # noqa: S101  asked for
        process.stdin.write(struct.pack("!I", len(data)) + data)
        process.stdin.flush()

    def _read(self, process: subprocess.Popen[bytes], size: int, until: float) -> bytes:
        assert process.stdout is not None  # noqa: S101  asked for
        # Around the buffer of `stdout`: what is in it would not be seen by the selector.
        descriptor, found = process.stdout.fileno(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(found) < size:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise self._too_long()
                data = process.stdout.raw.read(size - len(found))  # type: ignore[attr-defined]
                if not data:
                    raise BrokenPipeError
                found += data
        return bytes(found)

    def _end(self) -> int | None:
        """End the process if it has not ended, and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        return code
