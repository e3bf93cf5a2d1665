"""The settings of the source ``servicenow``, each key with what can be known about it before anything is asked."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from poller.clients.query import check_field, check_table
from poller.sources.checkpoints import CheckpointFormat
from poller.values import Duration, Model

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ORDERED: Final = re.compile(r"(^|\^)(ORDERBY|GROUPBY)")


class ServiceNowSourceSettings(Model):
    """The keys of ``[routes.NAME.source]`` with ``type = "servicenow"``."""

    type: Literal["servicenow"]
    table: Annotated[str, Field(description="any table")] = "incident"
    query: Annotated[
        str,
        Field(
            max_length=4000,
            description='encoded query, such as "assignment_group.name=Vendor^active=true"; left out: all rows',
        ),
    ] = ""
    trigger: Annotated[
        Literal["matched", "updated"],
        Field(
            description="matched: a row once, when it first matches the query | updated: each version that is observed"
        ),
    ] = "matched"
    not_from: Annotated[
        tuple[str, ...],
        Field(description="our own routes whose incidents are left out here, so that nothing goes in a circle"),
    ] = ()
    fields: Annotated[
        dict[str, str], Field(min_length=1, description="name = column, dot-walks too; what templates see")
    ]
    display: Annotated[
        tuple[str, ...], Field(description="names under fields that give the display value, such as the state in words")
    ] = ()
    page_size: Annotated[int, Field(ge=1, le=10_000, description="rows a request")] = 200
    reconcile: Annotated[
        Duration,
        Field(ge=timedelta(minutes=1), description="how often all that matches is read, for what bears no new stamp"),
    ] = timedelta(days=1)

    @field_validator("table")
    @classmethod
    def _table(cls, name: str) -> str:
        return check_table(name)

    @field_validator("query")
    @classmethod
    def _bound(cls, query: str) -> str:
        query = query.strip().removesuffix("^EQ")
        if _CONTROL.search(query):
            raise ValueError("holds a control character")
        if _ORDERED.search(query):
            raise ValueError("is ordered by sys_updated_on by ourselves; leave ORDERBY and GROUPBY out")
        if "^NQ" in query and not all(part.strip("^") for part in query.split("^NQ")):
            raise ValueError("has an empty part beside ^NQ")
        return query

    @field_validator("fields")
    @classmethod
    def _columns(cls, fields: dict[str, str]) -> dict[str, str]:
        for column in fields.values():
            check_field(column)
        return fields

    @field_validator("display")
    @classmethod
    def _among_fields(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if missing := [name for name in names if name not in info.data.get("fields", names)]:
            raise ValueError(f"{missing[0][:80]} is not among the fields")
        return names

    @property
    def checkpoint(self) -> str:
        """What the checkpoint is a value of; `poller rewind` asks."""
        return "sys_updated_on"

    def checkpoint_reading(self) -> CheckpointFormat:
        """Return how checkpoints are compared: as the instance writes them, in UTC."""
        return CheckpointFormat(name="iso", overlap=timedelta(0))
