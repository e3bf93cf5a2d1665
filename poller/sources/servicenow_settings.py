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
#: An ^OR or ^NQ with nothing before or behind it takes in the conditions that we add; an instance may end at ^EQ.
_LOOSE: Final = re.compile(r"^(\^|OR|NQ)|\^(OR|NQ|EQ)?(\^|$)")


#: Variables are no columns, and neither are the capital words of related lists and text searches.
_QUERIED: Final = re.compile(r"(?:^|\^)(?:OR|NQ)?(?!variables\.|ref_)([a-z][a-z0-9_.]*)(?=[^a-z0-9_.])")


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
        query = query.strip().rstrip("^").removesuffix("^EQ")
        if _CONTROL.search(query):
            raise ValueError("holds a control character")
        if _ORDERED.search(query):
            raise ValueError("is ordered by sys_updated_on by ourselves; leave ORDERBY and GROUPBY out")
        if _LOOSE.search(query):
            raise ValueError("has an empty part beside ^, ^OR or ^NQ, or an ^EQ before its end")
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

    def queried(self) -> tuple[str, ...]:
        """Return the columns that the query has conditions on, and before each dot-walk the references on its way."""
        found: dict[str, None] = {}
        for name in filter(_is_column, _QUERIED.findall(self.query)):
            steps = name.split(".")
            found |= dict.fromkeys(".".join(steps[:count]) for count in range(1, len(steps) + 1))
        return tuple(found)

    @property
    def checkpoint(self) -> str:
        """What the checkpoint is a value of; `poller rewind` asks."""
        return "sys_updated_on"

    def checkpoint_reading(self) -> CheckpointFormat:
        """Return how checkpoints are compared: as the instance writes them, in UTC."""
        return CheckpointFormat(name="iso", overlap=timedelta(0))


def _is_column(name: str) -> bool:
    try:
        check_field(name)
    except ValueError:
        return False
    return True
