"""The Table API."""

import base64
import json
import unicodedata

import pytest

from tests.sandbox.conftest import Caller, Start

SYS_ID = "0123456789abcdef0123456789abcdef"


def user_id(caller: Caller, login: str) -> str:
    users = caller.control("GET", "users")["users"]
    return str(next(user["sys_id"] for user in users if user["user_name"] == login))


def test_a_create_answers_with_the_whole_record(caller: Caller) -> None:
    abel = user_id(caller, "abel.tuter")

    answer = caller.create(short_description="No power", caller_id=abel, correlation_id="k:1", correlation_display="us")

    row = answer.json()["result"]
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{caller.url}/api/now/table/incident/{row['sys_id']}"
    assert row["number"] == "INC0010001"
    assert row["caller_id"] == {"link": f"{caller.url}/api/now/table/sys_user/{abel}", "value": abel}
    assert (row["state"], row["impact"], row["urgency"], row["priority"]) == ("1", "3", "3", "5")
    assert row["sys_created_by"] == "svc.poller"
    assert all(isinstance(value, str | dict) for value in row.values())
    assert answer.headers["X-Transaction-ID"]
    assert "glide_session_store=" in answer.headers["Set-Cookie"]


def test_references_are_encoded_as_asked(caller: Caller) -> None:
    abel = user_id(caller, "abel.tuter")
    sys_id = caller.create(caller_id=abel).json()["result"]["sys_id"]
    link = f"{caller.url}/api/now/table/sys_user/{abel}"

    def seen(**parameters: str) -> object:
        return caller.call("GET", f"incident/{sys_id}", params=parameters).json()["result"]["caller_id"]

    assert seen() == {"link": link, "value": abel}
    assert seen(sysparm_exclude_reference_link="true") == abel
    assert seen(sysparm_display_value="true") == {"display_value": "Abel Tuter", "link": link}
    assert seen(sysparm_display_value="true", sysparm_exclude_reference_link="true") == "Abel Tuter"
    assert seen(sysparm_display_value="all") == {"display_value": "Abel Tuter", "link": link, "value": abel}


def test_fields_are_chosen_walked_and_unknown_ones_left_out(caller: Caller) -> None:
    caller.create(caller_id=user_id(caller, "beth.anglin"))

    rows = caller.rows("incident", "", sysparm_fields="number,caller_id.user_name,bogus")

    assert rows == [{"number": "INC0010001", "caller_id.user_name": "beth.anglin"}]


def test_what_a_create_really_stores(caller: Caller) -> None:
    row = caller.create(
        short_description="s" * 200,
        description="d" * 5000,
        caller_id="someone who is no sys_id, and longer than that",
        category="nonsense",
        urgency=1,
        impact="1",
        bunk_field="x",
        sys_created_on="1970-01-01 00:00:00",
        number="INC7",
        work_notes="a note",
    ).json()["result"]

    assert len(row["short_description"]) == 160
    assert len(row["description"]) == 4000
    assert row["caller_id"]["value"] == "someone who is no sys_id, and lo"
    assert row["category"] == "inquiry"
    assert row["priority"] == "1"
    assert "bunk_field" not in row
    assert row["sys_created_on"] > "2020"
    assert row["number"] == "INC7"
    assert row["work_notes"] == ""
    assert [note["value"] for note in caller.rows("sys_journal_field", f"element_id={row['sys_id']}")] == ["a note"]


