"""
One fault at a time, by the rows of the fault matrix (guarantee, section 3): F05, F06, …

Waits are short because ``max_execution`` and ``lease`` are: settings that are legal, and right for the sandbox alone.
"""

import contextlib
import random
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.scenarios.proxy import Proxy
from tests.scenarios.test_chaos import early, seed
from tests.scenarios.world import Fields, World, free_port, wait_for, world

INCIDENT, USER, TOKEN = "/api/now/table/incident", "/api/now/table/sys_user", "/oauth_token.do"
#: ``tcp_bound`` + ``max_execution``, one second each.
SETTLE = 2.0
#: Clocks of two processes on one machine, and a start that is noted a little late.
GRAIN = 0.05


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    """A world with six tickets, seconds instead of minutes, and nothing running yet but the sandbox."""
    with world(tmp_path, None, "--retry-after", "1") as made:
        made.configure()
        yield made


def defects(here: World, *, without: tuple[str, ...] = (), export: list[Fields] | None = None) -> dict[str, list[str]]:
    return {kind: what for kind, what in here.check(export=export).items() if what and kind not in without}


def states(export: list[Fields]) -> Counter[str]:
    return Counter(record["state"] for record in export)


def held(here: World, reason: str) -> bool:
    return any(line["reason"] == reason for line in here.events("route_held"))


# Kills at a chosen moment.


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[World, Proxy]]:
    """One ticket, and a proxy between the daemon and the instance; the guard is settle."""
    with world(tmp_path, None, "--tickets", "1") as made, contextlib.closing(Proxy(made.sandbox.ports[0])) as proxy:
        made.configure(guard="settle", instance=proxy.url)
        yield made, proxy


@pytest.mark.parametrize("passed", [0, 1, 200])
def test_f05_f06_killed_before_the_request_was_whole(proxied: tuple[World, Proxy], passed: int) -> None:
    here, proxy = proxied
    order = proxy.cut(passed)
    daemon = here.start()
    assert order.stopped.wait(20)
    daemon.kill()
    again = time.time()
    here.start()
    here.settled()

    assert defects(here) == {}
    (create,) = here.sandbox.creates()
    assert create["time"] - again > SETTLE - GRAIN, "the wait of an unknown outcome was cut short"


def test_f07_killed_while_the_instance_is_still_at_it(here: World) -> None:
    here.configure(guard="settle", max_execution="4s")
    here.sandbox.switch(hold_commits=True)
    daemon = here.start()
    wait_for(lambda: here.sandbox.counts().get("incident POST"), "a create")
    daemon.kill()
    posts, reads = (here.sandbox.counts().get(f"incident {method}", 0) for method in ("POST", "GET"))
    here.start()
    wait_for(lambda: here.sandbox.counts()["incident GET"] > reads, "a look-up that finds nothing")
    here.sandbox.switch(hold_commits=False)
    export = here.settled()

    assert defects(here, export=export) == {}
    assert posts >= 1
    assert len(here.sandbox.creates()) == len(export)
    assert {line["learnt"] for line in here.events("record_delivered")} >= {"lookup"}


def test_f08_killed_before_the_answer_came(proxied: tuple[World, Proxy]) -> None:
    here, proxy = proxied
    order = proxy.cut()
    daemon = here.start()
    assert order.stopped.wait(20)
    daemon.kill()
    here.start()
    here.settled()

    assert defects(here) == {}
    assert len(here.sandbox.creates()) == 1
    assert [line["learnt"] for line in here.events("record_delivered")] == ["lookup"]


@pytest.mark.parametrize("guard", ["settle", "sys_id"])
def test_f12_killed_in_recovery_again_and_again(here: World, guard: str) -> None:
    here.configure(guard=guard)
    here.sandbox.faults(create__lost_answer=0.5, create__500_before_commit=0.3)
    dice = random.Random(number := seed())
    print(f"POLLER_TEST_SEED={number}")
    for _ in range(12):
        daemon = here.start(ready=False)
        time.sleep(dice.uniform(0.5, 1.5))
        daemon.kill()
    here.sandbox.reset()
    here.start()
    export = here.settled()

    assert defects(here, export=export) == {}
    assert states(export) == {"delivered": 6}
    assert max(record["attempts"] for record in export) < 20


