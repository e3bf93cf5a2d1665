"""The settings of the source ``sql``, each key with what can be known about it before anything is asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from poller.clients.database_url import (
    SQLITE,
    check_driver,
    check_no_password,
    password_apart,
    sqlite_file,
    with_password,
)
from poller.formats import open_format
from poller.sources.checkpoints import check_format
from poller.sources.column_checkpoints import ColumnCheckpoints
from poller.sources.record_settings import expression_problem, field_problems, refuse_at
from poller.sources.sql_query import bears_null, check_query, uses_checkpoint
from poller.values import Duration, Model, Secret


def _compiled(text: str) -> str:
    if problem := expression_problem(text, open_format("json")):
        raise ValueError(problem)
    return text


#: JMESPath on a row, which is an object of its columns.
Column = Annotated[str, AfterValidator(_compiled)]


class SqlSourceSettings(Model):
    """The keys of ``[routes.NAME.source]`` with ``type = "sql"``."""

    type: Literal["sql"]
    url: Annotated[
        str,
        Field(
            description='"postgresql+psycopg://user@host/db", "sqlite:///file.db", or any other dialect of SQLAlchemy '
            "that is installed; a password stands apart"
        ),
    ]
    password: Annotated[Secret | None, Field(description="of the user in url")] = None
    query: Annotated[
        str,
        AfterValidator(check_query),
        Field(description="one SELECT; :checkpoint is where the last whole poll ended, NULL before the first"),
    ]
    key: Annotated[Column, Field(description="column that tells a record from all others of this route")]
    version: Annotated[Column | None, Field(description="left out: a hash of the fields")] = None
    checkpoint: Annotated[
        Column | None, Field(description="column whose largest value is bound to :checkpoint in the next poll")
    ] = None
    checkpoint_format: Annotated[
        Annotated[str, AfterValidator(check_format)] | None,
        Field(
            description="iso, epoch, number (an id, never a time) or a strptime pattern; left out: numbers, epoch and "
            "ISO 8601 are recognised"
        ),
    ] = None
    first_checkpoint: Annotated[
        str | None, Field(description="bound to :checkpoint before the first whole poll; left out: NULL")
    ] = None
    checkpoint_zone: Annotated[
        str | None, Field(description='of times without a zone, such as "Europe/Berlin"; left out: UTC')
    ] = None
    overlap: Annotated[Duration, Field(ge=timedelta(0), description="taken off a checkpoint that is a time")] = (
        timedelta(minutes=5)
    )
    overlap_ids: Annotated[
        int,
        Field(ge=0, description="taken off a checkpoint that is a whole number: a lower id may be committed later"),
    ] = 1_000
    fields: Annotated[dict[str, str], Field(description="name = expression; what templates see")]
    required: Annotated[
        tuple[str, ...],
        # Behind a check of the whole table (the password's) a list is no JSON any more, and strictly no tuple.
        BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given),
        Field(description="a record without one of these fields is a dead letter"),
    ] = ()
    batch: Annotated[int, Field(ge=1, le=100_000, description="rows that are read and committed together")] = 1_000
    connect_timeout: Annotated[Duration, Field(gt=timedelta(0), description="for the connection")] = timedelta(
        seconds=10
    )
    timeout: Annotated[
        Duration, Field(gt=timedelta(0), description="for an answer and for locks; SQLite and PostgreSQL")
    ] = timedelta(minutes=1)

    @model_validator(mode="before")
    @classmethod
    def _password_apart(cls, given: object) -> object:
        """Take a password out of the URL, so that the URL may be shown."""
        return password_apart(given)

    @field_validator("url")
    @classmethod
    def _known(cls, url: str, info: ValidationInfo) -> str:
        if url.startswith(SQLITE):
            return SQLITE + str(sqlite_file(url, (info.context or {}).get("base") or Path()))
        if url.startswith("sqlite"):
            raise ValueError('names no file: "sqlite:///helpdesk.db", or "sqlite:////srv/helpdesk.db"')
        return check_driver(check_no_password(url))

    @field_validator("password")
    @classmethod
    def _for_servers(cls, password: Secret | None, info: ValidationInfo) -> Secret | None:
        if password is not None and info.data.get("url", "").startswith(SQLITE):
            raise ValueError("SQLite has no password; leave it out")
        return password

    @field_validator("checkpoint_zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        try:
            ZoneInfo(name or "UTC")
        except (OSError, ValueError, KeyError):
            raise ValueError('no such time zone is known here; names are such as "UTC" or "Europe/Berlin"') from None
        return name

    @field_validator("fields")
    @classmethod
    def _fields(cls, fields: dict[str, str]) -> dict[str, str]:
        refuse_at(field_problems(fields, open_format("json")))
        return fields

    @field_validator("required")
    @classmethod
    def _among_fields(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if missing := [name for name in names if name not in info.data.get("fields", names)]:
            raise ValueError(f"{missing[0]} is not among the fields")
        return names

    @model_validator(mode="after")
    def _together(self) -> Self:
        if problems := [*self._checkpoint_problems()]:
            raise ValueError("; ".join(problems))
        return self

    def _checkpoint_problems(self) -> Iterator[str]:
        used = uses_checkpoint(self.query)
        if used and self.checkpoint is None:
            yield "checkpoint: is required, because the query uses :checkpoint; it names the column"
        if self.checkpoint is not None and not used:
            yield "query: has no :checkpoint, so checkpoint would have no effect"
        if used and self.first_checkpoint is None and not bears_null(self.query):
            yield (
                "first_checkpoint: is required, or (:checkpoint IS NULL OR …) in the query: "
                "before the first poll it is NULL, and nothing is larger than NULL"
            )
        if self.first_checkpoint is not None:
            try:
                self.checkpoint_reading().read(self.first_checkpoint)
            except ValueError as error:
                yield f"first_checkpoint: cannot be compared: {error}"

    def checkpoint_reading(self) -> ColumnCheckpoints:
        """Return how the values of the checkpoint's column are compared."""
        return ColumnCheckpoints(
            name=self.checkpoint_format,
            overlap=self.overlap,
            overlap_ids=self.overlap_ids,
            zone=UTC if self.checkpoint_zone is None else ZoneInfo(self.checkpoint_zone),
        )

    def address(self) -> str:
        """Return the URL to connect with, password included: never to be shown. The secret is read anew each time."""
        return self.url if self.password is None else with_password(self.url, self.password.reveal())
