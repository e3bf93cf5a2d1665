"""The checkers catch what they are there for: one planted defect each."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.scenarios.test_chaos import early
from tests.scenarios.test_many_records import misread
from tests.scenarios.world import Fields, check

USERS = [{"user_name": "Abel", "sys_id": "a" * 32}, {"user_name": "beth", "sys_id": "b" * 32}]


def ticket(number: int) -> Fields:
    return {"id": number, "subject": f"Subject {number}", "body": "Body", "requester": {"login": "abel"}}


def incident(number: int) -> Fields:
    return {
        "number": f"INC{number}",
        "sys_id": f"{number:032x}",
        "correlation_id": f"scenario:0:{number}",
        "correlation_display": f"helpdesk/{number}",
        "caller_id": "a" * 32,
        "short_description": f"Subject {number}",
        "description": "Body",
    }


def truth() -> dict[str, list[Fields]]:
    rows = [incident(number) for number in (1, 2, 3)]
    known = ("number", "sys_id", "correlation_id")
    return {
        "tickets": [ticket(number) for number in (1, 2, 3)],
        "incidents": rows,
        "ledger": [
            {"committed": True, "correlation_id": row["correlation_id"], "kind": "incident POST"} for row in rows
        ],
        "export": [
            {"key": row["number"].removeprefix("INC"), "state": "delivered", "attempts": 1}
            | {name: row[name] for name in known}
            for row in rows
        ],
    }


def found(all_: dict[str, list[Fields]]) -> dict[str, list[str]]:
    tickets, incidents, ledger, export = (all_[name] for name in ("tickets", "incidents", "ledger", "export"))
    findings = check(tickets, incidents=incidents, ledger=ledger, export=export, users=USERS)
    return {kind: what for kind, what in findings.items() if what}


def lose(all_: dict[str, Any]) -> None:
    del all_["incidents"][1]
    all_["export"][1] |= {"state": "pending", "sys_id": None, "number": None}


def forget(all_: dict[str, Any]) -> None:
    del all_["incidents"][1], all_["export"][1]


def double(all_: dict[str, Any]) -> None:
    all_["incidents"].append(all_["incidents"][1] | {"sys_id": "f" * 32, "number": "INC9"})


def double_under_another_id(all_: dict[str, Any]) -> None:
    all_["incidents"].append(
        all_["incidents"][1] | {"sys_id": "f" * 32, "number": "INC9", "correlation_id": "scenario:0:9"}
    )


def double_and_delete(all_: dict[str, Any]) -> None:
    all_["ledger"].append(dict(all_["ledger"][1]))


def cross(all_: dict[str, Any]) -> None:
    first, second = all_["export"][:2]
    first["number"], second["number"] = second["number"], first["number"]
    first["sys_id"], second["sys_id"] = second["sys_id"], first["sys_id"]


def misname(all_: dict[str, Any]) -> None:
    all_["export"][0]["number"] = "INC2"


def imagine(all_: dict[str, Any]) -> None:
    all_["export"][0]["sys_id"] = "e" * 32


def bury(all_: dict[str, Any]) -> None:
    all_["export"][0] |= {"state": "dead", "sys_id": None, "number": None}


def come_from_nowhere(all_: dict[str, Any]) -> None:
    all_["incidents"].append(incident(7))


def mistake_the_caller(all_: dict[str, Any]) -> None:
    all_["incidents"][0]["caller_id"] = "b" * 32


def swap_texts(all_: dict[str, Any]) -> None:
    all_["incidents"][0]["short_description"] = "Subject 2"


def send_again(all_: dict[str, Any]) -> None:
    all_["ledger"].append(all_["ledger"][0] | {"committed": False})


def hang(all_: dict[str, Any]) -> None:
    all_["export"][0]["state"] = "unknown"


def test_the_truth_has_no_defects() -> None:
    assert found(truth()) == {}


@pytest.mark.parametrize(
    ("defect", "kind"),
    [
        (lose, "lost"),
        (forget, "lost"),
        (double, "doubled"),
        (double_under_another_id, "doubled"),
        (double_and_delete, "doubled"),
        (cross, "misbound"),
        (misname, "misbound"),
        (imagine, "phantom"),
        (bury, "misbound"),
        (come_from_nowhere, "unexpected"),
        (mistake_the_caller, "wrong caller"),
        (swap_texts, "wrong text"),
        (send_again, "unintended"),
        (hang, "unsettled"),
    ],
)
def test_each_planted_defect_is_found(defect: Callable[[dict[str, Any]], None], kind: str) -> None:
    spoilt = copy.deepcopy(truth())
    defect(spoilt)

    assert kind in found(spoilt)


@pytest.mark.parametrize(
    "query",
    [
        "user_nameINa,b^ORDERBYsys_id",  # the name is "a,b"
        "user_name=ops^night^ORDERBYsys_id",
        "user_name=x^ORactive=true",
        "user_name=x^NQuser_nameISNOTEMPTY",
        "user_name=javascript:gs.getUserID()",
        "user_name=",
        "user_nameSTARTSWITHo^user_nameENDSWITHnight",
        "active=true",
        "ORDERBYsys_id",
        "correlation_id=anything",
        "correlation_idINscenario:01234567:short",
    ],
)
def test_a_query_that_is_read_otherwise_is_found(query: str) -> None:
    names = ["a,b", "ops^night", "x^ORactive=true", "x^NQuser_nameISNOTEMPTY", "javascript:gs.getUserID()"]

    assert misread([{"query": query, "dropped": [], "path": ""}], names)


def test_a_query_with_a_dropped_part_is_found_and_a_proper_one_is_not() -> None:
    proper = {"query": "user_nameSTARTSWITHops^user_nameENDSWITHnight^ORDERBYsys_id", "dropped": [], "path": ""}

    assert misread([proper], ["ops^night"]) == []
    assert misread([proper | {"dropped": ["ORDERBYsys_id"]}], ["ops^night"])


def test_a_create_within_the_wait_of_another_is_found() -> None:
    entry = {
        "kind": "incident POST",
        "correlation_id": "one",
        "correlation_display": "helpdesk/1",
        "fault": "lost_answer",
    }
    lost = entry | {"time": 10.0, "answered": 10.1, "status": 0}
    refused = lost | {"status": 429}

    assert early([lost, entry | {"time": 11.0, "answered": 11.1, "status": 201}])
    assert (
        early(
            [lost, refused | {"time": 14.2, "answered": 14.3}, entry | {"time": 14.4, "answered": 14.5, "status": 201}]
        )
        == []
    )
    assert early([refused, entry | {"time": 10.2, "answered": 10.3, "status": 201}]) == []
