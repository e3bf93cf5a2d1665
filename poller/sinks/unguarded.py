"""
What sinks have in common whose receivers cannot be asked what became of a message.

An unknown outcome is simply sent again, with the same bytes and the same id; nothing is looked up, nothing is proven.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import ClassVar

from poller.model import Intent, Operation, Owned, Prepared, Ready, Receipt, Record, Undeliverable
from poller.translate import TemplateFault
from poller.translate.documents import TranslateFault


class UnguardedSink:
    """The part of `poller.ports.Sink` that they share; what is rendered and sent is each one's own."""

    operation: ClassVar[Operation] = Operation.SEND
    guarded: ClassVar[bool] = False
    settle_seconds: ClassVar[float] = 0.0

    def __init__(self, remote: str) -> None:
        self.remote = remote
        #: Whether an intent may still be sent, asked right before its first byte; set by the wiring.
        self.may_send: Callable[[Intent], bool] = _always

    def guard_key(self) -> str:
        return ""

    def prepare(self, batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        return [self._prepared(record) for record in batch]

    def _prepared(self, record: Record) -> Prepared:
        try:
            return Ready(body=self.freeze(record))
        except (TemplateFault, TranslateFault) as error:
            return Undeliverable(reason=str(error))

    def freeze(self, record: Record) -> str:
        """
        Return all that is sent for a record, as one text.

        Raises:
            TemplateFault | TranslateFault: There is nothing to be sent for it.
        """
        raise NotImplementedError

    def deliver(self, intent: Intent) -> Receipt:
        """See `poller.ports.Sink.deliver`."""
        raise NotImplementedError

    def find(self, intents: Sequence[Intent]) -> list[Receipt | None]:
        return [None] * len(intents)

    def owned(self, prefix: str, *, since: datetime, most: int) -> list[Owned]:
        return []


def envelope(**parts: str) -> str:
    """Return several texts as the one that is frozen."""
    return json.dumps(parts, ensure_ascii=True)


def opened(body: str) -> dict[str, str]:
    """Return the texts in an `envelope`."""
    parts: dict[str, str] = json.loads(body)
    return parts


def _always(_intent: Intent) -> bool:
    return True
