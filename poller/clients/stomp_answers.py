"""
What a STOMP broker's ERROR frame means for what happens next.

The broker's own words are looked at and never passed on: where it could not read a frame, they hold pieces of it. They are
ActiveMQ's; a broker with other words gets the careful answer.

Source: ActiveMQ Classic 5.17, tried.
"""

from __future__ import annotations

import re
from typing import Final

from poller.errors import BlockedError, PermanentError, PollerError, TransientError, UnknownOutcome

_NAMED: Final = re.compile(r"\b(queue|topic)://[^\s,;)\]}]+")
_RIGHTS: Final = re.compile(
    r"user name|password|authenticat|authori[sz]|not allowed|access denied|credential|login", re.IGNORECASE
)
_SIZE: Final = re.compile(
    # A connection that was "inactive for too long" says nothing of a message.
    r"maximum \w+ (size|length) was exceeded|(message|frame|body|header|data)\b.{0,40}\btoo (large|big|long)|larger than max",
    re.IGNORECASE,
)
_FULL: Final = re.compile(
    r"limit reached|usage manager|resourceallocation|no space|disk full|store is full", re.IGNORECASE
)
_DESTINATION: Final = re.compile(r"(illegal|invalid|unknown) destination|destination \S+ does not exist", re.IGNORECASE)


def refusal(where: str, message: str, *, ours: bool) -> PollerError:
    """
    Return what an ERROR frame is to be raised as.

    Args:
        where: Host and port.

        message: The frame's header ``message``.

        ours: It names the receipt that was asked for, so that it speaks of our frame and of nothing else.
    """
    # ActiveMQ names the destination in its texts, and a queue may be called "logins".
    message = _NAMED.sub("", message)
    if _SIZE.search(message):
        return PermanentError(
            f"{where}: the message is larger than the broker takes; see wireFormat.maxFrameSize there"
        )
    if _FULL.search(message):
        return TransientError(f"{where}: the broker is full", remote=True)
    if _RIGHTS.search(message):
        return BlockedError(f"{where} refuses us; check username, password, and the user's rights on the destination")
    if _DESTINATION.search(message):
        return BlockedError(f"{where} has no such destination; check destination")
    if ours:
        return TransientError(f"{where} answered with an error; its log says which")
    return UnknownOutcome(f"{where} sent an error that speaks of no message of ours; its log says which")
