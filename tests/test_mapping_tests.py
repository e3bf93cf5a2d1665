"""Mapping tests as data: a sample in, the expected incident out, run by ``poller check --tests DIR`` without asking anybody."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest

from poller.sandbox.people import derived_id
from tests.cli_house import ROOT, Ended, Place, place
from tests.scenarios.world import call

__all__ = ["place"]  # a fixture

JOE = derived_id("sys_user", "joe.employee")
WELL = f"""
route = "helpdesk"

[sample]
text = '{{"id": 7, "subject": "Printer on fire", "body": "Third floor.", "requester": {{"login": "joe.employee"}}}}'

[lookups]
"sys_user.user_name=joe.employee" = "{JOE}"

[expect]
key = "7"

[expect.fields]
caller_id = "{JOE}"
short_description = "Printer on fire"
description = "Third floor."
"""


def tried(place: Place, text: str, *arguments: str, name: str = "one.toml") -> Ended:
    """Run one mapping test."""
    folder = place.folder / "tests"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8")
    ended = place.poller("check", "--offline", "--tests", "tests", *arguments)
    # Nobody was asked.
    assert call("GET", f"{place.sandbox.servicenow_url}/sandbox/ledger")["entries"] == []
    assert ended.stderr == ""
    return ended


def finding(ended: Ended, name: str = "one.toml") -> list[str]:
    """Return the lines of one file's finding."""
    lines = ended.stdout.splitlines()
    start = next(place for place, line in enumerate(lines) if line[2:].startswith(f"test {name}: "))
    return [lines[start], *(line.strip() for line in lines[start + 1 :] if line.startswith("    "))]


def test_a_sample_that_becomes_what_is_expected_is_well(place: Place) -> None:
    ended = tried(place, WELL)

    assert ended.returncode == 0
    assert finding(ended) == ["✓ test one.toml: the sample becomes what is expected"]


def test_a_difference_is_told_field_by_field(place: Place) -> None:
    text = WELL.replace('"Printer on fire"\ndesc', '"Fire on printer"\ndesc').replace('key = "7"', 'key = "8"')
    text = text.replace('\ndescription = "Third floor."', '\nurgency = "1"')

    ended = tried(place, text)
    machine = json.loads(tried(place, text, "--json").stdout)

    assert ended.returncode == 1
    head, *details = finding(ended)
    assert head.startswith("✗ test one.toml: 4 differences from what is expected; mend routes.helpdesk, or the file")
    assert details == [
        'key: expected "8", came "7"',
        'short_description: expected "Fire on printer", came "Printer on fire"',
        'urgency: expected "1", is not sent',
        'description: not expected, came "Third floor."',
    ]
    (failed,) = [each for each in machine["findings"] if each["status"] == "fault"]
    assert failed["details"] == details


def test_one_that_fails_does_not_stop_the_others(place: Place) -> None:
    tried(place, WELL.replace("Printer", "printer", 1), name="bad.toml")
    tried(place, "route = ", name="broken.toml")
    ended = tried(place, WELL)

    assert ended.returncode == 1
    assert [line[0] for line in ended.stdout.splitlines() if line[2:].startswith("test ")] == ["✗", "✗", "✓"]
    assert ended.stdout.splitlines()[-1].startswith("2 faults. Next: ")


# What cannot be delivered.

UNKNOWN = WELL[: WELL.index("[lookups]")] + '[expect]\nreason = "is unknown to sys_user"\n'


def test_a_record_that_is_to_be_refused_is_well_when_it_is(place: Place) -> None:
    assert tried(place, UNKNOWN).returncode == 0
    assert tried(place, WELL.replace('"sys_user.', '"u_other.')).returncode == 1


def test_a_refusal_for_another_reason_is_told(place: Place) -> None:
    ended = tried(place, UNKNOWN.replace("is unknown", "fits more than one row"))

    assert ended.returncode == 1
    (detail,) = finding(ended)[1:]
    assert re.match(r'reason: expected "fits more than one row to sys_user", came "caller_id: the user named', detail)


