from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from poller.clients.servicenow import ServiceNowClient
from poller.errors import (
    BlockedError,
    HeldError,
    NotSentError,
    PermanentError,
    PollerError,
    TransientError,
    UnknownOutcome,
)
from poller.identity import correlation_display
from poller.model import AlreadyThere, Intent, Ready, Undeliverable
from poller.sandbox.faults import CREATE, FAULTS, READ
from poller.sandbox.people import derived_id
from poller.sandbox.sandbox import Sandbox
from poller.sinks.servicenow import ServiceNowSink, ServiceNowSinkSettings
from tests.sinks.house import control, incidents, intent, make, order, prepare, record

#: These answer well, only late.
HARMLESS = {"slow", "slow_drip", "slow_commit"}


# Users.

NAMES = {
    "abel.tuter": "abel.tuter",
    "ABEL.Tuter": "abel.tuter",
    "abel.tuter  ": "abel.tuter",
    "\tabel.tuter\n": "abel.tuter",
    "ops^night": "ops^night",
    "a,b": "a,b",
    "A,B": "a,b",
    "javascript:gs.getUserID()": None,
    "JavaScript:gs.getUserID()": None,
    "": None,
    "   ": None,
    "nobody.here": None,
    "bob^ORuser_name=abel.tuter": None,
    "^": None,
    "^NQactive=true": None,
    "x^ORDERBYuser_name": None,
    "a\x00b": None,
    "zoë.ångström": "zoë.ångström",
    "ZOË.ÅNGSTRÖM": "zoë.ångström",
    unicodedata.normalize("NFD", "zoë.ångström"): "zoë.ångström",
    unicodedata.normalize("NFC", "rené.müller"): unicodedata.normalize("NFD", "rené.müller"),
    "zoe.angstrom": None,
    "long." + "x" * 295: "long." + "x" * 295,
    "carla.case": "carla.case",
    "Carla.Case": "Carla.Case",
    "CARLA.CASE": None,
    "o'brien": "o'brien",
    "50%_off": "50%_off",
    "o&m=team": "o&m=team",
    "%": None,
    "*": None,
    "\ud800": None,
    "🙂" * 2000: None,
}


def test_every_name_finds_its_user_or_nobody(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client, unknown_user={"policy": "omit"})
    records = [record(str(at), name) for at, name in enumerate(NAMES)]

    found = prepare(sink, *records)

    callers = {}
    for one, ready in zip(records, found, strict=True):
        assert isinstance(ready, Ready)
        callers[one.fields["username"]] = json.loads(ready.body).get("caller_id")
    assert callers == {name: derived_id("sys_user", login) if login else None for name, login in NAMES.items()}
    # Whatever was refused here never reached the instance.
    asked = " ".join(str(entry) for entry in sandbox.ledger.entries(0)).lower()
    assert "javascript" not in asked
    assert "^or" not in asked.replace("^orderby", "")
    assert "%5eor" not in asked.replace("%5eorderby", "")


