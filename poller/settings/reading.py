"""Read the settings file: find it, check all of it, say everything that is wrong with it at once."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from poller.errors import SettingsError
from poller.settings import positions, problems
from poller.settings.between import between
from poller.settings.models import Settings
from poller.values import Secret, open_to_all, private

#: A settings file is a few kilobytes; whatever is larger is something else.
MAX_BYTES = 1_000_000

_PLACES = (Path("settings.toml"), Path("/etc/poller/settings.toml"))


def find_settings(option: str | None) -> Path:
    """
    Return the settings file to read.

    Args:
        option: What ``--settings`` said. Then ``$POLLER_SETTINGS``, ``./settings.toml``, ``/etc/poller/settings.toml``.

    Raises:
        SettingsError: None of them is there.
    """
    if option:
        return Path(option)
    if named := os.environ.get("POLLER_SETTINGS"):
        return Path(named)
    for place in _PLACES:
        if place.exists():
            return place
    places = " nor ".join(map(str, _PLACES))
    raise SettingsError([f"settings.toml: neither {places} exists; name one with --settings FILE or POLLER_SETTINGS"])


def load(path: Path) -> Settings:
    """
    Return the settings in *path*.

    Raises:
        SettingsError: With every problem of the file, by line. No value of the file stands in them.
    """
    path = path.absolute()
    text = _read(path)
    raw = _parse(path.name, text)
    found: list[problems.Problem] = []
    settings = None
    try:
        settings = _validated(raw, path.parent)
    except ValidationError as error:
        found += problems.found(error, raw)
    except (OverflowError, RecursionError, OSError) as error:
        found.append(problems.Problem(path=(), text=f"a value cannot be used ({type(error).__name__})"))
    told = {problem.path for problem in found}
    # Once is enough: what pydantic said of a key, or of a value above it, is not said again.
    found += [problem for problem in between(raw) if not problem.among(told)]
    if found or settings is None:
        raise SettingsError(_lines(path.name, text, raw, found))
    settings._warnings = tuple(_warned(path, text, settings))  # noqa: SLF001  ours; not part of the file
    return settings


def _validated(raw: dict[str, Any], base: Path) -> Settings:
    # As JSON, because there pydantic can be strict ("yes" is no boolean) and still make tuples of lists.
    given = json.dumps({"database": {}, **raw}, default=str)
    return Settings.model_validate_json(given, strict=True, context={"base": base})


def _read(path: Path) -> str:
    problem = f"{path.name}: {path}"
    try:
        # A pipe nobody writes to would otherwise hold up the start for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  by descriptor
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SettingsError([f"{problem} is not a regular file"])
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError([f"{problem} does not exist; name one with --settings FILE or POLLER_SETTINGS"]) from None
    except IsADirectoryError:
        raise SettingsError([f"{problem} is a directory, not a file"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such name is possible"
        raise SettingsError([f"{problem} cannot be read: {reason}"]) from None
    if len(data) > MAX_BYTES:
        raise SettingsError([f"{problem} is larger than {MAX_BYTES} bytes: not a settings file"])
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{path.name}:{line}: the file is not UTF-8 text here; save it as UTF-8"]) from None


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        at = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", said)
        line = int(at[1]) if at and at[1] else text.rstrip().count("\n") + 1
        reason = said[: at.start()] if at else "cannot be read"
        reason = reason[0].lower() + reason[1:]
        raise SettingsError([f"{name}:{line}: not valid TOML: {reason}"]) from None
    except (ValueError, RecursionError):
        raise SettingsError([f"{name}: not valid TOML: a number is too long, or lists are nested too deeply"]) from None


def _lines(name: str, text: str, raw: dict[str, Any], found: list[problems.Problem]) -> list[str]:
    places = positions.Positions(text)
    secret = sorted(set(problems.hidden(raw)), key=len, reverse=True)
    told = []
    for problem in found:
        said = " ".join(problem.text.split())
        for value in secret:
            said = said.replace(value, "**********")
        line = places.line(problem.at or problem.path)
        subject = f"{problem.name()}: " if problem.path else ""
        told.append((line, f"{name}:{line}: {subject}{said}"))
    return [line for _, line in sorted(set(told))]


def warnings(settings: Settings) -> list[str]:
    """Return what is allowed but should not stay so, one line each, such as secrets that others can read."""
    return list(settings._warnings)  # noqa: SLF001  see load


def _warned(path: Path, text: str, settings: Settings) -> Iterator[str]:
    shown = not private(path)
    places = positions.Positions(text)
    for where, secret in _secrets(settings, ()):
        subject = f"{path.name}:{places.line(where)}: {problems.Problem(path=where, text='').name()}"
        if where[:2] == ("server", "clients"):
            continue  # the hash of a secret that nobody could guess
        if secret.plain and shown:
            advice = f'use {{ credential = "…" }}, or chmod 600 {path.name}'
            yield f"{subject}: a secret in plain text that others can read; {advice}"
        elif secret.path is not None and open_to_all(secret.path):
            yield f"{subject}: everybody on this machine can read {secret.path}; chmod 600 it"
    server = settings.server
    if server is not None and server.auth is None and not server.clients:
        for name in (name for name, route in settings.routes.items() if route.push is not None):
            line = places.line(("routes", name, "push"))
            yield f"{path.name}:{line}: routes.{name}.push: nobody can push; give [server.auth], or a client (poller client add)"


def secrets(settings: Settings) -> list[str]:
    """Return the text of every secret in the settings, to be kept out of all output. Files are read anew."""
    found = set()
    for _, secret in _secrets(settings, ()):
        try:
            found.add(secret.reveal())
        except (OSError, ValueError):
            continue  # a credential just being rotated; whoever needs it will say so
    return sorted(found - {""})


def _secrets(value: object, path: positions.Path) -> Iterator[tuple[positions.Path, Secret]]:
    if isinstance(value, Secret):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _secrets(part, (*path, key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _secrets(part, (*path, index))