def test_a_record_that_is_posted_although_it_was_to_be_refused_is_told(place: Place) -> None:
    text = WELL[: WELL.index("[expect]")] + '[expect]\nreason = "unknown"\n'

    assert finding(tried(place, text))[1:] == ["expected: not to be delivered (unknown); it would be posted"]


def test_several_rows_of_one_name_are_ambiguous(place: Place) -> None:
    text = UNKNOWN.replace("is unknown to", "fits more than one row of").replace(
        "[expect]", f'[lookups]\n"sys_user.user_name=joe.employee" = ["{JOE}", "{"0" * 32}"]\n[expect]'
    )

    assert tried(place, text).returncode == 0


def test_a_sample_that_cannot_be_read_has_a_reason(place: Place) -> None:
    text = UNKNOWN.replace("is unknown to sys_user", "the required field title is missing")

    assert tried(place, text.replace("Printer on fire", "")).returncode == 0


# Other formats and other columns.

CSV = """
[routes.helpdesk.source]
type = "http"
url = "http://127.0.0.1:9/list"
format = "csv"
delimiter = ";"
key = "Nr"

[routes.helpdesk.source.fields]
username = "Login"
title = '"Short text"'
description = "Nr"
"""
XML = """
[routes.helpdesk.source]
type = "http"
url = "http://127.0.0.1:9/list"
format = "xml"
records = "/t:list/t:ticket"
key = "@id"
namespaces = { t = "urn:tickets" }

[routes.helpdesk.source.fields]
username = "t:by/@login"
title = "t:subject"
description = "@id"
"""


XML_SAMPLE = """
text = '''
<ticket xmlns="urn:tickets" id="7"><by login="joe.employee"/><subject>Printer;
on fire</subject></ticket>'''
"""


def with_source(place: Place, source: str) -> None:
    text = place.text
    start, end = text.index("[routes.helpdesk.source]"), text.index("[routes.helpdesk.sink]")
    place.write(text[:start] + source + text[end:])


@pytest.mark.parametrize(
    ("source", "sample"),
    [
        (CSV, "format = 'csv'\ntext = '''\nNr;Login;Short text\n7;joe.employee;\"Printer;\non fire\"'''"),
        (CSV, """text = '{"Nr": "7", "Login": "joe.employee", "Short text": "Printer;\\non fire"}'"""),
        (
            XML,
            XML_SAMPLE,
        ),
    ],
    ids=["csv", "csv as saved", "xml"],
)
def test_samples_are_in_the_format_of_the_source(place: Place, source: str, sample: str) -> None:
    with_source(place, source)
    expected = (
        WELL[WELL.index("[lookups]") :].replace("Printer on fire", "Printer;\\non fire").replace("Third floor.", "7")
    )

    ended = tried(place, f'route = "helpdesk"\n[sample]\n{sample}\n{expected}')

    assert ended.returncode == 0, ended.stdout


def test_look_ups_maps_and_lengths_are_tried_too(place: Place) -> None:
    columns = """
assignment_group = { lookup = "sys_user_group", by = "name", value = "{{ title }}", where = { active = "true" } }
urgency = { from = "{{ description }}", map = { high = "1" }, default = "3" }
"""
    mark = "[routes.helpdesk.sink.unknown_user]"
    place.write(place.text.replace(mark, columns + mark).replace('description = "{{ description }}"\n', ""))
    group = "a" * 32
    text = WELL.replace(
        "[expect]\n",
        f'"sys_user_group.name=Printer on fire" = "{group}"\n[lengths]\nshort_description = 80\n[expect]\n',
    )
    text = text.replace('description = "Third floor."', f'urgency = "3"\nassignment_group = "{group}"')
    text = text.replace(
        'short_description = "Printer on fire"\nurgency', 'short_description = "Printer on fire"\nurgency'
    )

    ended = tried(place, text)

    assert ended.returncode == 0, ended.stdout


