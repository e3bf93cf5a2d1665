"""
What may stand in ``settings.toml``, but for what sources, sinks and remotes bring along.

A check of one value is here. What concerns several values is in `problems`, so that it is told together with everything
else, even while single values are wrong.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from poller.clients.database_url import SQLITE, check_no_password, password_apart, sqlite_file, with_password
from poller.clients.servicenow import ServiceNowSettings
from poller.ingress.settings import ServerSettings
from poller.sinks import SINKS
from poller.sinks.reply import ReplySettings
from poller.sources import SOURCES
from poller.sources.pushed import PushSettings
from poller.values import Duration, Model, Secret

if TYPE_CHECKING:
    from poller.sinks.activemq import ActivemqSinkSettings
    from poller.sinks.directory import DirectorySinkSettings
    from poller.sinks.http import HttpSinkSettings
    from poller.sinks.servicenow import ServiceNowSinkSettings
    from poller.sources.activemq import ActivemqSourceSettings
    from poller.sources.directory import DirectorySourceSettings
    from poller.sources.http import HttpSourceSettings
    from poller.sources.servicenow import ServiceNowSourceSettings
    from poller.sources.sql import SqlSourceSettings

    SourceSettings = (
        HttpSourceSettings
        | DirectorySourceSettings
        | SqlSourceSettings
        | ServiceNowSourceSettings
        | ActivemqSourceSettings
    )
    SinkSettings = ServiceNowSinkSettings | HttpSinkSettings | ActivemqSinkSettings | DirectorySinkSettings
else:

    def _by_type(edges: dict[str, Any]) -> Any:  # noqa: ANN401  a type, made of what the tables hold
        models = tuple(edge.settings for edge in edges.values())
        if len(models) == 1:
            return models[0]
        return Annotated[Union[models], Field(discriminator="type")]  # noqa: UP007  made of a tuple

    SourceSettings = _by_type(SOURCES)
    SinkSettings = _by_type(SINKS)

#: A route's name stands in URLs, logs and correlation ids.
RouteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

#: Any day: whether a cron line ever comes does not depend on it.
_ANY_DAY = datetime(2024, 1, 1, tzinfo=UTC)

#: New incidents an hour, where nothing else is said.
FLOOD = 500

_POSTGRESQL = "postgresql+psycopg://"


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


Span = Annotated[Duration, AfterValidator(_positive)]


class Database(Model):
    """Where everything is remembered."""

    url: Annotated[
        str,
        Field(description='"sqlite:///poller.db" or "postgresql+psycopg://user@host/db"; a password stands apart'),
    ] = "sqlite:///poller.db"
    password: Annotated[Secret | None, Field(description="PostgreSQL only")] = None

    @model_validator(mode="before")
    @classmethod
    def _password_apart(cls, given: object) -> object:
        """Take a password out of the URL, so that the URL may be shown."""
        return password_apart(given)

    @field_validator("url")
    @classmethod
    def _known(cls, url: str, info: ValidationInfo) -> str:
        if url.startswith(SQLITE):
            return SQLITE + str(sqlite_file(url, _state_folder((info.context or {}).get("base"))))
        if not url.startswith(_POSTGRESQL):
            raise ValueError(f'must begin with "{SQLITE}" or "{_POSTGRESQL}"')
        check_no_password(url)
        if not urlsplit(url).path.strip("/"):
            raise ValueError(f'names no database: "{_POSTGRESQL}user@host/database"')
        return url

    @field_validator("password")
    @classmethod
    def _for_postgresql(cls, password: Secret | None, info: ValidationInfo) -> Secret | None:
        if password is not None and info.data.get("url", _POSTGRESQL).startswith(SQLITE):
            raise ValueError("SQLite has no password; leave it out")
        return password

    def address(self) -> str:
        """Return the URL to connect with, password included: never to be shown. The secret is read anew each time."""
        return self.url if self.password is None else with_password(self.url, self.password.reveal())


def _state_folder(base: Path | None) -> Path:
    # systemd gives a list where a unit has several; the first is the one.
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) if state else base or Path()


class Route(Model):
    """Takes records from a source, remembers each one, and delivers it to a sink."""

    every: Annotated[Span | None, Field(description='time between polls, such as "30s"; or else cron')] = None
    cron: Annotated[
        str | None, Field(description='five parts, days of the week by name: "*/5 8-18 * * mon-fri"; or else every')
    ] = None
    timezone: Annotated[str, Field(description='what cron counts in, such as "Europe/Berlin"')] = "UTC"
    first_run: Annotated[
        Literal["all", "baseline"] | None,
        Field(
            description='"all" delivers what is there already, "baseline" only what comes after the first whole poll; '
            "required where there is a source"
        ),
    ] = None
    max_new_per_hour: Annotated[
        int | None,
        Field(
            ge=0,
            description="flood guard: more new records than this wait; 0 for none. Left out: 500 where the sink is servicenow, else none",
        ),
    ] = None
    on_change: Annotated[
        Literal["ignore", "update"], Field(description="what becomes of a known key with another version")
    ] = "ignore"
    enabled: Annotated[bool, Field(description="false: neither polls nor delivers")] = True
    previously: Annotated[
        RouteName | None, Field(description="the name before a renaming; keeps the route's identity")
    ] = None
    source: Annotated[
        SourceSettings | None, Field(description="where records come from; may be left out where there is a push")
    ] = None
    sink: Annotated[SinkSettings, Field(description="where records go to")]
    reply: Annotated[
        ReplySettings | None,
        Field(description="number and sys_id written back to the origin, once the incident is known"),
    ] = None
    push: Annotated[
        PushSettings | None,
        Field(description="the route also takes what is sent to POST /routes/NAME/records; needs [server]"),
    ] = None

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (OSError, ValueError, KeyError):
            raise ValueError('no such time zone is known here; names are such as "UTC" or "Europe/Berlin"') from None
        return name

    @field_validator("cron")
    @classmethod
    def _crontab(cls, text: str | None) -> str | None:
        return text if text is None else check_cron(text)

    @field_validator("push")
    @classmethod
    def _completed(cls, push: PushSettings | None, info: ValidationInfo) -> PushSettings | None:
        return push if push is None or "source" not in info.data else push.beside(info.data["source"])

    @field_validator("reply")
    @classmethod
    def _of_incidents(cls, reply: ReplySettings | None, info: ValidationInfo) -> ReplySettings | None:
        sink = info.data.get("sink")
        if reply is not None and sink is not None and sink.type != "servicenow":
            raise ValueError("tells of an incident, so the sink must be of type servicenow; leave it out")
        return reply

    @field_validator("sink")
    @classmethod
    def _something_to_update(cls, sink: SinkSettings, info: ValidationInfo) -> SinkSettings:
        if sink.type != "servicenow" or info.data.get("on_change") != "update":
            return sink
        if not sink.for_updates().fields:
            raise ValueError(
                'update_fields is required with on_change = "update", since fields has neither short_description nor description'
            )
        return sink

    @property
    def reading(self) -> SourceSettings | PushSettings:
        """How records are read: the source's settings, else those of the push."""
        found = self.source or self.push
        assert found is not None  # noqa: S101  between has seen that one of them is there
        return found

    @property
    def most_new_per_hour(self) -> int:
        """What the flood guard lets through; 0: all."""
        if self.max_new_per_hour is not None:
            return self.max_new_per_hour
        return FLOOD if self.sink.type == "servicenow" else 0