def test_an_object_for_a_reference_is_stored_the_java_way(caller: Caller) -> None:
    row = caller.create(caller_id={"link": "https://example.com/api/now/table/sys_user/1"}).json()["result"]

    assert row["caller_id"]["value"] == "{link=https://example.com/api/no"


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("{'short_description':'it\\'s \"odd\"'}", 'it\'s "odd"'),
        ('[{"short_description":"one"},{"short_description":"two"}]', "one"),
        ("{}", ""),
        ("", ""),
    ],
)
def test_bodies_are_read_leniently(caller: Caller, body: str, title: str) -> None:
    answer = caller.call("POST", "incident", data=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 201
    assert answer.json()["result"]["short_description"] == title
    assert len(caller.incidents()) == 1


def test_errors_have_their_form(caller: Caller) -> None:
    caller.create()

    def error(method: str, path: str, **more: object) -> tuple[int, object, object]:
        answer = caller.call(method, path, **more)
        assert answer.json()["status"] == "failure"
        return answer.status_code, answer.json()["error"]["message"], answer.json()["error"]["detail"]

    missing = (404, "No Record found", "Record doesn't exist or ACL restricts the record retrieval")
    assert error("GET", f"incident/{SYS_ID}") == missing
    assert error("DELETE", f"incident/{SYS_ID}") == missing
    assert error("GET", "bogus") == (400, "Invalid table bogus", None)
    assert error("GET", "/api/now/nothing") == (400, "Requested URI does not represent any resource", None)
    assert error("POST", "incident", data="{", headers={"Content-Type": "application/json"})[0] == 400
    assert error("POST", "incident", data={"a": "b"})[0] == 415
    assert error("POST", "incident", json={"state": "6"})[2] == (
        "Data Policy Exception: The following fields are mandatory: Resolution code, Resolution notes"
    )
    assert error("POST", "incident", json={"description": "x" * 11_000_000})[1] == "Exception while reading request"
    assert len(caller.incidents()) == 1


def test_v1_has_404_for_an_empty_list_and_links_keep_the_version(caller: Caller) -> None:
    assert caller.call("GET", "/api/now/v1/table/incident").status_code == 404
    assert caller.call("GET", "/api/now/v2/table/incident").json() == {"result": []}

    created = caller.call("POST", "/api/now/v2/table/incident", json={})
    assert "/api/now/v2/table/incident/" in created.headers["Location"]
    assert "/api/now/v2/table/sys_user/" in created.json()["result"]["opened_by"]["link"]


def test_a_clients_sys_id_is_honoured_once(caller: Caller) -> None:
    assert caller.create(sys_id=SYS_ID).json()["result"]["sys_id"] == SYS_ID

    again = caller.create(sys_id=SYS_ID)

    assert again.status_code == 403
    assert again.json()["error"]["message"] == "Operation Failed"
    assert again.json()["error"]["detail"].startswith("Error during insert of incident (INC")
    assert len(caller.incidents()) == 1


def test_a_clients_sys_id_is_ignored_or_refused_by_switch(caller: Caller) -> None:
    caller.switch(sys_id="ignored")
    assert caller.create(sys_id=SYS_ID).json()["result"]["sys_id"] != SYS_ID
    caller.switch(sys_id="refused")
    assert caller.create(sys_id=SYS_ID).status_code == 403
    assert caller.create().status_code == 201


def test_patch_and_put_keep_what_is_not_sent(caller: Caller) -> None:
    sys_id = caller.create(short_description="one", description="two").json()["result"]["sys_id"]

    row: dict[str, str] = {}
    for method in ("PATCH", "PUT"):
        row = caller.call(method, f"incident/{sys_id}", json={"short_description": method}).json()["result"]
        assert (row["short_description"], row["description"]) == (method, "two")
    assert row["sys_mod_count"] == "2"

    closing = {"state": "7", "close_code": "Solution provided", "close_notes": "done"}
    assert caller.call("PATCH", f"incident/{sys_id}", json=closing).json()["result"]["active"] == "false"
    assert caller.call("DELETE", f"incident/{sys_id}").status_code == 204
    assert caller.incidents() == []


def test_pages_counts_and_links(caller: Caller) -> None:
    caller.control("POST", "incidents", [{"short_description": str(count)} for count in range(5)])

    answer = caller.call("GET", "incident?sysparm_query=ORDERBYnumber&sysparm_limit=2&sysparm_offset=2")

    assert [row["short_description"] for row in answer.json()["result"]] == ["2", "3"]
    assert answer.headers["X-Total-Count"] == "5"
    links = {name: link["url"] for name, link in answer.links.items()}
    assert set(links) == {"first", "prev", "next", "last"}
    assert "sysparm_offset=4" in links["next"]
    assert "sysparm_offset=4" in links["last"]
    assert links["next"].startswith(caller.url + "/api/now/table/incident?")
    assert "X-Total-Count" not in caller.call("GET", "incident?sysparm_no_count=true").headers
    assert "Link" not in caller.call("GET", "incident").headers
    assert caller.call("GET", "/api/now/stats/incident?sysparm_count=true").json() == {
        "result": {"stats": {"count": "5"}}
    }


def test_hostile_names_behave_as_on_an_instance(caller: Caller) -> None:
    def logins(query: str) -> set[str]:
        return {row["user_name"] for row in caller.rows("sys_user", query, sysparm_fields="user_name")}

    assert logins("user_name=ABEL.TUTER") == {"abel.tuter"}
    assert logins("user_name=carla.case") == {"Carla.Case", "carla.case"}
    assert logins("user_name=") == {""}
    assert logins("user_name=ops^night") == set()
    assert logins("user_nameSTARTSWITHops^user_nameENDSWITHnight") == {"ops^night"}
    assert logins("user_nameINa,b") == set()
    assert logins("user_name=a,b") == {"a,b"}
    assert logins("user_name=javascript:gs.getUserID()") == set()
    assert logins("user_name=javascript:gs.getUserName()") == {"svc.poller"}
    assert logins("user_name=zoë.ångström") == {"zoë.ångström"}
    assert logins("user_name=rené.müller") == set()
    assert logins("user_name=" + unicodedata.normalize("NFD", "rené.müller")) != set()
    assert {len(login) for login in logins("user_nameSTARTSWITHlong.")} == {300}
    assert caller.rows("sys_user", "user_name=former.employee")[0]["active"] == "false"
    assert len(logins("usr_name=abel.tuter")) > 20


def test_pairs_filter_and_unknown_ones_are_dropped(caller: Caller) -> None:
    caller.create(caller_id=user_id(caller, "abel.tuter"), urgency="1")
    caller.create(caller_id=user_id(caller, "wendy.wu"))

    def count(query: str) -> int:
        return len(caller.call("GET", f"incident?{query}").json()["result"])

    assert count("caller_id=Abel%20Tuter") == 1
    assert count("urgency=1%20-%20High") == 1
    assert count("query=number=INC1") == 2


def test_invalid_queries_give_no_rows_where_the_switch_says_so(caller: Caller) -> None:
    caller.switch(invalid_query="no-rows")

    assert caller.rows("sys_user", "bogus=1") == []
    assert caller.rows("sys_user", "user_name=abel.tuter^bogus=1") == []
    assert len(caller.rows("sys_user", "user_name=abel.tuter")) == 1


def test_acls_hide_rows_but_not_their_count(caller: Caller) -> None:
    sys_id = caller.create(correlation_id="k").json()["result"]["sys_id"]
    caller.switch(hide_incidents=True, unreadable_fields=["user_name"])

    answer = caller.call("GET", "incident?sysparm_query=correlation_id=k")

    assert (answer.json()["result"], answer.headers["X-Total-Count"]) == ([], "1")
    assert caller.call("GET", f"incident/{sys_id}").status_code == 404
    assert "user_name" not in caller.rows("sys_user", "user_name=abel.tuter")[0]


def test_new_rows_show_late_where_the_switch_says_so(caller: Caller) -> None:
    caller.switch(visibility_delay="1h")
    caller.create(correlation_id="k", sys_id=SYS_ID)

    assert caller.rows("incident", "correlation_id=k") == []
    assert caller.rows("incident", "") == []
    assert caller.create(sys_id=SYS_ID).status_code == 403
    assert len(caller.incidents()) == 1


def test_a_rule_may_cut_or_rewrite_the_correlation(caller: Caller) -> None:
    caller.switch(cut_correlation=5)
    assert caller.create(correlation_id="123456789").json()["result"]["correlation_id"] == "12345"
    caller.switch(cut_correlation=100, rewrite_correlation="X-{}")
    assert caller.create(correlation_id="1").json()["result"]["correlation_id"] == "X-1"


def test_display_values_are_resolved_on_request(caller: Caller) -> None:
    fields = {"caller_id": "Abel Tuter", "assigned_to": "Nobody Known", "urgency": "1 - High"}

    row = caller.call("POST", "incident?sysparm_input_display_value=true", json=fields).json()["result"]

    assert row["caller_id"]["value"] == user_id(caller, "abel.tuter")
    assert row["assigned_to"] == ""
    assert row["urgency"] == "1"


def test_head_override_and_no_body(caller: Caller) -> None:
    assert caller.call("HEAD", "sys_user").headers["X-Total-Count"]
    sys_id = caller.call("POST", "incident", json={}, headers={"X-no-response-body": "true"}).headers["Location"][-32:]
    answer = caller.call(
        "POST", f"incident/{sys_id}", json={"impact": "2"}, headers={"X-HTTP-Method-Override": "PATCH"}
    )
    assert answer.json()["result"]["impact"] == "2"


def test_a_batch_carries_out_its_items_in_turn(caller: Caller) -> None:
    body = base64.b64encode(json.dumps({"correlation_id": "k"}).encode()).decode()
    headers = [{"name": "Content-Type", "value": "application/json"}, {"name": "Accept", "value": "application/json"}]
    items = [
        {"id": 1, "method": "POST", "url": "/api/now/table/incident", "headers": headers, "body": body},
        {
            "id": 2,
            "method": "GET",
            "url": "/api/now/table/incident?sysparm_query=correlation_id%3Dk",
            "headers": headers,
        },
        {"id": 3, "method": "GET", "url": "/api/now/table/bogus", "headers": headers},
    ]

    answer = caller.call("POST", "/api/now/v1/batch", json={"batch_request_id": 7, "rest_requests": items}).json()

    assert answer["batch_request_id"] == "7"
    assert [(item["id"], item["status_code"]) for item in answer["serviced_requests"]] == [
        ("1", 201),
        ("2", 200),
        ("3", 400),
    ]
    assert len(json.loads(base64.b64decode(answer["serviced_requests"][1]["body"]))["result"]) == 1


def test_a_rate_rule_shows_in_every_answer(caller: Caller) -> None:
    caller.switch(rate_limit=2, retry_after="1800")

    answers = [caller.call("GET", "sys_user?sysparm_limit=1") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert all(answer.headers["X-RateLimit-Limit"] == "2" for answer in answers)
    assert answers[2].headers["Retry-After"] == "1800"
    assert answers[2].json()["error"]["message"] == "Rate limit exceeded"


def test_the_clock_may_be_wrong(start: Start) -> None:
    caller = start()
    before = caller.create().json()["result"]["sys_created_on"]
    caller.switch(clock_skew="1d")

    answer = caller.create()

    assert answer.json()["result"]["sys_created_on"] > before
    assert answer.json()["result"]["sys_created_on"][:10] != before[:10]
    assert int(answer.headers["Date"][5:7]) != int(before[8:10])


def test_the_dictionary_has_what_an_incident_inherits_under_task(caller: Caller) -> None:
    query = "nameINincident,task^elementINshort_description,caller_id,urgency"
    rows = caller.rows("sys_dictionary", query, sysparm_fields="name,element,internal_type,max_length,reference,choice")

    assert sorted(tuple(row.values()) for row in rows) == [
        ("incident", "caller_id", "reference", "32", "sys_user", ""),
        ("task", "short_description", "string", "160", "", ""),
        ("task", "urgency", "integer", "40", "", "1"),
    ]
    (table,) = caller.rows("sys_db_object", "name=incident", sysparm_fields="name,super_class.name")
    assert table == {"name": "incident", "super_class.name": "task"}


def test_tables_are_hidden_or_forbidden_by_switch(caller: Caller) -> None:
    caller.switch(
        hide_tables=["sys_user_group"], forbid_tables=["sys_dictionary"], unreadable_fields=["sys_user.email"]
    )

    hidden = caller.call("GET", "sys_user_group")
    assert (hidden.json()["result"], hidden.headers["X-Total-Count"]) == ([], "6")
    refused = caller.call("GET", "sys_dictionary?sysparm_limit=1")
    assert (refused.status_code, refused.json()["error"]["message"]) == (403, "Insufficient rights to query records")
    assert "email" not in caller.rows("sys_user", "user_name=abel.tuter")[0]
    assert caller.rows("core_company", "nameSTARTSWITHACME")


def test_rows_of_any_table_are_added_by_a_control_call(caller: Caller) -> None:
    caller.control("POST", "rows", {"table": "cmdb_ci", "rows": [{"name": "web01"}, {"name": "web02"}]})

    assert [row["name"] for row in caller.rows("cmdb_ci", "nameSTARTSWITHweb^ORDERBYname")] == ["web01", "web02"]