def test_fields_of_follow_up_requests_are_given(place: Place) -> None:
    detail = """
[[routes.helpdesk.source.detail]]
url = "/api/users/{{ key }}"
[routes.helpdesk.source.detail.fields]
username = "login"

[routes.helpdesk.sink]"""
    place.write(place.text.replace('username = "requester.login"\n', "").replace("\n[routes.helpdesk.sink]", detail, 1))
    text = WELL.replace("[lookups]", '[sample.fields]\nusername = "joe.employee"\n[lookups]')

    ended = tried(place, text)

    assert ended.returncode == 0, ended.stdout + ended.stderr


# Saved ones.


@pytest.mark.parametrize("key", ["1001", "1006"])
def test_what_preview_saves_holds(place: Place, key: str) -> None:
    (place.folder / "tests").mkdir()
    saved = place.poller("preview", "helpdesk", "--key", key, "--save", f"tests/{key}.toml")
    ended = place.poller("check", "--offline", "--tests", "tests")

    assert saved.returncode == 0, saved.stdout
    assert saved.stdout.endswith("Next: poller check --offline --tests tests\n")
    assert ended.returncode == 0
    assert f"✓ test {key}.toml: the sample becomes what is expected" in ended.stdout


def test_what_preview_saves_of_a_hostile_record_holds(place: Place) -> None:
    ticket = {
        "id": 9003,
        "subject": "it's '''quoted''' \x1b and \"so\" \\n",
        "body": "two\r\nlines\t\x7f\u2028é",
        "requester": {"login": "a,b"},
    }
    call("POST", f"{place.sandbox.helpdesk_url}/sandbox/tickets", [ticket])
    (place.folder / "tests").mkdir()
    saved = place.poller("preview", "helpdesk", "--key", "9003", "--save", "tests/9003.toml")

    assert saved.returncode == 0, saved.stdout
    assert place.poller("check", "--offline", "--tests", "tests").returncode == 0


def test_what_preview_saves_of_a_record_that_cannot_be_delivered_holds(place: Place) -> None:
    ticket = {"id": 9004, "subject": "s", "body": "b", "requester": {"login": "carla.CASE"}}
    call("POST", f"{place.sandbox.helpdesk_url}/sandbox/tickets", [ticket])
    (place.folder / "tests").mkdir()
    place.poller("preview", "helpdesk", "--key", "9004", "--save", "tests/9004.toml")
    text = (place.folder / "tests/9004.toml").read_text("utf-8")

    assert "fits more than one row of sys_user" in text
    assert place.poller("check", "--offline", "--tests", "tests").returncode == 0


@pytest.mark.parametrize("format", ["json", "xml", "csv"])
def test_what_preview_saves_of_each_format_holds(place: Place, format: str) -> None:
    fields = {
        "json": ('records = "tickets"\nkey = "id"', "requester.login", "subject"),
        "csv": ('key = "id"', "requester", "subject"),
        "xml": ('records = "/tickets/ticket"\nkey = "@id"', "requester/login", "subject"),
    }
    more, login, title = fields[format]
    url = f"{place.sandbox.helpdesk_url}/api/tickets?format={format}"
    head = f'[routes.helpdesk.source]\ntype = "http"\nformat = "{format}"\nurl = "{url}"\n{more}\n'
    names = f'[routes.helpdesk.source.fields]\nusername = "{login}"\ntitle = "{title}"\ndescription = "{title}"\n'
    with_source(place, head + names)
    (place.folder / "tests").mkdir()
    saved = place.poller("preview", "helpdesk", "--key", "1001", "--save", "tests/one.toml")

    assert saved.returncode == 0, saved.stdout + saved.stderr
    assert place.poller("check", "--offline", "--tests", "tests").returncode == 0


def test_what_preview_saves_of_a_table_holds(place: Place) -> None:
    with sqlite3.connect(place.folder / "desk.db") as connection:
        connection.execute("CREATE TABLE tickets (id INTEGER, who TEXT, title TEXT)")
        connection.execute("INSERT INTO tickets VALUES (5, 'abel.tuter', 'From a table')")
    connection.close()
    head = '[routes.helpdesk.source]\ntype = "sql"\nquery = "SELECT id, who, title FROM tickets"\nkey = "id"\n'
    names = '[routes.helpdesk.source.fields]\nusername = "who"\ntitle = "title"\ndescription = "title"\n'
    with_source(place, f'{head}url = "sqlite:///{place.folder}/desk.db"\n{names}')
    (place.folder / "tests").mkdir()
    saved = place.poller("preview", "helpdesk", "--save", "tests/one.toml")

    assert saved.returncode == 0, saved.stdout + saved.stderr
    assert place.poller("check", "--offline", "--tests", "tests").returncode == 0


