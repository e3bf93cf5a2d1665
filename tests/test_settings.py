"""Everything that can be wrong with a settings file: one clear line each, at the right place, and no secret in it."""
# ruff: noqa: E501  one wrong thing a line, so that they can be compared

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from poller import settings as package
from poller.errors import SettingsError
from poller.settings import find_settings, load, positions, secrets, warnings
from poller.sources.http import HttpSourceSettings

SHIPPED = Path(__file__).parents[1] / "settings.toml"
CANARY = "CANARY-4711-secret"

GOOD = f"""\
[servicenow]
instance = "http://127.0.0.1:18080"
correlation_prefix = "demo"
[servicenow.auth]
type = "client_credentials"
client_id = "poller"
client_secret = "{CANARY}"

[routes.helpdesk]
every = "30s"
first_run = "all"
[routes.helpdesk.source]
type = "http"
url = "http://127.0.0.1:18081/api/tickets"
records = "tickets"
key = "id"
[routes.helpdesk.source.fields]
username = "requester.login"
title = "subject"
description = "body"
[routes.helpdesk.sink]
type = "servicenow"
[routes.helpdesk.sink.fields]
caller_id = {{ user = "{{{{ username }}}}", by = ["user_name"] }}
short_description = "{{{{ title }}}}"
"""

Problems = Callable[[str], list[str]]


@pytest.fixture(autouse=True)
def _no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "POLLER_SETTINGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text, "utf-8")
        path.chmod(0o600)
        return path

    return written


@pytest.fixture
def problems(write: Callable[[str], Path]) -> Problems:
    """Load a text and return what is wrong with it; whatever it is, the secret is not in it."""

    def told(text: str) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            load(write(text))
        assert CANARY not in str(caught.value)
        assert CANARY not in repr(caught.getrepr(chain=True))
        assert all(len(line.splitlines()) == 1 for line in caught.value.problems)
        return caught.value.problems

    return told


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


# What is right.


def test_the_shipped_settings_load() -> None:
    loaded = load(SHIPPED)

    assert loaded.servicenow is not None
    assert loaded.servicenow.instance == "http://127.0.0.1:18080"
    source = loaded.routes["helpdesk"].source
    assert isinstance(source, HttpSourceSettings)
    assert source.url == "http://127.0.0.1:18081/api/tickets"
    assert loaded.routes["helpdesk"].first_run == "all"
    assert loaded.retry == package.Retry()
    assert loaded.log.format == "auto"


def test_defaults_are_those_of_the_contract(write: Callable[[str], Path]) -> None:
    loaded = load(write(GOOD))

    route = loaded.routes["helpdesk"]
    assert (route.most_new_per_hour, route.on_change, route.enabled, route.timezone) == (500, "ignore", True, "UTC")
    assert (loaded.retry.base, loaded.retry.cap, loaded.retry.attempts) == (
        timedelta(seconds=2),
        timedelta(minutes=15),
        12,
    )
    assert loaded.retention.payloads == timedelta(days=30)
    assert (loaded.maintenance.sweep, loaded.maintenance.lease) == (timedelta(hours=1), timedelta(minutes=1))
    assert (loaded.log.level, loaded.log.format) == ("info", "auto")


def test_short_times_are_legal(write: Callable[[str], Path]) -> None:
    text = (
        changed("[servicenow.auth]", 'max_execution = "1s"\n[servicenow.auth]')
        + '[maintenance]\nlease = "1s"\nsweep = "500ms"\n'
    )

    loaded = load(write(text))

    assert loaded.maintenance.lease == timedelta(seconds=1)


def test_settings_cannot_be_changed(write: Callable[[str], Path]) -> None:
    loaded = load(write(GOOD))

    with pytest.raises(ValueError, match="frozen"):
        loaded.retry.attempts = 3  # type: ignore[misc]


