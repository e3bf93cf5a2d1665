"""The logger that the rest of poller uses: a structlog logger that costs next to nothing where a level is not wanted."""

from __future__ import annotations

import logging
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.types import EventDict, Processor

#: What each number is called on a line.
LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class _Threshold:
    """The least level that is told. One for all loggers, so that new settings reach those made long ago."""

    level = logging.INFO


threshold = _Threshold()


class _Bridge:
    """Hands structlog's events to the standard library's handlers, without looking for the caller on the stack."""

    def __init__(self) -> None:
        self._root = logging.getLogger()

    def debug(self, event: EventDict, **extra: Any) -> None:  # noqa: ANN401
        self._take(logging.DEBUG, event, extra)

    def info(self, event: EventDict, **extra: Any) -> None:  # noqa: ANN401
        self._take(logging.INFO, event, extra)

    def warning(self, event: EventDict, **extra: Any) -> None:  # noqa: ANN401
        self._take(logging.WARNING, event, extra)

    def error(self, event: EventDict, **extra: Any) -> None:  # noqa: ANN401
        self._take(logging.ERROR, event, extra)

    def _take(self, level: int, event: EventDict, extra: dict[str, Any]) -> None:
        record = logging.LogRecord("poller", level, "", 0, event, None, None)
        record.__dict__.update(extra["extra"])
        self._root.handle(record)


_PROCESSORS: list[Processor] = [structlog.contextvars.merge_contextvars, ProcessorFormatter.wrap_for_formatter]


class Logger(structlog.BoundLoggerBase):
    """
    Logs events of the catalogue.

    Facts are plain values. ``exc_info`` may be an exception; its traceback, without local variables, becomes ``exception``.
    """

    def debug(self, event: str, /, **facts: object) -> None:
        """Tell a step."""
        if threshold.level <= logging.DEBUG:
            self._proxy_to_logger("debug", event, **facts)

    def info(self, event: str, /, **facts: object) -> None:
        """Tell that something happened as it should."""
        if threshold.level <= logging.INFO:
            self._proxy_to_logger("info", event, **facts)

    def warning(self, event: str, /, **facts: object) -> None:
        """Tell that something is not as it should be, and that poller goes on by itself."""
        if threshold.level <= logging.WARNING:
            self._proxy_to_logger("warning", event, **facts)

    def error(self, event: str, /, **facts: object) -> None:
        """Tell that a person is needed."""
        self._proxy_to_logger("error", event, **facts)


def get_logger() -> Logger:
    """Return a logger. It may be made at any time, also before `setup`, and follows every later `setup`."""
    return Logger(_Bridge(), _PROCESSORS, {})
