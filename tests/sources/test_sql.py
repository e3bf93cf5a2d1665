"""The source sql against real SQLite files and a real PostgreSQL."""

import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from poller.errors import BlockedError, PollerError, TransientError
from poller.model import Page
from poller.sources.sql import SqlSource, SqlSourceSettings
from poller.store import Store
from tests.house import House

FIELDS = {"title": "subject"}
NOW = datetime(2026, 1, 10, tzinfo=UTC)
SINCE = "SELECT * FROM tickets WHERE updated_at > :checkpoint"
EVER = "2000-01-01 00:00:00"


def settings(url: str, query: str = "SELECT * FROM tickets", **keys: Any) -> SqlSourceSettings:
    given = {"type": "sql", "url": url, "query": query, "key": "id", "fields": FIELDS}
    return SqlSourceSettings.model_validate({**given, **keys})


def source(url: str, query: str = "SELECT * FROM tickets", **keys: Any) -> SqlSource:
    return SqlSource(settings(url, query, **keys), now=lambda: NOW)


def polled(url: str, query: str = "SELECT * FROM tickets", stored: str | None = None, **keys: Any) -> list[Page]:
    return list(source(url, query, **keys).poll(stored))


def keys(pages: Sequence[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def refused(url: str, query: str = "SELECT * FROM tickets", **given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(url, query, **given)
    return " | ".join(str(detail["msg"]) for detail in caught.value.errors(include_input=False))


class Desk:
    """A help desk's SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.run("CREATE TABLE tickets (id INTEGER PRIMARY KEY, subject TEXT, updated_at TEXT)")

    def run(self, statement: str, *rows: tuple[Any, ...]) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            if rows:
                connection.executemany(statement, rows)
            else:
                connection.execute(statement)

    def add(self, *rows: tuple[Any, ...]) -> None:
        self.run("INSERT INTO tickets VALUES (?, ?, ?)", *rows)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk.db")


class Server:
    """A help desk on PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = url.replace("postgresql+psycopg://", "postgresql://")

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.address, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def value(self, query: str) -> Any:
        with psycopg.connect(self.address) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def server(postgres_url: str) -> Server:
    made = Server(postgres_url)
    made.run("CREATE TABLE tickets (id bigint PRIMARY KEY, subject text, updated_at timestamptz)")
    return made


# Rows and pages.


def test_each_row_is_a_record_and_the_last_page_says_so(desk: Desk) -> None:
    desk.add(*[(number, f"Printer {number}", EVER) for number in range(1, 2501)])

    pages = polled(desk.url)

    assert [len(page.records) for page in pages] == [1000, 1000, 500]
    assert [page.last for page in pages] == [False, False, True]
    assert pages[0].records[0].key == "1"
    assert pages[0].records[0].fields == {"title": "Printer 1"}


def test_an_empty_table_is_one_empty_page_and_the_poll_is_whole(desk: Desk) -> None:
    (page,) = polled(desk.url)

    assert page == Page(last=True)


def test_a_page_that_is_full_to_the_brim_is_the_last_one_all_the_same(desk: Desk) -> None:
    desk.add(*[(number, "x", EVER) for number in range(20)])

    pages = polled(desk.url, batch=10)

    assert [page.last for page in pages] == [False, True]


def test_f40_rows_with_one_timestamp_on_ten_pages_are_all_taken_once(desk: Desk, store: Store) -> None:
    desk.add(*[(number, "x", "2026-01-02 03:04:05") for number in range(5000)])
    house = House(store)
    made = source(desk.url, SINCE, checkpoint="updated_at", first_checkpoint=EVER, batch=500)
    house.route = replace(house.route, source=made)

    first, second = house.route.poll(store, house.clock), house.route.poll(store, house.clock)

    assert first
    assert second
    assert len(house.states()) == 5000


# Checkpoints.


@pytest.mark.parametrize(
    ("kind", "values", "largest", "bound"),
    [
        ("TEXT", ["2026-01-02 03:04:05", "2026-01-02 04:04:05"], "2026-01-02 04:04:05", "2026-01-02 03:59:05"),
        ("TEXT", ["2026-01-02T03:04:05Z", "2026-01-02T04:04:05+01:00"], "2026-01-02T03:04:05Z", "2026-01-02T02:59:05Z"),
        ("INTEGER", [5000, 4711], "5000", 4000),
        ("INTEGER", [1767323045, 1767326645], "1767326645", 1767326345),
        ("REAL", [1767323045.25], "1767323045.25", 1767322745.25),
    ],
)
def test_the_largest_value_is_bound_in_its_own_type_less_the_overlap(
    desk: Desk, kind: str, values: list[Any], largest: str, bound: Any
) -> None:
    desk.run(f"CREATE TABLE moved (id INTEGER, subject TEXT, mark {kind})")
    desk.run("INSERT INTO moved VALUES (?, 'x', ?)", *enumerate(values))
    query = (
        "SELECT id, mark, :checkpoint AS subject, typeof(:checkpoint) AS kind FROM moved WHERE :checkpoint IS NULL OR 1"
    )

    pages = polled(desk.url, query, checkpoint="mark")
    again = polled(
        desk.url, query, pages[-1].checkpoint, checkpoint="mark", fields={"given": "subject", "kind": "kind"}
    )

    assert pages[-1].checkpoint == largest
    assert again[0].records[0].fields["given"] == str(bound)
    assert again[0].records[0].fields["kind"] == {int: "integer", float: "real", str: "text"}[type(bound)]
    assert again[-1].checkpoint == largest


def test_the_first_poll_binds_null_or_what_the_settings_say(desk: Desk) -> None:
    desk.add((1, "old", "1999-01-01 00:00:00"), (2, "new", "2026-01-02 03:04:05"))
    either = "SELECT * FROM tickets WHERE :checkpoint IS NULL OR updated_at > :checkpoint"

    assert keys(polled(desk.url, either, checkpoint="updated_at")) == ["1", "2"]
    assert keys(polled(desk.url, SINCE, checkpoint="updated_at", first_checkpoint=EVER)) == ["2"]


def test_f39_a_row_stamped_early_and_committed_late_is_read_within_the_overlap(desk: Desk) -> None:
    desk.add((1, "x", "2026-01-02 03:04:05"))
    made = source(desk.url, SINCE, checkpoint="updated_at", first_checkpoint=EVER)
    checkpoint = list(made.poll(None))[-1].checkpoint
    desk.add((2, "late", "2026-01-02 03:01:00"))

    assert "2" in keys(list(made.poll(checkpoint)))


def test_f39_a_lower_id_that_is_committed_later_is_read(desk: Desk) -> None:
    desk.add((2, "first", EVER))
    made = source(desk.url, "SELECT * FROM tickets WHERE id > :checkpoint", checkpoint="id", first_checkpoint="0")
    checkpoint = list(made.poll(None))[-1].checkpoint
    desk.add((1, "late", EVER))

    assert checkpoint == "2"
    assert "1" in keys(list(made.poll(checkpoint)))


def test_an_id_that_could_be_a_time_is_none_where_the_settings_say_so(desk: Desk) -> None:
    desk.add((4_000_000_000, "x", EVER))
    query = "SELECT id, :checkpoint AS subject FROM tickets WHERE id > :checkpoint"
    given = {"checkpoint": "id", "first_checkpoint": "0"}

    (as_time,) = polled(desk.url, query, **given)
    (as_id,) = polled(desk.url, query, checkpoint_format="number", **given)
    (again,) = polled(desk.url, query, as_id.checkpoint, checkpoint_format="number", **given)

    assert as_time.refused
    assert as_id.checkpoint == "4000000000"
    assert not as_id.refused
    assert again.records[0].fields["title"] == "3999999000"


def test_f45_a_value_in_the_future_is_taken_and_moves_nothing(desk: Desk) -> None:
    desk.add((1, "x", "2026-01-02 03:04:05"), (2, "future", "2038-01-01 00:00:00"))

    (page,) = polled(desk.url, SINCE, checkpoint="updated_at", first_checkpoint=EVER)

    assert keys([page]) == ["1", "2"]
    assert page.checkpoint == "2026-01-02 03:04:05"
    assert page.refused == ("2038-01-01 00:00:00",)


def test_f45_local_times_are_no_future_where_the_zone_is_stated(desk: Desk) -> None:
    desk.add((1, "x", "2026-01-10 01:00:00"))
    given = {"checkpoint": "updated_at", "first_checkpoint": EVER}

    (as_utc,) = polled(desk.url, SINCE, **given)
    (as_local,) = polled(desk.url, SINCE, checkpoint_zone="Europe/Berlin", **given)

    assert as_utc.refused
    assert not as_local.refused
    assert as_local.checkpoint == "2026-01-10 01:00:00"


def test_an_empty_poll_keeps_the_checkpoint(desk: Desk) -> None:
    (page,) = polled(desk.url, SINCE, "2026-01-02 03:04:05", checkpoint="updated_at", first_checkpoint=EVER)

    assert page.checkpoint == "2026-01-02 03:04:05"


def test_a_column_that_is_no_checkpoint_blocks_with_its_name(desk: Desk) -> None:
    desk.add((1, "printer", EVER))
    query = "SELECT * FROM tickets WHERE :checkpoint IS NULL OR subject > :checkpoint"

    with pytest.raises(BlockedError, match='"subject" gives no checkpoint'):
        polled(desk.url, query, checkpoint="subject")


# Values.


def test_values_of_every_kind_become_text(desk: Desk) -> None:
    query = (
        """SELECT 1 AS id, 'Straße ☃' AS a, NULL AS b, 2.50 AS c, x'00ff' AS d, 9007199254740993 AS e, '12:30' AS f"""
    )

    (page,) = polled(desk.url, query.replace("'12:30'", r"'12\:30'"), fields={name: name for name in "abcdef"})

    assert page.records[0].fields == {
        "a": "Straße ☃",
        "b": "",
        "c": "2.5",
        "d": "00ff",
        "e": "9007199254740993",
        "f": "12:30",
    }


def test_f43_text_that_is_not_utf_8_costs_no_poll(desk: Desk) -> None:
    desk.run("INSERT INTO tickets VALUES (1, CAST(x'4dfc6c6c' AS TEXT), NULL)")
    desk.run("INSERT INTO tickets VALUES (2, 'good', NULL)")

    (page,) = polled(desk.url)

    assert [record.fields["title"] for record in page.records] == ["M\ufffdll", "good"]


def test_f44_a_row_without_a_key_is_a_dead_letter_and_the_others_go_on(desk: Desk) -> None:
    desk.run("INSERT INTO tickets VALUES (1, 'a', 'k1'), (2, 'b', NULL), (3, 'c', 'k3')")

    (page,) = polled(desk.url, key="updated_at", required=["title"])

    assert keys([page]) == ["k1", "k3"]
    assert page.malformed[0].reason == "the key is missing"


def test_s41_sql_in_a_checkpoint_is_a_value_and_nothing_else(desk: Desk) -> None:
    desk.add((1, "x", "2026-01-02 03:04:05"))
    evil = "%d.%m.%Y'; DROP TABLE tickets; --"
    given = {
        "checkpoint": "updated_at",
        "checkpoint_format": evil,
        "first_checkpoint": "01.01.2000'; DROP TABLE tickets; --",
    }
    desk.run("UPDATE tickets SET updated_at = '02.01.2026''; DROP TABLE tickets; --'")

    (page,) = polled(desk.url, SINCE, **given)
    (again,) = polled(desk.url, SINCE.replace(">", ">="), page.checkpoint, overlap="0s", **given)

    assert keys([page]) == keys([again]) == ["1"]


# What cannot be asked.


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DELETE FROM tickets", "must begin with SELECT or WITH"),
        ("SELECT 1 AS id; DROP TABLE tickets", "more than one statement"),
        ("WITH gone AS (DELETE FROM tickets RETURNING *) SELECT * FROM gone", "holds DELETE"),
        ("SELECT * INTO copy FROM tickets", "holds INTO"),
        ("SELECT * FROM tickets FOR UPDATE", "holds UPDATE"),
        ("SELECT * FROM tickets WHERE id > :since", "unknown parameter :since"),
        ("SELECT * FROM tickets WHERE id > '{{ checkpoint }}'", "is no template"),
        ("SELECT * FROM tickets WHERE t = ':checkpoint'", "in quotes or in a comment"),
        ("", "must begin with SELECT or WITH"),
        ("-- DELETE\nUPDATE tickets SET id = 1", "must begin with SELECT or WITH"),
    ],
)
def test_s41_a_query_that_does_not_only_read_is_refused_at_load(desk: Desk, query: str, said: str) -> None:
    assert said in refused(desk.url, query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, subject FROM tickets -- WHERE deleted; UPDATE later",
        "/* INTO; */ (SELECT * FROM tickets);",
        "WITH t AS (SELECT 1 AS id) SELECT id, 'DELETE; INTO' AS subject, \"update\" FROM t",
        "SELECT id::text AS id, subject FROM tickets WHERE updated_at < now()",
    ],
)
def test_a_query_that_only_reads_is_taken(query: str) -> None:
    assert settings("sqlite:///x.db", query).query == query.strip().rstrip(";")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"query": SINCE}, "checkpoint: is required"),
        ({"query": SINCE, "checkpoint": "updated_at"}, "nothing is larger than NULL"),
        ({"checkpoint": "updated_at"}, "query: has no :checkpoint"),
        (
            {"query": SINCE, "checkpoint": "updated_at", "first_checkpoint": "soon"},
            "first_checkpoint: cannot be compared",
        ),
        ({"key": "id["}, "bad expression"),
        ({"fields": {"a b": "id"}}, "letters, digits and _"),
        ({"fields": {"a": "nope(id)"}}, "no function nope()"),
        ({"required": ["absent"]}, "absent is not among the fields"),
        ({"url": "sqlite://"}, "names no file"),
        ({"url": "sqlite:///:memory:"}, "names no file"),
        ({"url": "sqlite:///a.db", "password": "x"}, "SQLite has no password"),
        ({"url": "nonsense"}, "is no database URL"),
        ({"url": "informix://host/db"}, "nothing here speaks informix"),
        ({"url": "mysql+pymysql://u@host/db"}, "the driver pymysql is not installed"),
        ({"url": "postgresql+psycopg://u@host/db?password=hunter22"}, "put it under the key password"),
        ({"checkpoint_zone": "Mars/Olympus"}, "no such time zone"),
    ],
)
def test_what_cannot_work_is_told_at_load(given: dict[str, Any], said: str) -> None:
    complete = {"url": "sqlite:///x.db", **given}

    told = refused(**complete)

    assert said in told
    assert "hunter22" not in told


