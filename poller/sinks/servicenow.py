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
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from poller.clients.answers import Created
from poller.clients.query import check_field, check_table
from poller.clients.rows import COLUMNS, Incidents, altered, differences, receipt
from poller.clients.servicenow import ServiceNowClient
from poller.enrich import Found, Users
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
from poller.identity import correlation_display
from poller.model import (
    AlreadyThere,
    Intent,
    Operation,
    Owned,
    Prepared,
    Ready,
    Receipt,
    Record,
    Undeliverable,
)
from poller.translate import Template, TemplateFault, compile_template
from poller.values import Model

#: Creates stop where the clocks are further apart, in seconds.
_SKEWED: Final = 300.0
#: Waits before each look for a row just made, in seconds: a read replica may lag a little.
_READ_BACK: Final = (0.0, 1.0, 2.0)
#: Keys of a route, of its sink or of ``unknown_user``; typed below ``[….sink.fields]`` they would become columns.
_MISPLACED: Final = frozenset(
    {
        "cron", "enabled", "every", "fields", "first_run", "inactive", "max_new_per_hour", "on_change", "policy",
        "previously", "push", "reply", "sink", "source", "table", "timezone", "type", "unknown_user", "update_fields",
    }
)  # fmt: skip
#: What the sink itself writes, or the instance.
_OURS: Final = frozenset({"correlation_id", "correlation_display", "number"})


class UserField(Model):
    """A user of the instance, found by one of its columns."""

    #: Template of the name.
    user: str
    #: Columns of ``sys_user``, tried in turn.
    by: tuple[str, ...] = Field(default=("user_name",), min_length=1)

    @field_validator("by")
    @classmethod
    def _columns(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_field(name) for name in by)


class UnknownUser(Model):
    """What becomes of a record whose user is not known; ambiguous users are unknown."""

    policy: Literal["dead", "omit", "default"] = "dead"
    #: Of the user to take instead, by the first column of the field; only with ``default``.
    username: str | None = None

    @model_validator(mode="after")
    def _whom(self) -> UnknownUser:
        if (self.policy == "default") != (self.username is not None):
            raise ValueError('policy = "default" and username go together')
        if self.username is not None and not self.username.strip():
            raise ValueError("username is empty")
        return self


class ServiceNowSinkSettings(Model):
    """``[routes.NAME.sink]`` of type ``servicenow``."""

    type: Literal["servicenow"]
    table: str = "incident"
    #: Column = template, or a user to be found.
    fields: dict[str, str | UserField] = Field(
        default={
            "caller_id": UserField(user="{{ username }}"),
            "short_description": "{{ title }}",
            "description": "{{ description }}",
        },
        min_length=1,
    )
    unknown_user: UnknownUser = UnknownUser()
    _templates: dict[str, Template] = PrivateAttr(default_factory=dict)

    @field_validator("table")
    @classmethod
    def _table(cls, name: str) -> str:
        return check_table(name)

    @field_validator("fields")
    @classmethod
    def _columns(cls, fields: dict[str, str | UserField]) -> dict[str, str | UserField]:
        for name, value in fields.items():
            if name in _MISPLACED:
                raise ValueError(
                    f'"{name}" is a key of the route or its sink, not a column: put it above [….sink.fields]'
                )
            if name in _OURS or name.startswith("sys_"):
                raise ValueError(f'"{name}" is not yours to set')
            if "." in check_field(name):
                raise ValueError(f'"{name}": only columns of the table itself can be written')
            try:
                compile_template(_text(value))
            except ValueError as error:
                raise ValueError(f'"{name}": {error}') from None
        return fields

    def templates(self) -> Mapping[str, Template]:
        """Return the compiled templates by column, in the order of the settings."""
        return {name: compile_template(_text(value)) for name, value in self.fields.items()}

    def names(self) -> frozenset[str]:
        """Return the variables that the templates need."""
        return frozenset().union(*(template.names for template in self.templates().values()))


