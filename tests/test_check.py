"""``poller check`` from outside, as a process: what it says of settings, database, instance and sources; it changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poller.sandbox import Options, Sandbox
from poller.sandbox.setups import apply
from tests.cli_house import Ended, Place, place, polled, polled_once
from tests.scenarios.world import call

__all__ = ["place", "polled", "polled_once"]  # fixtures


@pytest.fixture
def used(tmp_path: Path) -> Iterator[Place]:
    """A place whose instance has incidents of people."""
    options = Options(setup="well")
    apply("well", options)
    with Sandbox(options) as sandbox:
        yield Place(tmp_path, sandbox)


def lines_of(ended: Ended, name: str) -> list[str]:
    return [line for line in ended.stdout.splitlines() if line[2:].startswith(f"{name}: ")]


def line_of(ended: Ended, name: str) -> str:
    (line,) = lines_of(ended, name)
    return line


def ledger(place: Place) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call("GET", f"{place.sandbox.servicenow_url}/sandbox/ledger")["entries"]
    return found


def add_tickets(place: Place, *tickets: dict[str, Any]) -> None:
    call("POST", f"{place.sandbox.helpdesk_url}/sandbox/tickets", list(tickets))


# The whole.


def test_check_asks_each_remote_and_changes_nothing(used: Place) -> None:
    ended = used.poller("check")

    assert (ended.returncode, ended.stderr) == (0, "")
    first, *findings, last = ended.stdout.splitlines()
    assert first == "settings OK: settings.toml, 1 route: helpdesk"
    assert {line[0] for line in findings} == {"✓"}
    assert last == "All well. Next: poller preview helpdesk"
    assert "6 records on the first page" in line_of(ended, "source of helpdesk")
    assert "proven" in line_of(ended, "time zone")
    assert list(used.folder.glob("poller.db*")) == []
    asked = ledger(used)
    assert {each["kind"] for each in asked if each["method"] != "GET"} == {"token"}
    assert {each["kind"] for each in asked if each["method"] == "GET"} > {"sys_user GET", "incident GET"}


def test_offline_asks_nobody(place: Place) -> None:
    ended = place.poller("check", "--offline")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "settings OK: settings.toml, 1 route: helpdesk",
        "All well. Next: poller check, which asks each remote",
    ]
    assert ledger(place) == []


def test_machines_get_one_object(used: Place) -> None:
    used.sandbox.switches.drop_fields = ["correlation_id"]
    ended = used.poller("check", "--json")

    told = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert (told["ok"], list(told)) == (False, ["ok", "findings", "next"])
    assert all(list(each) == ["name", "status", "said", "remedy", "details"] for each in told["findings"])
    statuses = {each["name"]: each["status"] for each in told["findings"]}
    assert statuses["settings"] == statuses["token"] == "ok"
    assert [name for name, status in statuses.items() if status == "fault"] == ["table incident"]


def test_each_line_is_told_when_it_is_known(place: Place) -> None:
    place.sandbox.switches.latency = 0.3
    command, given = place.command("check")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **given) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("✓ token"):
                break
        still_at_it = running.poll() is None
        running.stdout.read()

    assert still_at_it


def test_a_warning_does_not_fail(used: Place) -> None:
    used.sandbox.switches.roles = ["admin"]

    ended = used.poller("check")

    assert ended.returncode == 0
    assert ended.stdout.endswith("All well but for 1 warning. Next: poller preview helpdesk\n")


def test_secrets_and_texts_of_records_are_never_told(used: Place) -> None:
    add_tickets(used, {"subject": "a text of a record", "body": "", "requester": {"login": "abel.tuter"}})
    used.write(used.text.replace('key = "id"', 'key = "requester"'))

    for arguments in (["check"], ["check", "--json"]):
        ended = used.poller(*arguments)
        told = ended.stdout + ended.stderr
        assert "sandbox-secret" not in told
        assert "a text of a record" not in told
        assert "Reported by hand" not in told


# Who we are, and what we may.


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ('client_secret = "sandbox-secret"', 'client_secret = "wrong-one"', "✗ token: "),
        ('records = "tickets"', 'records = "nothing"', "✗ source of helpdesk: "),
    ],
)
def test_check_says_which_remote_is_not_well(place: Place, was: str, now: str, said: str) -> None:
    place.write(place.text.replace(was, now))

    ended = place.poller("check")

    assert ended.returncode == 1
    assert said in ended.stdout
    assert "wrong-one" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("fault", ["token:html_200", "token:html_login_200", "read:html_200"])
def test_a_page_where_the_api_should_be_is_told(place: Place, fault: str) -> None:
    call("POST", f"{place.sandbox.servicenow_url}/sandbox/faults", {fault: 1})

    ended = place.poller("check")

    assert ended.returncode == 1
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("✗")]
    assert "and status 200; it is a login, hibernation or proxy page" in line


@pytest.mark.parametrize(
    ("reuse", "said"), [("same+remaining", "the same one when asked again"), ("new-each-time", "a new one each time")]
)
def test_the_token_is_asked_for_twice(place: Place, reuse: str, said: str) -> None:
    place.sandbox.switches.token_reuse = reuse

    assert said in line_of(place.poller("check"), "token")


def test_without_a_token_the_instance_is_asked_nothing_more(place: Place) -> None:
    place.sandbox.switches.client_credentials = False

    ended = place.poller("check")

    assert {each["kind"] for each in ledger(place)} == {"token"}
    assert line_of(ended, "source of helpdesk").startswith("✓")


def test_the_account_is_found_without_knowing_its_name(place: Place) -> None:
    assert "svc.poller" in line_of(place.poller("check"), "account")


def test_an_account_that_cannot_be_known_is_said_to_be_unknown(place: Place) -> None:
    place.sandbox.switches.forbid_tables = ["sys_user"]

    ended = place.poller("check")

    assert line_of(ended, "account").startswith("✓ account: not known: ")
    assert line_of(ended, "sys_user").startswith("✗ sys_user: ")
    assert "cannot be known without writing" in line_of(ended, "create right on incident")


def test_s50_the_role_admin_is_warned_of(used: Place) -> None:
    used.sandbox.switches.roles = ["admin", "itil"]

    line = line_of(used.poller("check"), "roles")

    assert line.startswith("! roles: svc.poller has the role admin")
    assert "sn_incident_write and read access to sys_user are enough" in line


def test_roles_that_do_not_create_incidents_as_delivered_are_warned_of(used: Place) -> None:
    used.sandbox.switches.roles = ["sn_incident_read", "x_acme_bridge"]

    ended = used.poller("check")

    assert ended.returncode == 0
    assert line_of(ended, "create right on incident").startswith("! ")


def test_roles_that_cannot_be_read_are_not_guessed(used: Place) -> None:
    used.sandbox.switches.forbid_tables = ["sys_user_has_role"]

    ended = used.poller("check")

    assert ended.returncode == 0
    assert line_of(ended, "roles") == "✓ roles: not known: sys_user_has_role cannot be read"


def test_basic_is_refused_to_interactive_users(place: Place) -> None:
    place.sandbox.switches.basic = False
    place.write(
        place.text.replace('type = "client_credentials"', 'type = "basic"')
        .replace('client_id = "poller"', 'username = "svc.poller"')
        .replace('client_secret = "sandbox-secret"', 'password = "sandbox-password"')
    )

    ended = place.poller("check")

    assert ended.returncode == 1
    assert "none is asked for, auth is basic" in line_of(ended, "token")
    assert "snc_basic_auth_api_access" in line_of(ended, "access")


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"unreadable_fields": ["user_name"]}, "user_name comes back empty or is left out"),
        ({"drop_fields": ["user_name"]}, "drops our condition on user_name and gives others"),
        ({"hide_tables": ["sys_user"]}, "no user that begins with a can be seen"),
    ],
)
def test_users_that_cannot_be_looked_up_are_a_fault(place: Place, switches: dict[str, Any], said: str) -> None:
    place.sandbox.switches.change(switches)

    ended = place.poller("check")

    assert ended.returncode == 1
    line = line_of(ended, "sys_user")
    assert said in line
    assert "read access to sys_user" in line


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"case_sensitive": True}, "case matters in look-ups"),
        ({"case_sensitive": False}, "case does not matter in look-ups"),
        ({"invalid_query": "drops"}, "is dropped, as by default"),
        ({"invalid_query": "no-rows"}, "gives no rows"),
    ],
)
def test_what_queries_do_is_found_out(place: Place, switches: dict[str, Any], said: str) -> None:
    place.sandbox.switches.change(switches)

    assert said in line_of(place.poller("check"), "sys_user")


@pytest.mark.parametrize(("skew", "mark"), [("20s", "!"), ("400s", "✗"), ("-400s", "✗")])
def test_clocks_that_are_apart_are_told(place: Place, skew: str, mark: str) -> None:
    place.sandbox.switches.change({"clock_skew": skew})

    line = line_of(place.poller("check"), "clock")

    assert line.startswith(f"{mark} clock: ours is ")
    assert ("ahead" if skew.startswith("-") else "behind") in line


# The table.


def test_check_sees_an_instance_that_drops_conditions(place: Place) -> None:
    place.poller("once")
    place.sandbox.switches.drop_fields = ["correlation_id"]

    ended = place.poller("check")

    assert ended.returncode == 1
    assert "✗ table incident" in ended.stdout


@pytest.mark.parametrize("forbidden", [[], ["sys_dictionary", "sys_db_object"]])
def test_a_mistyped_column_is_a_fault_with_what_was_meant(used: Place, forbidden: list[str]) -> None:
    used.sandbox.switches.forbid_tables = forbidden
    used.write(used.text.replace("\nshort_description =", "\nshort_desciption ="))

    ended = used.poller("check")

    assert ended.returncode == 1
    line = line_of(ended, "columns of helpdesk")
    assert 'incident has no column "short_desciption"' in line
    assert "correct routes.helpdesk.sink.fields.short_desciption: did you mean short_description?" in line


def test_columns_are_not_guessed_where_nothing_shows_them(place: Place) -> None:
    place.sandbox.switches.forbid_tables = ["sys_dictionary", "sys_db_object"]

    assert line_of(place.poller("check"), "columns of helpdesk").startswith("✓ columns of helpdesk: not known: ")


def test_plain_text_into_a_reference_is_warned_of(used: Place) -> None:
    used.write(used.text.replace('{ user = "{{ username }}", by = ["user_name"] }', '"{{ username }}"'))

    line = line_of(used.poller("check"), "columns of helpdesk")

    assert line.startswith("! columns of helpdesk: caller_id points into sys_user and is given plain text")
    assert 'write caller_id = { user = "…" }' in line


def test_a_slow_look_up_is_told_with_the_advice_of_an_index(used: Place) -> None:
    used.sandbox.switches.slow = 1.3
    order = {"fault": "slow", "method": "GET", "path": "/api/now/table/incident", "contains": "correlation_id"}
    call("POST", f"{used.sandbox.servicenow_url}/sandbox/next", order)

    ended = used.poller("check")

    assert ended.returncode == 0
    line = line_of(ended, "table incident")
    assert line.startswith("! ")
    assert line.endswith("ask for an index on incident.correlation_id")


def test_a_column_that_is_only_seen_empty_is_hidden(used: Place) -> None:
    # What may not be read is left out by some releases, and comes back as "" from others.
    used.sandbox.switches.change({"unreadable_fields": ["incident.correlation_id"], "unreadable": "empty"})

    line = line_of(used.poller("check"), "incident.correlation_id")

    assert line.startswith("✗ incident.correlation_id: it comes back empty to svc.poller even where it is not")


def test_another_zone_that_does_not_reach_queries_is_a_warning(used: Place) -> None:
    used.sandbox.switches.time_zone = "Europe/Berlin"

    ended = used.poller("check")

    assert ended.returncode == 0
    line = line_of(ended, "time zone")
    assert line.startswith("! time zone: svc.poller has Europe/Berlin; dates in queries are read as UTC")
    assert line.endswith("set the time zone of svc.poller to GMT")


@pytest.mark.parametrize(
    ("zone", "said"), [("Asia/Kathmandu", "5.75 h ahead of UTC"), ("Pacific/Marquesas", "9.5 h behind UTC")]
)
def test_how_far_dates_are_beside_utc_is_measured(used: Place, zone: str, said: str) -> None:
    used.sandbox.switches.change({"time_zone": zone, "literals": "user"})

    line = line_of(used.poller("check"), "time zone")

    assert line.startswith("✗")
    assert said in line


def test_a_table_that_two_routes_share_is_asked_about_once(used: Place) -> None:
    second = used.text[used.text.index("[routes.helpdesk]") :].replace("routes.helpdesk", "routes.second")
    used.write(f"{used.text}\n{second}")

    ended = used.poller("check")

    assert ended.returncode == 0, ended.stdout
    assert len(lines_of(ended, "table incident")) == 1
    assert len(lines_of(ended, "columns of helpdesk")) == len(lines_of(ended, "columns of second")) == 1


# Look-ups.


def with_group(place: Place, table: str = "sys_user_group", by: str = '"name"', more: str = "") -> None:
    form = f'{{ lookup = "{table}", by = {by}, value = "{{{{ title }}}}", unknown = "omit"{more} }}'
    place.write(
        place.text.replace(
            'short_description = "{{ title }}"', f'assignment_group = {form}\nshort_description = "{{{{ title }}}}"'
        )
    )


@pytest.mark.parametrize("invalid_query", ["drops", "no-rows"])
@pytest.mark.parametrize(
    ("table", "by", "name", "said"),
    [
        ("sys_user_grup", '"name"', "sys_user_grup.name", "did you mean sys_user_group?"),
        ("cmn_location", '"name"', "cmn_location.name", "see the table's name at the instance"),
        ("sys_user_group", '"nmae"', "sys_user_group.nmae", "no row of sys_user_group can be seen that shows nmae"),
    ],
)
def test_a_mistyped_table_or_column_of_a_look_up_is_a_fault(
    used: Place, invalid_query: str, table: str, by: str, name: str, said: str
) -> None:
    used.sandbox.switches.change({"invalid_query": invalid_query})
    with_group(used, table, by)

    ended = used.poller("check")

    assert ended.returncode == 1
    line = line_of(ended, f"look-up {name}")
    assert line.startswith("✗ ")
    assert said in line
    assert "correct routes.helpdesk.sink.fields.assignment_group" in line


def test_each_column_of_a_look_up_is_asked_for_itself(used: Place) -> None:
    with_group(used, by='["name", "nmae"]')
    used.write(used.settings.read_text("utf-8").replace('by = ["user_name"]', 'by = ["user_name", "emial"]'))

    ended = used.poller("check")

    assert line_of(ended, "look-up sys_user_group.name") == "✓ look-up sys_user_group.name: can be read"
    assert line_of(ended, "look-up sys_user_group.nmae").startswith("✗")
    assert "correct routes.helpdesk.sink.fields.caller_id" in line_of(ended, "look-up sys_user.emial")
    assert lines_of(ended, "look-up sys_user.user_name") == []  # asked before, as sys_user


def test_a_mistyped_look_up_of_an_update_is_a_fault(used: Place) -> None:
    form = '{ lookup = "sys_user_group", by = "nmae", value = "{{ title }}", unknown = "omit" }'
    used.write(used.text + f"\n[routes.helpdesk.sink.update_fields]\nassignment_group = {form}\n")

    line = line_of(used.poller("check"), "look-up sys_user_group.nmae")

    assert line.startswith("✗ ")
    assert "correct routes.helpdesk.sink.update_fields.assignment_group" in line


def test_a_table_of_a_look_up_that_may_not_be_read_is_a_fault(used: Place) -> None:
    used.sandbox.switches.forbid_tables = ["sys_user_group"]
    with_group(used)

    line = line_of(used.poller("check"), "look-up sys_user_group.name")

    assert line.endswith("svc.poller may not read sys_user_group; give svc.poller a role that reads sys_user_group")


def test_what_a_row_must_have_besides_is_asked_with_it(used: Place) -> None:
    with_group(used, more=', where = { actve = "true" }')

    line = line_of(used.poller("check"), "look-up sys_user_group.name, actve = true")

    assert line.startswith("✗")
    assert "shows name and actve = true" in line


# Database and guard.


def test_check_sees_a_prefix_that_was_changed(polled: Place) -> None:
    polled.write(polled.text.replace('correlation_prefix = "demo"', 'correlation_prefix = "other"'))

    ended = polled.poller("check")

    assert ended.returncode == 1
    assert '✗ database: its records were made under correlation_prefix "demo"' in ended.stdout
    assert "put the former one back" in line_of(ended, "database")


def test_the_guard_in_force_is_what_the_database_has_proven(polled: Place) -> None:
    proven = polled.poller("check")
    (polled.folder / "poller.db").unlink()
    fresh = polled.poller("check")

    assert line_of(proven, "guard of helpdesk").startswith("✓ guard of helpdesk: sys_id: a create kept our sys_id")
    assert line_of(fresh, "guard of helpdesk").startswith("✓ guard of helpdesk: settle: nothing created yet")
    assert line_of(proven, "database") == "✓ database: there, with the schema of this release, and can be written"


def test_a_database_folder_that_is_not_there_is_a_fault(place: Place) -> None:
    place.write(place.text.replace("sqlite:///poller.db", "sqlite:///nowhere/poller.db"))

    ended = place.poller("check")

    assert ended.returncode == 1
    assert line_of(ended, "database").startswith("✗ database: its folder ")


@pytest.mark.postgres
def test_postgresql_is_looked_at_before_and_after_its_tables_are_made(place: Place, postgres_url: str) -> None:
    place.write(place.text.replace("sqlite:///poller.db", postgres_url))
    empty = place.poller("check")
    assert place.poller("migrate").returncode == 0
    made = place.poller("check")

    assert line_of(empty, "database").startswith("✓ database: there and empty")
    assert line_of(made, "database") == "✓ database: there, with the schema of this release, and can be written"


# Sources.


def test_records_that_cannot_be_read_are_counted_with_the_first_reason(place: Place) -> None:
    place.write(place.text.replace('key = "id"', 'key = "requester"'))

    ended = place.poller("check")

    assert ended.returncode == 1
    line = line_of(ended, "source of helpdesk")
    assert "6 that cannot be read, the first because the key is an object" in line
    assert "see routes.helpdesk.source.key" in line


def test_a_field_that_is_empty_in_every_record_is_told(place: Place) -> None:
    place.write(place.text.replace('description = "body"', 'description = "boddy"'))

    ended = place.poller("check")

    assert ended.returncode == 0
    said = "! source of helpdesk: field description: empty in all 6 records; see the expression"
    assert f"{said} routes.helpdesk.source.fields.description" in ended.stdout


def test_a_list_without_records_is_a_warning_until_there_is_a_checkpoint(place: Place) -> None:
    nothing = place.text.replace('records = "tickets"', 'records = "tickets[?id == `0`]"')
    place.write(nothing.replace('# checkpoint = "updated_at" ', 'checkpoint = "updated_at" '))
    never = place.poller("check")
    place.write(place.text.replace('# checkpoint = "updated_at" ', 'checkpoint = "updated_at" '))
    assert place.poller("once").returncode == 0
    place.write(nothing.replace('# checkpoint = "updated_at" ', 'checkpoint = "updated_at" '))
    later = place.poller("check")

    assert never.returncode == 0
    assert line_of(never, "source of helpdesk") == (
        "! source of helpdesk: 0 records on the first page; if there should be some, see routes.helpdesk.source.records"
    )
    assert line_of(later, "source of helpdesk").startswith("✓ source of helpdesk: 0 records on the first page since ")


def test_an_xml_path_that_fits_nothing_is_a_warning(used: Place) -> None:
    (used.folder / "list.xml").write_text("<list><ticket><id>1</id></ticket></list>", "utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=used.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]
        start, end = used.text.index("[routes.helpdesk.source]"), used.text.index("[routes.helpdesk.sink]")
        source = f"""[routes.helpdesk.source]
