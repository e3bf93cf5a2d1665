"""
Incident changes through a real ActiveMQ to an HTTP receiver, by two routes of one daemon, while everything is killed.

The broker is killed with -9 again and again, so is the daemon; one receipt and one answer in twenty is lost. Every version
that was observed arrives at least once, under one id and with the same bytes, in order for each incident.

``POLLER_TEST_SEED`` repeats a run as far as the machine's own timing lets it, ``POLLER_TEST_LONG=1`` makes ten times as many
changes. A run in which something that it is about never happened proves nothing and fails: see `Sometimes`.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

from tests.activemq import PASSWORD, USER, Broker, broker, require
from tests.scenarios.stomp_proxy import Proxy
from tests.scenarios.test_chaos import seed
from tests.scenarios.world import PREFIX, Fields, World, call, wait_for, world

pytestmark = [pytest.mark.activemq, pytest.mark.chaos, pytest.mark.slow]

LONG = bool(os.environ.get("POLLER_TEST_LONG"))
CHANGES = 20_000 if LONG else 2_000
INCIDENTS = 100
#: Versions that may be on their way before there are more, so that both halves of the way see everything.
BACKLOG = 400
#: Chances of each round, in which some incidents are changed and all of them read. A start takes seconds, so that with many
#: more kills hardly anything would be on its way when the next one comes.
BROKER_KILL, DAEMON_KILL = 0.08, 0.1
#: Of receipts; and of answers, together.
LOST = 0.05
ANSWERS = {"inbox:lost_answer": 0.03, "inbox:500_after": 0.01, "inbox:reset": 0.01, "inbox:503": 0.01}

SETTINGS = """
[database]
url = "sqlite:///{folder}/poller.db"

[servicenow]
instance = "{servicenow}"
correlation_prefix = "{prefix}"
max_execution = "1s"
read_timeout = "2s"

