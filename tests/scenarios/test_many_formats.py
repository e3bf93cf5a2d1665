"""
Five thousand records as XML and as CSV, through every way of paging, with all that lists do to those who read them.

The source is the sandbox's help desk on a real socket; route and store are the real ones. Two go end to end, from the help
desk to the incidents, by the real command line.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from poller.migrate import upgrade
from poller.sandbox import Options, Sandbox
from poller.sources.http import HttpSource, HttpSourceSettings
from poller.store import Store, open_store
from poller.tables import checkpoints, payloads, records as records_table
from tests.house import House
from tests.scenarios.world import Fields, World, call, world

COUNT, SIZE = 5_000, 250
#: Ten pages of this one time stand at the edge that the next poll begins at (F40).
EDGE = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
TEXTS = (
    "plain",
    "é ü ß ñ",
    'quoted "twice" and; semi, comma',
    "two\nlines",
    "<b>&amp; ]]></b>",
    "=cmd|' /C calc'!A0",
    "{{ 7*7 }}",
    " blank ",
)
XML: dict[str, Any] = {
    "format": "xml",
    "records": "/tickets/ticket",
    "key": "@id",
    "fields": {"username": "requester/login", "title": "subject", "description": "body"},
}
CSV: dict[str, Any] = {
    "format": "csv",
    "key": "id",
    "fields": {"username": "requester", "title": "subject", "description": "body"},
}
BY_PAGE = {"type": "page", "size_param": "per_page", "size": SIZE}
#: Format, path and paging: every one that the format allows.
WAYS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (XML, "", {"type": "none"}),
    (XML, f"/link?per_page={SIZE}", {"type": "link"}),
    (XML, f"/next?per_page={SIZE}", {"type": "next", "next": "@next"}),
    (XML, "", BY_PAGE),
    (XML, "/offset", {"type": "offset", "size": SIZE}),
    (XML, "/offset", {"type": "offset", "size": SIZE, "total": "@total"}),
    (XML, f"/cursor?limit={SIZE}", {"type": "cursor", "param": "cursor", "cursor": "@next_cursor", "more": "@has_more"}),
    (CSV, "", {"type": "none"}),
    (CSV, f"/link?per_page={SIZE}", {"type": "link"}),
    (CSV, "", BY_PAGE),
    (CSV, "/offset", {"type": "offset", "size": SIZE}),
]  # fmt: skip
NAMES = [
    f"{settings['format']}-{paging['type']}{'-total' if 'total' in paging else ''}" for settings, _, paging in WAYS
]
#: Charset and order: both charsets, oldest and newest first.
MANNERS = [("utf-8", "oldest"), ("latin-1", "newest")]


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def ticket(number: int, at: datetime) -> Fields:
    return {
        "id": number,
        "subject": f"{number}: {TEXTS[number % len(TEXTS)]}",
        "body": TEXTS[(number // 3) % len(TEXTS)],
        "requester": {"login": f"user.{number % 97}"},
        "created_at": stamp(at),
        "updated_at": stamp(at),
    }


def tickets() -> list[Fields]:
    """Return half of them over a month, the other half of one second, and three of a time that has not come yet."""
    early = [ticket(n, EDGE - timedelta(minutes=COUNT - n)) for n in range(1, COUNT // 2 + 1)]
    edge = [ticket(n, EDGE) for n in range(COUNT // 2 + 1, COUNT - 2)]
    future = [ticket(n, datetime(2099, 1, 1, tzinfo=UTC)) for n in range(COUNT - 2, COUNT + 1)]
    return early + edge + future


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, to be copied: making one takes longer than a poll."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    store = open_store(f"sqlite:///{path}")
    upgrade(store.engine)
    store.close()
    return path


@pytest.fixture
def desk() -> Iterator[str]:
    with Sandbox(Options(tickets=0)) as sandbox:
        yield sandbox.helpdesk_url


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(empty, tmp_path / "poller.db")
    opened = open_store(f"sqlite:///{tmp_path}/poller.db")
    yield opened
    opened.close()


def house_of(store: Store, desk: str, way: int, charset: str, order: str, **more: Any) -> House:
    """Return a house whose source reads the desk in one of the `WAYS`."""
    settings, path, paging = WAYS[way]
    given = {"type": "http", "url": f"{desk}/api/tickets{path}", "paging": paging, **settings}
    given |= {"checkpoint": "updated_at", "version": "updated_at"}
    params = {"format": settings["format"], "charset": charset, "order": order, "repeat": "7"}
    params |= {"since": "{{ checkpoint }}"}
    source = HttpSource(HttpSourceSettings.model_validate({**given, "params": params, **more}))
    house = House(store)
    house.route = replace(house.route, source=source)
    return house


def add(desk: str, *given: Fields) -> None:
    call("POST", f"{desk}/sandbox/tickets", list(given))


def asked(desk: str) -> int:
    """Return how many lists were asked for, and begin to count anew."""
    calls: list[Fields] = call("GET", f"{desk}/sandbox/calls")["calls"]
    call("DELETE", f"{desk}/sandbox/calls")
    return sum(str(one["path"]).startswith("/api/") for one in calls)


def stored(house: House) -> dict[str, Fields]:
    """Return the fields of each record by key; a key that is there twice fails."""
    with house.store.read() as connection:
        rows = connection.execute(
            select(records_table.c.key, payloads.c.fields).join(payloads, payloads.c.record_id == records_table.c.id)
        ).all()
    assert len({row.key for row in rows}) == len(rows), "a record is there twice"
    return {row.key: json.loads(row.fields) for row in rows}


def checkpoint(house: House) -> str | None:
    (row,) = house.rows(checkpoints)
    value: str | None = row["value"]
    return value


def expected(given: list[Fields]) -> dict[str, Fields]:
    return {
        str(one["id"]): {"username": one["requester"]["login"], "title": one["subject"], "description": one["body"]}
        for one in given
    }


@pytest.mark.parametrize("way", range(len(WAYS)), ids=NAMES)
@pytest.mark.parametrize(("charset", "order"), MANNERS)
def test_f37_f38_f39_f40_f45_five_thousand_records_are_all_taken_once(
    way: int, charset: str, order: str, store: Store, desk: str
) -> None:
    """Repeated over pages, newest first, a page that fails, one timestamp for half of them, backdated and future ones."""
    given = tickets()
    add(desk, *given)
    house = house_of(store, desk, way, charset, order)
    paged = WAYS[way][2]["type"] != "none"

    # F38: a page in the middle fails. What came before it is kept, and the checkpoint is not moved.
    call("POST", f"{desk}/sandbox/next", {"fault": "500", "path": "/api/tickets", "skip": 3 if paged else 0})
    assert not house.poll()
    kept = len(stored(house))
    assert 3 * SIZE <= kept <= 3 * (SIZE + 7) if paged else kept == 0
    assert checkpoint(house) is None
    asked(desk)

    house.clock.move(hours=1)
    assert house.poll()
    assert stored(house) == expected(given)
    # F45: what lies in the future is taken, and moves nothing.
    assert checkpoint(house) == stamp(EDGE)
    assert asked(desk) <= COUNT // SIZE + 2

    # F40: the next poll begins at ten pages of one second, and ends.
    house.clock.move(hours=1)
    assert house.poll()
    assert asked(desk) <= COUNT // 2 // SIZE + 3
    assert checkpoint(house) == stamp(EDGE)

    # F39: one that shows up late, but within the overlap, and one more at the very edge.
    late = [ticket(COUNT + 1, EDGE - timedelta(minutes=4)), ticket(COUNT + 2, EDGE), ticket(COUNT + 3, EDGE)]
    add(desk, *late)
    house.clock.move(hours=1)
    assert house.poll()
    assert stored(house) == expected([*given, *late])


@pytest.mark.parametrize("way", [1, 8], ids=["xml", "csv"])
def test_f41_f42_what_changes_or_goes_at_the_source_makes_no_second_record(way: int, store: Store, desk: str) -> None:
    given = [ticket(n, EDGE) for n in range(1, 31)]
    add(desk, *given)
    house = house_of(store, desk, way, "utf-8", "oldest")
    house.poll()
    house.turn(20)
    delivered = dict(house.sink.rows)

    add(desk, *({**one, "subject": "changed", "updated_at": stamp(EDGE + timedelta(minutes=1))} for one in given[:10]))
    for one in given[20:]:
        call("DELETE", f"{desk}/sandbox/tickets?id={one['id']}")
    house.clock.move(hours=1)
    assert house.poll()
    house.turn(20)

    assert house.sink.rows == delivered
    assert len(delivered) == 30
    assert stored(house) == expected(given)


@pytest.mark.parametrize("way", [6, 9], ids=["xml", "csv"])
def test_f43_f44_poison_among_a_thousand_costs_itself_alone(way: int, store: Store, desk: str) -> None:
    given = [ticket(n, EDGE) for n in range(1, 1001)]
    given[500]["subject"] = ""
    given[700]["subject"] = " "
    add(desk, *given)
    house = house_of(store, desk, way, "latin-1", "newest", required=["title"])
    assert house.poll()

    states = house.states()
    assert sorted(key for key, state in states.items() if state == "dead") == ["501", "701"]
    assert sum(state == "pending" for state in states.values()) == 998


@pytest.mark.parametrize(
    "fault", ["html_200", "empty_200", "null_200", "truncated_json", "cut_connection", "reset", "bom"]
)
@pytest.mark.parametrize("way", [4, 10], ids=["xml", "csv"])
def test_f38_f43_whatever_befalls_a_page_nothing_is_lost(fault: str, way: int, store: Store, desk: str) -> None:
    given = [ticket(n, EDGE - timedelta(seconds=n)) for n in range(1, 1001)]
    add(desk, *given)
    house = house_of(store, desk, way, "utf-8", "newest")
    call("POST", f"{desk}/sandbox/next", {"fault": fault, "path": "/api/tickets", "skip": 2})
    went_well = house.poll()
    assert went_well == (fault == "bom")
    assert (checkpoint(house) is None) == (fault != "bom")

    house.clock.move(hours=1)
    assert house.poll()
    assert stored(house) == expected(given)


# End to end.


def reads(here: World, *changes: tuple[str, str]) -> None:
    text = here.settings.read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    here.settings.write_text(text, "utf-8")


SHAPE = 'records = "tickets"\nkey = "id"\nversion = "updated_at"'
AS_XML = [
    (SHAPE, 'records = "ticket"\nkey = "@id"\nversion = "updated_at"\nformat = "xml"'),
    ("requester.login", "requester/login"),
]
AS_CSV = [
    (SHAPE, 'key = "id"\nversion = "updated_at"\nformat = "csv"\ndelimiter = ";"'),
    ("requester.login", "requester"),
]


XML_PAGES = """
url = "{helpdesk}/api/tickets/next?format=xml&charset=latin-1&order=newest&per_page=60&repeat=3"
paging = { type = "next", next = "@next" }
"""
CSV_PAGES = """
url = "{helpdesk}/api/tickets/link?format=csv&charset=latin-1&delimiter=%3B&per_page=60&repeat=3"
paging = { type = "link" }
"""


@pytest.mark.parametrize(("changes", "source"), [(AS_XML, XML_PAGES), (AS_CSV, CSV_PAGES)], ids=["xml", "csv"])
def test_from_the_help_desk_to_the_incidents(changes: list[tuple[str, str]], source: str, tmp_path: Path) -> None:
    with world(tmp_path, None, "--tickets", "0", "--users", "50") as here:
        here.configure(concurrency=8, source=source)
        reads(here, *changes)
        given = [{**ticket(n, EDGE), "requester": {"login": f"user{n % 50 + 1:04d}"}} for n in range(1, 301)]
        here.sandbox.add_tickets(*given)
        codes = here.once(), here.once()
        findings = here.check()

        assert codes == (0, 0)
        assert not any(findings.values()), findings
        assert len(here.sandbox.incidents()) == len(here.sandbox.creates()) == 300


def test_authors_that_are_only_numbers_become_callers(tmp_path: Path) -> None:
    """Lists without texts and logins, as many systems have them: two follow-ups for each new record, none for known ones."""
    detail = """
