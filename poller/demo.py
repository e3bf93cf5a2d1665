"""
``poller demo``: the sandbox, the shipped settings and one run of `once`; then the incidents created.

Everything is kept in one folder, so that a second run meets what the first has left and creates nothing again. The ports
are free ones and differ each time; the settings that were used stand in the folder too.
"""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from poller import logs
from poller.clients.query import Query
from poller.clients.servicenow import ServiceNowClient
from poller.commands.showing import clean, cut, say, table, warn
from poller.engine_room import EngineRoom
from poller.errors import SettingsError
from poller.model import Fields
from poller.once import Outcome, run_once
from poller.sandbox import Options, Sandbox, StateError
from poller.settings import Settings, load

#: What is read back of each incident.
_COLUMNS = ("number", "caller_id.user_name", "short_description", "correlation_display")
_HEAD = ("INCIDENT", "CALLER", "TITLE", "ORIGIN")
#: Further incidents are counted and not shown.
_MOST = 1000
_WIDEST_TITLE = 52


def demonstrate(directory: str) -> int:
    """Run the demo in *directory*; return 0 when every ticket has its incident."""
    folder = Path(directory)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox = Sandbox(Options(state=str(folder / "sandbox.state")))
        log = (folder / "demo.log").open("a", encoding="utf-8")
    except (OSError, StateError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        warn(clean(f"poller demo: {directory} cannot be used: {reason}; name another with --directory DIR"))
        return 1
    with sandbox, log:
        path = folder / "settings.toml"
        _private(path, _settings(sandbox, folder))
        settings = load(path)
        logs.setup("info", "json", stream=log)
        before, after, outcome = _run(settings, path)
        logs.flush()
        for line in _told(sandbox, directory, before, after, outcome):
            say(line)
    return 0 if outcome.all_delivered and after else 1


def _run(settings: Settings, path: Path) -> tuple[set[str], list[Fields], Outcome]:
    """Return the incidents' numbers before, the incidents after, and what the run came to."""
    assert settings.servicenow is not None  # noqa: S101  the shipped settings have one
    client = ServiceNowClient(settings.servicenow)
    prefix = settings.servicenow.correlation_prefix
    before = {row["number"] for row in _incidents(client, prefix)}
    room = EngineRoom(settings, path)
    try:
        outcome = run_once(room)
    finally:
        room.close()
    after = _incidents(client, prefix)
    client.close()
    return before, after, outcome


def _incidents(client: ServiceNowClient, prefix: str) -> list[Fields]:
    """Ask the instance, and not our own database: what counts is what is there."""
    query = Query().starts_with("correlation_id", f"{prefix}:").order_by("number")
    return client.table_get("incident", query, _COLUMNS, _MOST)


# The settings.


def shipped() -> str:
    """
    Return the text of the commented default settings.

    Raises:
        SettingsError: They are in neither place.
    """
    package = Path(str(files("poller")))
    for place in (package / "_settings.toml", package.parent / "settings.toml"):
        if place.is_file():
            return place.read_text("utf-8")
    raise SettingsError([f"settings.toml: the shipped settings are not in {package}; install poller anew"])


def _settings(sandbox: Sandbox, folder: Path) -> str:
    """Return the shipped settings with the sandbox's addresses, and the database in *folder*."""
    text = shipped()
    given = tomllib.loads(text)
    places = {
        given["database"]["url"]: f"sqlite:///{folder.absolute() / 'poller.db'}",
        given["servicenow"]["instance"]: sandbox.servicenow_url,
    }
    for route in given["routes"].values():
        url = route["source"]["url"]
        places[url] = urlsplit(url)._replace(netloc=urlsplit(sandbox.helpdesk_url).netloc).geturl()
    for was, now in places.items():
        text = text.replace(f'"{was}"', json.dumps(now))
    return text


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")


# What is shown.


def _told(sandbox: Sandbox, directory: str, before: set[str], after: list[Fields], outcome: Outcome) -> Iterator[str]:
    yield f"Stand-in help desk   {sandbox.helpdesk_url}"
    yield f"Stand-in ServiceNow  {sandbox.servicenow_url}"
    yield ""
    rows = ((row["number"], row["caller_id.user_name"], _title(row), row["correlation_display"]) for row in after)
    yield from table(_HEAD, rows, most=_WIDEST_TITLE)
    yield ""
    created = sum(row["number"] not in before for row in after)
    yield f"{created} incident{'' if created == 1 else 's'} created, {len(after) - created} already there"
    if not outcome.all_delivered:
        yield f"Not all went well: {', '.join(outcome.polls_failed) or outcome.unfinished} unfinished; see {directory}/demo.log"
    yield ""
    yield from _what_next(directory)


def _title(row: Fields) -> str:
    return cut(clean(row["short_description"]), _WIDEST_TITLE)


def _what_next(directory: str) -> Iterator[str]:
    poller, settings = _invoked(), f"--settings {directory}/settings.toml"
    again = poller + " demo" + ("" if directory == ".demo" else f" --directory {directory}")
    lines = (
        ("the same again; nothing is created twice", again),
        ("what is remembered of each ticket", f"{poller} records {settings}"),
        ("the life of one", f"{poller} explain helpdesk 1001 {settings}"),
        ("what was logged", f"{directory}/demo.log"),
        ("your own systems", "settings.toml says how; then: poller check, poller once, poller run"),
    )
    yield "What next"
    size = max(len(what) for what, _ in lines)
    for what, how in lines:
        yield f"  {what:<{size}}  {how}"


def _invoked() -> str:
    """Return how poller was called, so that a line can be pasted."""
    name = Path(sys.argv[0])
    if name.name != "poller":
        return f"{Path(sys.executable).name} -m poller"
    return "poller" if shutil.which("poller") else sys.argv[0]
