"""``client add``: a secret that is shown once, and the settings that hold its hash; ``client list``."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from pydantic import ValidationError

from poller.commands.opening import read_settings
from poller.commands.showing import as_json, clean, say, table, warn
from poller.errors import SettingsError
from poller.ingress.auth_settings import CLIENT_ID, USUAL, ClientSettings
from poller.ingress.scrypt import ScryptHash
from poller.settings import find_settings, load

#: A secret that somebody brings along is at least so long.
_SHORTEST: Final = 16
_LONGEST: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says."""

    name: str
    scopes: tuple[str, ...]
    routes: tuple[str, ...]
    write: bool
    machine: bool


def add(settings_option: str | None, asked: Asked, *, given: str | None) -> int:
    """Make a client; *given* is a secret that somebody brings along, which is not shown again."""
    if not re.fullmatch(CLIENT_ID, asked.name) or ":" in asked.name:
        raise click.UsageError("a client's name is letters, digits and signs, without blanks and colons")
    if given is not None and not _SHORTEST <= len(given) <= _LONGEST:
        raise click.UsageError(f"a secret has from {_SHORTEST} to {_LONGEST} characters")
    secret = given or secrets.token_urlsafe(32)
    block = _block(asked, secret)
    path: Path | None = None
    if asked.write:
        path = find_settings(settings_option).absolute().resolve()
        if _known(path, asked.name):
            warn(clean(f"poller client add: {path.name} has a client {asked.name} already; nothing was changed"))
            return 1
        _append(path, block)
    shown = None if given is not None else secret
    if asked.machine:
        written = None if path is None else str(path)
        say(as_json({"client_id": asked.name, "client_secret": shown, "settings": block, "written": written}))
    else:
        _tell(asked, shown, block, path)
    return 0


def show(settings_option: str | None, *, machine: bool) -> int:
    """List the clients of the settings."""
    _, settings = read_settings(settings_option)
    clients = settings.server.clients if settings.server is not None else {}
    listed = sorted(clients.items())
    if machine:
        plain = ("scopes", "routes", "requests_per_minute")
        say(
            as_json(
                [
                    {"client_id": name, "proof": _proof(one), **{key: getattr(one, key) for key in plain}}
                    for name, one in listed
                ]
            )
        )
        return 0
    if not listed:
        warn("no clients in the settings; poller client add NAME makes one")
        return 0
    head = ("CLIENT", "PROOF", "PER MINUTE", "ROUTES", "SCOPES")
    rows = (
        (
            name,
            _proof(one),
            one.requests_per_minute,
            "all" if one.routes is None else " ".join(one.routes),
            "the provider's" if one.scopes is None else " ".join(one.scopes),
        )
        for name, one in listed
    )
    for line in table(head, rows):
        say(line)
    return 0


def _proof(one: ClientSettings) -> str:
    """Return how a client proves who it is."""
    own = (("secret", one.client_secret), ("certificate", one.certificate))
    return " or ".join(word for word, value in own if value is not None) or "the provider's token"


def from_stdin() -> str:
    """Return the one line on stdin."""
    return sys.stdin.readline().rstrip("\r\n")


def _tell(asked: Asked, secret: str | None, block: str, path: Path | None) -> None:
    say(f"client_id      {asked.name}")
    if secret is not None:
        say(f"client_secret  {secret}")
        say()
        say("The secret is shown this once: keep it where the client reads it.")
    if path is not None:
        say(clean(f"Added to {path}; a daemon that runs takes it up with SIGHUP."))
        return
    say("For the settings file:")
    say()
    for line in block.splitlines():
        say(line)


def _block(asked: Asked, secret: str) -> str:
    """Return the client's piece of settings.toml."""
    given: dict[str, Any] = {
        "client_secret": ScryptHash.of(secret).text(),
        "scopes": list(dict.fromkeys(asked.scopes or USUAL)),
    }
    if asked.routes:
        given["routes"] = list(dict.fromkeys(asked.routes))
    try:
        ClientSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise click.UsageError(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None
    # A text of JSON is one of TOML, but for characters that none of these values has.
    lines = [f"{key} = {json.dumps(value)}" for key, value in given.items()]
    return "\n".join([f"[server.clients.{_key(asked.name)}]", *lines]) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _known(path: Path, name: str) -> bool:
    """
    Return whether the settings have such a client.

    Raises:
        SettingsError: They are no TOML, or cannot be read; in the words of `poller check`.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        load(path)
        raise
    server = raw.get("server", {})
    clients = server.get("clients", {}) if isinstance(server, dict) else {}
    return isinstance(clients, dict) and name in clients


def _append(path: Path, block: str) -> None:
    """
    Add *block* to the file: whole or not at all, and only if the result is right. Mode and owner stay.

    Raises:
        SettingsError: It would not be; in the words of `poller check`.
    """
    before = path.stat()
    text = path.read_text("utf-8")
    glue = "\n" if text.endswith("\n") or not text else "\n\n"
    # Beside it: relative paths in it lead to the same places, and a rename is one step.
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise SettingsError([f"{path.name}: cannot be written in {path.parent}: {error.strerror}"]) from None
    made = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text + glue + block)
            file.flush()
            os.fchmod(file.fileno(), before.st_mode & 0o7777)
            if (os.geteuid(), os.getegid()) != (before.st_uid, before.st_gid):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        try:
            load(made)
        except SettingsError as error:
            problems = [line.replace(made.name, path.name) for line in error.problems]
            raise SettingsError([*problems, f"{path.name}: nothing was changed"]) from None
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