def test_a_password_in_the_url_is_taken_out_of_it() -> None:
    made = settings("postgresql+psycopg://reader:hunter%4022@db/desk")

    assert made.url == "postgresql+psycopg://reader@db/desk"
    assert made.password is not None
    assert made.password.reveal() == "hunter@22"
    assert "hunter" not in repr(made)


# Faults of the database.


def test_a_file_that_is_not_there_blocks_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(BlockedError, match="does not exist"):
        polled(f"sqlite:///{tmp_path}/nowhere.db")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT * FROM absent", "no such table: absent"),
        ("SELECT absent FROM tickets", "no such column: absent"),
        ("SELECT FROM WHERE", "syntax error"),
        ("SELECT id, id FROM tickets", 'the column "id" twice'),
        ("SELECT subject FROM tickets", 'key: the query gives no column "id"; it gives: subject'),
        ("SELECT id FROM tickets", 'fields.title: the query gives no column "subject"; it gives: id'),
    ],
)
def test_a_query_that_does_not_fit_the_database_blocks_with_its_words(desk: Desk, query: str, said: str) -> None:
    with pytest.raises(BlockedError, match=said.replace(".", r"\.")):
        polled(desk.url, query)


def test_a_locked_file_is_a_matter_of_time(desk: Desk) -> None:
    desk.add((1, "x", EVER))
    with closing(sqlite3.connect(desk.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TransientError, match="locked"):
            polled(desk.url, timeout="200ms")

    assert keys(polled(desk.url)) == ["1"]


def test_an_endless_query_is_given_up(desk: Desk) -> None:
    endless = (
        "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT sum(id) AS id, 1 AS subject FROM n"
    )

    with pytest.raises(TransientError, match=r"no answer within 0\.2 s"):
        polled(desk.url, endless, timeout="200ms")


def test_f43_a_file_that_is_no_database_blocks(tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 100)

    with pytest.raises(BlockedError, match="not a database"):
        polled(f"sqlite:///{tmp_path}/letter.db")


def test_a_poll_that_is_dropped_in_the_middle_leaves_no_lock_behind(desk: Desk) -> None:
    desk.add(*[(number, "x", EVER) for number in range(5000)])
    pages = source(desk.url, batch=10).poll(None)
    next(pages)
    pages.close()  # type: ignore[attr-defined]

    with closing(sqlite3.connect(desk.path, timeout=0)) as other, other:
        assert other.execute("DELETE FROM tickets").rowcount == 5000


def test_a_server_that_is_not_there_is_a_matter_of_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(TransientError) as caught:
            polled(f"postgresql+psycopg://reader:hunter22@127.0.0.1:{port}/desk", connect_timeout="2s")

    assert caught.value.remote
    assert "cannot be reached" in str(caught.value)
    assert "hunter22" not in str(caught.value)


# PostgreSQL.


@pytest.mark.postgres
def test_rows_of_postgresql_are_streamed_and_typed(server: Server) -> None:
    server.run(
        "INSERT INTO tickets SELECT n, 'Printer ' || n, '2026-01-02T03:04:05Z' FROM generate_series(1, 2500) AS n",
    )
    query = "SELECT * FROM tickets WHERE subject LIKE 'Printer%' AND updated_at > :checkpoint"
    given = {"checkpoint": "updated_at", "first_checkpoint": "2000-01-01T00:00:00Z"}

    pages = polled(server.url, query, **given)
    again = polled(server.url, query, pages[-1].checkpoint, **given)
    none = polled(server.url, query, pages[-1].checkpoint, overlap="0s", **given)

    assert [len(page.records) for page in pages] == [1000, 1000, 500]
    assert len(keys(again)) == 2500
    assert none == [Page(checkpoint=pages[-1].checkpoint, last=True)]
    assert pages[-1].checkpoint is not None
    assert datetime.fromisoformat(pages[-1].checkpoint) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("timestamp", "'2026-01-02 03:04:05.123456'", "2026-01-02T03:04:05.123456"),
        ("date", "'2026-01-02'", "2026-01-02"),
        ("bigint", "4711", "4711"),
        ("numeric(20,0)", "12345678901234567", "12345678901234567"),
        ("text", "'2026-01-02T03:04:05Z'", "2026-01-02T03:04:05Z"),
    ],
)
def test_a_checkpoint_of_any_type_goes_back_as_that_type(server: Server, kind: str, value: str, text: str) -> None:
    server.run(f"CREATE TABLE marks (id int, subject text, mark {kind})", f"INSERT INTO marks VALUES (1, 'x', {value})")
    query = "SELECT * FROM marks WHERE mark >= :checkpoint"
    first = "2000-01-01T00:00:00Z" if "time" in kind or kind in {"date", "text"} else "0"

    (page,) = polled(server.url, query, checkpoint="mark", first_checkpoint=first)
    (again,) = polled(server.url, query, page.checkpoint, checkpoint="mark", first_checkpoint=first, overlap="0s")

    assert page.checkpoint == text
    assert keys([again]) == ["1"]