[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = {{ file = "{folder}/secret" }}

[routes.to-queue]
every = "300ms"
first_run = "all"

[routes.to-queue.source]
type = "servicenow"
query = "assignment_group.name=Vendor^active=true"
trigger = "updated"

[routes.to-queue.source.fields]
number = "number"
title = "short_description"

[routes.to-queue.sink]
type = "activemq"
url = "stomp://127.0.0.1:{port}"
destination = "/queue/incidents"
username = "{user}"
password = {{ file = "{folder}/broker-password" }}
connect_timeout = "2s"
receipt_timeout = "1s"
format = "xml"
root = "Incident"

[routes.to-queue.sink.fields]
"@number" = "{{{{ number }}}}"
Title = "{{{{ title }}}}"
Version = "{{{{ title.rpartition(' ')[2] }}}}"

[routes.to-vendor]
every = "300ms"
first_run = "all"
on_change = "update"

[routes.to-vendor.source]
type = "activemq"
url = "stomp://127.0.0.1:{port}"
destination = "/queue/incidents"
username = "{user}"
password = {{ file = "{folder}/broker-password" }}
connect_timeout = "2s"
receipt_timeout = "1s"
quiet = "200ms"
format = "xml"
key = "@number"
version = "Version"

[routes.to-vendor.source.fields]
title = "Title"

[routes.to-vendor.sink]
type = "http"
url = "{helpdesk}/vendor/inbox/{{{{ key }}}}"
format = "xml"
root = "Ticket"

[routes.to-vendor.sink.fields]
Id = "{{{{ key }}}}"
Title = "{{{{ title }}}}"

[retry]
base = "100ms"
cap = "1s"

[maintenance]
lease = "1s"
"""


@dataclass(frozen=True, kw_only=True)
class Sometimes:
    """What must have happened at least once."""

    broker_kills: int
    daemon_kills: int
    receipts_dropped: int
    receipts_cut: int
    queue_in_doubt: int
    vendor_in_doubt: int
    #: Messages that the broker gave away again.
    redelivered: int
    answers_lost: int
    #: Copies that the receiver can tell by their id.
    repeats: int

    def never(self) -> list[str]:
        return [one.name for one in fields(self) if not getattr(self, one.name)]


@pytest.fixture(scope="module")
def mq() -> Iterator[Broker]:
    require()
    with broker() as made:
        yield made


class People:
    """Change incidents, and remember each version."""

    def __init__(self, here: World, dice: random.Random) -> None:
        self._here = here
        self._dice = dice
        group = here.sandbox.add_incidents(*({"short_description": "v 0"} for _ in range(INCIDENTS)))
        self.versions = {row["number"]: 0 for row in group}
        for number in self.versions:
            self._change(number, {"assignment_group": "Vendor"})

    @property
    def made(self) -> int:
        return sum(self.versions.values())

    def change(self, count: int) -> None:
        """Change so many incidents once each."""
        for number in self._dice.sample(sorted(self.versions), count):
            self.versions[number] += 1
            self._change(number, {"short_description": f"v {self.versions[number]}"})

    def _change(self, number: str, what: Fields) -> None:
        url = f"{self._here.sandbox.servicenow}/sandbox/change"
        assert call("POST", url, {"number": number, "fields": what})["changed"]


class Killer:
    """Kills and starts the broker beside what else goes on."""

    def __init__(self, victim: Broker, dice: random.Random) -> None:
        self.kills = 0
        self._victim = victim
        self._dice = dice
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def strike(self) -> None:
        """Kill it, unless it is just being started."""
        if self._running is not None and not self._running.done():
            return
        self.wait()
        self._running = self._pool.submit(self._kill, self._dice.uniform(0, 1))
        self.kills += 1

    def wait(self) -> None:
        """Return when it runs again, and say what went wrong."""
        if self._running is not None:
            self._running.result(120)

    def _kill(self, seconds: float) -> None:
        self._victim.kill()
        time.sleep(seconds)
        self._victim.start()


class Story:
    """What the daemons' logs tell, read on from where it was left."""

    def __init__(self, here: World) -> None:
        self.doubts: Counter[str] = Counter()
        self._here = here
        self._read: Counter[Path] = Counter()
        self._begun = 0.0
        self._ended = 0

    def observed(self, moment: float) -> bool:
        """Return whether a poll that began after *moment* has read all incidents."""
        self.read()
        return self._begun > moment

    def read(self) -> None:
        # One that was killed says nothing more.
        before, self._ended = self._ended, max(0, len(self._here.daemons) - 1)
        for daemon in self._here.daemons[before:]:
            with daemon.out.open("rb") as lines:
                lines.seek(self._read[daemon.out])
                for line in lines:
                    # The last one of a killed daemon may be torn.
                    if line.endswith(b"\n"):
                        self._read[daemon.out] += len(line)
                        self._tell(json.loads(line))

    def _tell(self, line: Fields) -> None:
        if line["event"] == "record_unknown":
            self.doubts[line["route"]] += 1
        if line["event"] == "poll_finished" and line["route"] == "to-queue":
            began = datetime.fromisoformat(line["timestamp"]).timestamp() - line["seconds"]
            self._begun = max(self._begun, began)


class Inbox:
    """What has come to the receiver, read on from where it was left."""

    def __init__(self, here: World) -> None:
        self.messages: list[Fields] = []
        self.versions: dict[str, list[int]] = {}
        self._url = f"{here.sandbox.helpdesk}/vendor/inbox?after="

    def read(self) -> None:
        last = self.messages[-1]["n"] if self.messages else 0
        for message in call("GET", f"{self._url}{last}")["messages"]:
            self.messages.append(message)
            number, version = said(message)
            self.versions.setdefault(number, []).append(version)

    def arrived(self) -> int:
        """Return how many versions have come."""
        self.read()
        return sum(len(set(each)) for each in self.versions.values())


def said(message: Fields) -> tuple[str, int]:
    """Return the incident and the version that a message speaks of."""
    found = re.search(r"<Id>(INC\d+)</Id>\s*<Title>v (\d+)</Title>", message["body"])
    assert found, message
    return found[1], int(found[2])


def check(inbox: Inbox, versions: dict[str, int]) -> dict[str, object]:
    """Hold what came against what was changed; return what is wrong."""
    ids: dict[tuple[str, int], set[str]] = {}
    for message in inbox.messages:
        ids.setdefault(said(message), set()).add(message["key"])
    wanted = {(number, version) for number, newest in versions.items() for version in range(newest + 1)}
    keys = Counter(key for each in ids.values() for key in each)
    return {
        "lost": sorted(wanted - ids.keys()),
        "unexpected": sorted(ids.keys() - wanted),
        "out of order": [number for number, each in inbox.versions.items() if each != sorted(each)],
        "several ids": [each for each, found in ids.items() if len(found) != 1 or not all(found)],
        "one id for several": [key for key, count in keys.items() if count > 1],
        "other bytes": [message["n"] for message in inbox.messages if message["differs"]],
    }


@dataclass(frozen=True, kw_only=True)
class Place:
    """Everything that takes part."""

    here: World
    proxy: Proxy
    killer: Killer
    people: People
    story: Story
    inbox: Inbox

    def storm(self, dice: random.Random) -> None:
        """Change incidents while broker and daemon are killed, until there were enough changes and most have arrived."""
        while self.people.made < CHANGES or self.backlog() > BACKLOG // 4:
            changed = time.time()
            if self.people.made < CHANGES and self.backlog() < BACKLOG:
                self.people.change(dice.randint(INCIDENTS // 2, INCIDENTS))
                changed = time.time()
            if dice.random() < BROKER_KILL:
                self.killer.strike()
            if dice.random() < DAEMON_KILL:
                time.sleep(dice.uniform(0, 1.5))
                last = self.here.daemons[-1]
                assert last.ended is None, f"it ended by itself: {last.text()[-2000:]} {last.errors()}"
                last.kill()
                self.here.start(ready=False)
            # All of them before any is changed again: what is overwritten between two polls is not promised to arrive.
            wait_for(partial(self.story.observed, changed), "a poll of everything", 120)

    def backlog(self) -> int:
        return INCIDENTS + self.people.made - self.inbox.arrived()

    def counted(self) -> Sometimes:
        self.story.read()
        return Sometimes(
            broker_kills=self.killer.kills,
            daemon_kills=len(self.here.daemons) - 1,
            receipts_dropped=self.proxy.receipts["dropped"],
            receipts_cut=self.proxy.receipts["cut"],
            queue_in_doubt=self.story.doubts["to-queue"],
            vendor_in_doubt=self.story.doubts["to-vendor"],
            redelivered=self.proxy.redelivered,
            answers_lost=sum(message["answered"] != 202 for message in self.inbox.messages),
            repeats=sum(bool(message["repeat"]) for message in self.inbox.messages),
        )


def settings(folder: Path, here: World, port: int) -> None:
    (folder / "broker-password").write_text(PASSWORD)
    (folder / "broker-password").chmod(0o600)
    where = {"servicenow": here.sandbox.servicenow, "helpdesk": here.sandbox.helpdesk, "port": port}
    here.settings.write_text(SETTINGS.format(folder=folder, prefix=PREFIX, user=USER, **where), "utf-8")
    here.settings.chmod(0o600)


def faults(here: World, chances: dict[str, float]) -> None:
    call("POST", f"{here.sandbox.helpdesk}/sandbox/faults", chances)


@pytest.mark.timeout(7200 if LONG else 900)
def test_f67_two_routes_through_a_queue_lose_nothing_while_all_are_killed(mq: Broker, tmp_path: Path) -> None:
    number = seed()
    print(f"\nPOLLER_TEST_SEED={number}")
    dice = random.Random(number)
    proxy = Proxy(mq.port, random.Random(number + 1), LOST)
    with world(tmp_path, None, "--tickets", "0", "--seed", str(dice.randrange(2**31))) as here:
        settings(tmp_path, here, proxy.port)
        place = Place(
            here=here, proxy=proxy, killer=Killer(mq, dice), people=People(here, dice), story=Story(here),
            inbox=Inbox(here),
        )  # fmt: skip
        faults(here, ANSWERS)
        started = time.monotonic()
        here.start()
        wait_for(partial(place.story.observed, time.time()), "what was there from the beginning")
        place.storm(dice)
        place.killer.wait()
        chaotic = time.monotonic() - started
        proxy.chance = 0.0
        faults(here, {})
        wait_for(lambda: place.backlog() == 0, "every version", 120)
        wait_for(lambda: {each["state"] for each in here.export()} == {"delivered"}, "an end", 60)

        place.inbox.read()
        sometimes = place.counted()
        print(
            f"{place.people.made} changes of {INCIDENTS} incidents, {len(place.inbox.messages)} messages; {sometimes}"
        )
        print(f"{chaotic:.0f} s of chaos, settled after {time.monotonic() - started:.0f} s")
        wrong = {kind: what for kind, what in check(place.inbox, place.people.versions).items() if what}
        assert not wrong
        assert not sometimes.never(), f"void, since these never happened: {sometimes.never()}"
        assert here.bad_lines() == []
        assert not any(PASSWORD in daemon.text() for daemon in here.daemons)
        assert here.daemons[-1].terminate() == 0
    proxy.close()
