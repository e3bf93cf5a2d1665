"""
The daemon: poll jobs, dispatcher, signals, readiness, watchdog, drain.

The main thread owns the signals and the watchdog; APScheduler only triggers polls and maintenance; one thread turns the
dispatcher. READY depends on settings, database and threads, never on a remote.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.executors.pool import ThreadPoolExecutor as SchedulerPool
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.exc import SQLAlchemyError

from poller import __version__, gauges, metrics, systemd
from poller.engine_room import EngineRoom
from poller.errors import DatabaseUnusable, SettingsError
from poller.logs import get_logger
from poller.reception import Reception
from poller.ringing import Bell
from poller.route import Route, Schedule
from poller.settings import Settings, load
from poller.signals import Signals
from poller.store import first_line

log = get_logger()

#: How long work under way may take to end after SIGTERM; the unit's TimeoutStopSec is longer.
DRAIN = 30.0
#: The dispatcher and the scheduler must have shown life within this, in seconds, or the watchdog is not fed.
STALE = 20.0
#: EX_SOFTWARE: systemd starts it again, and the next process takes over what is committed.
EXIT_CRASHED = 70
#: EX_TEMPFAIL: the database cannot be used.
EXIT_DATABASE = 75
#: A poll's first interval is lengthened by at most this part of it, so that many routes do not stay in step.
START_JITTER = 0.1


class Service:
    """
    One daemon.

    Args:
        path: The settings file; read again on SIGHUP.

        settings: As just read from it.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        # From the first moment: a SIGHUP that nobody awaits would end the process.
        self._signals = Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self._room = EngineRoom(settings, path)
        self._pulse = 0.0
        self._fed = 0.0
        self._stuck: list[str] = []
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": SchedulerPool(max_workers=64), "pulse": SchedulerPool(max_workers=1)},
            # A run that comes late comes all the same, once; and never beside itself.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        # It warns at each time at which a slow poll is still under way; `_still_polling` tells that as a step.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        self._scheduler.add_listener(self._still_polling, EVENT_JOB_MAX_INSTANCES)
        self._bell = Bell(self._scheduler, lambda name: f"poll:{name}")
        self._reception = Reception(
            self._room.store, self._room.clock, lambda: self._room.routes, ring=self._bell.ring, stuck=self._not_moving
        )
        self._begin_gauges(settings)
        self._reception.open(settings.server)
        self._turning = threading.Thread(target=self._room.dispatcher.run, name="dispatcher", daemon=True)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        log.info("service_started", version=__version__, routes=self._names(), pid=os.getpid())
        if self._room.begin():
            self._recover_soon()
        self._room.dispatcher.database_lost = self._recover_soon
        self._room.dispatcher.doubt_settled = self._sweep_soon
        self._turning.start()
        self._schedule_upkeep()
        for route in self._room.routes.values():
            self._schedule(route, first=True)
        self._scheduler.start()
        self._pulse = self._fed = self._room.clock.monotonic()
        self._reception.begin()
        _settle_memory()
        systemd.notify("READY=1", self._status())
        log.info("service_ready", version=__version__, routes=self._names())
        number = self._watch()
        return self._stop(number)

    def _watch(self) -> int | None:
        """Feed the watchdog and obey signals until one says to stop; return that one, or None: the dispatcher has died."""
        interval = systemd.watchdog_interval()
        tick = 1.0 if interval is None else min(1.0, interval.total_seconds() / 4)
        while True:
            numbers = self._signals.wait(tick)
            for number in numbers:
                if number != signal.SIGHUP:
                    return number
            if numbers:
                # However many came, the last state of the file counts.
                self._reload()
            if not self._turning.is_alive():
                return None
            lives = self._lives()
            if lives and interval is not None:
                systemd.notify("WATCHDOG=1", self._status())

    def _lives(self) -> bool:
        """Return whether all that must move does: scheduler thread, dispatcher, database."""
        now = self._room.clock.monotonic()
        thread = self._scheduler._thread  # noqa: SLF001  `running` stays true when it has died
        stuck = [
            name
            for name, well in (
                ("scheduler", thread is not None and thread.is_alive() and now - self._pulse < STALE),
                ("dispatcher", self._turning.is_alive() and now - self._room.dispatcher.turned_at < STALE),
                ("ingress", self._reception.alive),
            )
            if not well
        ]
        if not stuck and now - self._fed < 1.0:
            return True
        if not stuck and not self._room.store.alive():
            stuck = ["database"]
        if stuck and stuck != self._stuck:
            log.error("daemon_stuck", parts=stuck)
        self._stuck = stuck
        if stuck:
            return False
        self._fed = now
        return True

    def _not_moving(self) -> list[str]:
        """Return what `/readyz` tells: as last looked at, unless that is too long ago."""
        if self._room.stopping.is_set():
            return ["stopping"]
        late = self._room.clock.monotonic() - self._fed > STALE / 2
        return self._stuck or (["database"] if late else [])

    def _status(self) -> str:
        return f"STATUS={len(self._names())} routes, {self._room.dispatcher.in_flight} deliveries under way"

    def _names(self) -> list[str]:
        """Return the routes of the settings; those of their replies are no routes of their own to an operator."""
        return sorted(name for name in self._room.routes if "/" not in name)

    # Jobs.

    def _schedule(self, route: Route, *, first: bool) -> None:
        if route.source is None:
            return
        self._scheduler.add_job(
            self._poll,
            trigger(route.schedule),
            args=[route.name],
            id=f"poll:{route.name}",
            replace_existing=True,
            **({"next_run_time": datetime.now(UTC)} if first else {}),
        )

    def _schedule_upkeep(self) -> None:
        self._scheduler.add_job(self._beat, IntervalTrigger(seconds=1), id="pulse", executor="pulse")
        for name, every, act in self._room.upkeep():
            self._scheduler.add_job(
                self._guarded,
                IntervalTrigger(seconds=every.total_seconds()),
                args=[act],
                id=name,
                replace_existing=True,
            )

    def _beat(self) -> None:
        self._pulse = self._room.clock.monotonic()

    def _poll(self, name: str) -> None:
        route = self._room.routes.get(name)
        if route is not None and not self._room.stopping.is_set():
            self._bell.began(name)
            try:
                self._guarded(lambda: route.poll_if_due(self._room.store, self._room.clock))
            finally:
                self._bell.ended(name)

    def _still_polling(self, event: JobSubmissionEvent) -> None:
        kind, _, name = event.job_id.partition(":")
        if kind == "poll":
            log.debug("poll_skipped", route=name)

    def _recover_soon(self) -> None:
        """Ask the instances what the database may have forgotten, again and again until all have answered."""
        self._scheduler.add_job(
            self._recover,
            IntervalTrigger(seconds=1),
            id="recover",
            next_run_time=datetime.now(UTC),
            replace_existing=True,
        )

    def _recover(self) -> None:
        def act() -> None:
            if self._room.recover():
                self._scheduler.remove_job("recover")

        self._guarded(act)

    def _sweep_soon(self) -> None:
        """Sweep once more when no copy of the attempts now in doubt can be alive."""
        if self._scheduler.get_job("sweep after doubt") is None:
            settle = max((route.policy.settle for route in self._room.routes.values()), default=timedelta(0))
            self._scheduler.add_job(
                self._guarded,
                DateTrigger(run_date=datetime.now(UTC) + settle),
                args=[self._room.sweep],
                id="sweep after doubt",
                replace_existing=True,
            )

    def _guarded(self, act: Callable[[], object]) -> None:
        """Run a job; a database that is away is told and not a reason to end the schedule."""
        try:
            act()
        except SQLAlchemyError as error:
            log.error("database_failed", error=first_line(error))

    # Settings, again.

    def _reload(self) -> None:
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={int(self._room.clock.monotonic() * 1e6)}")
        try:
            settings = load(self._path)
            before = dict(self._room.routes)
            maintenance = self._settings.maintenance
            self._begin_gauges(settings)
            self._reception.use(settings.server)
            try:
                changed = self._room.use(settings)
            except BaseException:
                self._reception.use(self._settings.server)
                raise
        except (SettingsError, DatabaseUnusable, SQLAlchemyError) as error:
            problems = error.problems if isinstance(error, SettingsError) else [first_line(error)]
            log.error("settings_refused", problems=problems)
        else:
            self._settings = settings
            if metrics.counting():
                gauges.renew(self._room, settings, next_poll)
            for name in before.keys() - self._room.routes.keys():
                if self._scheduler.get_job(f"poll:{name}"):
                    self._scheduler.remove_job(f"poll:{name}")
            for name, route in self._room.routes.items():
                known = before.get(name)
                if known is None or known.schedule != route.schedule:
                    self._schedule(route, first=known is None)
            if settings.maintenance != maintenance:
                self._schedule_upkeep()
            log.info("settings_reloaded", changed=changed)
        systemd.notify("READY=1", self._status())

    def _begin_gauges(self, settings: Settings) -> None:
        # Without an ingress nobody can ask for the counts, and their library is slow to load.
        if settings.server is not None and not metrics.counting():
            gauges.begin(self._room, settings, next_poll)
            metrics.watch_connections(lambda: self._reception.open_connections)

    # The end.

    def _stop(self, number: int | None) -> int:
        """Drain: no new polls, no new claims; what is under way may end, within a limit."""
        systemd.notify("STOPPING=1")
        self._room.stopping.set()
        self._reception.end()
        self._scheduler.pause()
        self._room.dispatcher.stop()
        ends = self._room.clock.monotonic() + DRAIN
        while self._turning.is_alive() and self._room.clock.monotonic() < ends:
            self._turning.join(1.0)
            systemd.notify("WATCHDOG=1")
        unfinished = self._room.dispatcher.in_flight
        log.info(
            "service_stopped", signal=None if number is None else signal.Signals(number).name, unfinished=unfinished
        )
        self._scheduler.shutdown(wait=False)
        if unfinished == 0 and not self._turning.is_alive():
            self._room.close()
        from poller.logs import flush

        flush()
        # A worker that hangs in a read would keep the interpreter for its whole time-out. What it was doing is
        # committed as `sending`, and the next start takes it for unknown.
        if number is not None:
            os._exit(0)
        os._exit(EXIT_CRASHED if self._room.dispatcher.broken is None else EXIT_DATABASE)


def trigger(schedule: Schedule) -> BaseTrigger:
    """Return the APScheduler trigger of a schedule."""
    if schedule.cron is not None:
        return CronTrigger.from_crontab(schedule.cron, timezone=ZoneInfo(schedule.timezone))
    seconds = (schedule.every or timedelta(minutes=1)).total_seconds()
    # Only the first interval is lengthened: APScheduler's own jitter would add up and drift.
    start = datetime.now(UTC) + timedelta(seconds=seconds * (1 + START_JITTER * random.random()))  # noqa: S311
    return IntervalTrigger(seconds=seconds, start_date=start)


def next_poll(schedule: Schedule, after: datetime) -> datetime | None:
    """Return when a schedule has the next poll after *after*; None: never."""
    if schedule.cron is None:
        return after + (schedule.every or timedelta(minutes=1))
    found: datetime | None = trigger(schedule).get_next_fire_time(None, after)
    return found


def _settle_memory() -> None:
    """
    Let the collector of circular garbage pass by what was made until now: modules, settings and routes stay anyway.

    A full collection stops every thread for as long as it walks all that is alive: a tenth of a second with them, less than
    a hundredth without.
    """
    gc.collect()
    gc.freeze()
