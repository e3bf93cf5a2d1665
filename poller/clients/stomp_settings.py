"""The settings of a STOMP broker, shared by the source and the sink ``activemq``."""

from __future__ import annotations

import re
from datetime import timedelta
from importlib.util import find_spec
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from poller.clients.address import is_loopback
from poller.clients.tls import TlsSettings
from poller.values import Duration, Model, Secret

_PORTS: Final = {"stomp": 61613, "stomp+ssl": 61612}
_BAD: Final = re.compile(r"[\x00-\x20\x7f\\]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
#: One destination: no options, no wildcards, no list of several.
_DESTINATION: Final = re.compile(r"/(queue|topic)/[A-Za-z0-9._:/%~+@-]{1,200}")


class StompSettings(Model):
    """The keys that each STOMP broker has."""

    allow_plaintext: Annotated[
        bool, Field(description="plain stomp:// to another machine; password and messages can be read on the way")
    ] = False
    url: Annotated[str, Field(description='"stomp+ssl://host:port"; stomp:// for this machine')]
    destination: Annotated[str, Field(description='"/queue/name"; to send to, also "/topic/name"')]
    username: Annotated[str | None, Field(min_length=1, description="with password: whom the broker knows us as")] = (
        None
    )
    password: Annotated[Secret | None, Field(description="of username")] = None
    tls: Annotated[TlsSettings, Field(description="private authority, our own certificate")] = TlsSettings()
    connect_timeout: Annotated[Duration, Field(description="until the broker has let us in")] = timedelta(seconds=10)
    receipt_timeout: Annotated[
        Duration, Field(description="until the broker says that it has a message; then its outcome is unknown")
    ] = timedelta(seconds=30)
    heartbeat: Annotated[
        Duration, Field(ge=timedelta(0), description="how often each side shows that it lives; 0s: never")
    ] = timedelta(seconds=10)

    @field_validator("url")
    @classmethod
    def _address(cls, url: str, info: ValidationInfo) -> str:
        # Not imported: it is slow, and most commands need no more than to know that it is there.
        if find_spec("stomp") is None:
            raise ValueError(
                'stomp-py, which speaks to a broker, is not installed: pip install "incident-poller[activemq]" where poller runs'
            )
        host, _ = address(url)
        plain = url.startswith("stomp://") and not is_loopback(host)
        if plain and not info.data.get("allow_plaintext", False):
            raise ValueError("plain stomp:// is for this machine only: use stomp+ssl://, or allow_plaintext = true")
        return url

    @field_validator("destination")
    @classmethod
    def _one_place(cls, destination: str) -> str:
        if not _DESTINATION.fullmatch(destination):
            raise ValueError('is one place, such as "/queue/incidents": no blanks, wildcards, lists or options')
        return destination

    @field_validator("username")
    @classmethod
    def _sendable(cls, username: str | None) -> str | None:
        if username is not None and _CONTROL.search(username):
            raise ValueError("holds a control character, which STOMP cannot send")
        return username

    @field_validator("connect_timeout", "receipt_timeout")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("this must be longer than nothing")
        return value

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        return self

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.url.startswith("stomp+ssl://")

    @property
    def remote(self) -> str:
        """Scheme, host and port."""
        host, port = address(self.url)
        return f"{self.url.partition(':')[0]}://{f'[{host}]' if ':' in host else host}:{port}"


def address(url: str) -> tuple[str, int]:
    """
    Return host and port of a broker.

    Raises:
        ValueError: It is no such address. The address itself is not in the message: it may hold a secret.
    """
    if _BAD.search(url):
        raise ValueError("the address holds a blank, a backslash or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("this is no proper address") from None
    if parts.scheme not in _PORTS:
        raise ValueError("a broker's address begins with stomp+ssl:// (or stomp:// for this machine)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user or password in an address: use username and password")
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError('a broker is its bare address, such as "stomp+ssl://mq.example:61612"')
    return parts.hostname, port or _PORTS[parts.scheme]