def test_f47_stopped_and_continued(here: World) -> None:
    here.configure(guard="settle")
    here.sandbox.switch(latency="50ms")
    here.sandbox.faults(create__lost_answer=0.1, create__late_commit=0.1)
    here.sandbox.switch(late="600ms")
    dice = random.Random(number := seed())
    print(f"POLLER_TEST_SEED={number}")
    daemon = here.start()
    for _ in range(8):
        here.sandbox.grow(6)
        time.sleep(dice.uniform(0.05, 0.6))
        daemon.send(signal.SIGSTOP)
        time.sleep(dice.uniform(0.1, 2.0))
        daemon.send(signal.SIGCONT)
    here.sandbox.reset()
    export = here.settled()

    assert defects(here, export=export) == {}
    assert states(export) == {"delivered": 54}
    assert early(here.sandbox.ledger(), SETTLE) == []


# A database that is not what it was.


def forget(here: World) -> None:
    for path in here.folder.glob("poller.db-*"):
        path.unlink()


def test_f14_the_database_thrown_back_in_time(here: World) -> None:
    database, copy = here.folder / "poller.db", here.folder / "copy.db"
    daemon = here.start()
    here.settled()
    assert daemon.terminate() == 0
    shutil.copy(database, copy)
    here.sandbox.grow(9)
    daemon = here.start()
    here.settled()
    daemon.kill()
    known = len(here.sandbox.creates())
    forget(here)
    shutil.copy(copy, database)
    here.sandbox.grow(2)
    again = time.time()
    here.start()
    export = here.settled()
    after = here.sandbox.creates()[known:]

    # Attempts that the lost database knew of are no defect here.
    assert defects(here, without=("unintended",), export=export) == {}
    assert here.events("database_lost")
    assert len(after) == 2, "the instance had the others already"
    assert all(create["time"] - again > SETTLE - GRAIN for create in after)
    assert states(export) == {"delivered": 17}


@pytest.mark.parametrize("mark", ["kept", "gone"])
def test_f15_the_database_deleted(here: World, mark: str) -> None:
    daemon = here.start()
    here.settled()
    daemon.kill()
    forget(here)
    (here.folder / "poller.db").unlink()
    if mark == "gone":
        for path in here.folder.glob("poller.db*"):
            path.unlink()
    here.sandbox.grow(1)
    here.start()
    export = here.settled()

    assert defects(here, without=("unintended",), export=export) == {}
    assert here.events("database_lost")
    assert len(here.sandbox.creates()) == 7, "six before, and the new one"
    assert {line["learnt"] for line in here.events("record_delivered")[6:]} == {"lookup", "response"}


# Answers that say neither yes nor no.

#: Each for one record; `stall` waits for the time-out.
ANSWERS = (
    "lost_answer", "reset_after", "late_commit", "late_commit_hang", "slow_commit", "500_before_commit", "500_after_commit",
    "502_before_commit", "502_after_commit", "503", "503_after_commit", "504_before_commit", "504_after_commit", "202",
    "202_after_commit", "429", "429_bare", "html_200", "html_200_after_commit", "html_login_200", "error_200",
    "error_200_after_commit", "result_and_error_200", "poisoned_200", "truncated_json", "cut_connection", "slow_drip", "slow", "stall",
    "stall_after_commit", "redirect_301", "redirect_302", "redirect_307", "redirect_308", "token_expired", "empty_201",
    "no_number_201", "no_sys_id_201", "wrong_types_201", "wrong_values_201", "duplicate_keys_201", "nan_201", "huge_int_201",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["settle", "sys_id"])
def test_f16_to_f25_every_kind_of_answer_to_a_create(here: World, guard: str) -> None:
    here.configure(guard=guard, concurrency=8, servicenow='read_timeout = "2s"')
    here.sandbox.switch(late="600ms", slow="500ms")
    here.start()
    here.settled()
    keys = [str(key) for key in range(1007, 1007 + len(ANSWERS))]
    for key, fault in zip(keys, ANSWERS, strict=True):
        here.sandbox.next(fault, method="POST", path=INCIDENT, contains=f'"helpdesk/{key}"')
    here.sandbox.grow(len(ANSWERS))
    export = here.settled(120)
    ledger = here.sandbox.ledger()

    assert defects(here, export=export) == {}
    assert {entry["fault"] for entry in ledger} >= set(ANSWERS), "void: some fault never happened"
    assert states(export) == {"delivered": 6 + len(ANSWERS)}
    if guard == "settle":
        assert early(ledger, SETTLE) == []