def test_a_relative_database_lies_beside_the_settings_or_in_the_state_directory(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(GOOD)

    beside = load(path).database.url
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/poller:/var/lib/other")
    in_state = load(path).database.url
    absolute = load(write('[database]\nurl = "sqlite:////srv/x.db"\n' + GOOD)).database.url

    assert beside == f"sqlite:///{tmp_path}/poller.db"
    assert in_state == "sqlite:////var/lib/poller/poller.db"
    assert absolute == "sqlite:////srv/x.db"


@pytest.mark.parametrize(
    "given",
    [
        f'url = "postgresql+psycopg://user:{CANARY}%2F@host:5432/db"',
        'url = "postgresql+psycopg://user@host:5432/db"\npassword = { env = "DB_PASSWORD" }',
        'url = "postgresql+psycopg://user@host:5432/db"\npassword = { file = "password" }',
        'url = "postgresql+psycopg://user@host:5432/db"\npassword = { credential = "db" }',
    ],
)
def test_a_database_password_is_a_secret(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.setenv("DB_PASSWORD", f"{CANARY}/")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in ("password", "db"):
        (tmp_path / name).write_text(f"{CANARY}/\n")

    loaded = load(write(f"[database]\n{given}\n{GOOD}"))

    assert loaded.database.url == "postgresql+psycopg://user@host:5432/db"
    assert loaded.database.address() == f"postgresql+psycopg://user:{CANARY}%2F@host:5432/db"
    assert CANARY not in repr(loaded)
    assert f"{CANARY}/" in secrets(loaded)


def test_plain_secrets_are_warned_of_unless_the_file_is_private(write: Callable[[str], Path]) -> None:
    path = write(GOOD)

    private = warnings(load(path))
    path.chmod(0o644)
    public = warnings(load(path))

    assert private == []
    (line,) = public
    assert line.startswith("settings.toml:7: servicenow.auth.client_secret: ")
    assert "chmod 600" in line
    assert CANARY not in line


@pytest.mark.parametrize(
    "cron", ["*/5 * * * mon-fri", "0 8-18/2 1,15 * *", "30 6 * jan-mar *", "0 0 29 feb *", "0 0 last * *"]
)
def test_cron_lines_with_names_of_days(write: Callable[[str], Path], cron: str) -> None:
    loaded = load(write(changed('every = "30s"', f'cron = "{cron}"\ntimezone = "Europe/Berlin"')))

    assert loaded.routes["helpdesk"].cron == cron


# What is wrong: one line each.

FAR = "http://far.example"
WRONG = [
    # unknown keys
    ('first_run = "all"', 'first_run = "all"\nevry = 1', "evry", "routes.helpdesk.evry: unknown key; did you mean every?"),
    ('client_id = "', f'client_secert = "{CANARY}"\nclient_id = "', "client_secert", "servicenow.auth.client_secert: unknown key; did you mean"),
    ("[routes.helpdesk.sink]\n", "[routes.helpdesk.sink]\ntabel = 1\n", "tabel", "routes.helpdesk.sink.tabel: unknown key; did you mean table?"),
    ("[servicenow]\n", "[rety]\nx = 1\n[servicenow]\n", "[rety]", "rety: unknown key; did you mean retry?"),
    ('key = "id"', 'key = "id"\nenabled = false', "enabled", "routes.helpdesk.source.enabled: unknown key here; it belongs to [routes.helpdesk]"),
    ('key = "id"', 'key = "id"\n"we ird\\n" = 1', '"we ird', 'routes.helpdesk.source."we ird\\n": unknown key'),
    # wrong types
    ('every = "30s"', "every = 30", "every", "routes.helpdesk.every: a duration is text such as"),
    ('first_run = "all"', 'first_run = "all"\nenabled = "yes"', "enabled", "routes.helpdesk.enabled: must be true or false"),
    ('first_run = "all"', f'first_run = "all"\nmax_new_per_hour = "{CANARY}"', "max_new", "routes.helpdesk.max_new_per_hour: must be a whole number"),
    ('first_run = "all"', 'first_run = "all"\nmax_new_per_hour = -1', "max_new", "routes.helpdesk.max_new_per_hour: must be at least 0"),
    ("[routes.helpdesk.source.fields]\n", "[routes.helpdesk.source.fields]\nx = 3\n", "x = 3", "routes.helpdesk.source.fields.x: "),
    (f'client_secret = "{CANARY}"', "client_secret = 12345678", "client_secret", "servicenow.auth.client_secret: a secret is { credential"),
    # durations
    ('every = "30s"', 'every = "30 seconds"', "every", "routes.helpdesk.every: a duration is text such as"),
    ('every = "30s"', 'every = "0s"', "every", "routes.helpdesk.every: must be longer than nothing"),
    # when
    ('every = "30s"', 'every = "30s"\ncron = "0 * * * *"', "cron", "routes.helpdesk.cron: give either every or cron, not both"),
    ('every = "30s"\n', "", "[routes.helpdesk]", 'routes.helpdesk.every: is required, such as "30s"; or else cron'),
    ('every = "30s"', 'cron = "* * * *"', "cron", "routes.helpdesk.cron: a cron line has five parts"),
    ('every = "30s"', 'cron = "61 * * * *"', "cron", "routes.helpdesk.cron: not a cron line: "),
    ('every = "30s"', 'cron = "0 8 * * 1-5"', "cron", "routes.helpdesk.cron: days of the week are given by name"),
    ('every = "30s"', 'cron = "0 8 * * fri-mon"', "cron", "routes.helpdesk.cron: not a cron line: "),
    ('every = "30s"', 'cron = "0 8 1 * mon"', "cron", "routes.helpdesk.cron: give a day of the month or days of the week"),
    ('every = "30s"', 'cron = "0 0 31 feb *"', "cron", "routes.helpdesk.cron: never comes"),
    ('every = "30s"', 'cron = "0 0 * * *"\ntimezone = "../../etc"', "timezone", "routes.helpdesk.timezone: no such time zone"),
    ('every = "30s"', 'every = "30s"\ntimezone = "UTC"', "timezone", "routes.helpdesk.timezone: has a meaning only beside cron"),
    # first run
    ('first_run = "all"\n', "", "[routes.helpdesk]", 'routes.helpdesk.first_run: is required: "all" or "baseline"'),
    ('first_run = "all"', 'first_run = "some"', "first_run", 'routes.helpdesk.first_run: must be "all" or "baseline"'),
    # types of edges
    ('type = "http"', 'type = "htp"', 'type = "htp"', 'routes.helpdesk.source.type: unknown type; known: "http"'),
    ('type = "http"\n', "", "[routes.helpdesk.source]", 'routes.helpdesk.source.type: is required: "http"'),
    ('type = "servicenow"', 'type = "snow"', 'type = "snow"', 'routes.helpdesk.sink.type: unknown type; known: "servicenow"'),
    ('type = "client_credentials"', f'type = "{CANARY}"', "type", 'servicenow.auth.type: unknown type; known: "client_credentials", "password"'),
    # secrets
    (f'"{CANARY}"', '{ env = "POLLER_NOT_SET" }', "client_secret", "servicenow.auth.client_secret: environment variable POLLER_NOT_SET is not set"),
    (f'"{CANARY}"', '{ file = "gone" }', "client_secret", "servicenow.auth.client_secret: secret file "),
    (f'"{CANARY}"', '{ credential = "gone" }', "client_secret", 'servicenow.auth.client_secret: credential "gone" is in none of'),
    (f'"{CANARY}"', '{ credential = "../gone" }', "client_secret", "servicenow.auth.client_secret: credential name"),
    (f'"{CANARY}"', f'{{ vault = "{CANARY}" }}', "client_secret", 'servicenow.auth.client_secret: unknown kind of secret "vault"'),
    (f'client_secret = "{CANARY}"\n', "", "[servicenow.auth]", "servicenow.auth.client_secret: is required: { credential"),
    # expressions and templates
    ('"requester.login"', '"requester.["', "username =", "routes.helpdesk.source.fields.username: bad expression"),
    ('key = "id"', 'key = "id["', "key =", "routes.helpdesk.source.key: bad expression"),
    ('"{{ title }}"', '"{{ title"', "short_description", "routes.helpdesk.sink.fields.short_description: bad template"),
    ('"{{ title }}"', '"{{ title | nope }}"', "short_description", "routes.helpdesk.sink.fields.short_description: bad template: no filter"),
    ('"{{ title }}"', '"{{ titel }}"', "short_description", "routes.helpdesk.sink.fields.short_description: unknown template variable titel; did you mean title?"),
    ("{{ username }}", "{{ login }}", "caller_id", "routes.helpdesk.sink.fields.caller_id.user: unknown template variable login; known: description, "),
    ('key = "id"', 'key = "id"\nparams = { since = "{{ title }}" }', "params", "routes.helpdesk.source.params.since: unknown name title"),
    # addresses
    ("http://127.0.0.1:18080", FAR, "instance", "servicenow.instance: plain http:// is for this machine only"),
    ("http://127.0.0.1:18081", FAR, "url =", "routes.helpdesk.source.url: plain http:// is for this machine only"),
    ("http://127.0.0.1:18081", f"https://me:{CANARY}@host", "url =", "routes.helpdesk.source.url: "),
    ("http://127.0.0.1:18081/api/tickets", "nonsense", "url =", "routes.helpdesk.source.url: "),
    ('client_id = "poller"', f'client_id = "poller"\ntoken_url = "{FAR}/t"', "token_url", "servicenow.auth.token_url: plain http://"),
    # the prefix
    ('correlation_prefix = "demo"\n', "", "[servicenow]", "servicenow.correlation_prefix: is required: the name of this installation"),
    ('"demo"', '"Demo Prod"', "correlation_prefix", "servicenow.correlation_prefix: is made of a-z, 0-9 and -"),
    # names of routes
    ("routes.helpdesk", 'routes."Help Desk"', "[routes", 'routes."Help Desk": a route\'s name is made of a-z'),
    ('first_run = "all"', 'first_run = "all"\npreviously = "helpdesk"', "previously", "routes.helpdesk.previously: is the name of a route that still exists"),
    # the trap
    ("short_description =", 'on_change = "ignore"\nshort_description =', "on_change", "routes.helpdesk.sink.fields.on_change: is a key of the route"),
    # pushes, and the ingress that takes them
    ("[routes.helpdesk.sink]\n", '[routes.helpdesk.push]\nkey = "x"\n[routes.helpdesk.sink]\n', "[routes.helpdesk.push]", "routes.helpdesk.push: needs [server]"),
    ("[servicenow]\n", '[server]\nlisten = "0.0.0.0:8080"\n[servicenow]\n', "listen", "server.listen: plain HTTP is for loopback"),
    ("[servicenow]\n", '[server]\nlisten = "8080"\n[servicenow]\n', "listen", 'server.listen: is "host:port"'),
    ("[servicenow]\n", '[server.clients.snow]\nclient_secret = "x"\nscopes = ["poll"]\n[servicenow]\n', "client_secret", "server.clients.snow.client_secret: "),
    ("[servicenow]\n", '[server.clients.snow]\nscopes = ["poll:nowhere"]\n[servicenow]\n', "poll:nowhere", "server.clients.snow.scopes.0: nowhere is no route"),
    ("[servicenow]\n", '[server.clients.snow]\nroutes = ["nowhere"]\n[servicenow]\n', "nowhere", "server.clients.snow.routes.0: nowhere is no route"),
    ("[servicenow]\n", '[server.auth]\nissuer = "https://id.example"\n[servicenow]\n', "[server.auth]", "server.auth: audience is required"),
    # the database
    ("[servicenow]\n", '[database]\nurl = "mysql://x"\n[servicenow]\n', "url =", 'database.url: must begin with "sqlite:///" or "postgresql'),
    ("[servicenow]\n", '[database]\nurl = "sqlite://"\n[servicenow]\n', "url =", "database.url: "),
    ("[servicenow]\n", f'[database]\nurl = "postgresql+psycopg://u:{CANARY}@h"\n[servicenow]\n', "url =", "database.url: names no database"),
    ("[servicenow]\n", f'[database]\npassword = "{CANARY}"\n[servicenow]\n', "password =", "database.password: SQLite has no password"),
    # numbers
    ("[servicenow]\n", '[retry]\ncap = "1s"\n[servicenow]\n', "cap =", "retry.cap: is shorter than base"),
    ("[servicenow]\n", '[log]\nlevel = "loud"\n[servicenow]\n', "level =", 'log.level: must be "debug", "info", "warning" or "error"'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "where", "expected"), WRONG, ids=[case[3][:60] for case in WRONG])
def test_one_wrong_thing_is_one_clear_line(problems: Problems, old: str, new: str, where: str, expected: str) -> None:
    text = changed(old, new)

    told = problems(text)

    assert len(told) == 1, told
    assert told[0].startswith(f"settings.toml:{line_of(text, where)}: {expected}")


def test_a_duration_beyond_all_bounds_is_a_problem_and_no_crash(problems: Problems) -> None:
    (line,) = problems(changed('"30s"', '"99999999999999999d"'))

    assert line.startswith("settings.toml:")


def test_everything_is_told_at_once_by_line(problems: Problems) -> None:
    text = (
        GOOD.replace('correlation_prefix = "demo"\n', "")
        .replace('every = "30s"', 'every = 3\ncron = "0 0 * * 1"')
        .replace('"subject"', '"subject["')
        .replace("{{ username }}", "{{ usernam }}")
        .replace("short_description =", 'every = "3s"\nfirst_run = "all"\nshort_description =')
        + "[rety]\n"
    )

    told = problems(text)

    lines = [int(line.split(":")[1]) for line in told]
    assert lines == sorted(lines)
    assert [line.split(": ")[1] for line in told] == [
        "servicenow.correlation_prefix",
        "routes.helpdesk.every",
        "routes.helpdesk.cron",
        "routes.helpdesk.source.fields.title",
        "routes.helpdesk.sink.fields.caller_id.user",
        "routes.helpdesk.sink.fields.every",
        "routes.helpdesk.sink.fields.first_run",
        "rety",
    ]


def test_servicenow_is_required_where_a_sink_needs_it(problems: Problems) -> None:
    text = GOOD[GOOD.index("[routes.helpdesk]") :]

    (line,) = problems(text)

    expected = "servicenow: is required, because routes.helpdesk.sink is of type servicenow"
    assert line == f"settings.toml:{line_of(text, '[routes.helpdesk.sink]')}: {expected}"


def test_default_fields_of_the_sink_need_their_sources(problems: Problems) -> None:
    text = GOOD[: GOOD.index("[routes.helpdesk.sink.fields]")].replace('username = "', 'login = "')

    (line,) = problems(text)

    assert "routes.helpdesk.source.fields.username: is required, because sink.fields is left out" in line


def test_two_routes_cannot_come_from_the_same_one(problems: Problems) -> None:
    first = GOOD.replace('every = "30s"', 'every = "30s"\npreviously = "old"')
    second = first[first.index("[routes.helpdesk]") :].replace("routes.helpdesk", "routes.second")

    (line,) = problems(first + second)

    assert line.endswith("routes.second.previously: routes.helpdesk claims the same name")


# The file itself.


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        (f'client_secret = "{CANARY}"', f"client_secret = {CANARY}", 7, "not valid TOML: "),
        (f'client_secret = "{CANARY}"', f'client_secret = "{CANARY}', 7, "not valid TOML: "),
        (f'client_secret = "{CANARY}"', f'client_secret = "{CANARY}\\q"', 7, "not valid TOML: "),
        ('every = "30s"', 'every = "30s"\nevery = "30s"', 11, "not valid TOML: cannot overwrite a value"),
        ("[routes.helpdesk]", "[routes.helpdesk", 9, "not valid TOML: "),
    ],
)
def test_a_file_that_is_no_toml(problems: Problems, old: str, new: str, line: int, expected: str) -> None:
    (told,) = problems(changed(old, new))

    assert told.startswith(f"settings.toml:{line}: {expected}")


