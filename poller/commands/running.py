"""``run``, ``once`` and ``migrate``: what changes something."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import click

from poller import logs
from poller.commands.opening import read_settings
from poller.commands.progress import Progress
from poller.commands.showing import say, warn
from poller.errors import DatabaseUnusable
from poller.settings import Settings, warnings
from poller.signals import Signals

log = logs.get_logger()

#: EX_UNAVAILABLE: another process has the address; systemd tries again.
EXIT_CANNOT_LISTEN = 69
#: How long what is under way may take to end after a signal, as in the daemon.
DRAIN = 30.0


def run(settings_option: str | None) -> int:
    """Be the daemon."""
    # Until the daemon has handlers of its own: to be stopped while starting is a proper end too.
    signal.signal(signal.SIGTERM, _stop_starting)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    path, settings = read_settings(settings_option)
    logs.setup(settings.log.level, settings.log.format)
    from poller.ingress.listening import CannotListen
    from poller.service import Service

    try:
        service = Service(path, settings)
    except CannotListen as error:
        log.error("server_failed", error=str(error))
        return EXIT_CANNOT_LISTEN
    _tell_warnings(settings)
    return service.run()


def _stop_starting(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def once(settings_option: str | None, names: Sequence[str]) -> int:
    """Poll each route once, then deliver until nothing is due."""
    path, settings = read_settings(settings_option)
    _check_names(settings, names)
    progress = Progress()
    logs.setup(settings.log.level, settings.log.format, stream=progress.above(sys.stdout))
    from poller.engine_room import EngineRoom
    from poller.once import run_once

    room = EngineRoom(settings, path)
    _tell_warnings(settings)
    stopped = _stop_on_signal(room.stopping)
    try:
        outcome = run_once(room, names, progress=progress)
        among = sum(outcome.states.values())
        progress(among - outcome.unfinished, among)
    finally:
        logs.flush()
        progress.close()
    room.close()
    counts = ", ".join(f"{count} {state}" for state, count in sorted(outcome.states.items())) or "no records"
    failed = f"; poll failed: {', '.join(outcome.polls_failed)}" if outcome.polls_failed else ""
    ended = f"; stopped by {stopped[0]}" if stopped else ""
    hint = "; poller status says why" if outcome.unfinished or failed else ""
    warn(f"poller once: {counts}{failed}{ended}{hint}")
    return 0 if outcome.all_delivered and not stopped else 1


def migrate(settings_option: str | None) -> int:
    """Bring the database to the newest schema."""
    _, settings = read_settings(settings_option)
    from sqlalchemy.exc import OperationalError

    from poller.migrate import upgrade
    from poller.store import open_store

    store = open_store(settings.database.address())
    try:
        changed = upgrade(store.engine)
    except OperationalError as error:
        reason = str(error.orig or error).splitlines()[0]
        raise DatabaseUnusable(f"database cannot be migrated: {reason}") from error
    finally:
        store.close()
    say("database brought to the schema of this release" if changed else "database is up to date")
    return 0


def _check_names(settings: Settings, names: Sequence[str]) -> None:
    known = [name for name, route in settings.routes.items() if route.enabled]
    for name in names:
        if name not in known:
            why = "is not enabled" if name in settings.routes else "is not in the settings"
            there = ", ".join(known) or "none"
            raise click.UsageError(f"route {name!r} {why}; enabled routes: {there}")


def _tell_warnings(settings: Settings) -> None:
    for problem in warnings(settings):
        log.warning("settings_warning", problem=problem)


def _stop_on_signal(stopping: threading.Event) -> list[str]:
    """Let SIGTERM and SIGINT end the work in order; return the list that the signal's name will be in."""
    stopped: list[str] = []

    signals = Signals((signal.SIGTERM, signal.SIGINT))

    def watch() -> None:
        ends = float("inf")
        while True:
            for number in signals.wait(0.5):
                if stopped:
                    _leave(number)
                stopped.append(signal.Signals(number).name)
                stopping.set()
                ends = time.monotonic() + DRAIN
            if time.monotonic() > ends:
                _leave(signal.Signals[stopped[0]])

    threading.Thread(target=watch, name="signals", daemon=True).start()
    return stopped


def _leave(number: int) -> None:
    # A worker that hangs in a read would keep the interpreter for its whole time-out. What it was doing is committed
    # as `sending`, and the next start takes it for unknown.
    logs.flush()
    os._exit(128 + number)
