"""The settings of the source ``http``, each key with what can be known about it before anything is asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta, tzinfo
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, field_validator, model_validator

from poller.clients.auth import TokenAuth
from poller.clients.headers import SecretOrText, check_headers
from poller.clients.http import RemoteSettings, check_url
from poller.sources.checkpoints import CheckpointFormat, check_format
from poller.sources.detail_settings import DetailSettings, detail_problems
from poller.sources.paging import NoPaging, PagingSettings
from poller.sources.queries import body_texts, names_used
from poller.sources.record_settings import RecordSettings, expression_problem, format_in, refuse_at
from poller.translate import TemplateFault, compile_template
from poller.values import Duration, Secret

_WITHOUT_DOCUMENT = frozenset({"none", "link", "page", "offset"})


class HttpSourceSettings(RemoteSettings, RecordSettings):
    """The keys of ``[routes.NAME.source]`` with ``type = "http"``."""

    type: Literal["http"]
    url: Annotated[str, Field(description="what is polled")]
    method: Annotated[
        Literal["GET", "POST"], Field(description="POST: the query stands in body; it must change nothing there")
    ] = "GET"
    headers: Annotated[dict[str, SecretOrText], Field(default_factory=dict, description="sent along with each request")]
    checkpoint_format: Annotated[
        Annotated[str, AfterValidator(check_format)] | None,
        Field(
            description="iso, epoch, number or a strptime pattern; left out: integers, epoch and RFC 3339 are recognised"
        ),
    ] = None
    first_checkpoint: Annotated[
        str | None, Field(description="handed to the source until the first whole poll has finished; left out: none")
    ] = None
    checkpoint_zone: Annotated[
        str | None, Field(description='of times without a zone, such as "Europe/Berlin"; left out: UTC')
    ] = None
    overlap: Annotated[Duration, Field(ge=timedelta(0), description="taken off a checkpoint that is a time")] = (
        timedelta(minutes=5)
    )
    detail: Annotated[tuple[DetailSettings, ...], Field(description="follow-up requests, for new records alone")] = ()
    required: Annotated[
        tuple[str, ...], Field(description="a record without one of these fields is a dead letter")
    ] = ()
    paging: Annotated[PagingSettings, Field(description="how a list that comes in pieces is read whole")] = NoPaging()
    params: Annotated[
        dict[str, SecretOrText],
        Field(default_factory=dict, description="of the query; may use {{ checkpoint }}, and page, offset or cursor"),
    ]
    body: Annotated[
        JsonValue | None,
        Field(description="with POST: a table or a list is sent as JSON, text as it is; may use what params may use"),
    ] = None

    @field_validator("url")
    @classmethod
    def _address(cls, url: str, info: ValidationInfo) -> str:
        if "{{" in url:
            raise ValueError("is asked as it is; templates are for params")
        check_url(url, allow_plaintext=info.data.get("allow_plaintext", False))
        return url

    @field_validator("checkpoint_zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                ZoneInfo(name)
        except (OSError, ValueError, KeyError):
            raise ValueError('no such time zone is known here; names are such as "UTC" or "Europe/Berlin"') from None
        return name

    @field_validator("detail")
    @classmethod
    def _details(cls, details: tuple[DetailSettings, ...], info: ValidationInfo) -> tuple[DetailSettings, ...]:
        if {"fields", "format", "namespaces"} <= info.data.keys():
            refuse_at(
                detail_problems(
                    details,
                    info.data["fields"],
                    of_list=info.data["format"],
                    namespaces=info.data["namespaces"],
                    allow_plaintext=info.data.get("allow_plaintext", False),
                )
            )
        return details

    @field_validator("required")
    @classmethod
    def _among_fields(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = {
            *info.data.get("fields", names),
            *(name for each in info.data.get("detail", ()) for name in each.fields),
        }
        if missing := [name for name in names if name not in known]:
            raise ValueError(f"{missing[0]} is not among the fields")
        return names

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
        return check_headers(headers, instead="params")

    @field_validator("paging")
    @classmethod
    def _paging_expressions(cls, paging: PagingSettings, info: ValidationInfo) -> PagingSettings:
        documents = format_in(info.data)
        if documents is not None and not documents.whole:
            if paging.type not in _WITHOUT_DOCUMENT:
                refuse_at([(("type",), "CSV has no document to look into: none, link, page and offset only")])
            told = "CSV has no document to look into; leave it out"
            refuse_at(((paging.type, name), told) for name, _ in paging.expressions())
        problems = ((name, expression_problem(text, documents)) for name, text in paging.expressions())
        # With the type, as pydantic itself tells the place: there is a key next in the type next.
        refuse_at(((paging.type, name), problem) for name, problem in problems if problem)
        return paging

    @field_validator("params")
    @classmethod
    def _templates(cls, params: dict[str, str | Secret], info: ValidationInfo) -> dict[str, str | Secret]:
        texts = (((name,), value) for name, value in params.items() if isinstance(value, str))
        refuse_at((where, problem) for where, text in texts if (problem := _template_problem(text, info)))
        return params

    @field_validator("body")
    @classmethod
    def _body(cls, body: JsonValue, info: ValidationInfo) -> JsonValue:
        if body is None:
            return None
        if info.data.get("method") == "GET":
            raise ValueError('a body is sent with method = "POST" alone')
        if not isinstance(body, (dict, list, str)):
            raise ValueError("is a table, a list, or text")  # noqa: TRY004  pydantic takes a TypeError for a crash
        refuse_at((where, problem) for where, text in body_texts(body) if (problem := _template_problem(text, info)))
        if isinstance(body, str):
            _text_body(body, info)
        return body

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = [*self._checkpoint_problems()]
        if isinstance(self.auth, TokenAuth) and self.auth.token_url is None:
            problems.append("auth.token_url is required")
        place = self.paging.place
        if place == "cursor" and getattr(self.paging, "param", None) is None and place not in self._names_used():
            problems.append("paging.param is required, or {{ cursor }} in params or body")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _checkpoint_problems(self) -> Iterator[str]:
        if self.paging.resumes and self.checkpoint is not None:
            yield "paging.resume and checkpoint are two checkpoints; give one of them"
        if "checkpoint" in self._names_used() and self.checkpoint is None and not self.paging.resumes:
            yield "params use {{ checkpoint }}, but no checkpoint is given"
        if self.first_checkpoint is not None and self.checkpoint is None:
            yield "first_checkpoint stands in for a checkpoint, and none is given"

    def _names_used(self) -> frozenset[str]:
        return names_used(self.params, self.body if isinstance(self.body, (dict, list, str)) else None)

    def checkpoint_reading(self) -> CheckpointFormat:
        """Return how the checkpoints of this source are read and written."""
        zone: tzinfo = UTC if self.checkpoint_zone is None else ZoneInfo(self.checkpoint_zone)
        return CheckpointFormat(name=self.checkpoint_format, overlap=self.overlap, zone=zone)


def _template_problem(text: str, info: ValidationInfo) -> str | None:
    place = info.data["paging"].place if "paging" in info.data else None
    known = {"checkpoint", *([place] if place else [])}
    try:
        unknown = compile_template(text).names - known
    except ValueError as error:
        return str(error)
    if unknown and "paging" in info.data:
        word = "only checkpoint is" if len(known) == 1 else f"only {' and '.join(sorted(known))} are"
        return f"unknown name {', '.join(sorted(unknown))[:80]}; {word} known here"
    return None


def _text_body(body: str, info: ValidationInfo) -> None:
    """Refuse a body of text that cannot be sent: no type is stated, or the first request cannot be rendered."""
    if not any(name.lower() == "content-type" for name in info.data.get("headers", {})):
        raise ValueError("a body of text needs the header Content-Type, in headers")
    try:
        compile_template(body).render({"page": "1", "offset": "0"})
    except TemplateFault:
        raise ValueError(
            "the first request has no checkpoint and no cursor yet: "
            "guard them, {% if cursor is defined %}…{% endif %}, or write the body as a table"
        ) from None