type = "http"
url = "http://127.0.0.1:{port}/list.xml"
format = "xml"
records = "//tikcet"
key = "id"
[routes.helpdesk.source.fields]
username = "id"
title = "id"
description = "id"

"""
        used.write(used.text[:start] + source + used.text[end:])
        ended = used.poller("check")
        server.terminate()

    assert ended.returncode == 0
    assert line_of(ended, "source of helpdesk").endswith("see routes.helpdesk.source.records")


def test_the_checkpoint_is_understood_or_a_fault(place: Place) -> None:
    understood = place.text.replace('# checkpoint = "updated_at" ', 'checkpoint = "updated_at" ')
    place.write(understood)
    well = place.poller("check")
    place.write(understood.replace('checkpoint = "updated_at" ', 'checkpoint = "subject" '))
    broken = place.poller("check")

    assert "the checkpoint is understood" in line_of(well, "source of helpdesk")
    assert broken.returncode == 1
    assert "gives no checkpoint that is understood" in line_of(broken, "source of helpdesk")


def test_a_source_that_is_away_is_a_fault_and_stops_nothing_else(used: Place) -> None:
    used.write(used.text.replace(used.sandbox.helpdesk_url, "http://127.0.0.1:9"))

    ended = used.poller("check")

    assert ended.returncode == 1
    assert line_of(ended, "source of helpdesk").startswith("✗")
    assert ended.stdout.count("✗") == 1


def test_marks_are_words_where_the_output_knows_no_others(place: Place) -> None:
    ended = place.poller("check", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert ended.stdout.isascii()
    assert "ok:   token: " in ended.stdout


def test_check_loads_no_more_than_it_needs_for_its_help() -> None:
    code = "import sys\nfrom poller.cli import main\nmain(['check', '--help'])\nprint('sqlalchemy' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "False"


PAGED = """[routes.helpdesk.source.paging]
type = "page"
size_param = "per_page"
size = 2
param = "PARAM"

[routes.helpdesk.source.fields]"""


@pytest.mark.parametrize(
    ("param", "said"),
    [
        ("page", "✓ source of helpdesk: paging works: 2 records on the second page"),
        ("no_such_param", "! source of helpdesk: the second page holds nothing but records of the first"),
    ],
)
def test_the_second_page_is_asked_for_where_there_is_one(place: Place, param: str, said: str) -> None:
    paging = PAGED.replace("PARAM", param)
    place.write(place.text.replace("[routes.helpdesk.source.fields]", paging, 1))

    ended = place.poller("check")

    assert said in ended.stdout, ended.stdout
    assert len(call("GET", f"{place.sandbox.helpdesk_url}/sandbox/calls")["calls"]) == 2
