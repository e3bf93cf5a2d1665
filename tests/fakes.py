"""A source, a sink and a clock that tests command. No mocks of our own code: these stand where the world is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta
from typing import Any

from poller.clock import Clock
from poller.errors import PollerError
from poller.lifecycle import Policy
from poller.model import (
    AlreadyThere,
    Fields,
    Intent,
    Operation,
    Owned,
    Page,
    Prepared,
    Ready,
    Receipt,
    Record,
    SourceRecord,
    Undeliverable,
)
from poller.ports import Known, nothing_known


class HandClock(Clock):
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.seconds = 1000.0

    def monotonic(self) -> float:  # type: ignore[override]
        return self.seconds

    def now(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        step = timedelta(**by)
        self.at += step
        self.seconds += step.total_seconds()


class Inline(Executor):
    """Works at once, in the caller's thread, unless told to keep its work back."""

    def __init__(self) -> None:
        self.kept: list[Callable[[], object]] = []
        self.keeping = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.keeping:
            self.kept.append(lambda: fn(*args, **kwargs))
        else:
            fn(*args, **kwargs)
        return Future()

    def release(self) -> None:
        kept, self.kept = self.kept, []
        for work in kept:
            work()


class FakeSource:
    """Gives the pages it was told to, or raises what stands among them."""

    def __init__(self, *pages: Page | PollerError) -> None:
        self.pages = list(pages)
        self.checkpoints: list[str | None] = []

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        self.checkpoints.append(checkpoint)
        for page in self.pages:
            if isinstance(page, PollerError):
                raise page
            yield page


class FakeSink:
    """An instance in memory. `script` holds what the next deliveries meet, in order; empty: they go well."""

    remote = "fake"
    operation = Operation.CREATE
    guarded = True
    settle_seconds = 20.0

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.posts: list[Intent] = []
        self.looks = 0
        self.prepared: list[tuple[str, ...]] = []
        self.honours = True
        self.blind = False
        self.script: list[object] = []
        self.prepare_script: list[PollerError] = []
        self.find_script: list[PollerError] = []
        self.dead_keys: set[str] = set()
        self.lock = threading.Lock()

    def guard_key(self) -> str:
        return "fake incident poller"

    def prepare(self, batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        self.prepared.append(tuple(record.key for record in batch))
        if self.prepare_script:
            raise self.prepare_script.pop(0)
        return [self._prepared(record) for record in batch]

    def _prepared(self, record: Record) -> Prepared:
        if record.key in self.dead_keys:
            return Undeliverable(reason="user unknown")
        if record.operation is Operation.CREATE and record.correlation_id in self.rows:
            return AlreadyThere(receipt=self._receipt(record.correlation_id, "lookup", record.derived_sys_id))
        return Ready(body="{}")

    def deliver(self, intent: Intent) -> Receipt:
        with self.lock:
            self.posts.append(intent)
            planned = self.script.pop(0) if self.script else None
        if callable(planned):
            planned = planned(self, intent)
        if isinstance(planned, PollerError):
            raise planned
        return self.commit(intent)

    def commit(self, intent: Intent) -> Receipt:
        """Create the row, as the instance does."""
        sys_id = intent.derived_sys_id if intent.with_sys_id and self.honours else f"{len(self.rows):032x}"
        self.rows[intent.correlation_id] = sys_id
        read_back = (not self.blind) if intent.read_back else None
        honoured = (sys_id == intent.derived_sys_id) if intent.with_sys_id else None
        return Receipt(
            learnt="response",
            sys_id=sys_id,
            number=f"INC{len(self.rows):07}",
            read_back=read_back,
            sys_id_honoured=honoured,
        )

    def find(self, intents: Sequence[Intent]) -> list[Receipt | None]:
        self.looks += 1
        if self.find_script:
            raise self.find_script.pop(0)
        return [
            self._receipt(i.correlation_id, "lookup", i.derived_sys_id) if i.correlation_id in self.rows else None
            for i in intents
        ]

    def owned(self, prefix: str, *, since: datetime, most: int) -> list[Owned]:
        return [
            Owned(sys_id=sys_id, correlation_id=correlation_id, created_at="2026-01-02 03:04:05")
            for correlation_id, sys_id in self.rows.items()
            if correlation_id.startswith(f"{prefix}:")
        ][:most]

    def _receipt(self, correlation_id: str, learnt: str, derived: str) -> Receipt:
        sys_id = self.rows[correlation_id]
        return Receipt(learnt=learnt, sys_id=sys_id, number="INC1", sys_id_honoured=True if sys_id == derived else None)


def records(*keys: str, version: str = "1", **fields: str) -> tuple[SourceRecord, ...]:
    """Return records with these keys."""
    given: Fields = {"username": "abel.tuter", **fields}
    return tuple(SourceRecord(key=key, version=version, fields=given) for key in keys)


def last(*keys: str, version: str = "1", checkpoint: str | None = None) -> Page:
    """Return the one page of a whole poll."""
    return Page(records=records(*keys, version=version), last=True, checkpoint=checkpoint)


POLICY = Policy(settle=timedelta(seconds=20))


class Messages(FakeSink):
    """A receiver that drops nothing and cannot be asked."""

    operation = Operation.SEND
    guarded = False
    settle_seconds = 0.0

    def guard_key(self) -> str:
        return ""

    def commit(self, intent: Intent) -> Receipt:
        return Receipt(learnt="response")
