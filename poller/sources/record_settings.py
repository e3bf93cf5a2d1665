"""
The settings that say how a document is read into records, shared by every source that has documents.

What an expression may be depends on the format, so expressions are compiled here once the format is known, and each
problem is told at its own key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from poller.formats import FormatFault, check_encoding, open_format
from poller.formats.csv import check_delimiter
from poller.formats.interface import Format
from poller.formats.xpath import check_namespaces
from poller.values import Model

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: A problem's place below the value that is being checked, and what it is.
Places = Iterable[tuple[tuple[str | int, ...], str]]


class FormatSettings(Model):
    """What kind of documents there are."""

    format: Annotated[Literal["json", "xml", "csv"], Field(description="json, xml or csv")] = "json"
    namespaces: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            description="XML only: prefix = address, as the document's xmlns has it; for expressions",
        ),
    ]
    delimiter: Annotated[str | None, Field(description="CSV only: one character; left out: a comma")] = None
    encoding: Annotated[
        str | None, Field(description="left out: what the server states, else what the document says, else UTF-8")
    ] = None

    @field_validator("namespaces")
    @classmethod
    def _namespaces(cls, given: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if given and info.data.get("format", "xml") != "xml":
            raise ValueError('has a meaning only for format = "xml"')
        return dict(check_namespaces(given))

    @field_validator("delimiter")
    @classmethod
    def _delimiter(cls, given: str | None, info: ValidationInfo) -> str | None:
        if given is not None and info.data.get("format", "csv") != "csv":
            raise ValueError('has a meaning only for format = "csv"')
        return None if given is None else check_delimiter(given)

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, name: str | None) -> str | None:
        try:
            return None if name is None else check_encoding(name)
        except FormatFault:
            raise ValueError('is no known encoding; names are such as "utf-8" or "iso-8859-1"') from None

    def open_format(self) -> Format:
        """Return what reads the documents."""
        return open_format(self.format, namespaces=self.namespaces, delimiter=self.delimiter)


class RecordSettings(FormatSettings):
    """What a record is, within a document."""

    records: Annotated[
        str | None,
        Field(description="where the list is; left out: the JSON document itself, the children of the XML root"),
    ] = None
    key: Annotated[str, Field(description="what tells a record from all others of this route")]
    version: Annotated[str | None, Field(description="left out: a hash of the fields")] = None
    checkpoint: Annotated[str | None, Field(description="the largest one seen is handed to the next poll")] = None
    fields: Annotated[dict[str, str], Field(description="name = expression; what templates see")]

    @field_validator("records", "key", "version", "checkpoint")
    @classmethod
    def _compiles(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and (documents := format_in(info.data)) is not None:
            if info.field_name == "records" and not documents.whole:
                raise ValueError("CSV has none: each row is a record; leave it out")
            documents.compile(text)
        return text

    @field_validator("fields")
    @classmethod
    def _fields(cls, fields: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        refuse_at(field_problems(fields, format_in(info.data)))
        return fields


def format_in(data: Mapping[str, Any]) -> Format | None:
    """Return the format of settings that are being read; None where that is itself wrong, and told already."""
    if not {"format", "namespaces", "delimiter"} <= data.keys():
        return None
    return open_format(data["format"], namespaces=data["namespaces"], delimiter=data["delimiter"])


def field_problems(fields: Mapping[str, str], format: Format | None) -> Places:
    """Yield what is wrong with ``name = expression`` tables, at each name."""
    for name, text in fields.items():
        if not _NAME.fullmatch(name):
            yield (name,), "the name of a field is made of letters, digits and _, so that templates can use it"
        elif problem := expression_problem(text, format):
            yield (name,), problem


def expression_problem(text: str, format: Format | None) -> str | None:
    """Return what is wrong with an expression, None for nothing or where the format is not known."""
    try:
        if format is not None:
            format.compile(text)
    except ValueError as error:
        return str(error)
    return None


def refuse_at(problems: Places) -> None:
    """
    Raise for *problems*, each at its own place below the value that is being checked.

    Raises:
        ValidationError: pydantic makes it part of its own.
    """
    details = [
        InitErrorDetails(type=PydanticCustomError("value_error", "{error}", {"error": text}), loc=where, input=None)
        for where, text in problems
    ]
    if details:
        raise ValidationError.from_exception_data("settings", details, hide_input=True)