@pytest.mark.postgres
def test_null_before_the_first_poll_needs_a_cast_and_is_told_so(server: Server) -> None:
    server.run("INSERT INTO tickets VALUES (1, 'x', '2026-01-02T03:04:05Z')")
    plain = "SELECT * FROM tickets WHERE :checkpoint IS NULL OR updated_at > :checkpoint"
    cast = plain.replace(":checkpoint", "CAST(:checkpoint AS timestamptz)")

    for stored in (None, "2026-01-02T03:04:05+00:00"):
        with pytest.raises(BlockedError, match=r"write CAST\(:checkpoint AS timestamptz\)"):
            polled(server.url, plain, stored, checkpoint="updated_at")
    pages = polled(server.url, cast, checkpoint="updated_at")

    assert keys(pages) == keys(polled(server.url, cast, pages[-1].checkpoint, checkpoint="updated_at")) == ["1"]


@pytest.mark.postgres
def test_values_of_postgresql_become_text(server: Server) -> None:
    query = r"""SELECT 4711.0::numeric(10,0) AS id, '{"a": [1, "x"]}'::jsonb AS json, ARRAY[1,2] AS list, 1.10::numeric AS price,
        '6f1d4b2e-0000-0000-0000-000000000001'::uuid AS uuid, '\x00ff'::bytea AS bytes, true AS yes, 'NaN'::float8 AS nan,
        '2026-01-02'::date AS day, '10.0.0.1'::inet AS host, interval '90 minutes' AS lasted"""
    names = ("list", "price", "uuid", "bytes", "yes", "nan", "day", "host", "lasted")

    (page,) = polled(server.url, query, fields={"a": "json.a[1]", **{name: name for name in names}})

    assert page.records[0].key == "4711"
    assert page.records[0].fields == {
        "a": "x",
        "list": "[1,2]",
        "price": "1.10",
        "uuid": "6f1d4b2e-0000-0000-0000-000000000001",
        "bytes": "00ff",
        "yes": "true",
        "nan": "nan",
        "day": "2026-01-02",
        "host": "10.0.0.1",
        "lasted": "1:30:00",
    }


