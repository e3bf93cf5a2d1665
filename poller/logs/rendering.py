"""One event in, one line out: JSON for machines, columns for a terminal. Neither ever raises."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import structlog
from structlog.types import EventDict, WrappedLogger

from poller.logs.logger import LEVELS
from poller.logs.redaction import clean, described

_FIRST = ("route", "key", "correlation_id", "state", "number")

#: Valid in JSON, and yet: line ends to some readers, orders to terminals, and signs that turn the reading direction.
_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNSEEN_ON_TERMINAL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def from_elsewhere(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make an event of a line that another library logged."""
    record: logging.LogRecord = event["_record"]
    return {**event, "event": "third_party", "logger": record.name, "message": event.get("event", "")}


def arranged(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put keys in their order, and clean every value."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog", None)
    exception = event.pop("exc_info", None) or record.exc_info
    line: dict[str, Any] = {
        "timestamp": f"{datetime.now(UTC).isoformat(timespec='microseconds')[:-6]}Z",
        "level": LEVELS.get(record.levelno) or _level(record.levelno),
        "event": event.pop("event"),
    }
    for key in _FIRST:
        if key in event:
            line[key] = clean(key, event.pop(key))
    for key, value in event.items():
        line.setdefault(key, clean(key, value))
    if exception and (text := _traceback(exception)):
        line["exception"] = clean("exception", text)
    return line


def _level(number: int) -> str:
    return "error" if number >= logging.ERROR else LEVELS[max(number // 10 * 10, logging.DEBUG)]


def _traceback(given: Any) -> str:  # noqa: ANN401  True, an exception, or what sys.exc_info gives
    error = given[1] if isinstance(given, tuple) else given
    if error is True:
        error = sys.exc_info()[1]
    if not isinstance(error, BaseException):
        return ""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception:  # noqa: BLE001  an exception that cannot be shown
        return f"<{type(error).__name__}>"


def as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return *event* as one line of JSON."""
    try:
        line = orjson.dumps(event, default=_plain).decode()
    except Exception:  # noqa: BLE001  half a surrogate pair, a number beyond 64 bits
        line = _as_json_slowly(event)
    return line if line.isascii() and "\x7f" not in line else _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _as_json_slowly(event: EventDict) -> str:
    try:
        return json.dumps(_finite(event), default=_plain, allow_nan=False)
    except Exception:  # noqa: BLE001
        return json.dumps({str(key): described(value) for key, value in event.items()})


def _finite(value: object) -> object:
    """Return *value* without what JSON has no word for, as orjson does."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else described(value)


class AsColumns:
    """Returns an event as a line for people."""

    def __init__(self, *, colours: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(
            colors=colours, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Return the line."""
        exception = event.pop("exception", None)
        seen = {key: _seen(value) for key, value in event.items()}
        line = self._render(logger, method, seen)
        if exception is None:
            return line
        return "\n".join([line, *(_seen(text) for text in str(exception).split("\n"))])


def _seen(value: object) -> Any:  # noqa: ANN401
    text = value if isinstance(value, str) else None
    if text is None:
        if value is None or isinstance(value, bool | int | float):
            return value
        text = json.dumps(value, default=_plain)
    return _UNSEEN_ON_TERMINAL.sub(lambda found: ascii(found[0])[1:-1], text)
