"""
Records into a ServiceNow table, each one once.

What is asked, sent and compared stands here; when and how often is the dispatcher's. Every row that an instance returns
is compared with what was asked, because conditions that it does not understand are dropped. Nothing is sent twice.

Source: guarantee.md 2.3.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from poller.clients.answers import Created
from poller.clients.rows import COLUMNS, Incidents, altered, differences, receipt
from poller.clients.servicenow import ServiceNowClient
from poller.errors import (
    BlockedError,
    HeldError,
    NotSentError,
    PermanentError,
    PollerError,
    RefusedError,
    TransientError,
    UnknownOutcome,
)
from poller.model import AlreadyThere, Intent, Operation, Owned, Prepared, Receipt, Record
from poller.sinks.servicenow_bodies import Bodies
from poller.sinks.servicenow_settings import ServiceNowSinkSettings
from poller.sinks.servicenow_updates import Updates

__all__ = ["ServiceNowSink", "ServiceNowSinkSettings"]

#: Creates stop where the clocks are further apart, in seconds.
_SKEWED: Final = 300.0
#: Waits before each look for a row just made, in seconds: a read replica may lag a little.
_READ_BACK: Final = (0.0, 1.0, 2.0)


class ServiceNowSink:
    """
    Carries out `poller.ports.Sink`.

    Args:
        settings: ``[routes.NAME.sink]``.

        client: The instance.

        previously: Names that the route had before; they stand in the ``correlation_display`` of older rows.
    """

    #: What the table `poller.sinks.SINKS` is asked for.
    settings: ClassVar[type[ServiceNowSinkSettings]] = ServiceNowSinkSettings
    operation: ClassVar[Operation] = Operation.CREATE
    guarded: ClassVar[bool] = True

    def __init__(
        self, settings: ServiceNowSinkSettings, client: ServiceNowClient, *, previously: Collection[str] = ()
    ) -> None:
        self._settings = settings
        self._client = client
        self.bodies = Bodies(settings, client)
        self._updates = Updates(settings, client)
        self._incidents = Incidents(client, settings.table, previously=previously)
        self._probed = False
        self.remote = client.instance
        self.settle_seconds = (client.settings.tcp_bound + client.settings.max_execution).total_seconds()
        #: Whether the guard by sys_id is proven; set by the wiring.
        self.proven: Callable[[], bool] = _never
        #: Whether every incident of ours is sure to bear our sys_id: then the pre-check asks by the primary key; set by the wiring.
        self.primary: Callable[[], bool] = _never
        #: Whether an intent may still be sent, asked right before its first byte; set by the wiring.
        self.may_send: Callable[[Intent], bool] = _always

    def guard_key(self) -> str:
        return f"{self._client.identity()} {self._settings.table}"

    # Before.

    def prepare(self, batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        changes = [record for record in batch if record.operation is Operation.UPDATE]
        if not changes:
            return self._prepare(batch, now=now, fresh=fresh)
        new = [record for record in batch if record.operation is not Operation.UPDATE]
        made = iter(self._prepare(new, now=now, fresh=fresh) if new else [])
        changed = iter(self._updates.prepare(changes, now=now, fresh=fresh))
        return [next(changed if record.operation is Operation.UPDATE else made) for record in batch]

    def _prepare(self, batch: Sequence[Record], *, now: datetime, fresh: bool) -> list[Prepared]:
        try:
            if not self._probed:
                self._incidents.probe(secrets.token_hex(16))
                self._probed = True
            self._clocks()
            known = self._incidents.known(
                {record.correlation_id: record.derived_sys_id for record in batch},
                by_sys_id=self.primary(),
                displays={record.correlation_id: (record.route, record.key) for record in batch},
            )
            rendered = iter(
                self.render([one for one in batch if one.correlation_id not in known], now=now, fresh=fresh)
            )
        except (BlockedError, HeldError):
            self._probed = False
            raise
        there = {key: AlreadyThere(receipt=receipt) for key, receipt in known.items()}
        return [there.get(record.correlation_id) or next(rendered) for record in batch]

    def render(self, batch: Sequence[Record], *, now: datetime, fresh: bool = False) -> list[Prepared]:
        """
        Return what would be sent for each record, whether or not it is there already; see `prepare`.

        Raises:
            TransientError, BlockedError: About the whole batch.
        """
        return self.bodies.render(batch, now=now, fresh=fresh) if batch else []

    # The act.

    def deliver(self, intent: Intent) -> Receipt:
        self._clocks()

        def check() -> None:
            if not self.may_send(intent):
                raise NotSentError("the time or the lease of this attempt had run out before its first byte")

        if intent.operation is Operation.UPDATE:
            return self._updates.deliver(intent, check)
        return self._create(intent, check)

    def _create(self, intent: Intent, check: Callable[[], None]) -> Receipt:
        body = intent.body
        if intent.with_sys_id:
            # Spliced and not rendered anew: what was frozen goes out as it was frozen.
            body = f'{body.rstrip()[:-1]}, "sys_id": "{intent.derived_sys_id}"}}'
        sent: dict[str, Any] = json.loads(intent.body)
        try:
            made = self._client.create(
                self._settings.table, body.encode(), check, fields=tuple(dict.fromkeys((*COLUMNS, *sent)))
            )
        except (BlockedError, PermanentError) as error:
            return self._refused(intent, error)
        return self._made(intent, sent, made)

    def _made(self, intent: Intent, sent: Mapping[str, Any], made: Created) -> Receipt:
        read_back, duplicates = self._read_back(intent, made) if intent.read_back else (None, ())
        return Receipt(
            learnt="response",
            sys_id=made.sys_id,
            number=made.number,
            created_at=str(made.row.get("sys_created_on") or "") or None,
            read_back=read_back,
            altered=altered(made.row, intent.correlation_id),
            differences=differences(sent, made.row),
            duplicates=duplicates,
            sys_id_honoured=made.sys_id == intent.derived_sys_id if intent.with_sys_id else None,
            evidence=made.evidence,
        )

    def _read_back(self, intent: Intent, made: Created) -> tuple[bool | None, tuple[str, ...]]:
        ids: list[str] = []
        for wait in _READ_BACK:
            time.sleep(wait)
            try:
                rows = self._incidents.by_correlation([intent.correlation_id])[intent.correlation_id]
            except PollerError:
                return None, ()
            ids = [str(row["sys_id"]) for row in rows]
            if made.sys_id in ids:
                break
        return made.sys_id in ids, tuple(one for one in ids if one != made.sys_id)

    def _refused(self, intent: Intent, error: BlockedError | PermanentError) -> Receipt:
        """
        Decide about a create that was surely not done by this attempt; it may be, by an earlier one.

        Only a 403 can mean "already there". While our choice of sys_id is unproven, it may itself be the cause of any
        403 but those that name the record's data.
        """
        insert = isinstance(error, PermanentError) and error.insert_refused
        unproven = intent.with_sys_id and not self.proven()
        doubtful = isinstance(error, RefusedError) and intent.with_sys_id
        doubtful = doubtful or (isinstance(error, BlockedError) and unproven)
        if not insert and not (doubtful and error.evidence.status == 403):
            raise error
        try:
            found = self._find([intent])[0]
        except (TransientError, BlockedError):
            # An earlier attempt may have made it; only a look-up could tell.
            raise UnknownOutcome(f"{error}; the look-up after it got no answer", evidence=error.evidence) from error
        if found is not None:
            return found
        if unproven or insert:
            raise PermanentError(str(error), evidence=error.evidence, insert_refused=True) from error
        raise error

    # After.

    def find(self, intents: Sequence[Intent]) -> list[Receipt | None]:
        made = [intent for intent in intents if intent.operation is not Operation.UPDATE]
        there = iter(self._find(made) if made else [])
        return [
            self._updates.find(intent) if intent.operation is Operation.UPDATE else next(there) for intent in intents
        ]

    def _find(self, intents: Sequence[Intent]) -> list[Receipt | None]:
        wanted = {intent.correlation_id: intent.derived_sys_id for intent in intents}
        displays = {intent.correlation_id: (intent.route, intent.key) for intent in intents}
        rows = self._incidents.by_correlation(wanted)
        missing = {key: sys_id for key, sys_id in wanted.items() if not rows[key]}
        if missing and self._by_sys_id(intents):
            rows |= self._incidents.by_sys_id(missing)
        found: list[Receipt | None] = []
        for intent in intents:
            mine = rows[intent.correlation_id]
            if not mine:
                found.append(None)
                continue
            self._incidents.check_display(mine, *displays[intent.correlation_id])
            found.append(receipt(mine, intent.correlation_id, intent.derived_sys_id if intent.with_sys_id else None))
        return found

    def owned(self, prefix: str, *, since: datetime, most: int) -> list[Owned]:
        return self._incidents.owned(prefix, since=since, most=most)

    def _by_sys_id(self, intents: Iterable[Intent]) -> bool:
        return self.proven() or any(intent.with_sys_id for intent in intents)

    def _clocks(self) -> None:
        skew = self._client.skew_seconds
        if abs(skew) <= _SKEWED:
            return
        # The answer to this harmless question measures again, so that a clock set right lifts the hold.
        self._incidents.probe(secrets.token_hex(16))
        skew = self._client.skew_seconds
        if abs(skew) > _SKEWED:
            raise HeldError(
                f"our clock and that of {self._client.instance} are {abs(skew):.0f} s apart",
                reason="clock",
                operator=False,
            )


def _never() -> bool:
    return False


def _always(_intent: Intent) -> bool:
    return True