@pytest.mark.postgres
def test_a_kind_that_has_no_text_costs_its_record_alone(server: Server) -> None:
    query = "SELECT 1 AS id, NULL::int4range AS subject UNION ALL SELECT 2, '[1,5)'::int4range ORDER BY id"

    (page,) = polled(server.url, query)

    assert keys([page]) == ["1"]
    assert (
        page.malformed[0].reason == 'the column "subject" holds a Range, which has no text here; cast it in the query'
    )


@pytest.mark.postgres
def test_a_value_that_no_clock_has_blocks_and_is_not_repeated(server: Server) -> None:
    server.run("INSERT INTO tickets VALUES (1, 'x', 'infinity')")

    with pytest.raises(BlockedError, match="cast it in the query") as caught:
        polled(server.url)

    assert "infinity" not in str(caught.value)


@pytest.mark.postgres
def test_a_value_in_an_error_of_the_database_is_not_repeated(server: Server) -> None:
    server.run("INSERT INTO tickets VALUES (1, 'the patient is ill', NULL)")

    with pytest.raises(BlockedError, match="22P02") as caught:
        polled(server.url, "SELECT id, subject::int AS subject FROM tickets")

    assert "patient" not in str(caught.value)


@pytest.mark.postgres
def test_a_function_that_writes_is_stopped_by_the_transaction(server: Server) -> None:
    server.run(
        "CREATE FUNCTION sneak() RETURNS text LANGUAGE sql AS $$ INSERT INTO tickets VALUES (99, 'x', now()) RETURNING 'x' $$"
    )

    with pytest.raises(BlockedError, match="the query would write"):
        polled(server.url, "SELECT 1 AS id, sneak() AS subject")

    assert server.value("SELECT count(*) FROM tickets") == 0


