"""The settings of the source ``directory``, each key with what can be known about it before a file is looked at."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from poller.sources.record_settings import FormatSettings, field_problems, format_in, refuse_at
from poller.values import Duration, Size

#: Stands for a key that is left out. In JMESPath and XPath alike it is a text, so it compiles in every format.
POSITION = "'position'"

# A default comes as a path already, which is no JSON text.
Folder = Annotated[Path, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given)]


class DirectorySourceSettings(FormatSettings):
    """The keys of ``[routes.NAME.source]`` with ``type = "directory"``."""

    type: Literal["directory"]
    path: Annotated[Path, Field(description="the folder that is looked into; relative to the settings file")]
    glob: Annotated[
        str,
        Field(min_length=1, description='which names are taken, such as "*.xml"; hidden and .tmp, .part only if named'),
    ] = "*"
    records: Annotated[
        str | None,
        Field(description="where the list is; left out: the JSON document itself, the children of the XML root"),
    ] = None
    key: Annotated[
        str, Field(description="what tells a record from all others of this route; left out: file name and position")
    ] = POSITION
    version: Annotated[str | None, Field(description="left out: a hash of the fields")] = None
    fields: Annotated[dict[str, str], Field(description="name = expression; what templates see")]
    required: Annotated[
        tuple[str, ...], Field(description="a record without one of these fields is a dead letter")
    ] = ()
    done: Annotated[
        Folder, Field(description="where files go once their records are stored; relative to path, made if absent")
    ] = Path("done/")
    failed: Annotated[
        Folder, Field(description="where files go that cannot be read; relative to path, made if absent")
    ] = Path("failed/")
    settle: Annotated[
        Duration, Field(ge=timedelta(0), description="a file is taken once it has not changed for so long")
    ] = timedelta(seconds=5)
    max_body: Annotated[Size, Field(gt=0, description="a larger file goes to failed")] = 20_000_000

    @field_validator("path")
    @classmethod
    def _from_settings(cls, path: Path, info: ValidationInfo) -> Path:
        return Path(os.path.normpath(((info.context or {}).get("base") or Path()).absolute() / path))

    @field_validator("done", "failed")
    @classmethod
    def _elsewhere(cls, folder: Path, info: ValidationInfo) -> Path:
        if "path" not in info.data:
            return folder
        found = Path(os.path.normpath(info.data["path"] / folder))
        if found == info.data["path"]:
            raise ValueError("is the folder that is looked into, so the same files would be read for ever")
        return found

    @field_validator("glob")
    @classmethod
    def _one_level(cls, glob: str) -> str:
        if "/" in glob:
            raise ValueError("is about names in one folder; put the folder into path")
        return glob

    @field_validator("records", "key", "version")
    @classmethod
    def _compiles(cls, text: str | None, info: ValidationInfo) -> str | None:
        documents = format_in(info.data)
        if text is not None and documents is not None:
            if info.field_name == "records" and not documents.whole:
                raise ValueError("CSV has none: each row is a record; leave it out")
            documents.compile(text)
        return text

    @field_validator("fields")
    @classmethod
    def _fields(cls, fields: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        refuse_at(field_problems(fields, format_in(info.data)))
        return fields

    @field_validator("required")
    @classmethod
    def _among_fields(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if missing := [name for name in names if name not in info.data.get("fields", names)]:
            raise ValueError(f"{missing[0]} is not among the fields")
        return names

    @property
    def checkpoint(self) -> None:
        """A folder has none: what was read is moved away."""
        return

    @property
    def positional(self) -> bool:
        """Whether records are told apart by file name and position."""
        return self.key == POSITION