@pytest.mark.parametrize("fault", ["business_rule", "data_policy"])
def test_f28_one_record_is_refused_and_the_others_flow(here: World, fault: str) -> None:
    here.start()
    here.settled()
    here.sandbox.next(fault, method="POST", path=INCIDENT, contains='"helpdesk/1008"')
    here.sandbox.grow(5)
    export = here.settled()

    assert defects(here, export=export) == {}
    assert [record["key"] for record in export if record["state"] == "dead"] == ["1008"]
    assert states(export) == {"delivered": 10, "dead": 1}


def test_f28_a_route_that_is_refused_buries_nothing(here: World) -> None:
    here.sandbox.faults(create__acl_insert=1.0)
    here.start()
    wait_for(lambda: here.events("route_blocked"), "route_blocked")
    wait_for(lambda: len(here.sandbox.creates()) >= 3, "probes")
    before = states(here.export())
    here.sandbox.reset()
    export = here.settled()

    assert "dead" not in before
    assert defects(here, export=export) == {}
    assert states(export) == {"delivered": 6}


@pytest.mark.parametrize("fault", ["foreign_correlation_id", "no_correlation_201"])
def test_f24_another_correlation_id_comes_back(here: World, fault: str) -> None:
    here.sandbox.next(fault, method="POST", path=INCIDENT)
    here.start()
    wait_for(lambda: here.events("correlation_altered"), "correlation_altered")
    polled = here.sandbox.polls()
    wait_for(lambda: here.sandbox.polls() > polled + 5, "further polls")
    export = here.export()

    assert held(here, "correlation_altered")
    assert len(here.sandbox.creates()) == 1, "creates go on unprotected"
    assert states(export)["delivered"] == 1, "it is bound all the same"


# Being asked to wait.


@pytest.mark.parametrize("fault", ["429", "503"])
def test_f26_a_wish_to_wait_is_obeyed(here: World, fault: str) -> None:
    here.start()
    here.settled()
    here.sandbox.switch(retry_after="3")
    here.sandbox.next(fault, path=USER if fault == "503" else INCIDENT, method="GET" if fault == "503" else "POST")
    here.sandbox.add_tickets({"requester": {"login": "fred.luddy"}})
    here.settled()
    ledger = here.sandbox.ledger()
    (refused,) = [entry for entry in ledger if entry["fault"] == fault]
    later = [entry["time"] - refused["answered"] for entry in ledger if entry["time"] > refused["time"]]

    assert defects(here) == {}
    assert min(later) > 3 - GRAIN, "no request of any kind before the time is over"


def test_f26_odd_wishes_to_wait_lead_neither_to_a_storm_nor_to_a_stop(here: World) -> None:
    here.start()
    here.settled()
    for count, value in enumerate(("missing", "-5", "0", "soon", "date", "nan", "1e-9"), start=1):
        seen = len(here.sandbox.ledger())
        here.sandbox.switch(retry_after=value)
        here.sandbox.next("429", path=INCIDENT, count=4)
        here.sandbox.grow(4)
        here.delivered(6 + 4 * count)
        times = sorted(entry["time"] for entry in here.sandbox.ledger(seen) if entry["fault"] == "429")

        assert len(times) == 4, value
        assert times[-1] - times[0] > 0.1, f"{value}: four refusals within a moment"
    assert defects(here) == {}


def test_f26_an_endless_wish_to_wait_is_cut(here: World) -> None:
    here.start()
    here.settled()
    here.sandbox.switch(retry_after="1000000000")
    here.sandbox.faults(_429=1.0)
    here.sandbox.grow(6)
    wait_for(lambda: here.events("remote_paused"), "remote_paused")
    before = here.sandbox.counts()["total"]
    polled = here.sandbox.polls()
    wait_for(lambda: here.sandbox.polls() > polled + 10, "further polls")
    due = datetime.fromisoformat(here.events("remote_paused")[-1]["due_at"])

    assert here.sandbox.counts()["total"] == before
    assert 7000 < (due - datetime.now(UTC)).total_seconds() <= 7200


def test_f26_a_wish_to_wait_is_obeyed_at_the_first_start_too(here: World) -> None:
    here.sandbox.switch(retry_after="60")
    here.sandbox.next("429", path=INCIDENT, method="GET", count=10)
    here.start()
    wait_for(lambda: here.sandbox.counts().get("incident GET"), "a question")
    polled = here.sandbox.polls()
    wait_for(lambda: here.sandbox.polls() > polled + 25, "further polls")

    assert here.sandbox.counts()["incident GET"] == 1


