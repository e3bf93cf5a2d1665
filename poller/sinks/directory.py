"""
The sink ``directory``: each record is a file that is there whole, or not at all.

It is written beside its name under another one, flushed to the disk, and renamed; the folder is flushed too. A crash leaves
at most a hidden file, which the next attempt at the same message replaces. Two messages never share a file: where a name
is taken by other bytes, the message is a dead letter.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from poller.errors import BlockedError, NotSentError, PermanentError, TransientError, UnknownOutcome
from poller.model import Intent, Receipt, Record
from poller.sinks.unguarded import UnguardedSink, envelope, opened
from poller.translate import TemplateFault, compile_template
from poller.translate.documents import DocumentSettings, Translator

__all__ = ["DirectorySink", "DirectorySinkSettings"]

_ENDINGS: Final = {"json": "json", "xml": "xml", "text": "txt"}
#: Bytes of a name; most file systems take 255, and the hidden one is longer.
_LONGEST: Final = 200
_UNSAFE: Final = re.compile(r"[/\\\x00-\x1f\x7f]")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def _beside(value: object, info: ValidationInfo) -> object:
    return str(((info.context or {}).get("base") or Path()) / value) if isinstance(value, str) else value


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path}: is no folder that is there")
    return path


class DirectorySinkSettings(DocumentSettings):
    """The keys of ``[routes.NAME.sink]`` with ``type = "directory"``."""

    type: Literal["directory"]
    path: Annotated[
        Path, BeforeValidator(_beside), AfterValidator(_folder), Field(description="the folder; it must be there")
    ]
    name: Annotated[
        str | None,
        Field(
            description='template of the file\'s name; also sees "id", 16 hex of the message; left out: {{ key }}-{{ id }}.xml'
        ),
    ] = None
    concurrency: Annotated[int, Field(ge=1, le=64, description="files written at a time")] = 1

    @field_validator("name")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name is not None:
            compile_template(name)
        return name


class DirectorySink(UnguardedSink):
    """Carries out `poller.ports.Sink`."""

    settings: ClassVar[type[DirectorySinkSettings]] = DirectorySinkSettings

    def __init__(self, settings: DirectorySinkSettings) -> None:
        super().__init__(f"directory:{settings.path}")
        self._path = settings.path
        self._name = compile_template(settings.name or f"{{{{ key }}}}-{{{{ id }}}}.{_ENDINGS[settings.format]}")
        self._translator = Translator(settings)

    def close(self) -> None:
        """End what a stylesheet runs in."""
        self._translator.close()

    def reach(self) -> str:
        """See whether files can be written."""
        if not os.access(self._path, os.W_OK | os.X_OK):
            raise BlockedError(f"{self._path}: may not be written to by this user")
        return f"{self._path}: can be written to; nothing was"

    def freeze(self, record: Record) -> str:
        besides = {"key": record.key, "version": record.version}
        name = self._name.render({**besides, "id": record.message_id[-16:], **record.fields})
        return envelope(name=_safe(name), document=self._translator.render(record.fields, **besides))

    def deliver(self, intent: Intent) -> Receipt:
        if not self.may_send(intent):
            raise NotSentError("the time or the lease of this attempt had run out before its first byte")
        parts = opened(intent.body)
        data = parts["document"].encode("utf-8", "replace")
        target = self._path / parts["name"]
        hidden = self._path / f".{parts['name']}.{intent.message_id[-16:]}.part"
        try:
            _write(hidden, target, data)
        except FileExistsError:
            return self._there(target, data, hidden)
        except OSError as error:
            raise _failed(self._path, error) from None
        return Receipt(learnt="response")

    def _there(self, target: Path, data: bytes, hidden: Path) -> Receipt:
        try:
            hidden.unlink(missing_ok=True)
            same = target.read_bytes() == data
        except OSError as error:
            raise _failed(self._path, error) from None
        if not same:
            raise PermanentError(
                f"{target.name} is there already with other bytes; make name tell them apart, as by {{{{ id }}}}"
            )
        return Receipt(learnt="lookup")


def _safe(name: str) -> str:
    """
    Return *name* as a file's, in this folder and no other.

    Raises:
        TemplateFault: It is empty, or too long.
    """
    name = _UNSAFE.sub("_", name).lstrip(".").strip()
    if not name:
        raise TemplateFault("name: gives no name for a file")
    if len(name.encode("utf-8", "replace")) > _LONGEST:
        raise TemplateFault(f"name: gives more than {_LONGEST} bytes")
    return name.encode("utf-8", "replace").decode()


def _write(hidden: Path, target: Path, data: bytes) -> None:
    """
    Write a whole file.

    Raises:
        FileExistsError: There is one of this name.
    """
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    # A link fails where the name is taken; a rename would replace what is there.
    os.link(hidden, target)
    hidden.unlink()
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _failed(path: Path, error: OSError) -> Exception:
    said = f"{path}: {error.strerror}"
    if error.errno in _FULL:
        return TransientError(said, remote=True)
    if error.errno in {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EROFS}:
        return BlockedError(said)
    return UnknownOutcome(said)
