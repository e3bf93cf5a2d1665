"""
Operators beside the daemon: what they do takes effect at once, and nothing they do makes a second incident.

Commands, daemon and sandbox are processes. The commands are run again and again while the instance misbehaves and the
daemon is killed.
"""

import json
import random
import threading
from pathlib import Path

import pytest

from tests.scenarios.test_chaos import early, seed
from tests.scenarios.world import ROUTE, World, wait_for, world

FAULTS = {
    "lost_answer": 0.1,
    "create__500_after_commit": 0.05,
    "create__late_commit": 0.1,
    "create__late_commit_hang": 0.02,
    "_429": 0.03,
}
SANDBOX = ["--tickets", "10", "--latency", "80ms", "--late", "1700ms", "--retry-after", "1"]


def states(here: World) -> dict[str, str]:
    return {record["key"]: record["state"] for record in here.export()}


def test_a_dead_letter_is_retried_and_another_skipped_beside_the_daemon(database_url: str, tmp_path: Path) -> None:
    with world(tmp_path, database_url, "--tickets", "0") as here:
        here.configure()
        here.start()
        one, two = here.sandbox.add_tickets({"requester": {"login": "new.hire"}}, {"requester": {"login": "nobody"}})
        wait_for(lambda: len(here.events("record_dead")) == 2, "two dead letters")
        here.sandbox.add_users({"user_name": "new.hire"})

        retried = here.command("retry", ROUTE, str(one), "--reason", "imported now")
        skipped = here.command("skip", ROUTE, str(two), "--reason", "a robot")

        assert (retried.returncode, skipped.returncode) == (0, 0), retried.stderr + skipped.stderr
        here.delivered(1, seconds=10)
        assert states(here) == {str(one): "delivered", str(two): "skipped"}
        assert [row["correlation_display"] for row in here.sandbox.incidents()] == [f"{ROUTE}/{one}"]
        assert not any(here.check().values())
        told = json.loads(here.command("explain", ROUTE, str(one), "--json").stdout)
        assert [(act["act"], act["reason"]) for act in told["acts"]] == [
            ("retry", "was dead; reason given: imported now")
        ]


def test_a_rewind_beside_the_daemon_is_the_next_polls_beginning(tmp_path: Path) -> None:
    with world(tmp_path, None, "--tickets", "4") as here:
        source = 'url = "{helpdesk}/api/tickets"\nparams = { since = "{{ checkpoint }}" }\ncheckpoint = "updated_at"'
        here.configure(source=source)
        here.start()
        here.settled()

        polls = len(here.events("poll_finished"))
        ended = here.command("rewind", ROUTE, "--to", "2020-01-01T00:00:00Z", "--reason", "a day was lost")

        assert ended.returncode == 0, ended.stderr
        wait_for(lambda: any(line["known"] == 4 for line in here.events("poll_finished")[polls:]), "all read again")
        assert not any(here.check().values())


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", ["auto", "settle"])
def test_a_storm_of_retries_and_kills_makes_no_second_incident(guard: str, database_url: str, tmp_path: Path) -> None:
    number = seed()
    print(f"\nPOLLER_TEST_SEED={number}")
    dice = random.Random(f"{number} {guard} {database_url.partition(':')[0]}")
    with world(tmp_path, database_url, *SANDBOX, "--seed", str(dice.randrange(2**31))) as here:
        here.configure(guard=guard, max_execution="2s", servicenow='read_timeout = "2s"')
        here.start()
        here.settled()
        # Dead letters that come back as such however often they are retried, until their user is there.
        here.sandbox.add_tickets(*[{"requester": {"login": "late.hire"}}] * 3)
        wait_for(lambda: len(here.events("record_dead")) == 3, "three dead letters")
        here.sandbox.faults(**FAULTS)
        answers: list[dict[str, int]] = []
        over = threading.Event()
        storm = threading.Thread(target=retry_all, args=(here, over, answers))
        storm.start()
        # A busy machine is slow to come into doubt.
        for kill in range(30):
            if kill >= 6 and (guard != "settle" or any(answer["kept"] for answer in answers)):
                break
            here.sandbox.grow(6)
            over.wait(dice.uniform(0.5, 2.5))
            here.daemons[-1].kill()
            here.start()
        over.set()
        storm.join(60)
        here.sandbox.reset()
        here.sandbox.add_users({"user_name": "late.hire"})
        # One that is prepared just now may still be refused by what was known of the user before.
        wait_for(lambda: revived(here), "every dead letter to be taken", 120)
        export = here.settled(120)
        findings = here.check(export=export)

        assert not any(findings.values()), {kind: what for kind, what in findings.items() if what}
        assert {record["state"] for record in export} == {"delivered"}
        assert sum(answer["done"] for answer in answers), "void: nothing was ever prepared anew"
        # With sys_id proven, a doubt is over before a command has been started.
        if guard == "settle":
            assert sum(answer["kept"] for answer in answers), "void: nothing was ever in doubt"
            assert early(here.sandbox.ledger()) == []


def revived(here: World) -> bool:
    here.command("retry", ROUTE, "--state", "dead", "--reason", "the user is there now")
    return set(states(here).values()) == {"delivered"}


def retry_all(here: World, over: threading.Event, answers: list[dict[str, int]]) -> None:
    """Retry whatever is not settled, as often as commands can be run."""
    order = ["unknown", "dead", "waiting", "unknown", "ready", "pending"]
    while not over.is_set():
        order.append(order.pop(0))
        ended = here.command("retry", ROUTE, "--state", order[0], "--reason", "storm", "--json")
        assert ended.returncode in {0, 1}, ended.stderr
        answers.append(json.loads(ended.stdout))
