"""The sink ``http``: each record is one request to a receiver, in JSON, XML or text, with an ``Idempotency-Key``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from poller.clients.headers import SecretOrText
from poller.clients.http import RemoteSettings
from poller.model import Intent, Receipt, Record
from poller.sinks.addresses import Address, check_template, remote_name
from poller.sinks.sending import ACCEPTED, Sending, check_auth, check_sent
from poller.sinks.unguarded import UnguardedSink, envelope, opened
from poller.translate.documents import DocumentSettings, Translator
from poller.values import Secret

__all__ = ["HttpSink", "HttpSinkSettings"]


class HttpSinkSettings(RemoteSettings, DocumentSettings):
    """The keys of ``[routes.NAME.sink]`` with ``type = "http"``."""

    type: Literal["http"]
    url: Annotated[str, Field(description="where to; path and query may have templates, whose values are encoded")]
    method: Annotated[Literal["POST", "PUT", "PATCH", "DELETE"], Field(description="of each request")] = "POST"
    headers: Annotated[dict[str, SecretOrText], Field(default_factory=dict, description="sent along with each request")]
    accepted: Annotated[
        tuple[Annotated[int, Field(ge=200, le=299)], ...], Field(min_length=1, description="statuses that mean: done")
    ] = ACCEPTED
    concurrency: Annotated[int, Field(ge=1, le=64, description="requests in flight")] = 4

    @field_validator("url")
    @classmethod
    def _address(cls, url: str, info: ValidationInfo) -> str:
        return check_template(url, allow_plaintext=info.data.get("allow_plaintext", False))

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
        return check_sent(headers, instead="url and fields")

    @model_validator(mode="after")
    def _authenticated(self) -> Self:
        check_auth(self.auth)
        return self


class HttpSink(UnguardedSink):
    """Carries out `poller.ports.Sink`."""

    settings: ClassVar[type[HttpSinkSettings]] = HttpSinkSettings

    def __init__(self, settings: HttpSinkSettings) -> None:
        super().__init__(remote_name(settings.url))
        self._url = Address(settings.url)
        self._translator = Translator(settings)
        self._sending = Sending(
            settings,
            url=settings.url,
            method=settings.method,
            headers=settings.headers,
            accepted=settings.accepted,
            connections=settings.concurrency,
        )

    def close(self) -> None:
        """Close what is open."""
        self._sending.close()
        self._translator.close()

    def freeze(self, record: Record) -> str:
        besides = {"key": record.key, "version": record.version}
        url = self._url.of({**besides, **record.fields})
        return envelope(url=url, document=self._translator.render(record.fields, **besides))

    def deliver(self, intent: Intent) -> Receipt:
        parts = opened(intent.body)
        return self._sending.send(intent, parts["url"], parts["document"], self._translator.content_type, self.may_send)