# Files that are none.


BROKEN = [
    ("route = ", "one.toml:1: not valid TOML: invalid value"),
    (WELL.replace('route = "helpdesk"', 'rout = "helpdesk"'), "one.toml:2: rout: unknown key; did you mean route?"),
    (WELL.replace('route = "helpdesk"', 'route = "desk"'), 'one.toml:2: route: "desk" is not in the settings'),
    (WELL.replace("text = ", "txt = "), "one.toml:5: sample.txt: unknown key; did you mean text?"),
    (
        WELL.replace("[sample]", '[sample]\nformat = "yaml"'),
        "one.toml:5: sample.format: must be 'json', 'xml' or 'csv'",
    ),
    (
        WELL.replace(f'= "{JOE}"\n\n[expect]', '= "joe"\n\n[expect]'),
        'one.toml:7: lookups: "sys_user.user_name=joe.employee" finds a sys_id',
    ),
    (WELL.replace('key = "7"', "key = 7"), "one.toml:11: expect.key: must be text in quotes"),
    (WELL[: WELL.index("[expect.fields]")], "one.toml:10: expect: give either fields or reason"),
    (WELL[: WELL.index("[expect]")], "one.toml:1: expect: is required"),
    (WELL.replace("'{", "'[{").replace("}}'", "}}]'"), "one.toml: "),
    (
        WELL.replace("'{", "'").replace("text = ", "format = 'xml'\ntext = "),
        "one.toml: the source's records are json, this sample is xml",
    ),
    (WELL.replace("'{", "'"), "one.toml: it cannot be read as json: "),
]


def test_each_broken_file_is_one_clear_line(place: Place) -> None:
    folder = place.folder / "tests"
    folder.mkdir()
    for number, (text, _) in enumerate(BROKEN):
        (folder / f"{number}.toml").write_text(text)
    ended = tried(place, WELL)

    assert ended.returncode == 1
    for number, (_, said) in enumerate(BROKEN):
        assert said.replace("one.toml", f"{number}.toml") in finding(ended, f"{number}.toml")[0]
    assert finding(ended)[0].startswith("✓")


def test_every_problem_of_a_file_is_told(place: Place) -> None:
    ended = tried(place, WELL.replace("text = ", "txt = ").replace('key = "7"', "key = 7"))

    assert len(finding(ended)) == 3


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_tests_is_told(place: Place, make: bool) -> None:
    if make:
        (place.folder / "tests").mkdir()

    ended = place.poller("check", "--offline", "--tests", "tests")

    assert ended.returncode == 1
    assert ("holds no *.toml" if make else "is no folder") in ended.stdout


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x = '" + b"y" * 1_100_000 + b"'"], ids=["not UTF-8", "huge"])
def test_a_file_that_is_no_text_of_ours_is_told(place: Place, data: bytes) -> None:
    (place.folder / "tests").mkdir()
    (place.folder / "tests/one.toml").write_bytes(data)

    ended = place.poller("check", "--offline", "--tests", "tests")

    assert ended.returncode == 1
    assert finding(ended)[0].startswith("✗ test one.toml: one.toml:")


def test_the_recipe_holds(place: Place) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/recipes/mapping-tests.md").read_text("utf-8"), re.DOTALL)

    assert len(blocks) == 2
    for block in blocks:
        ended = tried(place, block)
        assert ended.returncode == 0, ended.stdout


def test_the_folder_is_found_from_where_one_stands(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "one.toml").write_text(WELL)

    assert place.poller("check", "--offline", "--tests", str(elsewhere)).returncode == 0