@pytest.mark.parametrize("text", ["", "\n# nothing\n", '[log]\nlevel = "info"\n'])
def test_an_emptied_file_is_no_valid_file(problems: Problems, text: str) -> None:
    (told,) = problems(text)

    assert re.match(r"settings\.toml:\d+: routes: is required", told)


@pytest.mark.parametrize(
    "text", ["routes = 3", "routes = []", "[routes]\nx = 1", "routes = { x = [] }", "[routes.x.source.auth]\ntype = []"]
)
def test_tables_that_are_none(problems: Problems, text: str) -> None:
    assert problems(text)


def test_s43_nesting_without_end(problems: Problems) -> None:
    assert len(problems("x = " + "[" * 5000)) == 1
    assert problems("x = " + "[" * 150 + "]" * 150)


def told_of(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path)
    (line,) = caught.value.problems
    return line


def test_s43_a_file_that_is_none(tmp_path: Path) -> None:
    fifo, large, latin = tmp_path / "fifo.toml", tmp_path / "large.toml", tmp_path / "latin.toml"
    os.mkfifo(fifo)
    large.write_bytes(b"#" * 1_000_001)
    latin.write_bytes(b'a = 1\nb = "\xe9"\n')

    assert told_of(tmp_path / "gone.toml") == (
        f"gone.toml: {tmp_path}/gone.toml does not exist; name one with --settings FILE or POLLER_SETTINGS"
    )
    assert "is a directory, not a file" in told_of(tmp_path)
    assert "is not a regular file" in told_of(fifo)
    assert "is not a regular file" in told_of(Path("/dev/null"))
    assert "is larger than" in told_of(large)
    assert told_of(latin).startswith("latin.toml:2: the file is not UTF-8 text")
    assert "cannot be read" in told_of(Path("nul\0.toml"))


