"""Updates of incidents: never of a closed one, never a work note twice, never a row that is not ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import requests
from pydantic import ValidationError

from poller.clients.query import Query
from poller.clients.servicenow import ServiceNowClient
from poller.errors import BlockedError, NotSentError, PermanentError, RefusedError, UnknownOutcome
from poller.model import Intent, Operation, Ready, Receipt, Record
from poller.sandbox.sandbox import Sandbox
from poller.sinks.servicenow import ServiceNowSink, ServiceNowSinkSettings
from tests.sinks.house import NOW, control, incidents, intent, make, order, record

NOTED: dict[str, Any] = {"update_fields": {"short_description": "{{ title }}", "work_notes": "now: {{ title }}"}}


def created(sink: ServiceNowSink, key: str = "1") -> Receipt:
    return sink.deliver(intent(sink, record(key)))


def changed(receipt: Receipt, title: str, key: str = "1", version: str = "2") -> Record:
    return replace(
        record(key, title=title),
        version=version,
        operation=Operation.UPDATE,
        sys_id=receipt.sys_id,
        number=receipt.number,
        message_id=f"t:{key}:{version:0>16}",
    )


def update(sink: ServiceNowSink, one: Record) -> Intent:
    (ready,) = sink.prepare([one], now=NOW)
    assert isinstance(ready, Ready), ready
    return Intent(
        route=one.route, key=one.key, version=one.version, operation=Operation.UPDATE, body=ready.body,
        correlation_id=one.correlation_id, derived_sys_id=one.derived_sys_id, attempt=1, number=2,
        message_id=one.message_id,
    )  # fmt: skip


def notes(client: ServiceNowClient, receipt: Receipt) -> list[str]:
    query = Query().equals("element_id", receipt.sys_id or "")
    return [str(row["value"]) for row in client.table_get("sys_journal_field", query, ("value",), 100)]


def row(sandbox: Sandbox) -> dict[str, str]:
    (one,) = incidents(sandbox)
    return one


def test_a_changed_record_changes_what_the_settings_say_and_nothing_else(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sink = make(client)
    receipt = created(sink)
    control(sandbox, "change", {"sys_id": receipt.sys_id, "fields": {"impact": "1"}})
    before = row(sandbox)

    done = sink.deliver(update(sink, changed(receipt, "another title")))

    after = row(sandbox)
    assert (done.learnt, done.unneeded) == ("response", None)
    assert (after["short_description"], after["caller_id"], after["impact"]) == (
        "another title", before["caller_id"], "1",
    )  # fmt: skip
    assert after["correlation_id"] == before["correlation_id"]


def test_creates_and_updates_of_one_batch_are_told_apart(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    batch = [record("2"), changed(receipt, "x"), record("3")]
    answers = sink.prepare(batch, now=NOW)
    assert ["sys_id" in answer.body for answer in answers if isinstance(answer, Ready)] == [False, True, False]


def test_f41_an_incident_that_is_closed_is_left_alone(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    control(sandbox, "change", {"sys_id": receipt.sys_id, "fields": {"active": "false"}})

    done = sink.deliver(update(sink, changed(receipt, "late")))

    assert "active=false" in (done.unneeded or "")
    assert row(sandbox)["short_description"] == "title 1"


def test_f76_an_incident_that_is_gone_is_not_made_again(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "late"))
    answer = requests.delete(f"{sandbox.servicenow_url}/sandbox/incidents", json={"sys_id": receipt.sys_id}, timeout=5)
    assert answer.ok, answer.text

    assert "gone" in (sink.deliver(frozen).unneeded or "")
    assert incidents(sandbox) == []


def test_a_row_that_does_not_bear_our_id_is_not_changed(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "x"))
    with pytest.raises(PermanentError, match="does not bear our correlation_id"):
        sink.deliver(replace(frozen, correlation_id="t:other"))
    assert row(sandbox)["short_description"] == "title 1"


def test_where_the_condition_cannot_be_seen_nothing_is_changed(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "x"))
    control(sandbox, "switch", {"unreadable_fields": ["active"]})
    with pytest.raises(BlockedError, match="does not see active"):
        sink.deliver(frozen)
    assert row(sandbox)["short_description"] == "title 1"


@pytest.mark.parametrize("fault", ["lost_answer", "500_after_commit"])
def test_f79_a_work_note_whose_answer_was_lost_is_there_once(
    fault: str, sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sink = make(client, **NOTED)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "second"))
    order(sandbox, fault, "PATCH")
    with pytest.raises(UnknownOutcome):
        sink.deliver(frozen)

    (found,) = sink.find([frozen])

    assert found is not None
    assert found.learnt == "lookup"
    (note,) = notes(client, receipt)
    assert note.startswith("now: second\n[poller ")


def test_f79_a_work_note_that_did_not_arrive_is_not_found(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client, **NOTED)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "second"))
    assert sink.find([frozen]) == [None]
    # The same words of a person prove nothing.
    control(sandbox, "change", {"sys_id": receipt.sys_id, "fields": {"work_notes": "now: second"}})
    assert sink.find([frozen]) == [None]
    sink.deliver(frozen)
    (found,) = sink.find([frozen])
    assert found is not None


def test_plain_columns_are_found_by_what_stands_in_them(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "second"))
    create = intent(sink, record("9"))
    assert sink.find([frozen, create]) == [None, None]
    sink.deliver(frozen)
    found, other = sink.find([frozen, create])
    assert (found is not None, other) == (True, None)


def test_f41_a_row_that_is_as_it_should_be_is_not_written_to(sandbox: Sandbox, client: ServiceNowClient) -> None:
    # Else a copy of this PATCH could be on its way while the row proves it done, and land after a newer update.
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "title 1"))
    before = row(sandbox)
    done = sink.deliver(frozen)
    assert (done.learnt, done.unneeded) == ("lookup", None)
    assert row(sandbox)["sys_mod_count"] == before["sys_mod_count"]


def test_what_an_admin_does_not_name_is_not_overwritten_by_the_rest_of_a_long_text(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sink = make(client, update_fields={"short_description": "{{ title }}"})
    receipt = created(sink)
    sink.deliver(update(sink, changed(receipt, "t" * 300)))
    after = row(sandbox)
    assert after["short_description"].endswith("[cut]")
    assert after["description"] == "text"
    (note,) = notes(client, receipt)
    assert "t" * 300 in note


def test_f79_the_mark_of_a_note_that_is_too_long_is_not_cut_off(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client, update_fields={"work_notes": "{{ title }}"})
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "n" * 9000))
    sink.deliver(frozen)
    (note,) = notes(client, receipt)
    assert len(note) <= 4000
    (found,) = sink.find([frozen])
    assert found is not None


def test_f79_where_the_journal_is_hidden_a_lost_answer_means_at_least_once(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sink = make(client, **NOTED)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "second"))
    control(sandbox, "switch", {"hide_tables": ["sys_journal_field"]})
    order(sandbox, "lost_answer", "PATCH")
    with pytest.raises(UnknownOutcome):
        sink.deliver(frozen)
    assert sink.find([frozen]) == [None]
    sink.deliver(frozen)
    control(sandbox, "switch", {"hide_tables": []})
    assert len(notes(client, receipt)) == 2


def test_an_incident_that_is_hidden_is_not_taken_for_one_that_is_gone(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "second"))
    control(sandbox, "switch", {"hide_incidents": True})
    with pytest.raises(RefusedError, match="hidden from the integration user"):
        sink.deliver(frozen)
    assert sink.find([frozen]) == [None]
    control(sandbox, "switch", {"hide_incidents": False})
    assert sink.deliver(frozen).learnt == "response"


def test_an_incident_that_goes_while_it_is_looked_up_is_gone(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "late"))

    def delete(_intent: Intent) -> bool:
        address = f"{sandbox.servicenow_url}/sandbox/incidents"
        assert requests.delete(address, json={"sys_id": receipt.sys_id}, timeout=5).ok
        return True

    sink.may_send = delete
    assert "gone" in (sink.deliver(frozen).unneeded or "")


def test_nothing_is_sent_when_the_time_has_run_out(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client)
    receipt = created(sink)
    frozen = update(sink, changed(receipt, "late"))
    sink.may_send = lambda _intent: False
    with pytest.raises(NotSentError):
        sink.deliver(frozen)
    assert row(sandbox)["short_description"] == "title 1"


def test_a_record_without_an_incident_has_nothing_to_be_updated(client: ServiceNowClient) -> None:
    sink = make(client)
    orphan = replace(record(), operation=Operation.UPDATE)
    (answer,) = sink.prepare([orphan], now=NOW)
    assert "no incident" in str(answer)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"update_unless": "activeINfalse"}, "column=value"),
        ({"update_unless": "state!=6"}, "column=value"),
        ({"update_fields": {"number": "x"}}, "not yours to set"),
        ({"update_fields": {"work_notes": "{{ x"}}, "bad template"),
    ],
)
def test_settings_that_make_no_sense_are_told(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ServiceNowSinkSettings.model_validate({"type": "servicenow"} | keys)
