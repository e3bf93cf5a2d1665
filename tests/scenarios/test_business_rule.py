"""
ServiceNow rings and pushes: the sandbox's business rule, with a token of ours or of a real identity provider, against the daemon.

What rings and pushes promise is speed; that nothing is lost is polling's part. So ``every`` is an hour here, and whatever is timely is
so by a ring or a push. `POLLER_TEST_SEED` repeats a run as far as the machine's own timing lets it; a run in which something that it
is about never happened is void, and fails.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.ingress.oidc import AUDIENCES, CLIENT, identity_provider
from tests.scenarios.push_world import ROUTES, Proof, Pushed, pushed_world, token
from tests.scenarios.test_chaos import seed
from tests.scenarios.world import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("oidc")]

FAULTS = {"lost": 0.1, "twice": 0.12, "delayed": 0.2, "forged": 0.12, "garbled": 0.06, "deaf": 0.1}
KILLS = 8
PROVEN = ["embedded", pytest.param("provider", marks=pytest.mark.interop)]


@contextmanager
def proven(world: Pushed, who: str) -> Iterator[Proof]:
    """Prove callers by our own token endpoint, or by npm oidc-provider; the settings are written."""
    if who == "embedded":
        proof = world.embedded()
        world.configure(proof.auth)
        yield proof
        return
    folder = world.here.folder / "provider"
    folder.mkdir()
    with identity_provider(folder) as provider:
        auth = f'[server.auth]\nissuer = "{provider.issuer}"\naudience = "{AUDIENCES["jwt"]}"\nrequire_typ = true\n'
        rule = {"token_url": f"{provider.issuer}/token", "client_id": CLIENT[0], "client_secret": CLIENT[1]}
        rule |= {"client_auth": "basic", "scope": "records:write poll", "resource": AUDIENCES["jwt"]}
        proof = Proof(auth=auth, rule=rule)
        world.configure(proof.auth)
        yield proof


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", PROVEN)
def test_an_incident_travels_by_ring_and_by_push_to_the_vendor(who: str, tmp_path: Path) -> None:
    with pushed_world(tmp_path) as world, proven(world, who) as proof:
        world.ruled(proof)
        world.here.start()
        wait_for(lambda: {line["route"] for line in world.here.events("poll_finished")} == {"ring", "both"}, "polls")
        begun = time.monotonic()
        (number,) = world.incidents(1)
        wait_for(lambda: all(world.newest(route) for route in ROUTES), "the incident at the vendor")
        first = time.monotonic() - begun
        for _ in range(3):
            world.change(number)
            wait_for(lambda: all(world.newest(route) for route in ROUTES), "its change")
        sent = world.sent()

        assert [one["status"] for one in sent] == [202] * 12
        assert {route: world.arrived(route) for route in ROUTES} == {key: {number: [0, 1, 2, 3]} for key in ROUTES}
        assert not [found for route in ROUTES for found in world.disorder(route)]
        assert len(world.polls("both")) == 1
        assert world.here.bad_lines() == []
        print(f"\n{who}: at the vendor after {first:.1f} s by all three ways, with polls an hour apart")


def kill_and_change(world: Pushed, dice: random.Random) -> None:
    """Let people change incidents while the daemon comes and goes, in the middle of whatever it does."""
    numbers = world.incidents(5)
    for _ in range(KILLS):
        daemon = world.here.start()
        for _ in range(dice.randint(10, 25)):
            world.change(dice.choice(numbers))
            # Random moments are what this is about: nothing is waited for.
            time.sleep(dice.uniform(0, 0.08))
        numbers += world.incidents(2)
        if dice.random() < 0.5:
            # On a busy machine hardly any push would come through: some daemons live until all were tried.
            world.sent()
        assert daemon.ended is None, daemon.errors()
        daemon.kill()
        world.change(dice.choice(numbers))


def accepted(world: Pushed) -> dict[str, int]:
    """Return the newest version of each incident whose push was answered with 202."""
    found: dict[str, int] = {}
    for one in world.sent():
        if "/push/records" in one["url"] and one["status"] == 202:
            found[one["number"]] = max(found.get(one["number"], 0), int(one["sys_mod_count"]))
    return found


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("who", PROVEN)
def test_pushes_lost_doubled_forged_and_out_of_order_lose_and_double_nothing(who: str, tmp_path: Path) -> None:
    number = seed()
    print(f"\nPOLLER_TEST_SEED={number}: {who}")
    with pushed_world(tmp_path, "--seed", str(number % 2**31)) as world, proven(world, who) as proof:
        world.ruled(proof, delay=1.5)
        world.faults(**FAULTS)
        kill_and_change(world, random.Random(number))
        sent = world.sent()
        told = accepted(world)
        # The net: one poll, as the daemon starts.
        last = world.here.start()
        wait_for(lambda: world.newest("ring") and world.newest("both"), "the newest versions at the vendor", 120)
        wait_for(lambda: _holds(world, told), "what was answered with 202", 60)
        faults = Counter(one["fault"] for one in sent)
        statuses = Counter(one["status"] for one in sent)
        arrived = {route: world.arrived(route) for route in ROUTES}
        ended = last.terminate()
        print(f"{dict(faults)}, answers {dict(statuses)}")
        print({route: sum(map(len, found.values())) for route, found in arrived.items()}, "versions at the vendor")

        assert ended == 0
        assert not [found for route in ROUTES for found in world.disorder(route)]
        assert {one["status"] for one in sent if one["forged"]} <= {0, 401}
        assert world.here.bad_lines() == []
        assert FAULTS.keys() <= faults.keys(), "void: some fault never happened"
        assert {202, 401, 400, 0} <= statuses.keys(), "void: some answer was never given"


def _holds(world: Pushed, told: dict[str, int]) -> bool:
    """Say whether the vendor has, by pushes alone, at least what was answered with 202."""
    arrived = world.arrived("push")
    return all(arrived.get(number, [-1])[-1] >= version for number, version in told.items())


def ringing(world: Pushed, proof: Proof) -> Callable[[], int]:
    """Return what rings, with one token."""
    client, secret = proof.rule["client_id"], proof.rule["client_secret"]
    bearer = {"Authorization": f"Bearer {token(proof.rule['token_url'], client, secret)}"}
    url = f"{world.url}/routes/ring/poll"
    return lambda: requests.post(url, headers=bearer, timeout=30).status_code


def test_a_ring_while_a_poll_is_under_way_is_not_lost(tmp_path: Path) -> None:
    with pushed_world(tmp_path) as world, proven(world, "embedded") as proof:
        world.here.start()
        wait_for(lambda: world.polls("ring"), "the first poll")
        ring = ringing(world, proof)
        world.here.sandbox.switch(latency="2s")
        before = world.here.sandbox.counts().get("incident GET", 0)
        assert ring() == 202
        wait_for(lambda: world.here.sandbox.counts().get("incident GET", 0) > before, "a poll under way")
        # Time passes until it has ended: it is not behind its page yet.
        assert ring() == 202
        rung = time.time()
        world.here.sandbox.switch(latency="0s")
        world.incidents(1)
        wait_for(lambda: world.newest("ring"), "the incident")
        calls = [one for one in world.here.sandbox.ledger() if one["kind"] == "incident GET"]
        after = min(one["time"] for one in calls if one["time"] > rung) - max(
            one["answered"] for one in calls if one["time"] < rung
        )

        # The second look would come five seconds after the poll; this is the poll that was rung for.
        assert after < 4


def test_two_hundred_rings_at_once_make_few_polls(tmp_path: Path) -> None:
    with pushed_world(tmp_path) as world, proven(world, "embedded") as proof:
        world.here.start()
        wait_for(lambda: world.polls("ring"), "the first poll")
        ring = ringing(world, proof)
        begun = time.monotonic()
        with ThreadPoolExecutor(20) as many:
            answers = Counter(many.map(lambda _: ring(), range(200)))
        seconds = time.monotonic() - begun
        world.incidents(1)
        ring()
        wait_for(lambda: world.newest("ring"), "the incident")
        polls = len(world.polls("ring"))
        print(f"\n200 rings in {seconds:.1f} s: {polls} polls, with the first one and the one for the incident")

        assert answers == {202: 200}
        # At most one begins in a second, and one second look.
        assert polls <= 5 + seconds
