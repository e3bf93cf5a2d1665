"""
What `run` and `once` have in common: the open store, the wired routes, the dispatcher with its workers.

No schedule and no signals: those are the daemon's (`service`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from poller import logs, recovery, upkeep
from poller.clock import Clock
from poller.dispatcher import Dispatcher
from poller.errors import SettingsError
from poller.marks import Mark
from poller.migrate import upgrade
from poller.ports import Closing
from poller.route import Route
from poller.settings import Settings, secrets
from poller.store import open_store
from poller.wiring import Gate, wire

log = logs.get_logger()

#: More than any sum of ``concurrency``; threads are made only as they are needed.
WORKERS = 256
#: Seconds that farewells at the end may take, all together.
_FAREWELL = 3.0


class EngineRoom:
    """
    Everything open and wired, nothing moving yet.

    Args:
        path: The settings file; the mark file stands beside a PostgreSQL installation's one.

    Raises:
        DatabaseUnusable: It cannot be opened, or another daemon has it.

        SettingsError: The settings do not fit what the database remembers.
    """

    def __init__(self, settings: Settings, path: Path) -> None:
        self.stopping = threading.Event()
        self._settings = settings
        logs.set_secrets(secrets(settings))
        self.store = open_store(settings.database.address())
        self.store.take()
        upgrade(self.store.engine)
        self.clock = Clock(self.store.now())
        self._gate = Gate()
        self.routes = wire(settings, self.store, self.clock, self._gate, self._wake, self.stopping.is_set)
        database = self.store.sqlite_path
        self.mark = Mark(database.with_name(database.name + ".mark") if database else _beside(path))
        self.dispatcher = Dispatcher(
            self.store,
            self.clock,
            self.routes,
            ThreadPoolExecutor(WORKERS, thread_name_prefix="worker"),
            lease=settings.maintenance.lease,
            settle=_settle(settings),
            mark=self.mark.write,
        )
        self._gate.may_send = self.dispatcher.may_send
        self._gate.proven = self.dispatcher.proven
        self._gate.primary = self.dispatcher.primary

    def begin(self) -> bool:
        """
        Take over what a process before us left in doubt.

        Returns:
            Whether commits may be missing (guarantee 2.3, 8): then `recover` is to be called until it says that it is done.
        """
        mark = self.mark.read()
        lost = recovery.suspect(
            self.store, self.clock, self.routes, mark[0] if mark else None, mark[1:] if mark else None
        )
        self.dispatcher.start()
        return lost

    def recover(self) -> bool:
        """Ask the instances what they know that the database does not; return whether all have answered."""
        answered = recovery.ask(self.store, self.clock, self.routes)
        self.dispatcher.look_anew()
        return answered

    def use(self, settings: Settings) -> list[str]:
        """
        Use other settings from now on; return what changed, by name.

        Raises:
            SettingsError: They need a restart, or do not fit the database; the former ones stay in use.
        """
        was = self._settings
        if settings.database != was.database:
            raise SettingsError(["database: cannot change while the daemon runs; restart it"])
        routes = wire(settings, self.store, self.clock, self._gate, self._wake, self.stopping.is_set)
        logs.set_secrets(secrets(settings))
        logs.setup(settings.log.level, settings.log.format)
        changed = [name for name in type(settings).model_fields if getattr(settings, name) != getattr(was, name)]
        changed += [
            f"routes.{name}"
            for name in sorted(settings.routes.keys() | was.routes.keys())
            if settings.routes.get(name) != was.routes.get(name)
        ]
        before = self.routes
        self._settings = settings
        self.routes = routes
        self.dispatcher.lease = settings.maintenance.lease
        self.dispatcher.replace_routes(routes)
        _let_go(before)
        return [name for name in changed if name != "routes"]

    def upkeep(self) -> list[tuple[str, timedelta, Callable[[], object]]]:
        """Return the jobs of maintenance: name, interval, act."""
        return [
            ("sweep", self._settings.maintenance.sweep, self.sweep),
            (
                "retention",
                timedelta(hours=1),
                lambda: upkeep.forget(self.store, self.clock, self._settings.retention.payloads),
            ),
        ]

    def sweep(self) -> None:
        """Compare the incidents at the instances with the records."""
        upkeep.sweep(self.store, self.clock, self.routes)

    def close(self) -> None:
        """Close what is open; nothing may be under way any more."""
        _let_go(self.routes).join(_FAREWELL)
        self.mark.close()
        self.store.close()

    def _wake(self) -> None:
        self.dispatcher.wake()


def _let_go(routes: Mapping[str, Route]) -> threading.Thread:
    """Close what the edges of *routes* keep open, beside whatever else goes on: a farewell to a broker takes its time."""
    edges: list[object] = [edge for route in routes.values() for edge in (route.source, route.sink)]

    def close() -> None:
        for edge in edges:
            if isinstance(edge, Closing):
                edge.close()

    closing = threading.Thread(target=close, name="closing", daemon=True)
    closing.start()
    return closing


def _settle(settings: Settings) -> timedelta:
    """Return how long a copy of a create can be alive after its attempt."""
    servicenow = settings.servicenow
    return servicenow.tcp_bound + servicenow.max_execution if servicenow else timedelta(0)


def _beside(settings: Path) -> Path:
    """Return where the mark file of a PostgreSQL installation stands: the state directory, else beside the settings."""
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return (Path(state) if state else settings.parent) / "poller.mark"