@pytest.mark.postgres
def test_a_locked_table_and_a_slow_query_are_given_up(server: Server) -> None:
    with psycopg.connect(server.address) as other:
        other.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TransientError, match=r"no answer within 0\.3 s"):
            polled(server.url, timeout="300ms")
    with pytest.raises(TransientError, match=r"no answer within 0\.3 s"):
        polled(server.url, "SELECT 1 AS id, pg_sleep(60)::text AS subject", timeout="300ms")


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace("/test_", "/absent_"), "does not exist"),
        (lambda url: url.replace("//poller@", "//nobody:hunter22@"), 'role "nobody" does not exist'),
    ],
)
def test_who_is_not_let_in_is_told_where_to_look(server: Server, change: Callable[[str], str], said: str) -> None:
    with pytest.raises(BlockedError, match="check user, password and database") as caught:
        polled(change(server.url))

    assert said in str(caught.value)
    assert "hunter22" not in str(caught.value)


@pytest.mark.postgres
def test_a_missing_table_and_a_missing_right_block(server: Server) -> None:
    server.run("CREATE ROLE reader LOGIN")
    try:
        with pytest.raises(BlockedError, match='relation "absent" does not exist'):
            polled(server.url, "SELECT * FROM absent")
        with pytest.raises(BlockedError, match="permission denied"):
            polled(server.url.replace("//poller@", "//reader@"))
    finally:
        server.run("DROP ROLE reader")


@pytest.mark.postgres
def test_a_server_that_dies_in_the_middle_leaves_the_poll_open(server: Server) -> None:
    server.run("INSERT INTO tickets SELECT n, repeat('x', 10000), now() FROM generate_series(1, 3000) AS n")
    pages: Iterator[Page] = source(server.url, batch=100).poll(None)
    first = next(pages)
    server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )

    with pytest.raises(PollerError) as caught:
        list(pages)

    assert isinstance(caught.value, TransientError)
    assert not first.last


@pytest.mark.postgres
def test_nothing_is_held_between_two_polls(server: Server) -> None:
    polled(server.url)

    assert server.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1