[[routes.helpdesk.source.detail]]
url = "/api/tickets/{{ key }}"
fields = { title = "subject", description = "body" }
[[routes.helpdesk.source.detail]]
url = "/api/users/{{ author }}?format=xml"
format = "xml"
fields = { username = "login" }
"""
    with world(tmp_path, None, "--tickets", "0", "--users", "20") as here:
        here.configure(source='url = "{helpdesk}/api/tickets?brief=1"', more=detail)
        reads(
            here,
            ('username = "requester.login"\ntitle = "subject"\ndescription = "body"', 'author = "author_id"'),
        )
        logins = [f"user{n % 20 + 1:04d}" for n in range(60)]
        here.sandbox.add_tickets(
            *({"subject": f"s{n}", "body": "b", "requester": {"login": name}} for n, name in enumerate(logins))
        )
        code = here.once()
        first = [one["path"] for one in call("GET", f"{here.sandbox.helpdesk}/sandbox/calls")["calls"]]
        again = here.once()
        second = [one["path"] for one in call("GET", f"{here.sandbox.helpdesk}/sandbox/calls")["calls"]][len(first) :]
        findings = here.check()

        assert (code, again) == (0, 0)
        assert not any(findings.values()), findings
        assert sum(path.startswith("/api/users/") for path in first) == 20
        assert second == ["/api/tickets?brief=1"]
