"""
Replies: the incident's number and sys_id, written back to the system that the record came from.

At least once, with an ``Idempotency-Key`` that each copy bears. A reply is a delivery of its own: whatever becomes of it,
the incident is delivered.
"""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, JsonValue, ValidationInfo, field_validator, model_validator

from poller.clients.auth import AuthSettings
from poller.clients.headers import SecretOrText
from poller.clients.http import RemoteSettings
from poller.model import Intent, Operation, Receipt, Record
from poller.sinks.addresses import Address, check_template, remote_name
from poller.sinks.sending import ACCEPTED, Sending, check_auth, check_sent
from poller.sinks.unguarded import UnguardedSink, envelope, opened
from poller.translate import Template, compile_template
from poller.values import Secret

__all__ = ["ReplySettings", "ReplySink", "with_source_auth"]

_CONNECTIONS: Final = 4
#: How the source's host is reached; each as a whole, where the reply says nothing of its own.
_PATHS: Final = (("tls",), ("proxy", "proxy_username", "proxy_password"))


class ReplySettings(RemoteSettings):
    """The keys of ``[routes.NAME.reply]``."""

    url: Annotated[
        str, Field(description="where to, such as https://desk.example/api/tickets/{{ key }}/links; values are encoded")
    ]
    method: Annotated[Literal["POST", "PUT", "PATCH"], Field(description="of each request")] = "POST"
    headers: Annotated[dict[str, SecretOrText], Field(default_factory=dict, description="sent along with each request")]
    body: Annotated[
        JsonValue,
        Field(
            description="a table or a list is sent as JSON, text as it is; templates see number, sys_id, key, version and "
            "the record's fields"
        ),
    ] = {"number": "{{ number }}", "sys_id": "{{ sys_id }}"}  # noqa: RUF012  frozen by pydantic
    accepted: Annotated[
        tuple[Annotated[int, Field(ge=200, le=299)], ...], Field(min_length=1, description="statuses that mean: done")
    ] = ACCEPTED

    @field_validator("url")
    @classmethod
    def _address(cls, url: str, info: ValidationInfo) -> str:
        return check_template(url, allow_plaintext=info.data.get("allow_plaintext", False))

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
        return check_sent(headers, instead="url and body")

    @field_validator("body")
    @classmethod
    def _compiles(cls, body: JsonValue) -> JsonValue:
        _compiled(body)
        return body

    @model_validator(mode="after")
    def _authenticated(self) -> Self:
        check_auth(self.auth)
        return self


def with_source_auth(reply: ReplySettings, source: BaseModel | None) -> ReplySettings:
    """Return *reply* with credentials, TLS and proxy of the source where it has none of its own and the host is the same."""
    theirs: AuthSettings | None = getattr(source, "auth", None)
    if theirs is None or "auth" in reply.model_fields_set:
        return reply
    ours, other = urlsplit(reply.url.partition("{")[0]), urlsplit(str(getattr(source, "url", "")))
    if ours[:2] != other[:2]:
        return reply
    given: dict[str, object] = {"auth": theirs}
    for path in _PATHS:
        if reply.model_fields_set.isdisjoint(path) and all(hasattr(source, name) for name in path):
            given |= {name: getattr(source, name) for name in path}
    return reply.model_copy(update=given)


class ReplySink(UnguardedSink):
    """Carries out `poller.ports.Sink` for the replies of one route."""

    operation: ClassVar[Operation] = Operation.REPLY

    def __init__(self, settings: ReplySettings) -> None:
        super().__init__(remote_name(settings.url))
        self._url = Address(settings.url)
        self._body = _compiled(settings.body)
        self._type = "text/plain; charset=utf-8" if isinstance(settings.body, str) else "application/json"
        self._sending = Sending(
            settings,
            url=settings.url,
            method=settings.method,
            headers=settings.headers,
            accepted=settings.accepted,
            connections=_CONNECTIONS,
        )

    def close(self) -> None:
        """Close the connections."""
        self._sending.close()

    def freeze(self, record: Record) -> str:
        variables: dict[str, object] = {"key": record.key, "version": record.version, **record.fields}
        variables |= {"number": record.number or "", "sys_id": record.sys_id or ""}
        filled = _filled(self._body, variables)
        text = filled if isinstance(self._body, Template) else json.dumps(filled, ensure_ascii=False)
        return envelope(url=self._url.of(variables), document=str(text))

    def deliver(self, intent: Intent) -> Receipt:
        parts = opened(intent.body)
        return self._sending.send(intent, parts["url"], parts["document"], self._type, self.may_send)


def _compiled(value: object) -> object:
    if isinstance(value, str):
        return compile_template(value)
    if isinstance(value, dict):
        return {name: _compiled(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_compiled(part) for part in value]
    return value


def _filled(value: object, variables: dict[str, object]) -> object:
    if isinstance(value, Template):
        return value.render(variables)
    if isinstance(value, dict):
        return {name: _filled(part, variables) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, variables) for part in value]
    return value