def test_names_are_asked_for_together_and_remembered(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    records = [record(str(at), f"user{at:04d}") for at in range(1, 51)]
    prepare(sink, *records)
    first = sandbox.ledger.counts()["total"]
    prepare(sink, *records)
    second = sandbox.ledger.counts()["total"]
    prepare(sink, *records, fresh=True)
    third = sandbox.ledger.counts()["total"]

    # Token, canary, pre-check, dictionary, users; then the pre-check alone; then users and pre-check.
    assert (first, second - first, third - second) == (5, 1, 2)


def test_an_unknown_user_is_dead_omitted_or_replaced(client: ServiceNowClient) -> None:
    (dead,) = prepare(make(client), record(username="nobody.secret"))
    assert isinstance(dead, Undeliverable)
    assert "unknown to sys_user" in dead.reason
    assert "nobody.secret" not in dead.reason

    default = {"policy": "default", "username": "beth.anglin"}
    for name in ("nobody", "", "CARLA.CASE"):
        (ready,) = prepare(make(client, unknown_user=default), record(username=name))
        assert isinstance(ready, Ready)
        assert json.loads(ready.body)["caller_id"] == derived_id("sys_user", "beth.anglin")
        assert ready.note == "caller_id: default"

    with pytest.raises(BlockedError, match=r"unknown_user\.username"):
        prepare(make(client, unknown_user={"policy": "default", "username": "nobody"}), record(username="nobody"))


def test_further_columns_are_tried_in_turn(client: ServiceNowClient) -> None:
    sink = make(client, fields={"caller_id": {"user": "{{ username }}", "by": ["user_name", "email"]}})
    (ready,) = prepare(sink, record(username="Beth.Anglin@example.com"))
    assert isinstance(ready, Ready)
    assert json.loads(ready.body)["caller_id"] == derived_id("sys_user", "beth.anglin")


def test_a_fault_in_one_record_concerns_that_record_alone(sink: ServiceNowSink) -> None:
    broken = replace(record("1"), fields={"username": "abel.tuter", "title": "x"})
    found = prepare(sink, broken, record("2"))
    assert isinstance(found[0], Undeliverable)
    assert found[0].reason.startswith("description: ")
    assert isinstance(found[1], Ready)


def test_an_empty_field_is_left_out_and_the_order_is_that_of_the_settings(sink: ServiceNowSink) -> None:
    (ready,) = prepare(sink, record("1", description=""))
    assert isinstance(ready, Ready)
    assert list(json.loads(ready.body)) == ["caller_id", "short_description", "correlation_id", "correlation_display"]
    assert json.loads(ready.body)["correlation_display"] == "desk/1"


# Look-ups.


def test_nothing_is_prepared_while_the_instance_ignores_our_condition(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    control(sandbox, "incidents", {"short_description": "somebody else's"})
    sandbox.switches.change({"drop_fields": ["correlation_id"]})
    for _ in range(2):
        with pytest.raises(HeldError) as caught:
            prepare(sink, record())
        assert (caught.value.reason, caught.value.operator) == ("canary", False)
    sandbox.switches.change({"drop_fields": []})
    assert isinstance(prepare(sink, record())[0], Ready)


def test_what_is_there_already_is_found_and_the_oldest_of_two_is_bound(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    one = record("7")
    for sys_id, at in (("b" * 32, "2026-01-02 00:00:00"), ("a" * 32, "2026-01-03 00:00:00")):
        row = {
            "sys_id": sys_id,
            "number": f"INC{sys_id[0]}",
            "sys_created_on": at,
            "correlation_id": one.correlation_id,
        }
        control(sandbox, "incidents", row | {"correlation_display": "desk/7"})

    (there, ready) = prepare(sink, one, record("8"))

    assert isinstance(ready, Ready)
    assert isinstance(there, AlreadyThere)
    assert (there.receipt.sys_id, there.receipt.number, there.receipt.learnt) == ("b" * 32, "INCb", "lookup")
    assert there.receipt.duplicates == ("a" * 32,)
    assert there.receipt.sys_id_honoured is None


def test_our_id_under_another_name_holds_the_route(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    one = record("7")
    control(sandbox, "incidents", {"correlation_id": one.correlation_id, "correlation_display": "other/9"})
    with pytest.raises(HeldError) as caught:
        prepare(sink, one)
    assert (caught.value.reason, caught.value.operator) == ("collision", True)


def test_a_renamed_route_knows_its_incidents(sandbox: Sandbox, client: ServiceNowClient) -> None:
    one = record("7")
    control(sandbox, "incidents", {"correlation_id": one.correlation_id, "correlation_display": "old-name/7"})
    sink = ServiceNowSink(ServiceNowSinkSettings(type="servicenow"), client, previously=("old-name",))
    assert isinstance(prepare(sink, one)[0], AlreadyThere)


def test_an_improper_answer_is_never_nothing_found(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    mine = intent(sink, record())
    sink.deliver(mine)
    reads = [
        name
        for name, fault in FAULTS.items()
        if READ in fault.kinds and name not in HARMLESS | {"stall", "stall_after_commit"}
    ]
    assert len(reads) > 15
    for fault in reads:
        order(sandbox, fault, "GET")
        try:
            found = sink.find([mine])
        except (TransientError, BlockedError):
            continue
        # A token that had expired is renewed by a read.
        assert fault == "token_expired", fault
        assert found[0] is not None
    assert sink.find([intent(sink, record("9"))]) == [None]


# Creates.


def test_a_create_is_compared_and_read_back(sandbox: Sandbox, client: ServiceNowClient) -> None:
    fields = {"short_description": "{{ title }}", "caller_id": {"user": "{{ username }}"}, "subcategory": "{{ sort }}"}
    sink = make(client, fields=fields)
    # What the dictionary does not tell us is cut by the instance, and told.
    sandbox.switches.change({"forbid_tables": ["sys_dictionary"]})
    mine = intent(sink, record("1", sort="x" * 300), read_back=True)

    made = sink.deliver(mine)

    (row,) = incidents(sandbox)
    assert row["sys_id"] == made.sys_id == mine.derived_sys_id
    assert row["number"] == made.number
    assert row["caller_id"] == derived_id("sys_user", "abel.tuter")
    assert row["correlation_display"] == correlation_display("desk", "1")
    assert (made.learnt, made.read_back, made.altered, made.sys_id_honoured) == ("response", True, None, True)
    assert [(one.field, one.kind) for one in made.differences] == [("subcategory", "cut")]
    assert made.created_at == row["sys_created_on"]


def test_what_was_cut_here_and_what_is_written_only_are_no_differences(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    fields = {"short_description": "{{ title }}", "description": "{{ description }}", "work_notes": "{{ title }}"}
    sink = make(client, fields=fields)

    made = sink.deliver(intent(sink, record("1", title="x" * 300, description="y" * 5000)))

    (row,) = incidents(sandbox)
    assert (len(row["short_description"]), len(row["description"])) == (160, 4000)
    assert made.differences == ()


def test_a_sys_id_that_is_ignored_is_noticed(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    sandbox.switches.change({"sys_id": "ignored"})
    mine = intent(sink, record())
    assert sink.deliver(mine).sys_id_honoured is False
    assert sink.deliver(replace(mine, with_sys_id=False)).sys_id_honoured is None
    found = sink.find([mine, intent(sink, record("9"))])
    assert found[0] is not None
    assert found[0].sys_id_honoured is False
    assert len(found[0].duplicates) == 1
    assert found[1] is None


def test_a_rewritten_correlation_is_bound_and_told(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    sandbox.switches.change({"rewrite_correlation": "changed-{}"})
    mine = intent(sink, record(), read_back=True)
    made = sink.deliver(mine)
    assert made.altered == f"changed-{mine.correlation_id}"
    assert made.read_back is False
    assert ("correlation_id", "changed") in [(one.field, one.kind) for one in made.differences]
    (found,) = sink.find([mine])
    assert found is not None
    assert (found.sys_id, found.altered) == (made.sys_id, made.altered)


def test_a_look_up_that_sees_nothing_after_a_create_is_told(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    mine = intent(sink, record(), read_back=True)
    sandbox.switches.change({"hide_incidents": True})
    assert sink.deliver(mine).read_back is False


def test_a_second_insert_of_our_sys_id_finds_the_first(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    mine = intent(sink, record())
    first = sink.deliver(mine)
    again = sink.deliver(replace(mine, attempt=2))
    assert (again.learnt, again.sys_id, again.number) == ("lookup", first.sys_id, first.number)
    assert len(incidents(sandbox)) == 1


def test_a_taken_key_that_is_not_to_be_seen_is_refused_and_the_lifecycle_knows_of_the_doubt(
    sandbox: Sandbox, sink: ServiceNowSink
) -> None:
    mine = intent(sink, record())
    sink.proven = lambda: True
    sink.deliver(mine)
    sandbox.switches.change({"hide_incidents": True})
    with pytest.raises(PermanentError):
        sink.deliver(replace(mine, attempt=2))


def test_a_refused_sys_id_is_told_from_a_refused_record(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    sandbox.switches.change({"sys_id": "refused"})
    mine = intent(sink, record())
    with pytest.raises(PermanentError) as caught:
        sink.deliver(mine)
    assert caught.value.insert_refused
    assert sink.deliver(replace(mine, with_sys_id=False)).number


def test_a_data_policy_concerns_the_record(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    refuse = {"field": "short_description", "contains": "title 1", "status": 403}
    refuse |= {"message": "Operation Failed", "detail": "Data Policy Exception: The following fields are mandatory: X"}
    sandbox.switches.change({"refuse": [refuse]})
    with pytest.raises(PermanentError) as caught:
        sink.deliver(intent(sink, record("1")))
    assert not caught.value.insert_refused
    assert sink.deliver(intent(sink, record("2"))).number


def test_a_lost_answer_is_unknown_and_found_by_a_look_up(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    mine = intent(sink, record())
    order(sandbox, "lost_answer", "POST")
    with pytest.raises(UnknownOutcome):
        sink.deliver(mine)
    (found,) = sink.find([mine])
    assert found is not None
    assert (found.learnt, found.sys_id, found.sys_id_honoured) == ("lookup", mine.derived_sys_id, True)
    assert len(incidents(sandbox)) == 1


def test_a_revoked_token_sends_nothing_twice(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    mine = intent(sink, record())
    control(sandbox, "switch", {"revoke_all": True})
    with pytest.raises(TransientError) as caught:
        sink.deliver(mine)
    assert caught.value.retry_after is not None
    assert sink.deliver(replace(mine, attempt=2)).number
    assert len(incidents(sandbox)) == 1


def test_an_attempt_whose_time_is_over_sends_nothing(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    mine = intent(sink, record())
    asked: list[int] = []

    def no(one: Intent) -> bool:
        asked.append(one.number)
        return False

    sink.may_send = no
    with pytest.raises(NotSentError):
        sink.deliver(mine)
    assert asked == [1]
    assert not incidents(sandbox)


def test_clocks_far_apart_hold_until_they_agree_again(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    mine = intent(sink, record())
    sandbox.switches.change({"clock_skew": "-10m"})
    with pytest.raises(HeldError) as caught:
        # The first of these measures.
        [prepare(sink, record("2")) for _ in range(2)]
    assert (caught.value.reason, caught.value.operator) == ("clock", False)
    with pytest.raises(HeldError):
        sink.deliver(mine)
    assert not incidents(sandbox)
    sandbox.switches.change({"clock_skew": 0})
    assert isinstance(prepare(sink, record("2"))[0], Ready)
    assert sink.deliver(mine).number


def test_with_a_proven_guard_the_pre_check_asks_by_sys_id(sandbox: Sandbox, sink: ServiceNowSink) -> None:
    sink.deliver(intent(sink, record()))
    sink.proven = lambda: True
    sandbox.switches.change({"drop_fields": ["correlation_id"]})
    (there,) = prepare(sink, record())
    assert isinstance(there, AlreadyThere)


@pytest.mark.parametrize("fault", sorted(name for name, one in FAULTS.items() if CREATE in one.kinds))
def test_no_fault_of_a_create_is_taken_for_something_else(
    sandbox: Sandbox, client: ServiceNowClient, fault: str
) -> None:
    sandbox.switches.change({"late": "0s", "slow": "100ms"})
    sink = make(client)
    mine = intent(sink, record())
    order(sandbox, fault, "POST")

    try:
        made = sink.deliver(mine)
    except UnknownOutcome:
        sure = None
    except PollerError:
        sure = False
    else:
        sure = True
        assert made.altered is not None or fault in HARMLESS, fault

    if sure is not None:
        assert len(incidents(sandbox)) == int(sure), fault


# Settings.


@pytest.mark.parametrize(
    "name", ["every", "first_run", "on_change", "enabled", "type", "table", "unknown_user", "cron"]
)
def test_a_key_of_the_route_below_fields_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is a key of the route or its sink"):
        ServiceNowSinkSettings.model_validate({"type": "servicenow", "fields": {name: "30s"}})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"table": "incident^x"}, "no table name"),
        ({"table": "../incident"}, "no table name"),
        ({"fields": {"correlation_id": "x"}}, "not yours to set"),
        ({"fields": {"sys_id": "x"}}, "not yours to set"),
        ({"fields": {"caller_id.name": "x"}}, "columns of the table itself"),
        ({"fields": {"Short": "x"}}, "no column name"),
        ({"fields": {}}, "at least 1"),
        ({"fields": {"a": "{{ x"}}, '"a"'),
        ({"fields": {"a": {"user": "{{ x }}", "by": ["user_name^x"]}}}, "no column name"),
        ({"fields": {"a": {"user": "{{ x }}", "by": []}}}, "at least 1"),
        ({"unknown_user": {"policy": "default"}}, "go together"),
        ({"unknown_user": {"policy": "dead", "username": "x"}}, "go together"),
        ({"unknown_user": {"policy": "default", "username": " "}}, "empty"),
        ({"tabel": "incident"}, "Extra inputs"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ServiceNowSinkSettings.model_validate({"type": "servicenow"} | given)


def test_the_default_fields_are_the_three_of_the_contract() -> None:
    settings = ServiceNowSinkSettings.model_validate({"type": "servicenow"})
    assert list(settings.fields) == ["caller_id", "short_description", "description"]
    assert settings.names() == {"username", "title", "description"}