# Tokens.


def test_f27_odd_lives_of_tokens(here: World) -> None:
    here.start()
    here.settled()
    for count, expires_in in enumerate((0, -1, "absent", "1799", "soon", 1e300), start=1):
        before = here.sandbox.counts()
        here.sandbox.switch(expires_in=expires_in, revoke_all=True)
        here.sandbox.grow(6)
        here.delivered(6 + 6 * count)
        after = here.sandbox.counts()

        assert after["token"] - before["token"] <= (after["total"] - before["total"]) / 2, expires_in
    assert defects(here) == {}


def test_f27_trouble_at_the_token_endpoint(here: World) -> None:
    here.configure(servicenow='read_timeout = "1s"')
    here.start()
    here.settled()
    faults = (
        "500_before_commit", "503", "html_200", "truncated_json", "lost_answer", "429", "redirect_302", "stall", "access_denied",
    )  # fmt: skip
    for count, fault in enumerate(faults, start=1):
        here.sandbox.next(fault, path=TOKEN, count=2)
        here.sandbox.switch(revoke_all=True)
        here.sandbox.grow(3)
        here.delivered(6 + 3 * count)

    assert {entry["fault"] for entry in here.sandbox.ledger()} >= set(faults), "void: some fault never happened"
    assert defects(here) == {}


def test_f27_all_tokens_revoked_in_the_middle(here: World) -> None:
    here.configure(concurrency=16)
    here.sandbox.switch(latency="30ms")
    here.start()
    here.settled()
    for _ in range(4):
        here.sandbox.grow(40)
        made = len(here.sandbox.incidents())
        wait_for(lambda made=made: len(here.sandbox.incidents()) >= made + 10, "ten of forty")  # type: ignore[misc]
        here.sandbox.switch(revoke_all=True)
    export = here.settled()

    assert defects(here, export=export) == {}
    assert states(export) == {"delivered": 166}
    assert here.sandbox.counts()["token"] <= 6, "sixteen workers, one refresh"


# Look-ups that lie.


def test_f29_an_instance_that_drops_our_condition_gets_no_creates(here: World) -> None:
    here.sandbox.add_incidents({"short_description": "somebody else's"})
    here.sandbox.switch(drop_fields=["correlation_id"])
    here.start()
    wait_for(lambda: held(here, "canary"), "the hold")
    polled = here.sandbox.polls()
    wait_for(lambda: here.sandbox.polls() > polled + 5, "further polls")
    during = len(here.sandbox.creates())
    here.sandbox.switch(drop_fields=[])
    export = here.settled()

    assert during == 0
    assert defects(here, without=("unexpected",), export=export) == {}
    assert states(export) == {"delivered": 6}


@pytest.mark.parametrize("field", ["correlation_id", "user_name", "sys_id"])
def test_f29_conditions_dropped_while_it_runs_bind_nothing_wrongly(here: World, field: str) -> None:
    here.start()
    here.settled()
    here.sandbox.switch(drop_fields=[field])
    here.sandbox.add_tickets(*({"requester": {"login": login}} for login in ("don.goodliffe", "fred.luddy", "nobody")))
    here.sandbox.faults(create__lost_answer=0.5)
    polled = here.sandbox.polls()
    wait_for(lambda: here.sandbox.polls() > polled + 5, "further polls")
    here.sandbox.reset()
    here.sandbox.switch(drop_fields=[])
    export = here.settled()

    assert defects(here, export=export) == {}
    assert states(export)["delivered"] >= 6


def test_f30_an_instance_that_hides_our_rows_gets_one_create(here: World) -> None:
    here.sandbox.switch(hide_incidents=True)
    here.start()
    wait_for(lambda: held(here, "lookup_blind"), "the hold")
    polled = here.sandbox.polls()
    wait_for(lambda: here.sandbox.polls() > polled + 5, "further polls")

    assert len(here.sandbox.incidents()) == 1
    assert len(here.sandbox.creates()) == 1


