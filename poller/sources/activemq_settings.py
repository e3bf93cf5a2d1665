"""The settings of the source ``activemq``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from poller.clients.stomp_settings import StompSettings
from poller.sources.record_settings import FormatSettings, field_problems, format_in, refuse_at
from poller.values import Duration, Size

#: Stands for a key that is left out. In JMESPath and XPath alike it is a text, so it compiles in every format.
OF_MESSAGE: Final = "'message'"


class ActivemqSourceSettings(StompSettings, FormatSettings):
    """The keys of ``[routes.NAME.source]`` with ``type = "activemq"``."""

    type: Literal["activemq"]
    records: Annotated[
        str | None,
        Field(description="where the list is, if a message holds several; left out: a message is one record"),
    ] = None
    key: Annotated[
        str,
        Field(description="what tells a record from all others of this route; left out: x-message-id, else message-id"),
    ] = OF_MESSAGE
    version: Annotated[str | None, Field(description="left out: a hash of the fields")] = None
    fields: Annotated[dict[str, str], Field(description="name = expression; what templates see")]
    required: Annotated[
        tuple[str, ...], Field(description="a record without one of these fields is a dead letter")
    ] = ()
    quiet: Annotated[Duration, Field(gt=timedelta(0), description="a poll ends when nothing has come for so long")] = (
        timedelta(seconds=1)
    )
    max_body: Annotated[Size, Field(gt=0, description="a larger message is a dead letter")] = 20_000_000

    @field_validator("destination")
    @classmethod
    def _queue(cls, destination: str) -> str:
        if not destination.startswith("/queue/"):
            raise ValueError(
                "is no queue: a topic keeps nothing for who is away; let the broker feed a queue from it, "
                'such as "/queue/Consumer.poller.VirtualTopic.incidents"'
            )
        return destination

    @field_validator("records", "key", "version")
    @classmethod
    def _compiles(cls, text: str | None, info: ValidationInfo) -> str | None:
        documents = format_in(info.data)
        if text is not None and documents is not None:
            if info.field_name == "records" and not documents.whole:
                raise ValueError("CSV has none: each row is a record; leave it out")
            documents.compile(text)
        return text

    @field_validator("fields")
    @classmethod
    def _fields(cls, fields: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        refuse_at(field_problems(fields, format_in(info.data)))
        return fields

    @field_validator("required")
    @classmethod
    def _among_fields(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if missing := [name for name in names if name not in info.data.get("fields", names)]:
            raise ValueError(f"{missing[0]} is not among the fields")
        return names

    @property
    def checkpoint(self) -> None:
        """A queue has none: what was taken is gone."""
        return

    @property
    def by_message(self) -> bool:
        """Whether records are told apart by the ids of messages."""
        return self.key == OF_MESSAGE