def test_s43_a_link_to_a_file_and_windows_line_ends_will_do(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    link = tmp_path / "settings.toml"
    link.symlink_to(real)

    assert load(link).routes


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("poller.settings.reading._PLACES", (Path("settings.toml"), tmp_path / "etc.toml"))

    with pytest.raises(SettingsError, match="--settings"):
        find_settings(None)
    (tmp_path / "etc.toml").touch()
    assert find_settings(None) == tmp_path / "etc.toml"
    (tmp_path / "settings.toml").touch()
    assert find_settings(None) == Path("settings.toml")
    monkeypatch.setenv("POLLER_SETTINGS", "named.toml")
    assert find_settings(None) == Path("named.toml")
    assert find_settings("option.toml") == Path("option.toml")


# Where a key stands.

POSITIONS = """\
a = 1
b.c = 2
[t]
text = '''
[no.header]
x = 1
'''
list = [
  1,
  { y = 2 },
]
[[t.many]]
k = 1
[[t.many]]
k = 2
[t.many.sub]
"q.k" = 3
[u.v.w]
"""


@pytest.mark.parametrize("exact", [True, False])
def test_lines_are_found_with_and_without_toml_rs(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    if not exact:
        monkeypatch.setitem(__import__("sys").modules, "toml_rs", None)
    found = positions.Positions(POSITIONS if exact else POSITIONS.replace("[no.header]\nx = 1", "no\nheader"))

    expected: dict[positions.Path, int] = {
        (): 1,
        ("a",): 1,
        ("b", "c"): 2,
        ("t",): 3,
        ("t", "text"): 4,
        ("t", "missing"): 3,
        ("t", "many", 0, "k"): 13,
        ("t", "many", 1, "k"): 15,
        ("t", "many", 1, "sub", "q.k"): 17,
        ("u",): 18,
        ("nowhere", "at", "all"): 1,
    }
    assert {path: found.line(path) for path in expected} == expected
    assert found.line(("t", "list", 1, "y")) == (10 if exact else 8)


@pytest.mark.parametrize("key", ["include", "import", "extends", "plugins", "python"])
def test_s43_there_is_no_key_that_brings_in_other_files_or_code(problems: Problems, key: str) -> None:
    told = problems(changed('first_run = "all"', f'first_run = "all"\n{key} = "/etc/passwd"'))

    assert len(told) == 1, told
    assert f"routes.helpdesk.{key}: unknown key" in told[0]
    assert "root:" not in told[0]


def test_s43_nothing_is_expanded_in_a_text(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE", "expanded")
    loaded = load(write(changed('client_id = "', 'client_id = "$HOSTILE ${HOSTILE} $(id) %(HOSTILE)s ~')))

    assert loaded.servicenow is not None
    assert "$HOSTILE ${HOSTILE} $(id) %(HOSTILE)s ~" in str(loaded.servicenow.auth)


def test_s15_no_stylesheet_is_taken_for_a_servicenow_table(problems: Problems) -> None:
    told = problems(changed("[routes.helpdesk.sink]\n", '[routes.helpdesk.sink]\nxslt = "evil.xsl"\n'))

    assert len(told) == 1, told
    assert "routes.helpdesk.sink.xslt: unknown key" in told[0]