def check_cron(text: str) -> str:
    """
    Return *text* if it is a crontab line that means the same here as anywhere.

    Raises:
        ValueError: It is not; says what to write instead.
    """
    from apscheduler.triggers.cron import CronTrigger  # routes with `every` need not wait for it

    parts = text.split()
    if len(parts) != 5:
        raise ValueError(f"a cron line has five parts (minute hour day month weekday), not {len(parts)}")
    # APScheduler counts from Monday = 0, cron from Sunday = 0: the same digit would be another day.
    if re.search(r"\d", parts[4]):
        raise ValueError(
            'days of the week are given by name, such as "mon-fri" or "sat,sun": numbers mean different days in different crons'
        )
    # Cron takes either of the two, APScheduler both together.
    if parts[2] != "*" and parts[4] != "*":
        raise ValueError("give a day of the month or days of the week, not both: crons do not agree on what that means")
    try:
        trigger = CronTrigger.from_crontab(text, timezone="UTC")
    except ValueError as error:
        raise ValueError(f"not a cron line: {error}") from None
    if trigger.get_next_fire_time(None, _ANY_DAY) is None:
        raise ValueError("never comes")
    return text


class Retry(Model):
    """How a record is tried again."""

    base: Annotated[Span, Field(description="first pause; doubles from there, with full jitter")] = timedelta(seconds=2)
    cap: Annotated[Span, Field(description="longest pause")] = timedelta(minutes=15)
    attempts: Annotated[
        int, Field(ge=1, description="refusals of one record before it is dead; outages never use one up")
    ] = 12

    @field_validator("cap")
    @classmethod
    def _above_base(cls, cap: timedelta, info: ValidationInfo) -> timedelta:
        if "base" in info.data and cap < info.data["base"]:
            raise ValueError("is shorter than base")
        return cap


class Retention(Model):
    """How long contents are kept. Keys, versions and numbers are never deleted."""

    payloads: Annotated[Span, Field(description="contents of delivered and skipped records")] = timedelta(days=30)


class Maintenance(Model):
    """What the daemon does for itself."""

    sweep: Annotated[Span, Field(description="time between two looks for duplicates")] = timedelta(hours=1)
    lease: Annotated[Span, Field(description="how long a claimed delivery is left to its worker")] = timedelta(
        minutes=1
    )


class Log(Model):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="the least that is told")] = "info"
    format: Annotated[
        Literal["auto", "json", "console"], Field(description="auto: console on a terminal, else JSON")
    ] = "auto"


class Settings(Model):
    """The whole file."""

    database: Database = Field(default_factory=Database)
    servicenow: Annotated[
        ServiceNowSettings | None, Field(description="the instance; required where a route's sink is servicenow")
    ] = None
    routes: Annotated[dict[RouteName, Route], Field(min_length=1, description="[routes.NAME] for each route")]
    server: Annotated[
        ServerSettings | None, Field(description="the HTTP ingress; left out: none, and nothing listens")
    ] = None
    retry: Retry = Retry()
    retention: Retention = Retention()
    maintenance: Maintenance = Maintenance()
    log: Log = Log()

    _warnings: tuple[str, ...] = PrivateAttr(default=())
