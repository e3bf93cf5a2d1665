"""CSV from strangers."""

import csv
import io

import pytest
from hypothesis import given, strategies as st

from poller.formats import Flawed, FormatFault, open_format
from poller.formats.csv import MAX_CELL, MAX_COLUMNS


def rows(body: bytes | str, *, delimiter: str | None = None, encoding: str | None = None) -> list[object]:
    given = body.encode() if isinstance(body, str) else body
    return open_format("csv", delimiter=delimiter).read(given, encoding).rows()


def test_the_header_row_names_the_columns() -> None:
    found = rows('Ticket ID,title\r\n7,"a ""b"",\r\nc"\r\n8,é\r\n')

    assert found == [{"Ticket ID": "7", "title": 'a "b",\r\nc'}, {"Ticket ID": "8", "title": "é"}]
    assert open_format("csv").compile('"Ticket ID"').find(found[0]) == "7"
    assert open_format("csv").compile("title").text_of(found[1]) == "é"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_may_end_in_any_way(end: str, last: bool) -> None:
    text = end.join(["id,t", "1,a", "", "2,b", ",", *([""] if last else [])])

    assert rows(text) == [{"id": "1", "t": "a"}, {"id": "2", "t": "b"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "§"])
def test_the_delimiter_is_stated(delimiter: str) -> None:
    assert rows(f"id{delimiter}t\n1{delimiter}a,b\n", delimiter=delimiter) == [{"id": "1", "t": "a,b"}]


@pytest.mark.parametrize("delimiter", [",,", '"', "\n", "\r", "\x00"])
def test_what_is_no_delimiter(delimiter: str) -> None:
    with pytest.raises(ValueError, match="one character"):
        open_format("csv", delimiter=delimiter)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        ("id\né".encode(), None),
        (b"\xef\xbb\xbf" + "id\né".encode(), None),
        (b"\xef\xbb\xbf" + "id\né".encode(), "iso-8859-1"),
        ("id\né".encode("latin-1"), "iso-8859-1"),
        ("id\né".encode("cp1252"), "windows-1252"),
        ("id\né".encode("utf-16"), None),
        ("id\né".encode("utf-16-le"), "utf-16-le"),
    ],
)
def test_f43_text_is_read_in_the_encoding_that_is_stated(body: bytes, encoding: str | None) -> None:
    assert rows(body, encoding=encoding) == [{"id": "é"}]


def test_a_row_of_another_length_is_one_dead_letter() -> None:
    first, short, long, last = rows("id,t\n1,a\n2\n3,b,c\n4,d\n")

    assert (first, last) == ({"id": "1", "t": "a"}, {"id": "4", "t": "d"})
    assert isinstance(short, Flawed)
    assert isinstance(long, Flawed)
    assert short.reason == "the row has 1 cells, and the header row 2"
    assert long.raw == '["3","b","c"]'


def test_a_cell_too_long_is_one_dead_letter() -> None:
    first, second = rows(f"id,t\n1,{'x' * (MAX_CELL + 1)}\n2,{'x' * MAX_CELL}\n")

    assert isinstance(first, Flawed)
    assert len(first.raw) <= 64_000
    assert isinstance(second, dict)


def test_a_column_without_a_name_is_passed_over() -> None:
    assert rows("id,t,\n1,a,\n2,b,c\n") == [{"id": "1", "t": "a"}, {"id": "2", "t": "b"}]


def test_s10_a_formula_is_data() -> None:
    formula = "=cmd|' /C calc'!A0"

    assert rows(f'id,t\n1,{formula}\n2,"@SUM(1,2)"\n') == [{"id": "1", "t": formula}, {"id": "2", "t": "@SUM(1,2)"}]


BROKEN = {
    "empty": (b"", "header row"),
    "blank": (b"\r\n \r\n", "header row"),
    "html": (b"<!DOCTYPE html><html>a,b", "HTML"),
    "json list": (b"[]", "JSON"),
    "json": (b'[{"id": 1}]', "JSON"),
    "json object": (b' {"error": "x"}', "JSON"),
    "one name twice": (b"id,t, id\n", "one name twice"),
    "cut in a quoted cell": (b'id,t\n1,"abc', "cut off"),
    "cut in a row": (b"id,t\n1,abc\n2", "cut off"),
    "text behind a quote": (b'id,t\n1,"abc"d\n2,x\n', "closing quote"),
    "many columns": (b"a," * MAX_COLUMNS + b"b\n", "columns"),
    "latin-1 unstated": ("id\né".encode("latin-1"), "utf-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_f43_what_cannot_be_read_is_one_line_without_its_text(name: str) -> None:
    body, words = BROKEN[name]
    with pytest.raises(FormatFault) as caught:
        rows(body)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_nul_is_passed_on_and_made_storable() -> None:
    assert open_format("csv").compile("t").text_of(rows("id,t\n1,a\x00b\n")[0]) == "a\ufffdb"


def test_a_table_has_no_place_to_look_for_records() -> None:
    with pytest.raises(FormatFault, match="each row"):
        open_format("csv").read(b"id\n1").rows(open_format("csv").compile("id"))


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        rows(body)
    except FormatFault as fault:
        assert "\n" not in str(fault)  # noqa: PT017  either is right


CELLS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=10))
def test_what_was_written_is_read(table: list[tuple[str, str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("id", "t"), *table])

    assert rows(out.getvalue()) == [{"id": one, "t": two} for one, two in table]
