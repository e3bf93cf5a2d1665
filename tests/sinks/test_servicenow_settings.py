"""Every form that a column can have, wrong in every way: one clear line at the right place, before anything starts."""
# ruff: noqa: E501  one wrong thing a line, so that they can be compared

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from poller.errors import SettingsError
from poller.settings import Settings, load
from poller.sinks.servicenow import ServiceNowSinkSettings

TEXT = """\
[servicenow]
instance = "http://127.0.0.1:18080"
correlation_prefix = "demo"
auth = { type = "none" }

[routes.desk]
every = "30s"
first_run = "all"
[routes.desk.source]
type = "http"
url = "http://127.0.0.1:18081/api/tickets"
key = "id"
[routes.desk.source.fields]
username = "requester.login"
team = "team"
priority = "priority"
[routes.desk.sink]
type = "servicenow"
unknown_user = { UNKNOWN }
[routes.desk.sink.fields]
short_description = "{{ team }}"
x = FORM
"""

Load = Callable[..., Settings]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    def load_text(form: str = '"x"', unknown: str = 'policy = "dead"') -> Settings:
        path = tmp_path / "settings.toml"
        path.write_text(TEXT.replace("FORM", form).replace("UNKNOWN", unknown), "utf-8")
        path.chmod(0o600)
        return load(path)

    return load_text


def sink(settings: Settings) -> ServiceNowSinkSettings:
    found = settings.routes["desk"].sink
    assert isinstance(found, ServiceNowSinkSettings)
    return found


@pytest.mark.parametrize(
    "form",
    [
        '{ user = "{{ username }}" }',
        '{ user = "{{ username }}", by = "email" }',
        '{ user = "{{ username }}", by = ["user_name", "email", "employee_number"] }',
        '{ lookup = "sys_user_group", by = "name", value = "{{ team }}" }',
        '{ lookup = "sys_user_group", by = "name", value = "Service Desk", unknown = "omit" }',
        '{ lookup = "cmdb_ci", by = ["serial_number", "name"], value = "{{ team }}", where = { operational_status = "1" }, default = "none" }',
        '{ from = "{{ priority }}", map = { high = "1", "2" = "3", "" = "4" }, default = "2" }',
    ],
)
def test_forms_that_are_right(loaded: Load, form: str) -> None:
    assert sink(loaded(form)).names() <= {"team", "username", "priority"}


