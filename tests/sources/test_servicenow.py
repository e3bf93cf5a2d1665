"""The source ``servicenow``, before a sandbox: nothing is missed, whatever stamps, pages and clocks do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from pydantic import ValidationError

from poller.clients.servicenow import ServiceNowClient, ServiceNowSettings
from poller.errors import BlockedError, TransientError
from poller.model import Page, SourceRecord
from poller.sandbox.options import Options
from poller.sandbox.sandbox import Sandbox
from poller.sources.servicenow import ServiceNowSource, ServiceNowSourceSettings

FIELDS = {"number": "number", "title": "short_description"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options(tickets=0)) as one:
        yield one


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[ServiceNowClient]:
    one = client_of(sandbox)
    yield one
    one.close()


def client_of(sandbox: Sandbox, **more: Any) -> ServiceNowClient:
    auth = {"type": "client_credentials", "client_id": "poller", "client_secret": "sandbox-secret"}
    given = {"instance": sandbox.servicenow_url, "correlation_prefix": "t", "auth": auth, "max_execution": "310s"}
    return ServiceNowClient(ServiceNowSettings.model_validate(given | more))


def source(client: Any, *, not_from: tuple[str, ...] = (), **more: Any) -> ServiceNowSource:
    settings = ServiceNowSourceSettings.model_validate({"type": "servicenow", "fields": FIELDS} | more)
    return ServiceNowSource(settings, client, not_from=not_from)


def control(sandbox: Sandbox, method: str, path: str, content: Any = None) -> Any:
    answer = requests.request(method, f"{sandbox.servicenow_url}/sandbox/{path}", json=content, timeout=60)
    assert answer.ok, answer.text
    return answer.json()


def add(sandbox: Sandbox, *rows: dict[str, str]) -> list[str]:
    added = control(sandbox, "POST", "incidents", list(rows))["added"]
    return [each["sys_id"] for each in added]


def switch(sandbox: Sandbox, **values: Any) -> None:
    control(sandbox, "POST", "switch", values)


def polled(one: ServiceNowSource, checkpoint: str | None = None) -> tuple[list[SourceRecord], str | None]:
    pages: list[Page] = list(one.poll(checkpoint))
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    return [record for page in pages for record in page.records], pages[-1].checkpoint


def keys(one: ServiceNowSource, checkpoint: str | None = None) -> list[str]:
    return [record.key for record in polled(one, checkpoint)[0]]


def reads(sandbox: Sandbox) -> int:
    return int(sandbox.ledger.counts().get("incident GET", 0))


def stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def test_rows_are_records_with_the_columns_of_the_settings(sandbox: Sandbox, client: ServiceNowClient) -> None:
    (sys_id,) = add(sandbox, {"short_description": "down"})
    ((record,), checkpoint) = polled(source(client))
    assert (record.key, record.fields["title"]) == (sys_id, "down")
    assert record.version.startswith("0-")
    age = datetime.now(UTC) - datetime.fromisoformat(f"{checkpoint}+00:00")
    assert timedelta(seconds=300) < age < timedelta(seconds=330)


def test_f71_ten_thousand_rows_of_one_second_are_all_taken_once(sandbox: Sandbox, client: ServiceNowClient) -> None:
    moment = "2026-01-02 03:04:05"
    added = add(sandbox, *({"sys_updated_on": moment, "short_description": str(n)} for n in range(10_000)))
    one = source(client, page_size=100)
    found = keys(one)
    assert sorted(found) == sorted(added)
    # A page each, and what proves the time zone.
    assert reads(sandbox) <= 105
    assert sorted(keys(one, "2026-01-02 03:04:05")) == sorted(added)


def test_f40_rows_of_one_stamp_at_the_edge_of_a_page(sandbox: Sandbox, client: ServiceNowClient) -> None:
    stamps = ["2026-01-02 03:04:04"] * 7 + ["2026-01-02 03:04:05"] * 33 + ["2026-01-02 03:04:06"] * 5
    added = add(sandbox, *({"sys_updated_on": each} for each in stamps))
    for size in (1, 3, 5, 40, 45, 46):
        assert sorted(keys(source(client, page_size=size))) == sorted(added)


def test_f70_a_row_that_is_seen_55_seconds_after_its_stamp_is_taken(sandbox: Sandbox, client: ServiceNowClient) -> None:
    one = source(client)
    _, checkpoint = polled(one)
    # It comes to be seen now, and was stamped 55 s ago; others were seen meanwhile.
    early = datetime.now(UTC) - timedelta(seconds=55)
    add(sandbox, {"short_description": "newer"})
    _, checkpoint = polled(one, checkpoint)
    (late,) = add(sandbox, {"sys_updated_on": stamp(early)})
    assert late in keys(one, checkpoint)


@pytest.mark.parametrize("minutes", [5, 4, 1])
def test_f70_what_may_still_commit_is_never_passed(sandbox: Sandbox, client: ServiceNowClient, minutes: int) -> None:
    one = source(client)
    checkpoint = None
    for _ in range(3):
        _, checkpoint = polled(one, checkpoint)
    (late,) = add(sandbox, {"sys_updated_on": stamp(datetime.now(UTC) - timedelta(minutes=minutes))})
    assert late in keys(one, checkpoint)


@pytest.mark.parametrize("skew", [5, -5, 240, -240])
def test_a_clock_that_is_off_loses_nothing(sandbox: Sandbox, skew: int) -> None:
    switch(sandbox, clock_skew=skew)
    client = client_of(sandbox)
    one = source(client)
    _, checkpoint = polled(one)
    _, checkpoint = polled(one, checkpoint)
    theirs = datetime.now(UTC) + timedelta(seconds=skew)
    (late,) = add(sandbox, {"sys_updated_on": stamp(theirs - timedelta(seconds=300))})
    (now,) = add(sandbox, {"sys_updated_on": stamp(theirs)})
    found = keys(one, checkpoint)
    assert {late, now} <= set(found)
    client.close()


def test_the_checkpoint_never_goes_back_and_waits_without_an_answer_that_tells_the_time(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    ahead = "2027-01-01 00:00:00"
    assert polled(source(client), ahead)[1] == ahead


def test_f72_what_changes_without_a_stamp_is_found_by_the_daily_reading(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    (sys_id,) = add(sandbox, {"short_description": "old", "sys_updated_on": "2026-01-02 03:04:05"})
    one = source(client, reconcile="1d")
    (before,) = polled(one)[0]
    control(sandbox, "POST", "change", {"sys_id": sys_id, "fields": {"short_description": "new"}, "silent": True})
    today = datetime.now(UTC) - timedelta(minutes=6)
    assert keys(one, stamp(today)) == []
    (after,) = polled(one, stamp(today - timedelta(days=1)))[0]
    assert (after.key, after.fields["title"]) == (sys_id, "new")
    assert before.version != after.version
    assert before.order is not None
    assert after.order is not None
    assert before.order <= after.order


def test_f72_a_count_that_begins_anew_is_a_change_all_the_same(sandbox: Sandbox, client: ServiceNowClient) -> None:
    (sys_id,) = add(sandbox, {"short_description": "old"})
    one = source(client)
    control(sandbox, "POST", "change", {"sys_id": sys_id, "fields": {"short_description": "x"}, "mod_count": 7})
    (before,) = polled(one)[0]
    control(sandbox, "POST", "change", {"sys_id": sys_id, "fields": {"short_description": "y"}, "mod_count": 1})
    (after,) = polled(one)[0]
    assert after.version != before.version
    assert (after.order or "") >= (before.order or "")


def test_f76_a_row_that_is_deleted_is_no_fault(sandbox: Sandbox, client: ServiceNowClient) -> None:
    first, second = add(sandbox, {"short_description": "a"}, {"short_description": "b"})
    one = source(client)
    assert sorted(keys(one)) == sorted([first, second])
    control(sandbox, "DELETE", "incidents", {"sys_id": first})
    assert keys(one) == [second]


def test_f38_a_page_that_fails_ends_the_poll_and_the_next_reads_all(sandbox: Sandbox, client: ServiceNowClient) -> None:
    added = add(sandbox, *({"sys_updated_on": f"2026-01-02 03:04:{n:02}"} for n in range(30)))
    one = source(client, page_size=10)
    assert len(keys(one)) == 30
    pages = one.poll(None)
    next(pages)
    control(sandbox, "POST", "next", {"fault": "503", "count": 1, "method": "GET"})
    with pytest.raises(TransientError):
        list(pages)
    assert sorted(keys(one)) == sorted(added)


def test_hidden_rows_make_short_and_empty_pages_and_are_not_the_end(sandbox: Sandbox) -> None:
    class Hiding:
        """An instance whose limit counts before rows are hidden: all but every fortieth."""

        def __init__(self, client: ServiceNowClient) -> None:
            self._client = client
            self.settings = client.settings
            self.skew_seconds, self.skew_measured = 0.0, True

        def table_page(self, *args: Any, **more: Any) -> Any:
            rows, total = self._client.table_page(*args, **more)
            return [
                row for row in rows if "short_description" not in row or int(row["short_description"]) % 40 == 0
            ], total

    added = add(sandbox, *({"short_description": str(n), "sys_updated_on": "2026-01-02 03:04:05"} for n in range(200)))
    client = client_of(sandbox)
    found = keys(source(Hiding(client), page_size=10))
    assert sorted(found) == sorted(added[::40])
    client.close()


def test_where_all_rows_are_hidden_the_poll_ends_after_some_pages_and_says_so(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    add(sandbox, *({"short_description": "x"} for _ in range(300)))
    switch(sandbox, hide_incidents=True)
    with pytest.raises(
        BlockedError, match=r"300 rows match, and the instance hides 50 .* let the integration user read"
    ):
        keys(source(client, page_size=1))
    assert reads(sandbox) <= 52
    assert keys(source(client, page_size=200)) == []


def test_a_row_that_was_never_stamped_is_a_dead_letter_and_stops_no_other(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    stamped = add(sandbox, *({"short_description": str(n)} for n in range(5)))
    added = control(sandbox, "POST", "incidents", [{"short_description": "imported", "sys_updated_on": ""}])
    bare, number = added["added"][0]["sys_id"], added["added"][0]["number"]
    one = source(client, page_size=2)
    pages = list(one.poll(None))
    assert sorted(record.key for page in pages for record in page.records) == sorted(stamped)
    ((dead,),) = [page.malformed for page in pages if page.malformed]
    assert dead.key == bare
    assert "the row has no sys_updated_on" in dead.reason
    # It is asked for once a day, not by each poll, and is taken once it is stamped.
    assert not any(page.malformed for page in one.poll(pages[-1].checkpoint))
    control(sandbox, "POST", "change", {"number": number, "fields": {"short_description": "saved"}})
    assert bare in keys(one, pages[-1].checkpoint)


def test_a_row_that_hides_its_stamp_is_a_dead_letter_and_stops_no_other(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    class Hiding:
        """An instance with a rule that hides one column of some rows."""

        settings, skew_seconds, skew_measured = client.settings, 0.0, True

        def table_page(self, *args: Any, **more: Any) -> Any:
            rows, total = client.table_page(*args, **more)
            for row in rows:
                if row.get("short_description") == "secret":
                    del row["sys_updated_on"]
            return rows, total

    added = add(sandbox, *({"short_description": text} for text in ("a", "secret", "b", "secret", "c")))
    for size in (1, 2, 5):
        pages = list(source(Hiding(), page_size=size).poll(None))
        assert sorted(r.key for page in pages for r in page.records) == sorted(added[::2]), size
        assert {each.key for page in pages for each in page.malformed} == set(added[1::2]), size


def test_without_a_count_pages_are_read_until_one_is_empty(sandbox: Sandbox, client: ServiceNowClient) -> None:
    added = add(sandbox, *({"short_description": str(n)} for n in range(25)))
    switch(sandbox, total_count=False)
    assert sorted(keys(source(client, page_size=10))) == sorted(added)


def test_s35_a_link_to_another_host_is_not_followed(sandbox: Sandbox, client: ServiceNowClient) -> None:
    add(sandbox, *({"short_description": str(n)} for n in range(25)))
    asked: list[str] = []
    inner = client._remote.get

    def spying(url: str, **more: Any) -> Any:
        asked.append(url)
        answer = inner(url, **more)
        answer.headers._pairs["link"] = '<https://evil.example/api/now/table/incident>; rel="next"'
        return answer

    client._remote.get = spying  # type: ignore[method-assign]
    assert len(keys(source(client, page_size=10))) == 25
    assert {url.partition("/api/")[0] for url in asked} == {sandbox.servicenow_url}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("short_description=a^ORshort_description=b", {"a", "b"}),
        ("short_description=a^NQshort_description=c^impact=1", {"a", "c"}),
        ("assignment_group.name=Vendor", {"b"}),
        ("", {"a", "b", "c", "d"}),
        ("active=true^EQ", {"a", "b", "c", "d"}),
    ],
)
def test_our_conditions_bind_to_all_of_the_admins_query(
    sandbox: Sandbox, client: ServiceNowClient, query: str, expected: set[str]
) -> None:
    moment = {"sys_updated_on": "2026-01-02 03:04:05"}
    added = add(
        sandbox,
        {"short_description": "a", **moment},
        {"short_description": "b", **moment},
        {"short_description": "c", "impact": "1", **moment},
        {"short_description": "d", **moment},
        {"short_description": "a", "sys_updated_on": "2025-01-02 03:04:05"},
    )
    control(sandbox, "POST", "change", {"sys_id": added[1], "fields": {"assignment_group": "Vendor"}, "silent": True})
    one = source(client, query=query, page_size=1, reconcile="3650d")
    found = polled(one, "2026-01-01 00:00:00")[0]
    assert sorted(record.fields["title"] for record in found) == sorted(expected)


@pytest.mark.parametrize(
    "query",
    ["asignment_group=x", "active=true^asignment_group.name=Vendor", "active=true^ORcaller_id.usr_nameISNOTEMPTY"],
)
def test_a_mistyped_column_in_the_query_sends_nothing(sandbox: Sandbox, client: ServiceNowClient, query: str) -> None:
    (sys_id,) = add(sandbox, {"short_description": "not meant for the vendor"})
    control(sandbox, "POST", "change", {"sys_id": sys_id, "fields": {"caller_id": "abel.tuter"}})
    with pytest.raises(BlockedError, match=r'no row shows the column "(asignment_group(\.name)?|caller_id\.usr_name)"'):
        keys(source(client, query=query))


def test_a_dot_walk_that_is_left_out_behind_an_empty_reference_is_no_mistake(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    class Omitting(Between):
        def table_page(self, table: str, query: str, fields: Any, limit: int, **more: Any) -> Any:
            rows, total = super().table_page(table, query, fields, limit, **more)
            return [{name: value for name, value in row.items() if value or "." not in name} for row in rows], total

    (sys_id,) = add(sandbox, {"short_description": "x"})
    assert keys(source(Omitting(client), query="assignment_group.name!=Vendor")) == [sys_id]


def test_columns_of_a_query_are_told_from_all_else_in_it() -> None:
    query = "active=true^priorityIN1,2^ORcaller_id.user_nameSTARTSWITHa^NQstate!=6^123TEXTQUERY321=x^variables.ab=1^active=false"
    settings = ServiceNowSourceSettings.model_validate({"type": "servicenow", "fields": FIELDS, "query": query})
    assert settings.queried() == ("active", "priority", "caller_id", "caller_id.user_name", "state")


def test_incidents_of_our_own_routes_are_left_out(sandbox: Sandbox, client: ServiceNowClient) -> None:
    add(sandbox, {"correlation_id": "t:aaaaaaaa:1"}, {"correlation_id": "t:bbbbbbbb:1"}, {"correlation_id": ""})
    found = polled(source(client, not_from=("t:aaaaaaaa:",), page_size=1))[0]
    assert len(found) == 2


def test_dot_walks_and_display_values(sandbox: Sandbox, client: ServiceNowClient) -> None:
    (sys_id,) = add(sandbox, {"short_description": "x", "impact": "1"})
    control(
        sandbox,
        "POST",
        "change",
        {"sys_id": sys_id, "fields": {"assignment_group": "Vendor", "caller_id": "abel.tuter"}},
    )
    fields = {
        "group": "assignment_group",
        "group_name": "assignment_group.name",
        "caller": "caller_id.user_name",
        "impact": "impact",
    }
    (record,) = polled(source(client, fields=fields, display=["group", "impact"]))[0]
    assert record.fields["group"] == record.fields["group_name"] == "Vendor"
    assert record.fields["caller"] == "abel.tuter"
    assert record.fields["impact"] != "1"


def test_a_column_that_is_hidden_is_empty(sandbox: Sandbox, client: ServiceNowClient) -> None:
    add(sandbox, {"short_description": "x"})
    switch(sandbox, unreadable_fields=["short_description"])
    (record,) = polled(source(client))[0]
    assert record.fields["title"] == ""


def test_where_stamps_are_hidden_nothing_is_guessed(sandbox: Sandbox, client: ServiceNowClient) -> None:
    add(sandbox, {"short_description": "x"})
    switch(sandbox, unreadable_fields=["sys_updated_on"])
    with pytest.raises(BlockedError, match="sys_updated_on"):
        keys(source(client))


def test_literals_that_are_read_in_another_zone_stop_the_poll(sandbox: Sandbox, client: ServiceNowClient) -> None:
    add(sandbox, {"short_description": "x"})
    switch(sandbox, literals="user", time_zone="US/Pacific")
    with pytest.raises(BlockedError, match="set the time zone of the integration user to GMT"):
        keys(source(client))


class Between:
    """A client whose pages are changed on their way."""

    def __init__(self, client: ServiceNowClient) -> None:
        self._client = client
        self.settings = client.settings
        self.skew_seconds, self.skew_measured = 0.0, True

    def table_page(
        self, table: str, query: str, fields: Any, limit: int, **more: Any
    ) -> tuple[list[dict[str, Any]], int | None]:
        return self._client.table_page(table, query, fields, limit, **more)


def test_where_no_newest_row_can_be_seen_the_rows_that_are_found_prove_the_zone(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    class Hiding(Between):
        def table_page(self, table: str, query: str, fields: Any, limit: int, **more: Any) -> Any:
            rows, total = super().table_page(table, query, fields, limit, **more)
            return ([] if "ORDERBYDESC" in query else rows), total

    added = add(sandbox, {"sys_updated_on": "2026-01-02 03:04:05"}, {"sys_updated_on": "2026-01-03 03:04:05"})
    recent = stamp(datetime.now(UTC) - timedelta(minutes=6))
    assert sorted(keys(source(Hiding(client)), recent)) == sorted(added)
    switch(sandbox, literals="user", time_zone="US/Pacific")
    with pytest.raises(BlockedError, match="set the time zone of the integration user to GMT"):
        keys(source(Hiding(client)), recent)


def test_the_zone_is_proven_anew_each_day(sandbox: Sandbox, client: ServiceNowClient) -> None:
    add(sandbox, {"short_description": "x"})
    now = [datetime.now(UTC).timestamp()]
    settings = ServiceNowSourceSettings.model_validate({"type": "servicenow", "fields": FIELDS})
    one = ServiceNowSource(settings, client, wall=lambda: now[0])
    keys(one)
    switch(sandbox, literals="user", time_zone="US/Pacific")
    now[0] += 86_400
    with pytest.raises(BlockedError, match="set the time zone of the integration user to GMT"):
        keys(one)


def test_pages_that_are_shorter_than_asked_or_miscounted_are_not_the_end(
    sandbox: Sandbox, client: ServiceNowClient
) -> None:
    class Lowering(Between):
        def table_page(self, table: str, query: str, fields: Any, limit: int, **more: Any) -> Any:
            return super().table_page(table, query, fields, min(limit, 4), **more)

    class Miscounting(Between):
        def table_page(self, table: str, query: str, fields: Any, limit: int, **more: Any) -> Any:
            rows, _ = super().table_page(table, query, fields, limit, **more)
            return rows, len(rows)

    added = add(sandbox, *({"short_description": str(n)} for n in range(25)))
    assert sorted(keys(source(Lowering(client), page_size=10))) == sorted(added)
    assert sorted(keys(source(Miscounting(client), page_size=10))) == sorted(added)


@pytest.mark.parametrize(
    "written", ["2026-11-20 10:00:00", "2026-11-20T10:00:00Z", "2026-11-20T12:00:00.5+02:00", "2026-11-20T10:00"]
)
def test_a_checkpoint_that_an_operator_wrote_is_read_as_rewind_reads_it(
    sandbox: Sandbox, client: ServiceNowClient, written: str
) -> None:
    add(sandbox, {"sys_updated_on": "2026-11-20 09:59:59"})
    (at,) = add(sandbox, {"sys_updated_on": "2026-11-20 10:00:00"})
    (behind,) = add(sandbox, {"sys_updated_on": "2026-11-20 11:00:00"})
    found, mark = polled(source(client, reconcile="3650d"), written)
    assert {record.key for record in found} == {at, behind}
    assert mark is not None
    assert mark > "2026-11-20 10:00:00"


def test_rows_in_another_order_than_asked_stop_the_poll(client: ServiceNowClient, sandbox: Sandbox) -> None:
    class Shuffling:
        settings = client.settings
        skew_seconds, skew_measured = 0.0, True

        def table_page(self, *args: Any, **more: Any) -> Any:
            rows, total = client.table_page(*args, **more)
            return rows[::-1], total

    add(sandbox, {"short_description": "x"}, {"short_description": "y"})
    with pytest.raises(TransientError, match="another order"):
        keys(source(Shuffling()))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"query": "active=true^ORDERBYnumber"}, "ORDERBY"),
        *(
            ({"query": query}, "empty part")
            for query in ("a=1^NQ", "a=1^OR", "a=1^^b=2", "^NQa=1", "ORa=1", "a=1^EQ^b=2")
        ),
        ({"fields": {"a": "no such!"}}, "no column name"),
        ({"display": ["other"]}, "not among the fields"),
        ({"table": "a/b"}, "no table name"),
    ],
)
def test_settings_that_make_no_sense_are_told(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ServiceNowSourceSettings.model_validate({"type": "servicenow", "fields": FIELDS} | keys)


def test_a_checkpoint_that_is_no_time_is_told(client: ServiceNowClient) -> None:
    with pytest.raises(BlockedError, match="poller rewind"):
        keys(source(client), "cursor-7")
