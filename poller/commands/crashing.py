"""What is told when a command ends otherwise than anybody foresaw."""

from __future__ import annotations

import os
import tempfile
import traceback

from sqlalchemy.exc import DBAPIError

from poller import logs
from poller.commands.showing import clean, warn

DATABASE, CRASHED = 75, 70


def ended(error: Exception) -> int:
    """Tell *error* in one line, keep its traceback in a file, and return the exit code."""
    if isinstance(error, DBAPIError):
        lines = str(error.orig or error).strip().splitlines()
        warn(clean(f"poller: database cannot be used: {lines[0] if lines else type(error).__name__}"))
        return DATABASE
    kind = type(error).__name__
    warn(clean(f"poller: a fault in poller itself ({kind}); please report it with {_keep(error)}"))
    return CRASHED


def _keep(error: Exception) -> str:
    """Write the traceback, without secrets, to a file that only its owner can read; return where."""
    text = logs.redact("".join(traceback.format_exception(error)))
    try:
        descriptor, name = tempfile.mkstemp(prefix="poller-crashed-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return "what it was doing"
    return name
