"""What a record names, resolved through the sink: rows of any table, mapped values, users by several columns, policies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from poller.clients.servicenow import ServiceNowClient
from poller.errors import BlockedError
from poller.model import NotYet, Ready, Undeliverable
from poller.sandbox.people import derived_id
from poller.sandbox.sandbox import Sandbox
from poller.sinks.servicenow import ServiceNowSink
from tests.sinks.house import NOW, body, calls, control, incidents, make, prepare, reason, record

GROUP = {"lookup": "sys_user_group", "by": "name", "value": "{{ team }}"}
URGENCY = {"from": "{{ priority }}", "map": {"high": "1", "low": "3", "Straße": "2"}}
WAIT = {"policy": "wait", "for": "24h", "every": "30m"}


def with_field(client: ServiceNowClient, name: str, form: object, **more: Any) -> ServiceNowSink:
    return make(client, fields={"short_description": "{{ title }}", name: form}, **more)


def group(name: str) -> str:
    return derived_id("sys_user_group", name)


# Rows of any table.


def test_a_group_is_found_by_its_name(client: ServiceNowClient) -> None:
    sink = with_field(client, "assignment_group", GROUP)
    names = ("Network", "service desk ", "DATABASE")

    found = prepare(sink, *(record(name, team=name) for name in names))

    wanted = [group("Network"), group("Service Desk"), group("Database")]
    assert [body(one)["assignment_group"] for one in found] == wanted


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Nobody's", "is unknown to sys_user_group (name)"),
        ("^ORnameISNOTEMPTY", "is unknown to"),  # S01
        ("Network^ORname=Database", "is unknown to"),
        ("javascript:gs.getUserID()", "is unknown to"),  # S02
        ("Network,Database", "is unknown to"),  # S03
        ("*", "is unknown to"),
        ("%", "is unknown to"),
        ("Netw\u200bork", "is unknown to"),  # S05
    ],
)
def test_s01_s02_s03_s05_a_name_that_no_row_has_is_dead_and_says_so(
    sandbox: Sandbox, client: ServiceNowClient, name: str, why: str
) -> None:
    dead = reason(prepare(with_field(client, "assignment_group", GROUP), record(team=name))[0])

    assert dead.startswith("assignment_group: the name given by the record ")
    assert why in dead
    assert name not in dead
    # Whatever was asked, it was one condition on the name and nothing else.
    for entry in sandbox.ledger.entries(0):
        if "sys_user_group" in str(entry.get("path")):
            assert not entry["dropped"]
            assert {part[:7] for part in entry["query"].split("^")} <= {"name=Net", "nameINN", "nameIN*", "nameIN%"} | {
                part[:7] for part in ("nameISNOTEMPTY", "name=Network,Database", "ORDERBYsys_id", "nameSTARTSWITH")
            } | {"nameEND", f"nameIN{name}"[:7]}


def test_an_unknown_row_is_left_out_or_replaced_where_the_settings_say_so(client: ServiceNowClient) -> None:
    omitting = with_field(client, "assignment_group", GROUP | {"unknown": "omit"})
    (left_out,) = prepare(omitting, record(team="Nobody's"))
    assert "assignment_group" not in body(left_out)
    assert isinstance(left_out, Ready)
    assert left_out.note == "assignment_group: omitted"

    replacing = with_field(client, "assignment_group", GROUP | {"default": "Service Desk"})
    for name in ("Nobody's", "", "  "):
        assert body(prepare(replacing, record(team=name))[0])["assignment_group"] == group("Service Desk")
    assert body(prepare(replacing, record(team="Network"))[0])["assignment_group"] == group("Network")


def test_a_default_that_nobody_knows_blocks_and_buries_nothing(client: ServiceNowClient) -> None:
    sink = with_field(client, "assignment_group", GROUP | {"default": "No such group"})

    with pytest.raises(BlockedError, match=r"assignment_group: what default names is unknown to sys_user_group"):
        prepare(sink, record(team="Nobody's"))
    assert isinstance(prepare(sink, record(team="Network"))[0], Ready)


def test_a_record_without_a_name_leaves_the_column_out(sandbox: Sandbox, client: ServiceNowClient) -> None:
    found = prepare(with_field(client, "assignment_group", GROUP), record("1", team=""), record("2", team=None))

    assert [list(body(one)) for one in found] == [["short_description", "correlation_id", "correlation_display"]] * 2
    assert calls(sandbox, "sys_user_group") == 0


def test_two_rows_of_one_name_are_nobody(client: ServiceNowClient) -> None:
    item = {"lookup": "cmdb_ci", "by": "name", "value": "{{ host }}"}
    found = prepare(
        with_field(client, "cmdb_ci", item), *(record(name, host=name) for name in ("double", "twin", "Twin", "TWIN"))
    )

    assert "fits more than one row of cmdb_ci" in reason(found[0])
    assert [body(one)["cmdb_ci"] for one in found[1:3]] == [derived_id("cmdb_ci", name) for name in ("twin", "Twin")]
    assert "fits more than one row of cmdb_ci" in reason(found[3])


def test_names_that_are_hard_to_ask_for_are_found_all_the_same(client: ServiceNowClient) -> None:
    item = {"lookup": "cmdb_ci", "by": ["serial_number", "name"], "value": "{{ host }}"}
    company = {"lookup": "core_company", "by": "name", "value": "{{ firm }}"}
    sink = make(client, fields={"cmdb_ci": item, "company": company})

    one, other = prepare(
        sink,
        record("1", host="SAN^01", firm="ACME Europe, Middle East"),
        record("2", host="*db*", firm="BÖHM & SÖHNE"),
    )

    assert body(one)["cmdb_ci"] == derived_id("cmdb_ci", "SAN^01")
    assert body(one)["company"] == derived_id("core_company", "ACME Europe, Middle East")
    assert body(other)["cmdb_ci"] == derived_id("cmdb_ci", "*db*")
    assert body(other)["company"] == derived_id("core_company", "Böhm & Söhne")


def test_what_a_row_must_have_besides_is_asked_for_and_compared(sandbox: Sandbox, client: ServiceNowClient) -> None:
    rows = [{"name": "Field", "active": "false"}, {"name": "field", "active": "true", "sys_id": "f" * 32}]
    control(sandbox, "rows", {"table": "sys_user_group", "rows": rows})
    sink = with_field(client, "assignment_group", GROUP | {"where": {"active": "true"}})

    assert body(prepare(sink, record(team="Field"))[0])["assignment_group"] == "f" * 32
    # S04: the instance drops that condition, and the rows are compared all the same.
    sandbox.switches.change({"drop_fields": ["active"]})
    assert body(prepare(sink, record(team="Field"), fresh=True)[0])["assignment_group"] == "f" * 32


def test_many_names_are_one_question(sandbox: Sandbox, client: ServiceNowClient) -> None:
    control(sandbox, "rows", {"table": "sys_user_group", "rows": [{"name": f"group {n}"} for n in range(50)]})
    sink = with_field(client, "assignment_group", GROUP)
    records = [record(str(n), team=f"group {n}") for n in range(50)]

    assert all(isinstance(one, Ready) for one in prepare(sink, *records))
    prepare(sink, *records)

    assert calls(sandbox, "sys_user_group") == 1


# S04: an instance that cannot be trusted.


@pytest.mark.parametrize(
    "policy", [{"policy": "dead"}, {"policy": "omit"}, {"policy": "default", "username": "wendy.wu"}]
)
@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"drop_fields": ["user_name"]}, "ignored our condition on user_name"),
        ({"unreadable_fields": ["sys_user.user_name"]}, "no row can be seen that shows user_name"),
        ({"hide_tables": ["sys_user"]}, "no row can be seen that shows user_name"),
        ({"forbid_tables": ["sys_user"]}, "403"),
    ],
)
def test_s04_a_table_that_cannot_be_asked_buries_nobody(
    sandbox: Sandbox, client: ServiceNowClient, switches: dict[str, Any], words: str, policy: dict[str, Any]
) -> None:
    sink = make(client, unknown_user=policy)
    sandbox.switches.change(switches)

    for _ in range(2):
        with pytest.raises(BlockedError, match=words) as caught:
            prepare(sink, record("1", "abel.tuter"), record("2", "nobody.secret"))
        assert "nobody.secret" not in str(caught.value)

    sandbox.switches.change({name: [] for name in switches})
    assert body(prepare(sink, record("1", "abel.tuter"))[0])["caller_id"] == derived_id("sys_user", "abel.tuter")


def test_s04_a_column_that_does_not_exist_is_told_where_invalid_conditions_give_no_rows(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sandbox.switches.change({"invalid_query": "no-rows"})
    sink = make(client, fields={"caller_id": {"user": "{{ username }}", "by": ["usr_name"]}})

    with pytest.raises(BlockedError, match="no row can be seen that shows usr_name"):
        prepare(sink, record())


def test_one_row_whose_name_is_hidden_stops_nobody_else(sandbox: Sandbox, client: ServiceNowClient) -> None:
    # A stray row of other spelling that the instance takes for equal is no reason to distrust it either.
    found = prepare(make(client), record("1", "zoe.angstrom"), record("2", "abel.tuter"), record("3", "50%"))

    assert [type(one) for one in found] == [Undeliverable, Ready, Undeliverable]
    # Once somebody was found, an unknown name costs no further questions.
    asked = calls(sandbox, "sys_user")
    prepare(make(client), record("4", "nobody.at.all"), record("5", "abel.tuter"))
    assert calls(sandbox, "sys_user") == asked + 1


# Values that are mapped.


@pytest.mark.parametrize(
    ("value", "sent"),
    [("high", "1"), ("HIGH", "1"), (" low ", "3"), ("STRASSE", "2"), ("", None), ("  ", None), (None, None)],
)
def test_a_value_is_mapped_exactly_first_and_then_without_regard_to_case(
    client: ServiceNowClient, value: object, sent: str | None
) -> None:
    assert body(prepare(with_field(client, "urgency", URGENCY), record(priority=value))[0]).get("urgency") == sent


def test_a_value_that_is_not_in_the_map_is_dead_or_has_the_default(client: ServiceNowClient) -> None:
    dead = reason(prepare(with_field(client, "urgency", URGENCY), record(priority="secret text"))[0])
    assert dead == "urgency: map has nothing for the record's value, and there is no default"

    with_default = with_field(client, "urgency", URGENCY | {"default": "2"})
    for value in ("secret text", "", None):
        assert body(prepare(with_default, record(priority=value))[0])["urgency"] == "2"


# Users.


def test_users_are_tried_by_several_columns_in_turn(sandbox: Sandbox, client: ServiceNowClient) -> None:
    control(sandbox, "users", [{"user_name": "x1", "email": "beth.anglin", "name": "X"}])
    by = ["user_name", "email", "name"]
    sink = make(client, fields={"caller_id": {"user": "{{ username }}", "by": by}})

    found = prepare(
        sink, *(record(name, name) for name in ("beth.anglin", "Wendy.Wu@example.com", "Joe Employee", "carla.CASE"))
    )

    logins = ("beth.anglin", "wendy.wu", "joe.employee")
    assert [body(one)["caller_id"] for one in found[:3]] == [derived_id("sys_user", login) for login in logins]
    # What is ambiguous in one column is not looked for in the next.
    assert "fits more than one row of sys_user" in reason(found[3])


def test_inactive_users_are_accepted_or_unknown(sandbox: Sandbox, client: ServiceNowClient) -> None:
    former = derived_id("sys_user", "former.employee")
    assert body(prepare(make(client), record(username="former.employee"))[0])["caller_id"] == former

    strict = make(client, unknown_user={"policy": "dead", "inactive": "unknown"})
    dead = reason(prepare(strict, record(username="former.employee"))[0])
    assert dead == "caller_id: the user named by the record is not active in sys_user (user_name)"
    assert body(prepare(strict, record(username="abel.tuter"))[0])["caller_id"] == derived_id("sys_user", "abel.tuter")

    # Whoever is inactive is still who was meant: nobody of a like name takes the place.
    control(sandbox, "users", [{"user_name": "Gone", "active": "false"}, {"user_name": "gone", "active": "true"}])
    assert "is not active" in reason(prepare(strict, record(username="Gone"))[0])
    assert isinstance(prepare(strict, record(username="gone"))[0], Ready)


def test_where_activity_is_hidden_everybody_is_accepted_and_it_is_told_once(
    sandbox: Sandbox, client: ServiceNowClient, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.switches.change({"unreadable_fields": ["active"]})
    sink = make(client, unknown_user={"inactive": "unknown"})

    for key in ("1", "2"):
        assert isinstance(prepare(sink, record(key, "former.employee"), fresh=True)[0], Ready)

    assert sum("column_hidden" in record.getMessage() for record in caplog.records) == 1


# Waiting.


def test_a_user_who_is_not_there_yet_is_waited_for_and_asked_for_again(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sink = make(client, unknown_user=WAIT)
    (first,) = prepare(sink, record(username="new.hire"))
    assert first == NotYet(
        reason="caller_id: the user named by the record is unknown to sys_user (user_name); "
        "asked again until 2026-11-24 00:00:00 UTC",
        until=NOW + timedelta(minutes=30),
    )

    control(sandbox, "users", [{"user_name": "new.hire", "sys_id": "e" * 32}])
    (then,) = sink.prepare([record(username="new.hire")], now=NOW + timedelta(minutes=30), fresh=True)
    assert body(then)["caller_id"] == "e" * 32


def test_waiting_ends_when_its_time_is_over(client: ServiceNowClient) -> None:
    sink = make(client, unknown_user=WAIT)
    late = replace(record(username="never.hired"), first_seen=NOW - timedelta(hours=23, minutes=50))
    over = replace(late, first_seen=NOW - timedelta(hours=24))

    soon, dead = prepare(sink, late, over)

    assert isinstance(soon, NotYet)
    assert soon.until == NOW + timedelta(minutes=10)
    assert reason(dead).endswith("is unknown to sys_user (user_name); it has been waited for 24 h")


@pytest.mark.parametrize("name", ["CARLA.CASE", "", "javascript:gs.getUserID()"])
def test_whoever_is_ambiguous_or_cannot_be_asked_for_is_unknown_to_every_policy(
    client: ServiceNowClient, name: str
) -> None:
    assert isinstance(prepare(make(client, unknown_user=WAIT), record(username=name))[0], NotYet)
    assert isinstance(prepare(make(client), record(username=name))[0], Undeliverable)
    assert "caller_id" not in body(prepare(make(client, unknown_user={"policy": "omit"}), record(username=name))[0])


def test_a_record_that_can_never_be_sent_does_not_wait(client: ServiceNowClient) -> None:
    fields = {"caller_id": {"user": "{{ username }}"}, "urgency": URGENCY}
    sink = make(client, fields=fields, unknown_user=WAIT)

    assert reason(prepare(sink, record(username="new.hire", priority="odd"))[0]).startswith("urgency: ")


# Texts that are data.


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "<script>alert(1)</script>", "[code]<b>x</b>[/code]", "{{ 7*7 }}"]
)
def test_s10_s17_formulas_html_and_templates_in_a_record_go_through_as_data(sink: ServiceNowSink, text: str) -> None:
    frozen = body(prepare(sink, record(title=text, description=text))[0])

    assert (frozen["short_description"], frozen["description"]) == (text, text)


# References.


@pytest.mark.parametrize("text", ["joe", "Service Desk", "x" * 40, "0" * 31, "0" * 33, "{link=https://x}"])
def test_a_text_for_a_reference_is_refused_since_the_instance_would_store_it(
    client: ServiceNowClient, text: str
) -> None:
    dead = reason(prepare(with_field(client, "assignment_group", "{{ team }}"), record(team=text))[0])

    assert dead.startswith("assignment_group: the column refers to sys_user_group and takes a sys_id")
    assert 'use { lookup = "sys_user_group", ' in dead
    assert text not in dead.replace("sys_user_group", "")


def test_a_sys_id_for_a_reference_goes_through(client: ServiceNowClient) -> None:
    sink = with_field(client, "assignment_group", "{{ team }}")

    assert body(prepare(sink, record(team=group("Network")))[0])["assignment_group"] == group("Network")


def test_how_each_field_came_about_is_noted_without_its_text(client: ServiceNowClient) -> None:
    fields = {
        "caller_id": {"user": "{{ username }}"},
        "assignment_group": GROUP | {"unknown": "omit"},
        "urgency": URGENCY,
        "short_description": "{{ title }}",
        "description": "{{ description }}",
    }
    given = record(username="ABEL.TUTER", team="secret team", priority="high", title="secret " * 100)

    (ready,) = prepare(make(client, fields=fields), given)

    assert isinstance(ready, Ready)
    assert (ready.note or "").splitlines() == [
        "caller_id: folded",
        "assignment_group: omitted",
        "urgency: mapped",
        "short_description: cut to 160 of 700 characters; the whole is in description",
    ]


def test_a_column_that_the_table_does_not_have_blocks_the_route_and_nothing_is_sent(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sink = make(client, fields={"short_desciption": "{{ title }}", "description": "{{ description }}"})

    with pytest.raises(BlockedError) as caught:
        prepare(sink, record())

    assert "incident has no column short_desciption" in str(caught.value)
    assert "did you mean short_description?" in str(caught.value)
    assert incidents(sandbox) == []


def test_a_dictionary_that_cannot_be_read_blocks_nothing(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sandbox.switches.change({"forbid_tables": ["sys_dictionary"]})

    (prepared,) = prepare(make(client, fields={"u_of_our_own": "{{ title }}"}), record())

    assert "u_of_our_own" in body(prepared)
