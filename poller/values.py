"""
What a value in ``settings.toml`` may be: durations, sizes, secrets, and the base of every settings model.

The models themselves stand beside the classes that they configure; `settings` puts them together.
"""

from __future__ import annotations

import os
import re
import stat
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

#: Where credentials are looked for when systemd does not hand them over, so that ``check`` works in a shell.
CREDENTIALS_FALLBACK = Path("/etc/poller/credentials")

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$")
_DURATION_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Ten years: longer is a slip of the pen, and must not overflow a date.
_LONGEST_DURATION = 3660 * 86400.0
_SIZE = re.compile(r"^(\d+)(B|kB|KB|MB|GB)$")
_SIZE_BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


class Model(BaseModel):
    """The base of every settings model: frozen, no unknown keys, and no value ever in an error text."""

    # A misspelt `client_secert = "…"` would otherwise put the secret into the message.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (found := _DURATION.match(value)):
        seconds = float(found[1]) * _DURATION_SECONDS[found[2]]
        if seconds <= _LONGEST_DURATION:
            return timedelta(seconds=seconds)
    raise ValueError('a duration is text such as "30s", "5m", "2h" or "7d"')


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _SIZE.match(value)):
        return int(found[1]) * _SIZE_BYTES[found[2]]
    raise ValueError('a size is text such as "512kB" or "20MB"')


#: ``"30s"``, ``"5m"``, ``"2h"``, ``"7d"``.
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["30s", "5m", "2h", "7d"]}),
]

#: ``"512kB"``, ``"20MB"``; in bytes.
Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema({"type": "string", "pattern": _SIZE.pattern, "examples": ["512kB", "20MB"]}),
]


class Secret:
    """
    A secret and where it comes from. It never shows itself: ``str``, ``repr`` and errors give ``**********``.

    Accepted forms: ``{ credential = "name" }``, ``{ file = "path" }``, ``{ env = "NAME" }``, or plain text.
    Files are read again by each `reveal`, so that a rotated secret is used without a restart.
    """

    def __init__(self, *, text: str | None = None, path: Path | None = None) -> None:
        self._text = text
        self._path = path
        #: True where the secret stands as plain text in the settings file.
        self.plain = False

    @property
    def path(self) -> Path | None:
        """The file that it is read from, None where there is none."""
        return self._path

    def reveal(self) -> str:
        """Return the secret's text, without the newline that editors leave at its end."""
        if self._path is not None:
            return self._path.read_text(encoding="utf-8").rstrip("\r\n")
        return self._text or ""

    def __repr__(self) -> str:
        return "**********"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._text, self._path) == (other._text, other._path)

    def __hash__(self) -> int:
        return hash((self._text, self._path))

    @classmethod
    def parse(cls, value: object, base: Path | None) -> Secret:
        """
        Read one of the accepted forms.

        Args:
            base: The folder of the settings file, to which ``file`` is relative.

        Raises:
            ValueError: Saying what is missing, never what was found.
        """
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            secret = cls(text=value)
            secret.plain = True
            return secret
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError('a secret is { credential = "…" }, { file = "…" }, { env = "…" } or text')
        ((kind, where),) = value.items()
        if not isinstance(where, str) or not where:
            raise ValueError(f"the {kind} of a secret is a name in quotes")
        if kind == "env":
            if where not in os.environ:
                raise ValueError(f"environment variable {where} is not set")
            return cls(text=os.environ[where])
        if kind == "file":
            return cls(path=_readable((base or Path()) / where, "secret file"))
        if kind == "credential":
            return cls(path=_credential(where))
        raise ValueError(f'unknown kind of secret "{kind}"; credential, file and env are known')

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        """Tell pydantic how to validate it."""

        def validate(value: object, info: core_schema.ValidationInfo) -> Secret:
            context = info.context or {}
            return cls.parse(value, context.get("base"))

        return core_schema.with_info_plain_validator_function(validate)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell the JSON schema which forms there are."""

        def form(name: str) -> JsonSchemaValue:
            return {
                "type": "object",
                "properties": {name: {"type": "string"}},
                "required": [name],
                "additionalProperties": False,
            }

        return {"anyOf": [{"type": "string"}, form("credential"), form("file"), form("env")]}


def _readable(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ValueError(f"{what} {path} does not exist")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{what} {path} cannot be read by this user")
    return path


def _credential(name: str) -> Path:
    if "/" in name or name in {".", ".."}:
        raise ValueError(f'credential name "{name}" may not hold a path')
    folders = [Path(given)] if (given := os.environ.get("CREDENTIALS_DIRECTORY")) else []
    folders.append(CREDENTIALS_FALLBACK)
    for folder in folders:
        if (folder / name).is_file():
            return _readable(folder / name, "credential")
    raise ValueError(f'credential "{name}" is in none of: {", ".join(map(str, folders))}')


def private(path: Path) -> bool:
    """Return whether only its owner can read *path*; plain secrets in it then need no warning."""
    return not path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)


def open_to_all(path: Path) -> bool:
    """Return whether everybody on this machine can read *path*; a group that was given it may."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
