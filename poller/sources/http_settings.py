"""The settings of the source ``http``, each key with what can be known about it before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from poller.clients.auth import ClientCredentialsAuth, PasswordAuth
from poller.clients.http import RemoteSettings, check_url
from poller.formats import FormatFault, parse_json
from poller.sources.checkpoints import check_format
from poller.sources.paging import ExpressionText, NoPaging, PagingSettings
from poller.translate import compile_template
from poller.values import Duration, Secret

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "cookie", "accept-encoding"})


def _not_built(value: object) -> object:
    if value is not None:
        raise ValueError("not built yet; leave it out")
    return value


#: Stands for what the contract has and this release has not.
NotBuilt = Annotated[SkipJsonSchema[None], BeforeValidator(_not_built)]


def _secret_or_text(value: object, info: ValidationInfo) -> object:
    if isinstance(value, dict):
        return Secret.parse(value, (info.context or {}).get("base"))
    if isinstance(value, (int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return value


#: Text, or where a secret is found.
SecretOrText = Annotated[str | Secret, Field(union_mode="left_to_right"), BeforeValidator(_secret_or_text)]


class HttpSourceSettings(RemoteSettings):
    """The keys of ``[routes.NAME.source]`` with ``type = "http"``."""

    type: Literal["http"]
    url: Annotated[str, Field(description="what is polled")]
    method: Annotated[Literal["GET"], Field(description="POST queries are not built yet")] = "GET"
    params: Annotated[
        dict[str, SecretOrText], Field(default_factory=dict, description="of the query; may use {{ checkpoint }}")
    ]
    headers: Annotated[dict[str, SecretOrText], Field(default_factory=dict, description="sent along with each request")]
    body: NotBuilt = None
    format: Annotated[Literal["json"], Field(description="xml and csv are not built yet")] = "json"
    encoding: Annotated[str | None, Field(description="left out: what the server states, else UTF-8")] = None
    namespaces: NotBuilt = None
    delimiter: NotBuilt = None
    detail: NotBuilt = None
    records: Annotated[ExpressionText | None, Field(description="where the list is; left out: the document itself")] = (
        None
    )
    key: Annotated[ExpressionText, Field(description="what tells a record from all others of this route")]
    version: Annotated[ExpressionText | None, Field(description="left out: a hash of the fields")] = None
    checkpoint: Annotated[
        ExpressionText | None, Field(description="the largest one seen is handed to the next poll")
    ] = None
    checkpoint_format: Annotated[
        Annotated[str, AfterValidator(check_format)] | None,
        Field(description="iso, epoch or a strptime pattern; left out: integers, epoch and RFC 3339 are recognised"),
    ] = None
    overlap: Annotated[Duration, Field(ge=timedelta(0), description="taken off a checkpoint that is a time")] = (
        timedelta(minutes=5)
    )
    fields: Annotated[dict[str, ExpressionText], Field(description="name = expression; what templates see")]
    required: Annotated[
        tuple[str, ...], Field(description="a record without one of these fields is a dead letter")
    ] = ()
    paging: PagingSettings = NoPaging()

    @field_validator("url")
    @classmethod
    def _address(cls, url: str, info: ValidationInfo) -> str:
        if "{{" in url:
            raise ValueError("is asked as it is; templates are for params")
        check_url(url, allow_plaintext=info.data.get("allow_plaintext", False))
        return url

    @field_validator("required")
    @classmethod
    def _among_fields(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if missing := [name for name in names if name not in info.data.get("fields", names)]:
            raise ValueError(f"{missing[0]} is not among the fields")
        return names

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name):
                raise ValueError("a header's name is made of letters, digits and -")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"{name} is set by the client itself")
            if isinstance(value, str) and not (value.isascii() and value.isprintable()):
                raise ValueError(f"the header {name} holds something other than printable ASCII")
            if isinstance(value, str) and "{{" in value:
                raise ValueError(f"the header {name} is sent as it is; templates are for params")
        return headers

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                parse_json("0".encode(name), name)
            except (LookupError, FormatFault, UnicodeError):
                raise ValueError('is no known encoding; names are such as "utf-8" or "iso-8859-1"') from None
        return name

    @field_validator("fields")
    @classmethod
    def _names(cls, fields: dict[str, str]) -> dict[str, str]:
        for name in fields:
            if not _NAME.fullmatch(name):
                raise ValueError("the name of a field is made of letters, digits and _, so that templates can use it")
        return fields

    @field_validator("params")
    @classmethod
    def _templates(cls, params: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for name, value in params.items():
            if not isinstance(value, str):
                continue
            try:
                unknown = compile_template(value).names - {"checkpoint"}
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if unknown:
                raise ValueError(f"{name}: unknown name {', '.join(sorted(unknown))}; only checkpoint is known here")
        return params

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = [*self._checkpoint_problems()]
        if isinstance(self.auth, (ClientCredentialsAuth, PasswordAuth)) and self.auth.token_url is None:
            problems.append("auth.token_url is required")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _checkpoint_problems(self) -> Iterator[str]:
        if self.paging.resumes and self.checkpoint is not None:
            yield "paging.resume and checkpoint are two checkpoints; give one of them"
        texts = [value for value in self.params.values() if isinstance(value, str)]
        uses = any("checkpoint" in compile_template(text).names for text in texts)
        if uses and self.checkpoint is None and not self.paging.resumes:
            yield "params use {{ checkpoint }}, but no checkpoint is given"
