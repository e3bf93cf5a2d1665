"""What a STOMP broker has said on one connection, as stomp-py's reader tells it, and waiting for more of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message as it came."""

    #: What it is acknowledged by.
    ack: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Heard:
    """What the reader has heard, and wakes those for who wait for it."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    version: str | None = None
    receipts: set[str] = field(default_factory=set)
    error: Mapping[str, str] | None = None
    ended: bool = False
    silent: bool = False
    subscription: str | None = None
    messages: deque[Message] = field(default_factory=deque)

    # stomp-py calls these by name.

    def on_connected(self, frame: Any) -> None:  # noqa: ANN401  it has no types
        self._set(version=frame.headers.get("version", "1.0"))

    def on_receipt(self, frame: Any) -> None:  # noqa: ANN401
        with self.changed:
            self.receipts.add(frame.headers.get("receipt-id", ""))
            self.changed.notify_all()

    def on_error(self, frame: Any) -> None:  # noqa: ANN401
        # The first says what was wrong; others may follow from it.
        if self.error is None:
            self._set(error=frame.headers)

    def on_message(self, frame: Any) -> None:  # noqa: ANN401
        headers = frame.headers
        # A text message from elsewhere has no length: what stands behind a NUL in it looks like a frame. Nobody else knows
        # the name of our subscription, or of a receipt.
        if self.subscription is None or headers.get("subscription") != self.subscription:
            return
        with self.changed:
            self.messages.append(Message(ack=headers.get("ack", ""), headers=headers, body=frame.body or b""))
            self.changed.notify_all()

    def on_disconnected(self) -> None:
        self._set(ended=True)

    def on_heartbeat_timeout(self) -> None:
        self._set(silent=True)

    def _set(self, **what: Any) -> None:  # noqa: ANN401
        with self.changed:
            for name, value in what.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait(self, until: Callable[[], object], seconds: float) -> None:
        """Wait until that, or an error, or the end; at most so long."""
        with self.changed:
            self.changed.wait_for(lambda: until() or self.error is not None or self.ended, seconds)
