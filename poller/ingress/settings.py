"""The settings of the ingress, ``[server]``: where it listens, to whom, and how much it takes."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from poller.clients.address import is_loopback
from poller.clients.tls import KeyFiles
from poller.ingress.auth_settings import AuthSettings, ClientName, ClientSettings
from poller.values import Duration, Model, Size

_UNIX: Final = "unix:"
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.IGNORECASE)
#: sockaddr_un has 108 bytes, one of them for the end.
_LONGEST_PATH: Final = 107


class ServerTls(KeyFiles):
    """The server's own certificate, and whose clients may show one."""

    certificate: Annotated[Path, Field(description="PEM; ours, with its chain")]
    client_ca: Annotated[
        Path | None,
        Field(description="PEM; whose certificates clients may show instead of a token: see clients.NAME.certificate"),
    ] = None

    @field_validator("client_ca")
    @classmethod
    def _there(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else cls.readable(path, info)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self.context()
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read for a context."""
        return (*super().files, *([self.client_ca] if self.client_ca else []))

    def context(self) -> ssl.SSLContext:
        """
        Return what new connections are accepted with.

        Raises:
            ValueError: A file cannot be used; the text begins with its key.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self.show(context)
        if self.client_ca is not None:
            try:
                context.load_verify_locations(cafile=str(self.client_ca))
            except OSError:
                raise ValueError(f"client_ca: {self.client_ca} holds no certificate in PEM") from None
            # Whoever shows none may still have a token.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


class ServerSettings(Model):
    """The HTTP ingress: pushes, doorbells, health, metrics."""

    listen: Annotated[
        str,
        Field(
            description='"host:port", "[::1]:port" or "unix:/path", in a folder of ours that nobody else writes into'
        ),
    ] = "127.0.0.1:8080"
    hosts: Annotated[
        tuple[str, ...] | None,
        Field(
            description="names under which it is called, for the header Host; left out: this machine's loopback names "
            "where it listens there, else any name"
        ),
    ] = None
    tls: Annotated[ServerTls | None, Field(description="left out: plain HTTP, for loopback or behind a proxy")] = None
    allow_plaintext: Annotated[
        bool, Field(description="plain HTTP on an address that others reach; tokens can be read on the way")
    ] = False
    auth: Annotated[
        AuthSettings | None, Field(description="whose tokens are taken; left out: those of the embedded end point")
    ] = None
    clients: Annotated[
        dict[ClientName, ClientSettings],
        Field(default_factory=dict, description="[server.clients.NAME] for each client"),
    ]
    max_body: Annotated[Size, Field(gt=0, le=100_000_000, description="the largest request body")] = 1_000_000
    connections: Annotated[int, Field(ge=4, le=1024, description="open at once; above that, idle ones give way")] = 512
    concurrency: Annotated[
        int, Field(ge=1, le=512, description="proven requests under way; more are answered 503 with Retry-After")
    ] = 64
    requests_per_minute: Annotated[
        int, Field(ge=0, description="from all clients together; more are answered 429. 0: no limit")
    ] = 60_000
    head_timeout: Annotated[Duration, Field(description="in which the head of a request must have come")] = timedelta(
        seconds=10
    )
    body_timeout: Annotated[Duration, Field(description="in which its body must have come")] = timedelta(seconds=30)

    @field_validator("listen")
    @classmethod
    def _place(cls, listen: str, info: ValidationInfo) -> str:
        if listen.startswith(_UNIX):
            path = Path(listen.removeprefix(_UNIX))
            if not path.is_absolute():
                path = ((info.context or {}).get("base") or Path()) / path
            if len(os.fsencode(path)) > _LONGEST_PATH:
                raise ValueError(f"the path is longer than the {_LONGEST_PATH} bytes that a socket may have")
            return f"{_UNIX}{path}"
        split(listen)
        return listen

    @field_validator("hosts")
    @classmethod
    def _names(cls, hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in hosts or ():
            if not _HOST.fullmatch(name):
                raise ValueError("a host is a bare name, such as poller.example.com: no scheme, no port")
        return hosts

    @field_validator("head_timeout", "body_timeout")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("this must be longer than nothing")
        return value

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        if self.tls is None and not self.allow_plaintext and not self.local:
            raise ValueError(
                "listen: plain HTTP is for loopback and unix sockets: give [server.tls], put a proxy in front, "
                "or set allow_plaintext = true"
            )
        for name, client in self.clients.items():
            if client.certificate is not None and (self.tls is None or self.tls.client_ca is None):
                raise ValueError(f"clients.{name}.certificate needs tls.client_ca, whose certificates are looked at")
        return self

    @property
    def unix_path(self) -> str | None:
        """The path of the socket, None where it is TCP."""
        return self.listen.removeprefix(_UNIX) if self.listen.startswith(_UNIX) else None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, where it is TCP."""
        return split(self.listen)

    @property
    def local(self) -> bool:
        """Whether nobody on another machine reaches it directly."""
        return self.unix_path is not None or is_loopback(self.address[0])


def split(listen: str) -> tuple[str, int]:
    """
    Return host and port of ``host:port``.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = listen.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError('is "host:port", such as "127.0.0.1:8080", or "unix:/path"')
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST.fullmatch(bare) or ":" in bare:
            raise ValueError('names no host: "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8443"') from None
    return bare, int(port)
