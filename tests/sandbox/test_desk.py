"""What people at the desk do: incidents changed and removed past the API, early, late and without a trace."""

import time
from typing import Any

import pytest
import requests

from tests.sandbox.conftest import Caller

ORDER = "^ORDERBYsys_updated_on^ORDERBYsys_id"


def changed(caller: Caller, **what: Any) -> list[str]:
    return list(caller.control("POST", "change", what)["changed"])


def one(caller: Caller, sys_id: str) -> dict[str, Any]:
    return dict(caller.call("GET", f"incident/{sys_id}?sysparm_exclude_reference_link=true").json()["result"])


def created(caller: Caller, **fields: Any) -> str:
    return str(caller.create(**fields).json()["result"]["sys_id"])


def test_a_person_assigns_an_incident_to_the_vendor(caller: Caller) -> None:
    sys_id = created(caller, short_description="x")

    assert changed(caller, sys_id=sys_id, fields={"assignment_group": "Vendor", "work_notes": "yours"}) == [sys_id]

    (row,) = caller.rows("incident", "assignment_group.name=Vendor^active=true")
    assert (row["sys_id"], row["sys_updated_by"], row["sys_mod_count"]) == (sys_id, "fred.luddy", "1")
    (note,) = caller.rows("sys_journal_field", f"element_id={sys_id}")
    assert (note["element"], note["value"]) == ("work_notes", "yours")


def test_incidents_are_named_by_number_or_query_too(caller: Caller) -> None:
    rows = [created(caller, short_description=title) for title in ("a", "b", "a")]
    number = one(caller, rows[1])["number"]

    assert changed(caller, number=number, by="wendy.wu", fields={"state": "2"}) == [rows[1]]
    assert sorted(changed(caller, query="short_description=a", fields={"urgency": "1"})) == sorted([rows[0], rows[2]])
    assert changed(caller, sys_id="0" * 32, fields={"state": "2"}) == []
    assert one(caller, rows[1])["sys_updated_by"] == "wendy.wu"


def test_f72_a_change_may_leave_no_stamp_and_the_count_may_start_anew(caller: Caller) -> None:
    sys_id = created(caller)
    changed(caller, sys_id=sys_id, fields={"urgency": "2"}, stamp="2026-01-02 03:04:05")
    before = one(caller, sys_id)

    changed(caller, sys_id=sys_id, fields={"urgency": "1"}, silent=True)
    silently = one(caller, sys_id)
    changed(caller, sys_id=sys_id, mod_count=0)

    names = ("urgency", "sys_updated_on", "sys_mod_count")
    assert [before[name] for name in names] == ["2", "2026-01-02 03:04:05", "1"]
    assert [silently[name] for name in names] == ["1", "2026-01-02 03:04:05", "1"]
    assert one(caller, sys_id)["sys_mod_count"] == "0"


def test_f70_a_late_change_is_stamped_at_once_and_found_later(caller: Caller) -> None:
    sys_id = created(caller, short_description="before")

    changed(caller, sys_id=sys_id, fields={"short_description": "after"}, stamp="2026-01-02 03:04:05", late=0.5)

    assert one(caller, sys_id)["short_description"] == "before"
    assert caller.rows("incident", "sys_updated_on=2026-01-02 03:04:05") == []
    end = time.monotonic() + 10
    while not (found := caller.rows("incident", "sys_updated_on=2026-01-02 03:04:05")):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert found[0]["short_description"] == "after"


def test_f71_ten_thousand_incidents_of_one_second_are_paged_by_stamp_and_sys_id(caller: Caller) -> None:
    stamp = "2026-01-02 03:04:05"
    given = {"sys_updated_on": stamp, "sys_created_on": stamp, "assignment_group": "Vendor"}
    caller.control("POST", "incidents", [{**given, "sys_id": f"{place:032x}"} for place in range(10_000)])

    first = caller.rows("incident", f"sys_updated_on>={stamp}{ORDER}", sysparm_limit="100")
    last = first[-1]["sys_id"]
    after = f"assignment_group.name=Vendor^sys_updated_on={stamp}^sys_id>{last}{ORDER}"
    second = caller.rows("incident", after, sysparm_limit="100")

    assert [row["sys_id"] for row in first + second] == [f"{place:032x}" for place in range(200)]


def test_f76_an_incident_is_removed(caller: Caller) -> None:
    sys_id, other = created(caller), created(caller)

    assert caller.control("DELETE", "incidents", {"sys_id": sys_id}) == {"removed": [sys_id]}
    assert caller.call("GET", f"incident/{sys_id}").status_code == 404
    assert [row["sys_id"] for row in caller.incidents()] == [other]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"fields": {}}, "expected one of sys_id, number, query"),
        ({"sys_id": "x", "number": "y"}, "got sys_id, number"),
        ({"query": "bogus=1"}, "expected conditions"),
        ({"query": ""}, "expected conditions"),
        ({"sys_id": "x", "field": {}}, "unknown field"),
        ({"sys_id": "x", "fields": []}, "expected an object"),
        ({"sys_id": "x", "fields": {"bogus": "1"}}, "no column"),
        ({"sys_id": "x", "fields": {"assignment_group": "Nobody's"}}, "no row of sys_user_group"),
        ({"sys_id": "x", "fields": {"state": "Closed"}}, "expected one of 1, 2"),
        ({"sys_id": "x", "stamp": "now"}, "YYYY-MM-DD"),
        ({"sys_id": "x", "mod_count": "0"}, "whole number"),
        ({"sys_id": "x", "late": "soon"}, "not a duration"),
    ],
)
def test_a_mistake_changes_nothing_and_says_why(caller: Caller, given: dict[str, Any], word: str) -> None:
    created(caller)
    before = caller.incidents()

    answer = requests.post(f"{caller.url}/sandbox/change", json=given, timeout=10)

    assert answer.status_code == 400
    assert word in answer.json()["error"]
    assert caller.incidents() == before


def test_people_too_obey_the_rules_of_the_instance(caller: Caller) -> None:
    sys_id = created(caller)
    what = {"sys_id": sys_id, "fields": {"state": "7"}}

    answer = requests.post(f"{caller.url}/sandbox/change", json=what, timeout=10)

    assert answer.status_code == 400
    assert "Resolution code" in answer.json()["error"]
    changed(caller, sys_id=sys_id, fields={"state": "7", "close_code": "Duplicate", "close_notes": "see other"})
    assert one(caller, sys_id)["active"] == "false"
