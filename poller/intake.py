"""
What is pushed becomes records, many requests in one commit.

A request is answered only once its records are committed. Whoever finds the database free commits for all who wait by then:
a flush to the disk costs the same for one record as for fifty. Everybody whose records are committed goes at once, and the
first of those who came meanwhile is the next to commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from poller import metrics
from poller.clock import Clock
from poller.errors import TransientError
from poller.logs import get_logger
from poller.model import Kept, Page
from poller.route import Route
from poller.store import Store, first_line
from poller.store.reading import RecordLine, records_by_key
from poller.store.receiving import Counts, keys_kept, receive

log = get_logger()


@dataclass
class _Waiting:
    """One request whose records are to be committed."""

    route: Route
    page: Page
    keys: list[str]
    kept: list[Kept] | None = None
    error: TransientError | None = None
    #: Set once it is settled, or has to commit for all.
    turn: threading.Event = field(default_factory=threading.Event)

    @property
    def settled(self) -> bool:
        """Whether there is something to answer."""
        return self.kept is not None or self.error is not None


class Intake:
    """
    Takes what is pushed; for any number of threads.

    Args:
        routes: Asked each time: settings may have changed.
    """

    def __init__(self, store: Store, clock: Clock, routes: Callable[[], Mapping[str, Route]]) -> None:
        self._store = store
        self._clock = clock
        self._routes = routes
        self._queue: list[_Waiting] = []
        self._queueing = threading.Lock()
        #: Somebody commits, or has been told to.
        self._led = False

    def push(self, route: str, page: Page) -> list[Kept]:
        """
        Store the records of *page* and return them as they stand; malformed ones last.

        Raises:
            KeyError: There is no such route any more.

            TransientError: The database did not take them; nothing of this page counts.
        """
        one = _Waiting(self._routes()[route], page, keys_kept(page))
        with self._queueing:
            self._queue.append(one)
            leads, self._led = not self._led, True
        if not leads:
            one.turn.wait()
        if not one.settled:
            self._lead()
        if one.error is not None:
            raise one.error
        return one.kept or []

    def record(self, route: str, key: str) -> Kept | None:
        """
        Return how a record stands, None where there is none.

        Raises:
            KeyError: There is no such route.

            TransientError: The database does not answer.
        """
        route_id = self._routes()[route].id
        try:
            with self._store.read() as connection:
                found = records_by_key(connection, route_id, [key])
        except SQLAlchemyError as error:
            raise TransientError(f"the database does not answer: {first_line(error)}") from error
        return _kept(found[key]) if key in found else None

    def _lead(self) -> None:
        """Commit for all who wait, and let the next one do so for those who came meanwhile."""
        batch: list[_Waiting] = []
        try:
            try:
                self._commit(batch)
            except SQLAlchemyError as error:
                if not batch:
                    # It could not even be begun, and would be as little for each of them.
                    batch += self._take()
                    self._failed(batch, error)
                else:
                    self._settle_each(batch, error)
        finally:
            # Whatever has happened: whoever waits must hear of it.
            for one in batch:
                if not one.settled:
                    one.error = TransientError("it could not be stored")
                one.turn.set()
            with self._queueing:
                following = self._queue[0] if self._queue else None
                self._led = following is not None
            if following is not None:
                following.turn.set()

    def _take(self) -> list[_Waiting]:
        with self._queueing:
            batch, self._queue = self._queue, []
        return batch

    def _settle_each(self, batch: Sequence[_Waiting], error: SQLAlchemyError) -> None:
        """Commit each of *batch* for itself: nobody suffers for what another one sent."""
        if len(batch) == 1:
            self._failed(batch, error)
            return
        for one in batch:
            try:
                self._commit([one])
            except SQLAlchemyError as own:
                self._failed([one], own)

    @staticmethod
    def _failed(batch: Sequence[_Waiting], error: SQLAlchemyError) -> None:
        log.error("database_failed", error=first_line(error))
        for one in batch:
            one.error = TransientError("the database does not take it now")

    def _commit(self, batch: list[_Waiting]) -> None:
        """Commit *batch*; where it is empty, all who wait once the database is free, who are put into it."""
        with self._store.write() as connection:
            if not batch:
                batch += self._take()
            groups = list(_groups(batch))
            done = [(group, *self._receive(connection, group)) for group in groups]
        for group, counts, lines in done:
            route = group[0].route
            for one in group:
                one.kept = [_kept(lines[key]) for key in one.keys]
            log.info(
                "records_pushed", route=route.name, new=counts.new, known=counts.known, changed=counts.changed,
                malformed=counts.malformed, requests=len(group),
            )  # fmt: skip
            metrics.pushed(route.name, counts.new, counts.known, counts.changed, counts.malformed)
            for key, reason in counts.dead:
                log.error("record_dead", route=route.name, key=key, attempts=0, error=reason)
            route.wake()

    def _receive(self, connection: Connection, group: Sequence[_Waiting]) -> tuple[Counts, dict[str, RecordLine]]:
        route = group[0].route
        page = Page(
            records=tuple(record for one in group for record in one.page.records),
            malformed=tuple(each for one in group for each in one.page.malformed),
        )
        # Whoever pushes a record says that it is new: a first poll that skips what is old is not about it.
        receiver = replace(route.receiver, baseline=False, pushed=True)
        counts = receive(connection, receiver, page, now=self._clock.now())
        return counts, records_by_key(connection, route.id, {key for one in group for key in one.keys})


def _groups(batch: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """Return *batch* in groups of one route, in which no key comes twice: a later version must be seen as one."""
    groups: list[list[_Waiting]] = []
    open_groups: dict[int, tuple[list[_Waiting], set[str]]] = {}
    for one in batch:
        group, keys = open_groups.get(one.route.id, ([], set()))
        if not group or not keys.isdisjoint(one.keys):
            group, keys = [], set()
            open_groups[one.route.id] = (group, keys)
            groups.append(group)
        group.append(one)
        keys.update(one.keys)
    return groups


def _kept(line: RecordLine) -> Kept:
    return Kept(
        key=line.key,
        version=line.version,
        state=line.state,
        correlation_id=line.correlation_id,
        number=line.number,
        sys_id=line.sys_id,
        first_seen=line.first_seen,
        settled_at=line.settled_at,
        reason=line.reason,
    )