def _text(value: str | UserField) -> str:
    return value if isinstance(value, str) else value.user


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
        self._users = Users(client)
        self._incidents = Incidents(client, settings.table, previously=previously)
        self._templates = settings.templates()
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
        try:
            if not self._probed:
                self._incidents.probe(secrets.token_hex(16))
                self._probed = True
            self._clocks()
            users = self._find_users(batch, fresh=fresh)
            known = self._incidents.known(
                {record.correlation_id: record.derived_sys_id for record in batch},
                by_sys_id=self.primary(),
                displays={record.correlation_id: (record.route, record.key) for record in batch},
            )
        except (BlockedError, HeldError):
            self._probed = False
            raise
        return [self._prepared(record, users, known.get(record.correlation_id)) for record in batch]

    def _prepared(self, record: Record, users: Mapping[tuple[str, str], Found], there: Receipt | None) -> Prepared:
        if there is not None:
            return AlreadyThere(receipt=there)
        body: dict[str, str] = {}
        note: str | None = None
        for name, template in self._templates.items():
            field = self._settings.fields[name]
            try:
                text = template.render(_variables(record))
            except TemplateFault as error:
                return Undeliverable(reason=f"{name}: {error}")
            if isinstance(field, UserField):
                sys_id, note = self._user(name, field, users[name, text], users)
                if sys_id is None and note != "omitted":
                    return Undeliverable(reason=f"{name}: {note}")
                text = sys_id or ""
            if text:
                body[name] = text
        body["correlation_id"] = record.correlation_id
        body["correlation_display"] = correlation_display(record.route, record.key)
        return Ready(body=json.dumps(body), note=note)

    def _find_users(self, batch: Sequence[Record], *, fresh: bool) -> dict[tuple[str, str], Found]:
        """Return every user that the batch names, by column of the table and rendered name."""
        found: dict[tuple[str, str], Found] = {}
        for name, field in self._settings.fields.items():
            if not isinstance(field, UserField):
                continue
            names = dict.fromkeys(text for record in batch if (text := self._rendered(name, record)) is not None)
            found |= {(name, text): one for text, one in self._users.find(names, by=field.by, fresh=fresh).items()}
            default = self._settings.unknown_user.username
            if default is not None and any(found[name, text].sys_id is None for text in names):
                found[name, ""] = self._default(name, field, default, fresh=fresh)
        return found

    def _default(self, name: str, field: UserField, username: str, *, fresh: bool) -> Found:
        found = self._users.find([username], by=field.by, fresh=fresh)[username]
        if found.sys_id is None:
            raise BlockedError(f"{name}: the user of unknown_user.username is {found.how} to sys_user")
        return found

    def _user(
        self, name: str, field: UserField, found: Found, users: Mapping[tuple[str, str], Found]
    ) -> tuple[str | None, str]:
        """Return the sys_id to be sent and how it came about; None with a reason, or with ``omitted``."""
        if found.sys_id is not None:
            return found.sys_id, found.how
        match self._settings.unknown_user.policy:
            case "omit":
                return None, "omitted"
            case "default":
                return users[name, ""].sys_id, "default"
        what = "fits more than one user" if found.how == "ambiguous" else "is unknown to"
        # The name itself is the record's text, which is shown nowhere.
        return None, f"the user named by the record {what} sys_user ({', '.join(field.by)})"

    def _rendered(self, name: str, record: Record) -> str | None:
        try:
            return self._templates[name].render(_variables(record))
        except TemplateFault:
            return None

    # The act.

    def deliver(self, intent: Intent) -> Receipt:
        self._clocks()
        body = intent.body
        if intent.with_sys_id:
            # Spliced and not rendered anew: what was frozen goes out as it was frozen.
            body = f'{body.rstrip()[:-1]}, "sys_id": "{intent.derived_sys_id}"}}'
        sent: dict[str, Any] = json.loads(intent.body)

        def check() -> None:
            if not self.may_send(intent):
                raise NotSentError("the time or the lease of this attempt had run out before its first byte")

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
            found = self.find([intent])[0]
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


def _variables(record: Record) -> dict[str, object]:
    return {"key": record.key, "version": record.version, **record.fields}


def _never() -> bool:
    return False


def _always(_intent: Intent) -> bool:
    return True
