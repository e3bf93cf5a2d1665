"""
TLS: whom we trust and who we are.

`TlsSettings` are the keys of ``tls``; `Trust` hands out what new connections are made with, and looks at the files again as
they change. From TLS 1.2 on; there is no switch that turns verification off.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import Annotated, Final, Protocol, Self

import certifi
from pydantic import Field, ValidationInfo, field_validator, model_validator
from urllib3.util.ssl_ import create_urllib3_context

from poller.logs import get_logger
from poller.values import Model, Secret

log = get_logger()

#: Enough of a file to see what it is.
_HEAD: Final = 65536


class KeyFiles(Model):
    """Who we are, to servers and to clients alike: a certificate and its key."""

    certificate: Annotated[Path | None, Field(description="PEM; ours, with its chain")] = None
    key: Annotated[Path | None, Field(description="PEM; left out: it stands in the certificate's file")] = None
    passphrase: Annotated[Secret | None, Field(description="of the key, where it is protected by one")] = None

    @field_validator("certificate", "key")
    @classmethod
    def _readable(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else cls.readable(path, info)

    @staticmethod
    def readable(path: Path, info: ValidationInfo) -> Path:
        """
        Return *path*, which is relative to the settings file.

        Raises:
            ValueError: It cannot be read.
        """
        base = (info.context or {}).get("base")
        path = (base or Path()) / path
        if not path.is_file():
            raise ValueError(f"{path} does not exist")
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read by this user")
        return path

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read for a context."""
        secret = self.passphrase.path if self.passphrase is not None else None
        return tuple(path for path in (self.certificate, self.key, secret) if path is not None)

    def show(self, context: ssl.SSLContext) -> None:
        """
        Let *context* show our certificate, where there is one.

        Raises:
            ValueError: A file cannot be used; the text begins with its key.
        """
        certificate = self.certificate
        if certificate is None:
            return
        key = self.key or certificate
        subject = "certificate" if self.key is None else "key"
        protected = _holds(key, b"ENCRYPTED")
        if protected and self.passphrase is None:
            raise ValueError(f"{subject}: the key in {key} is protected by a pass phrase; give it as tls.passphrase")
        # Without a password OpenSSL would ask for one on the terminal.
        password = _text(self.passphrase) if self.passphrase is not None else ""
        try:
            context.load_cert_chain(certificate, key, password=password)
        except OSError as error:
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                raise ValueError(f"{subject}: the key in {key} is not the one of {certificate}") from None
            if not _holds(certificate, b"BEGIN CERTIFICATE"):
                raise ValueError(f"certificate: {certificate} {_why(error, 'holds no certificate in PEM')}") from None
            if protected:
                raise ValueError(f"passphrase: it does not open the key in {key}") from None
            raise ValueError(f"{subject}: {key} {_why(error, 'holds no private key in PEM')}") from None


class TlsSettings(KeyFiles):
    """Whom we trust and who we are. There is no switch that turns verification off."""

    ca: Annotated[
        Path | None, Field(description="PEM; these alone are trusted then, instead of the public authorities")
    ] = None

    @field_validator("ca")
    @classmethod
    def _authorities(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else cls.readable(path, info)

    @model_validator(mode="after")
    def _loads(self) -> Self:
        if self.certificate is None and (self.key is not None or self.passphrase is not None):
            raise ValueError("certificate is required beside a key or a passphrase")
        self.context()
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read for a context."""
        return (*([self.ca] if self.ca else []), *super().files)

    def context(self) -> ssl.SSLContext:
        """
        Return what verifies a server, and shows our certificate where there is one.

        Raises:
            ValueError: A file cannot be used; the text begins with its key.
        """
        context: ssl.SSLContext = create_urllib3_context(ssl_minimum_version=ssl.TLSVersion.TLSv1_2)
        try:
            # Named, and not the library's default, which would ask SSL_CERT_FILE of the environment.
            context.load_verify_locations(cafile=str(self.ca or certifi.where()))
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"ca: {self.ca} {_why(error, 'holds no certificate in PEM')}") from None
        self.show(context)
        return context


def _text(secret: Secret) -> str:
    try:
        return secret.reveal()
    except OSError as error:
        raise ValueError(f"passphrase: {error.filename} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("passphrase: its file is not UTF-8 text") from None


def _holds(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return mark in file.read(_HEAD)
    except OSError:
        return False


def _why(error: OSError, otherwise: str) -> str:
    if isinstance(error, ssl.SSLError) or not error.strerror:
        return otherwise
    return f"cannot be read: {error.strerror}"


_Stamps = tuple[tuple[int, int, int] | None, ...]


class Side(Protocol):
    """The settings of one side of TLS."""

    @property
    def files(self) -> tuple[Path, ...]: ...
    def context(self) -> ssl.SSLContext: ...


class Trust:
    """
    What new connections are made with, for any number of threads.

    Files that have changed are loaded again, without a restart; while they do not fit together, half written or the key
    not yet beside its certificate, what was loaded before stays in use.
    """

    def __init__(self, settings: Side) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._context = settings.context()
        #: The state of the files that was complained of.
        self._told: _Stamps | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        # Looked at before they are read: what changes meanwhile is seen by the next connection.
        stamps = self._stamps()
        if stamps == self._seen:
            return self._context
        with self._lock:
            if stamps != self._seen:
                self._load(stamps)
            return self._context

    def _load(self, stamps: _Stamps) -> None:
        try:
            self._context = self._settings.context()
        except ValueError as error:
            if stamps != self._told:
                self._told = stamps
                log.warning("certificate_refused", error=f"tls.{error}")
            return
        self._seen, self._told = stamps, None
        log.info("certificate_reloaded", files=[str(path) for path in self._settings.files])

    def _stamps(self) -> _Stamps:
        return tuple(_stamp(path) for path in self._settings.files)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