@pytest.mark.parametrize(
    ("form", "key", "words"),
    [
        ("{ }", "", "holds none of user, lookup and from; a column is a template"),
        ('{ by = "name" }', "", "holds none of user, lookup and from"),
        ('{ user = "{{ username }}", lookup = "x" }', "", "holds user and lookup; a column is"),
        ("3", "", "must be a template in quotes, or a table with user, lookup or from"),
        ("true", "", "must be a template in quotes"),
        ('["{{ team }}"]', "", "must be a template in quotes"),
        ('{ user = "{{ login }}" }', ".user", "unknown template variable login"),
        ('{ user = "{{ username" }', "", "bad template"),
        ('{ user = "{{ username }}", bye = "x" }', ".bye", "unknown key; did you mean by?"),
        ('{ user = "{{ username }}", by = [] }', ".by", "at least 1"),
        ('{ user = "{{ username }}", by = "user_name^x" }', ".by", "no column name"),  # S06
        ('{ lookup = "sys_user_group", value = "{{ team }}" }', ".by", "is required"),
        ('{ lookup = "sys_user_group", by = "name" }', ".value", "is required"),
        ('{ lookup = "../sys_user", by = "name", value = "{{ team }}" }', ".lookup", "no table name"),  # S06
        ('{ lookup = "{{ team }}", by = "name", value = "{{ team }}" }', ".lookup", "no table name"),
        ('{ lookup = "a%2fb", by = "name", value = "{{ team }}" }', ".lookup", "no table name"),
        ('{ lookup = "a?b#c", by = "name", value = "{{ team }}" }', ".lookup", "no table name"),
        ('{ lookup = "t", by = "na me", value = "{{ team }}" }', ".by", "no column name"),
        ('{ lookup = "t", by = "name", value = "{{ teem }}" }', ".value", "unknown template variable teem; did you mean team?"),
        ('{ lookup = "t", by = "name", value = "{{ team }}", unknown = "wait" }', ".unknown", 'must be "dead" or "omit"'),
        ('{ lookup = "t", by = "name", value = "{{ team }}", unknown = "omit", default = "x" }', ".unknown", "unknown and default say two different things"),
        ('{ lookup = "t", by = "name", value = "{{ team }}", default = "{{ team }}" }', ".default", "is a fixed text, not a template"),
        ('{ lookup = "t", by = "name", value = "{{ team }}", default = " " }', ".default", "an empty value"),
        ('{ lookup = "t", by = "name", value = "{{ team }}", where = { "a^b" = "1" } }', ".where", "no column name"),
        ('{ lookup = "t", by = "name", value = "{{ team }}", where = { sort = "1^ORb=2" } }', ".where", "a value with ^ would end its condition"),
        ('{ lookup = "t", by = "name", value = "{{ team }}", where = { sort = "javascript:gs.x()" } }', ".where", "could be run"),
        ('{ from = "{{ priority }}" }', ".map", "is required"),
        ('{ from = "{{ priority }}", map = { } }', ".map", "at least 1"),
        ('{ from = "{{ priority }}", map = { high = 1 } }', ".map.high", "must be text"),
        ('{ from = "{{ priority }}", map = { High = "1", high = "2" } }', ".map.High", "High and high are the same but for case or blanks"),
        ('{ from = "{{ priority }}", map = { high = "{{ team }}" } }', ".map", "is a fixed text, not a template"),
        ('{ from = "{{ prio }}", map = { high = "1" } }', ".from", "unknown template variable prio"),
        ('{ from = "{{ priority }}", map = { high = "1" }, unknown = "omit" }', ".unknown", "unknown key"),
    ],
)  # fmt: skip
def test_forms_that_are_wrong(loaded: Load, form: str, key: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(form)

    (line,) = caught.value.problems
    where = TEXT[: TEXT.index("x = FORM")].count("\n") + 1
    assert line.startswith(f"settings.toml:{where}: routes.desk.sink.fields.x{key}: "), line
    assert words in line, line


@pytest.mark.parametrize(
    ("unknown", "key", "words"),
    [
        ('policy = "wait", for = "0s"', ".for", "must be longer than nothing"),
        ('policy = "wait", for = "soon"', ".for", "a duration is text"),
        ('policy = "wait", every = "0s"', ".every", "must be longer than nothing"),
        ('for = "24h"', ".for", 'has a meaning only with policy = "wait"'),
        ('policy = "omit", every = "1h"', ".every", 'has a meaning only with policy = "wait"'),
        ('policy = "wait", username = "x"', "", "go together"),
        ('policy = "hold"', ".policy", "must be"),
        ('inactive = "dead"', ".inactive", 'must be "accept" or "unknown"'),
        ('for_ = "24h", policy = "wait"', ".for_", "unknown key; did you mean for?"),
    ],
)
def test_policies_that_are_wrong(loaded: Load, unknown: str, key: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(unknown=unknown)

    (line,) = caught.value.problems
    assert line.split(": ")[1].startswith(f"routes.desk.sink.unknown_user{key}"), line
    assert words in line, line


def test_waiting_is_a_day_with_a_look_every_hour_unless_said_otherwise(loaded: Load) -> None:
    plain = sink(loaded(unknown='policy = "wait"')).unknown_user
    said = sink(loaded(unknown='policy = "wait", for = "3d", every = "15m"')).unknown_user

    assert (plain.patience, plain.interval) == (timedelta(hours=24), timedelta(hours=1))
    assert (said.patience, said.interval) == (timedelta(days=3), timedelta(minutes=15))
