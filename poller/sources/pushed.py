"""
Records that are sent to a route, instead of or beside being polled.

The same keys and fields as the source's, unless ``[routes.NAME.push]`` says otherwise: a pushed record and the same record
found by a poll are one.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator

from poller.formats import ExpressionFault, FormatFault, KeyFault, key_text
from poller.model import Page
from poller.sources.reading import Reader
from poller.sources.record_settings import FormatSettings, field_problems, format_in, refuse_at

#: What a push has from the source where it does not say otherwise.
_SHARED = ("key", "version", "fields", "required")
_FORMAT = ("format", "namespaces", "delimiter")


class PushSettings(FormatSettings):
    """The keys of ``[routes.NAME.push]``: who may, sends records to ``POST /routes/NAME/records``."""

    records: Annotated[
        str | None, Field(description="where the list is; left out: the body itself, which may be a single record")
    ] = None
    key: Annotated[str | None, Field(description="left out: the source's")] = None
    version: Annotated[str | None, Field(description="left out: the source's, else a hash of the fields")] = None
    fields: Annotated[dict[str, str] | None, Field(description="name = expression; left out: the source's")] = None
    required: Annotated[
        tuple[str, ...] | None,
        Field(description="a record without one of these fields is a dead letter; left out: the source's"),
    ] = None
    requests_per_minute: Annotated[
        int, Field(ge=0, description="that the route takes from all clients together; 0: no limit of its own")
    ] = 0

    @field_validator("records", "key", "version")
    @classmethod
    def _compiles(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and "format" in info.data and (documents := format_in(info.data)) is not None:
            if info.field_name == "records" and not documents.whole:
                raise ValueError("CSV has none: each row is a record; leave it out")
            documents.compile(text)
        return text

    @field_validator("fields")
    @classmethod
    def _fields(cls, fields: dict[str, str] | None, info: ValidationInfo) -> dict[str, str] | None:
        if fields is not None:
            refuse_at(field_problems(fields, format_in(info.data)))
        return fields

    def beside(self, source: Any) -> Self:  # noqa: ANN401  the settings of any source
        """
        Return these settings, completed by those of the route's source.

        Args:
            source: None: there is none.

        Raises:
            ValueError: Something is missing still; begins with the key.
        """
        if getattr(source, "type", None) == "servicenow":
            raise ValueError(
                "is not for a route that reads ServiceNow: leave it out and ring POST /routes/NAME/poll, which reads anew"
            )
        filled = {name: getattr(source, name, None) for name in _SHARED if getattr(self, name) is None}
        if not self.model_fields_set.intersection(_FORMAT):
            filled |= {name: getattr(source, name) for name in _FORMAT if hasattr(source, name)}
        # A directory names records by their files, a queue by their messages: neither is known here.
        if getattr(source, "type", None) in {"directory", "activemq"} and "key" not in source.model_fields_set:
            filled.pop("key", None)
        filled = {name: value for name, value in filled.items() if value is not None}
        whole = self.model_copy(update={"required": self.required or ()} | filled)
        for name in ("key", "fields"):
            if getattr(whole, name) is None:
                raise ValueError(f"{name} is required, since the route has no source that states it")
        documents = whole.open_format()
        for name in ("records", "key", "version"):
            text = getattr(whole, name)
            if text is not None:
                documents.compile(text)
        refuse_at((("fields", *where), problem) for where, problem in field_problems(whole.fields or {}, documents))
        if unknown := [name for name in whole.required or () if name not in (whole.fields or {})]:
            raise ValueError(f"required: {unknown[0]} is not among the fields")
        return whole


class _Shape:
    """`poller.sources.reading.Shape` of a push."""

    checkpoint = None

    def __init__(self, settings: PushSettings) -> None:
        self.key = settings.key or ""
        self.version = settings.version
        self.fields = settings.fields or {}
        self.required = settings.required or ()


class PushReader:
    """
    Carries out `poller.ports.Pushed`.

    Args:
        settings: As `PushSettings.beside` completes them.
    """

    def __init__(self, settings: PushSettings) -> None:
        self._settings = settings
        self._format = settings.open_format()
        shape = _Shape(settings)
        self._reader = Reader(shape, self._format)
        self._records = None if settings.records is None else self._format.compile(settings.records)
        self._key = self._format.compile(shape.key)

    @property
    def format(self) -> str:
        return self._format.name

    @property
    def requests_per_minute(self) -> int:
        return self._settings.requests_per_minute

    def read(self, body: bytes, encoding: str | None = None) -> Page:
        read = self._reader.page(self._rows(body, encoding))
        return Page(records=read.records, malformed=read.malformed)

    def _rows(self, body: bytes, encoding: str | None) -> list[object]:
        document = self._format.read(body, self._settings.encoding or encoding)
        if self._format.whole and self._is_one(document.value):
            return [document.value]
        try:
            return self._reader.rows(document, self._records)
        except (FormatFault, ExpressionFault):
            if self._settings.records is not None:
                raise
            raise FormatFault(
                f'it is neither a list of records nor one with the key "{self._settings.key}"; '
                "where the list lies deeper, the route needs push.records"
            ) from None

    def _is_one(self, value: object) -> bool:
        """Return whether the body is a single record: it has the key where a list would have none."""
        if isinstance(value, list):
            return False
        try:
            if self._records is not None and self._records.find(value) is not None:
                return False
            key_text(self._key.find(value))
        except (ExpressionFault, KeyFault):
            return False
        return True
