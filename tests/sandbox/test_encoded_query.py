"""Encoded queries, without a server."""

import pytest

from poller.sandbox.encoded_query import Context, Query, Row, compiled, narrowing, parse, sorted_rows

ROWS: list[Row] = [
    {"sys_id": "1", "name": "Ann", "active": "true", "n": "9", "on": "2026-01-02 03:04:05"},
    {"sys_id": "2", "name": "bob^x", "active": "false", "n": "10", "on": "2026-01-02 03:04:06"},
    {"sys_id": "3", "name": "", "active": "true", "n": "", "on": ""},
]
COLUMNS = {"sys_id", "name", "active", "n", "on"}


def parsed(text: str) -> Query:
    return parse(text, COLUMNS.__contains__)


def found(text: str, *, case_sensitive: bool = False) -> str:
    context = Context(
        read=lambda row, name: row[name],
        script=lambda script: "ann" if script == "javascript:me" else "",
        case_sensitive=case_sensitive,
    )
    query = parsed(text)
    test = compiled(query, context)
    return "".join(row["sys_id"] for row in sorted_rows((row for row in ROWS if test(row)), query, context))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "123"),
        ("name=ann", "1"),
        ("name!=ann", "23"),
        ("name=", "3"),
        ("nameINAnn,zed", "1"),
        ("nameNOT INAnn,zed", "23"),
        ("nameLIKEOB", "2"),
        ("name*OB", "2"),
        ("nameNOT LIKEob", "13"),
        ("nameNOTLIKEob", "13"),
        ("nameSTARTSWITHa", "1"),
        ("nameENDSWITHX", "2"),
        ("name%X", "2"),
        ("nameISEMPTY", "3"),
        ("nameISNOTEMPTY", "12"),
        ("nBETWEEN9@11", "12"),
        ("n>9", "2"),
        ("n<10", "1"),
        ("on>=2026-01-02 03:04:06", "2"),
        ("on<2026-01-02 03:04:06", "1"),
        ("active=true^name=ann", "1"),
        ("active=true^ORactive=false^name=ann", "1"),
        ("name=ann^ORnameISEMPTY", "13"),
        ("active=false^NQname=ann", "12"),
        ("active=true^EQ", "13"),
        ("active=true^ORDERBYDESCsys_id", "31"),
        ("ORDERBYname", "312"),
        ("nISNOTEMPTY^ORDERBYn", "12"),
        ("name=javascript:me", "1"),
        ("name=javascript:unknown", "3"),
    ],
)
def test_a_query_finds_its_rows(text: str, expected: str) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "dropped", "expected"),
    [
        ("nmae=ann", ["nmae=ann"], "123"),
        ("nmae=ann^active=true", ["nmae=ann"], "13"),
        ("name~ann", ["name~ann"], "123"),
        ("sys_id>", ["sys_id>"], "123"),
        ("ORDERBYbogus", ["ORDERBYbogus"], "123"),
        ("active=true^NQbogus=1", ["NQbogus=1"], "123"),
        ("bogus=1^ORname=ann", ["bogus=1"], "1"),
    ],
)
def test_invalid_parts_are_dropped_and_the_rest_runs(text: str, dropped: list[str], expected: str) -> None:
    assert parsed(text).dropped == dropped
    assert found(text) == expected


def test_a_caret_in_a_value_ends_the_condition() -> None:
    assert found("name=bob^x") == ""
    assert parsed("name=bob^x").dropped == ["x"]
    assert found("name=zed^ORactive=true") == "13"


def test_case_counts_where_the_switch_says_so() -> None:
    assert found("name=ann", case_sensitive=True) == ""
    assert found("name=Ann", case_sensitive=True) == "1"


def test_only_a_condition_that_every_row_must_meet_narrows_the_search() -> None:
    assert narrowing(parsed("name=ann^active=true"), ["name"]) == ("name", ["ann"])
    assert narrowing(parsed("nameINa,b"), ["name"]) == ("name", ["a", "b"])
    assert narrowing(parsed("name=ann^ORactive=true"), ["name"]) is None
    assert narrowing(parsed("name=ann^NQactive=true"), ["name"]) is None
    assert narrowing(parsed("name=javascript:me"), ["name"]) is None