def test_f32_two_rows_are_there_already_and_the_older_is_bound(here: World) -> None:
    here.sandbox.faults(read__503=1.0)
    here.start()
    wait_for(lambda: len(here.export()) == 6, "the records")
    record = here.export()[0]
    name = {"correlation_id": record["correlation_id"], "correlation_display": f"helpdesk/{record['key']}"}
    young, old = ({**name, "sys_created_on": f"2026-01-0{day} 00:00:00"} for day in (2, 1))
    added = here.sandbox.add_incidents(young, old)
    here.sandbox.reset()
    export = here.settled()

    assert next(one["sys_id"] for one in export if one["key"] == record["key"]) == added[1]["sys_id"]
    assert here.events("duplicate_found")[0]["sys_ids"] == [added[1]["sys_id"], added[0]["sys_id"]]
    assert len(here.sandbox.incidents()) == 7, "no third row"


def test_f33_redirects_are_not_followed(here: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        here.sandbox.switch(redirect_to=f"http://127.0.0.1:{elsewhere.getsockname()[1]}/login.do")
        here.start()
        here.settled()
        for count, status in enumerate((301, 302, 307, 308), start=1):
            here.sandbox.switch(revoke_all=True)
            for path, method in ((TOKEN, "POST"), (USER, "GET"), (INCIDENT, "GET"), (INCIDENT, "POST")):
                here.sandbox.next(f"redirect_{status}", path=path, method=method)
            # A name that is not remembered yet, so that users are asked for.
            here.sandbox.add_tickets(*({"requester": {"login": f"new.{status}"}}, {}, {}))
            here.delivered(6 + 2 * count)

        redirected = Counter(entry["fault"] for entry in here.sandbox.ledger())
        assert all(redirected[f"redirect_{status}"] == 4 for status in (301, 302, 307, 308)), redirected
        assert states(here.settled()) == {"delivered": 14, "dead": 4}
        assert defects(here) == {}
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_f34_connections_that_the_instance_closes_when_idle(tmp_path: Path) -> None:
    with world(tmp_path, None, "--tickets", "1", "--idle", "200ms") as here:
        here.configure(every="100ms")
        here.start()
        for pause in (0.15, 0.18, 0.19, 0.195, 0.2, 0.205, 0.21, 0.22, 0.25) * 2:
            here.sandbox.grow(1)
            time.sleep(pause)
        export = here.settled()

        assert defects(here, export=export) == {}
        assert states(export) == {"delivered": 19}


def test_f66_clocks_far_apart_stop_creates(here: World) -> None:
    here.sandbox.switch(clock_skew=3600.0)
    here.start()
    wait_for(lambda: held(here, "clock"), "the hold")
    during = len(here.sandbox.creates())
    here.sandbox.switch(clock_skew=0.0)
    export = here.settled()

    assert during == 0
    assert defects(here, export=export) == {}
    assert states(export) == {"delivered": 6}


@pytest.mark.parametrize("how", [{"cut_correlation": 20}, {"rewrite_correlation": "X-{}"}])
def test_f78_a_correlation_id_that_the_instance_cuts_or_rewrites_stops_creates(here: World, how: Fields) -> None:
    here.sandbox.switch(**how)
    here.start()
    wait_for(lambda: held(here, "correlation_altered"), "the hold")
    polled = here.sandbox.polls()
    wait_for(lambda: here.sandbox.polls() > polled + 5, "further polls")

    assert len(here.sandbox.incidents()) == 1


# Processes and signals.


@pytest.mark.postgres
@pytest.mark.slow
def test_f48_f49_three_daemons_on_one_postgresql_stopped_at_random(postgres_url: str, tmp_path: Path) -> None:
    number = seed()
    print(f"POLLER_TEST_SEED={number}")
    dice = random.Random(number)
    with world(tmp_path, postgres_url, "--latency", "50ms", "--late", "600ms") as here:
        here.configure(guard="settle")
        here.sandbox.faults(lost_answer=0.05, create__late_commit=0.05, create__500_after_commit=0.05)
        for name in ("one", "two", "three"):
            (tmp_path / name).mkdir()
            copy = Path(shutil.copy(here.settings, tmp_path / name))
            here.start(settings=copy)
        for _ in range(10):
            here.sandbox.grow(8)
            frozen = dice.choice(here.daemons)
            time.sleep(dice.uniform(0.05, 0.5))
            frozen.send(signal.SIGSTOP)
            time.sleep(dice.uniform(0.2, 2.5))
            frozen.send(signal.SIGCONT)
        here.sandbox.reset()
        export = here.settled(90)

        assert defects(here, export=export) == {}
        assert states(export) == {"delivered": 86}
        busy = {line["key"] for line in here.events("record_delivered")}
        assert len(busy) == 86
        workers = [sum('"record_delivered"' in line for line in daemon.text().splitlines()) for daemon in here.daemons]
        assert all(workers), f"one did nothing: {workers}"


def test_f54_a_second_daemon_on_the_same_file_goes_away(here: World) -> None:
    first = here.start()
    here.settled()
    second = here.start(ready=False)
    code = second.wait(20)
    here.sandbox.grow(3)
    second_text, second_errors = second.text(), second.errors()
    here.daemons.remove(second)
    export = here.settled()

    assert code == 75
    assert second_text == ""
    assert len(second_errors.splitlines()) == 1
    assert "Traceback" not in second_errors
    assert first.ended is None
    assert defects(here, export=export) == {}


def test_f61_settings_that_are_wrong_at_a_reload_change_nothing(here: World) -> None:
    daemon = here.start()
    here.settled()
    good = here.settings.read_text()
    here.settings.write_text(good.replace("concurrency = 4", "concurrency = 0"))
    daemon.send(signal.SIGHUP)
    wait_for(lambda: here.events("settings_refused"), "settings_refused")
    here.settings.write_text(good)
    here.sandbox.grow(2)
    here.settled()
    here.settings.write_text(good.replace("concurrency = 4", "concurrency = 2"))
    daemon.send(signal.SIGHUP)
    wait_for(lambda: here.events("settings_reloaded"), "settings_reloaded")
    here.sandbox.grow(2)
    export = here.settled()

    assert defects(here, export=export) == {}
    assert daemon.terminate() == 0


@pytest.mark.parametrize("times", [1, 2])
def test_f63_a_polite_end_lets_the_creates_in_flight_end(here: World, times: int) -> None:
    here.configure(guard="sys_id")
    first = here.start()
    here.settled()
    here.sandbox.switch(insert_delay="800ms")
    here.sandbox.grow(20)
    posts = here.sandbox.counts()["incident POST"]
    wait_for(lambda: here.sandbox.counts()["incident POST"] > posts + 3, "creates")
    started = time.monotonic()
    for _ in range(times):
        first.send(signal.SIGTERM)
    code = first.wait(30)
    took = time.monotonic() - started
    left = states(here.export())
    here.sandbox.switch(insert_delay="0s")
    here.start()
    export = here.settled()

    assert code == 0
    assert took < 10
    assert {"sending", "unknown"} & left.keys() == set()
    assert here.events("service_stopped")[0]["unfinished"] == 0
    assert defects(here, export=export) == {}
    assert states(export) == {"delivered": 26}


def test_the_instance_is_away_for_a_while(here: World) -> None:
    here.start()
    here.settled()
    here.sandbox.grow(5)
    here.sandbox.kill()
    wait_for(lambda: here.events("poll_failed"), "a poll that fails")
    here.sandbox.start()
    here.sandbox.grow(5)
    export = here.settled()

    assert defects(here, export=export) == {}
    assert states(export) == {"delivered": 16}


def test_nobody_listens_where_the_instance_should_be(here: World) -> None:
    here.start()
    here.settled()
    assert here.daemons[-1].terminate() == 0
    here.sandbox.grow(3)
    here.configure(instance=f"http://127.0.0.1:{free_port()}")
    daemon = here.start()
    wait_for(lambda: here.events("remote_paused"), "remote_paused")
    during = states(here.export())
    assert daemon.terminate() == 0
    here.configure()
    here.start()
    export = here.settled()

    assert during == {"delivered": 6, "pending": 3}
    assert defects(here, export=export) == {}


def test_many_reloads_at_once_end_with_the_last_state(here: World) -> None:
    daemon = here.start()
    here.settled()
    good = here.settings.read_text()

    def storm() -> None:
        for _ in range(300):
            daemon.send(signal.SIGHUP)

    here.settings.write_text(good.replace("concurrency = 4", "concurrency = 3"))
    thread = threading.Thread(target=storm)
    thread.start()
    thread.join()
    # Counted before the last signal: its reload may be over before another look at the log.
    count = len(here.events("settings_reloaded"))
    here.settings.write_text(good.replace("concurrency = 4", "concurrency = 5"))
    daemon.send(signal.SIGHUP)
    wait_for(lambda: len(here.events("settings_reloaded")) > count, "a reload")
    here.sandbox.grow(3)
    export = here.settled()

    assert len(here.events("settings_reloaded")) < 100
    assert defects(here, export=export) == {}
    assert daemon.terminate() == 0
