"""
Logs: one JSON object a line on stdout, or readable lines where stdout is a terminal.

Events have fixed names, listed in `catalogue`; facts are keys, never in the text. Whatever other libraries, warnings and
crashes have to say comes out in the same shape. Logging never raises, never waits for whoever reads stdout (`output`), and
never tells a secret (`redaction`). Contents of records are not logged at all: leaving them out is the caller's part.

::

    log = get_logger()
    log.info("poll_finished", route="helpdesk", new=3, known=40, pages=2, seconds=0.4)
"""

from poller.logs.catalogue import EVENTS, EventSpec
from poller.logs.logger import Logger, get_logger
from poller.logs.output import flush
from poller.logs.redaction import hide, redact, set_secrets
from poller.logs.start import setup

__all__ = ["EVENTS", "EventSpec", "Logger", "flush", "get_logger", "hide", "redact", "set_secrets", "setup"]
