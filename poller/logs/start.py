"""Start logging: handlers, other libraries' loggers, warnings, and whatever nobody caught."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any, TextIO

from structlog.stdlib import ProcessorFormatter

from poller.logs import output, rendering
from poller.logs.logger import get_logger, threshold

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

#: What other libraries may say at least, at every level of our own: below, they tell addresses, queries, rows and tokens.
_PINNED = {
    "": logging.WARNING,
    "alembic": logging.WARNING,
    "apscheduler": logging.WARNING,
    "oauthlib": logging.INFO,
    "requests_oauthlib": logging.INFO,
    "sqlalchemy": logging.WARNING,
    "urllib3": logging.ERROR,  # its warnings hold whole addresses, and with them what was asked for
}

log = get_logger()


def setup(level: str = "info", format: str = "auto", *, stream: TextIO | None = None) -> None:
    """
    Start logging, or go on with other settings.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.

        format: ``json``, ``console``, or ``auto``: console where the stream is a terminal.

        stream: Left out: stdout. Commands that print their answer on stdout log to stderr.
    """
    stream = stream or sys.stdout
    terminal = _is_terminal(stream)
    columns = format == "console" or (format == "auto" and terminal)
    threshold.level = _LEVELS[level]
    handler = output.OutputHandler(_output(stream), threshold.level)
    handler.setFormatter(
        _Formatter(
            foreign_pre_chain=[rendering.from_elsewhere],
            processors=[rendering.arranged, rendering.AsColumns(colours=terminal) if columns else rendering.as_json],
        )
    )
    # Nobody is told the thread or the process of a line, so nobody need look them up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [
        kept for kept in root.handlers if not isinstance(kept, output.OutputHandler | logging.StreamHandler)
    ]
    root.addHandler(handler)
    for name, least in _PINNED.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


class _Formatter(ProcessorFormatter):
    """Takes a shorter way with our own events: no second record is made of each."""

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record.msg, dict):
            return super().format(record)
        line: Any = {**record.msg, "_record": record}
        for process in self.processors:
            line = process(None, "", line)
        return str(line)


_outputs: dict[int, tuple[TextIO, output.Output]] = {}


def _output(stream: TextIO | None) -> output.Output:
    """Return the output of *stream*; the same one each time, so that nothing overtakes."""
    if (known := _outputs.get(id(stream))) and known[0] is stream:
        output.use(known[1])
        return known[1]
    made = output.Output(stream, on_dropped=lambda count: log.warning("lines_dropped", count=count))
    if stream is not None:
        _outputs[id(stream)] = (stream, made)
    output.use(made)
    return made


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def _uncaught(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _crashed(error, threading.current_thread().name)
    output.flush()


def _uncaught_in_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_type is SystemExit or what.exc_value is None:
        return
    _crashed(what.exc_value, what.thread.name if what.thread else "")


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    if what.exc_value is not None:
        _crashed(what.exc_value, threading.current_thread().name)


def _crashed(error: BaseException, thread: str) -> None:
    log.error("crashed", error=type(error).__name__, thread=thread, exc_info=error)
