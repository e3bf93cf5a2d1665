"""
``poller demo``: the sandbox, the shipped settings, and what becomes of them in two runs of `once`.

The first run makes incidents of tickets and tells the tickets. Then somebody at the desk assigns one incident to a vendor, and
the second run passes it on as XML. Everything is kept in one folder, so that a second demo meets what the first has left, creates
nothing again and sends nothing again. The ports are free ones and differ each time; the settings that were used stand in the
folder too.
"""

from __future__ import annotations

from pathlib import Path

from poller import logs
from poller.commands.showing import clean, say, warn
from poller.demo.happening import happen
from poller.demo.shipping import SCHEMA, rehearsed, shipped
from poller.demo.telling import told
from poller.sandbox import Options, Sandbox, StateError
from poller.settings import load


def demonstrate(directory: str) -> int:
    """Run the demo in *directory*; return 0 when every ticket has its incident, and the vendor its message."""
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
        (folder / SCHEMA).write_text(shipped(SCHEMA), "utf-8")
        _private(path, rehearsed(sandbox, folder))
        settings = load(path)
        logs.setup("info", "json", stream=log)
        story = happen(sandbox, settings, path)
        logs.flush()
        for line in told(sandbox, directory, story):
            say(line)
    return 0 if story.good else 1


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
