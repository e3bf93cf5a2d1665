"""
Sixty times ``kill -9`` at random moments while the instance misbehaves in every way that is known: none lost, none doubled.
Twenty times for two of the four pairs of guard and database, unless ``POLLER_TEST_LONG=1``.

``POLLER_TEST_SEED`` repeats a run as far as the machine's own timing lets it. A run in which something that it is about
never happened proves nothing and fails: see `Sometimes`.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tests.scenarios.world import Fields, World, world

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

#: ``POLLER_TEST_LONG=1``: as many kills for each guard on each database.
LONG = bool(os.environ.get("POLLER_TEST_LONG"))
#: Of each call that can have it. What is late stays below ``max_execution``.
FAULTS = {
    "lost_answer": 0.05,
    "create__500_after_commit": 0.03,
    "create__502_after_commit": 0.03,
    "create__late_commit": 0.04,
    "create__late_commit_hang": 0.01,
    "_429": 0.03,
    "html_200": 0.02,
    "truncated_json": 0.03,
    "token_expired": 0.03,
}
SANDBOX = ["--tickets", "20", "--latency", "80ms", "--late", "1700ms", "--token-life", "4s", "--retry-after", "1"]
#: Longer than a look-up takes to come by itself, so that one that is believed too early is caught.
MAX_EXECUTION = "2s"
#: The longest wait of an unknown outcome under settle: ``tcp_bound`` + ``max_execution``, which are equal here.
SETTLE = 4.0
#: What no attempt can have survived.
REFUSED = {401, 403, 429}


@dataclass(frozen=True, kw_only=True)
class Sometimes:
    """What must have happened at least once."""

    kills_in_flight: int = 0
    unknown_outcomes: int = 0
    lookup_hits: int = 0
    late_commits: int = 0
    taken_over: int = 0
    second_posts: int = 0
    tokens: int = 0
    lost_answer: int = 0
    status_500_after_commit: int = 0
    status_502_after_commit: int = 0
    status_429: int = 0
    html_200: int = 0
    truncated_json: int = 0
    token_expired: int = 0

    def never(self) -> list[str]:
        return [one.name for one in fields(self) if not getattr(self, one.name)]


def seed() -> int:
    return int(os.environ.get("POLLER_TEST_SEED") or random.SystemRandom().randrange(2**32))


def live_and_die(here: World, dice: random.Random, kills: int) -> list[float]:
    """Start and kill daemons while tickets come in; return when each was killed."""
    killed = []
    for _ in range(kills):
        starting = dice.random() < 0.2
        daemon = here.start(ready=not starting)
        # Random moments are what this is about: nothing is waited for.
        life = dice.uniform(0.0, 1.2) if starting else min(dice.expovariate(1 / 0.6), 3.0)
        part = dice.random()
        time.sleep(life * part)
        here.sandbox.grow(dice.randint(3, 9))
        time.sleep(life * (1 - part))
        if not starting and dice.random() < 0.5:
            # On a busy machine nobody would live to see a create: some live until the instance has seen a few.
            working(here, dice.randint(1, 4))
        assert daemon.ended is None, f"it ended by itself: {daemon.text()[-2000:]} {daemon.errors()}"
        killed.append(time.time())
        daemon.kill()
    return killed


def working(here: World, creates: int, longest: float = 5.0) -> None:
    """Return as soon as so many more creates have begun; not later than *longest* seconds."""
    until, before = time.monotonic() + longest, creates_begun(here)
    while creates_begun(here) < before + creates and time.monotonic() < until:
        time.sleep(0.02)


def creates_begun(here: World) -> int:
    return int(here.sandbox.counts().get("incident POST", 0))


def counted(here: World, ledger: Sequence[Fields], killed: Sequence[float]) -> Sometimes:
    creates = [entry for entry in ledger if entry["kind"] == "incident POST"]
    faults = Counter(entry["fault"] for entry in ledger)
    in_flight = [at for at in killed if any(one["time"] <= at <= one["answered"] for one in creates)]
    arrivals = Counter(entry["correlation_id"] for entry in creates if entry.get("correlation_id"))
    return Sometimes(
        kills_in_flight=len(in_flight),
        unknown_outcomes=len(here.events("record_unknown")),
        lookup_hits=sum(line["learnt"] == "lookup" for line in here.events("record_delivered")),
        late_commits=sum(bool(entry.get("committed")) for entry in ledger if entry["kind"] == "late commit"),
        taken_over=sum(line["count"] for line in here.events("deliveries_taken_over")),
        second_posts=sum(count > 1 for count in arrivals.values()),
        tokens=len(here.sandbox.tokens()),
        lost_answer=faults["lost_answer"],
        status_500_after_commit=faults["500_after_commit"],
        status_502_after_commit=faults["502_after_commit"],
        status_429=faults["429"],
        html_200=faults["html_200"],
        truncated_json=faults["truncated_json"],
        token_expired=faults["token_expired"],
    )


def early(ledger: Sequence[Fields], wait: float = SETTLE) -> list[str]:
    """Return creates that came while an earlier one of the same record could still be alive."""
    found, before = [], dict[str, Fields]()
    for entry in sorted(ledger, key=lambda one: float(one["time"])):
        if entry["kind"] != "incident POST" or not entry.get("correlation_id"):
            continue
        earlier = before.get(entry["correlation_id"])
        # A refusal settles only its own attempt, so the last one that was none counts.
        if entry["status"] not in REFUSED:
            before[entry["correlation_id"]] = entry
        if earlier is not None and (gap := entry["time"] - earlier["answered"]) < wait - 0.02:
            found.append(f"{entry['correlation_display']}: {gap:.3f} s after {earlier['fault'] or earlier['status']}")
    return found


def chaos(
    folder: Path, database: str, guard: str, *, kills: int, sys_id: str = "honoured", until: Collection[str] = ()
) -> Sometimes:
    """
    Let it come over a fresh world; nothing may be lost or doubled.

    Args:
        until: What has to happen: there are so many kills again, up to four times, while it has not.

    Returns:
        What happened.
    """
    number = seed()
    name = f"{guard}, sys_id {sys_id}, {database.partition(':')[0]}"
    print(f"\nPOLLER_TEST_SEED={number}: {name}")
    dice = random.Random(f"{number} {name}")
    started = time.monotonic()
    with world(folder, database, *SANDBOX, "--seed", str(dice.randrange(2**31)), "--sys-id", sys_id) as here:
        here.configure(guard=guard, max_execution=MAX_EXECUTION, servicenow='read_timeout = "2s"')
        if sys_id != "honoured":
            # What the instance makes of a sys_id is learnt while no attempt is in doubt, which is never in the storm.
            here.start()
            here.settled()
            here.daemons[-1].kill()
        here.sandbox.faults(**FAULTS)
        killed = live_and_die(here, dice, kills)
        for _ in range(3):
            if set(until).isdisjoint(counted(here, here.sandbox.ledger(), killed).never()):
                break
            killed += live_and_die(here, dice, kills)
        here.sandbox.reset()
        chaotic = time.monotonic() - started
        last = here.start()
        export = here.settled(120)
        # Whatever could still come late has come by now.
        time.sleep(SETTLE)
        findings = here.check(export=export)
        ledger = here.sandbox.ledger()
        sometimes = counted(here, ledger, killed)
        states = Counter(record["state"] for record in export)
        print(f"{len(export)} records, {len(killed)} kills, {len(ledger)} calls; {sometimes}")
        print(f"{chaotic:.0f} s of chaos, settled after {time.monotonic() - started:.0f} s")

        assert not any(findings.values()), {kind: what for kind, what in findings.items() if what}
        assert states == {"delivered": len(export)}
        if guard == "settle":
            assert early(ledger) == []
        assert last.terminate() == 0
        return sometimes


@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", ["sys_id", "settle"])
def test_kills_lose_nothing_and_double_nothing(guard: str, database_url: str, tmp_path: Path) -> None:
    everything = [one.name for one in fields(Sometimes)]
    # Sixty for each guard and for each database; all four pairs have them in a long run.
    usual = (guard == "sys_id") == database_url.startswith("sqlite")
    sometimes = chaos(tmp_path, database_url, guard, kills=60 if usual or LONG else 20, until=everything)
    assert not sometimes.never(), f"void, since these never happened: {sometimes.never()}"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("sys_id", ["ignored", "refused"])
def test_kills_where_the_instance_does_not_take_our_sys_id(sys_id: str, tmp_path: Path) -> None:
    # Too few kills to see everything.
    needed = {"unknown_outcomes", "lookup_hits", "taken_over", "second_posts"}
    database = f"sqlite:///{tmp_path}/poller.db"
    sometimes = chaos(tmp_path, database, "auto", kills=15, sys_id=sys_id, until=needed)
    never = needed & set(sometimes.never())
    assert not never, f"void, since these never happened: {never}"
