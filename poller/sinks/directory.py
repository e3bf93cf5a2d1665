"""
The sink ``directory``: each record is a file that is there whole, or not at all.

It is written beside its name under another one, flushed to the disk, and linked; the folder is flushed too. A crash leaves
at most a hidden file, which the next attempt at the same message removes; what has its name already is never written to.
Two messages never share a file: where a name is taken by other bytes, the message is a dead letter.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
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
_LONGEST_ENDING: Final = 16
_UNSAFE: Final = re.compile(r"[/\\\x00-\x1f\x7f]")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
#: Nothing can be written here by this user; EPERM and ENOTSUP come from file systems without hard links.
_DENIED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
)


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
        self._name = None if settings.name is None else compile_template(settings.name)
        self._ending = _ENDINGS[settings.format]
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
        mark = record.message_id[-16:]
        # A field of this name has a meaning in the template of the settings; the file's own name tells messages apart.
        name = f"{record.key}-{mark}.{self._ending}"
        if self._name is not None:
            name = self._name.render({**besides, "id": mark, **record.fields})
        return envelope(name=_safe(name), document=self._translator.render(record.fields, **besides))

    def deliver(self, intent: Intent) -> Receipt:
        if not self.may_send(intent):
            raise NotSentError("the time or the lease of this attempt had run out before its first byte")
        parts = opened(intent.body)
        data = parts["document"].encode("utf-8", "replace")
        target = self._path / parts["name"]
        hidden = self._path / f".{parts['name']}.{intent.message_id[-16:]}.part"
        try:
            if _written(hidden, target, data):
                return Receipt(learnt="response")
            same = _holds(target, data)
        except OSError as error:
            raise _failed(self._path, error) from None
        if not same:
            raise PermanentError(
                f"{target.name} is there already with other bytes; make name tell them apart, or leave it out"
            )
        return Receipt(learnt="lookup")


def _safe(name: str) -> str:
    """
    Return *name* as a file's, in this folder and no other.

    Raises:
        TemplateFault: It is empty.
    """
    name = _UNSAFE.sub("_", name).strip().lstrip(".").strip()
    if not name:
        raise TemplateFault("name: gives no name for a file")
    data = name.encode("utf-8", "replace")
    if len(data) > _LONGEST:
        # Cut, but not so that two long ones become one.
        ending = Path(name).suffix.encode("utf-8", "replace")
        ending = ending if len(ending) <= _LONGEST_ENDING else b""
        mark = b"-" + hashlib.sha256(data).hexdigest()[:16].encode() + ending
        data = data[: _LONGEST - len(mark)] + mark
    return data.decode("utf-8", "ignore")


def _written(hidden: Path, target: Path, data: bytes) -> bool:
    """Write a whole file; return False where there is one of this name."""
    # What an earlier attempt left may be a second name of the file itself: it is taken away, and never written to.
    hidden.unlink(missing_ok=True)
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        # A link fails where the name is taken; a rename would replace what is there.
        os.link(hidden, target)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink()
    _flush(target.parent)
    return True


def _holds(target: Path, data: bytes) -> bool:
    """Return whether *target* is a file of these very bytes; if so, it is on the disk too: an attempt may have died before."""
    found = target.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size != len(data):
        return False
    # Not blocked by what may have taken its place meanwhile, such as a pipe.
    descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if file.read(len(data) + 1) != data:
            return False
        os.fsync(descriptor)
    _flush(target.parent)
    return True


def _flush(folder: Path) -> None:
    """Bring the names in *folder* to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: Path, error: OSError) -> Exception:
    said = f"{path}: {error.strerror}"
    if error.errno in _FULL:
        return TransientError(said, remote=True)
    if error.errno == errno.ENOENT and path.is_dir():
        # A file went away while it was looked at: its reader was quick, or another attempt tidied up.
        return UnknownOutcome(said)
    if error.errno in _DENIED:
        return BlockedError(f"{said}; see that the folder is there, takes hard links, and may be written to")
    return UnknownOutcome(said)
