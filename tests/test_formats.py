"""JSON from strangers, expressions, keys."""

import json

import pytest
from hypothesis import given, strategies as st

from poller.formats import (
    ExpressionFault,
    FormatFault,
    JmesPath,
    KeyFault,
    Real,
    compile_expression,
    fingerprint,
    json_text,
    key_text,
    parse_json,
    to_text,
)
from poller.formats.json import MAX_DEPTH

LEAVES = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(JSON)
def test_what_was_written_is_read(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        parse_json(body)
    except FormatFault as fault:
        assert "\n" not in str(fault)  # noqa: PT017  either is right


def test_numbers_keep_their_writing() -> None:
    found = parse_json(b"[1.10, 1e5, -0.0, 123456789012345678901234567890, 1e999, " + b"9" * 5000 + b"]")

    assert isinstance(found, list)
    assert [to_text(number) for number in found] == [
        "1.10",
        "1e5",
        "-0.0",
        "123456789012345678901234567890",
        "1e999",
        "9" * 5000,
    ]
    assert found[0] > 1


def test_s33_ten_megabytes_of_digits_are_read_in_no_time() -> None:
    assert parse_json(b"[" + b"9" * 10_000_000 + b"]") == ["9" * 10_000_000]


@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_s33_depth(pair: tuple[bytes, bytes]) -> None:
    each = len(pair[0].replace(b'"a":', b""))
    levels = MAX_DEPTH // each
    parse_json(pair[0] * levels + b"1" + pair[1] * levels)

    for deeper in (levels + 1, 400, 100_000):
        with pytest.raises(FormatFault, match="nested deeper"):
            parse_json(pair[0] * deeper + b"1" + pair[1] * deeper)


@pytest.mark.parametrize("name", ["punycode", "utf-7", "unicode_escape", "zip", "nonsense", "idna", "base64"])
def test_odd_encodings_are_refused(name: str) -> None:
    with pytest.raises(FormatFault, match="encoding"):
        parse_json(b"[]", name)


def test_a_million_names_are_read() -> None:
    body = json.dumps({str(number): 1 for number in range(10**6)}).encode()

    assert len(parse_json(body)) == 10**6  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "key"), [("a", "a"), (" a ", " a "), (7, "7"), (-7, "-7"), ("007", "007"), (10**40, "1" + "0" * 40)]
)
def test_a_key_is_text_as_it_is_or_an_integer_in_decimal(value: object, key: str) -> None:
    assert key_text(value) == key


@pytest.mark.parametrize(
    "value", [None, "", 1.0, Real("1.0"), True, [], {}, "a\x00", "\ud800", "a\r\nb", "\u2028", "é" * 1001]
)
def test_anything_else_is_no_key(value: object) -> None:
    with pytest.raises(KeyFault):
        key_text(value)


@given(st.text() | st.integers(), st.text() | st.integers())
def test_two_keys_never_become_one(one: object, two: object) -> None:
    try:
        keys = key_text(one), key_text(two)
    except KeyFault:
        return

    # But for 7 and "7", on purpose: JSON, CSV and push then agree.
    assert (keys[0] == keys[1]) == (str(one) == str(two))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a..b",
        "a[",
        "foo(",
        "nofunction(a)",
        "join(a)",
        "length(a, b)",
        "a | [?nofunction(@)]",
        "'x",
        "`x",
        "a-b",
        "(" * 5000,
    ],
)
def test_a_bad_expression_is_one_line_at_load(text: str) -> None:
    with pytest.raises(ValueError, match="expression") as caught:
        compile_expression(text)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_expressions_find() -> None:
    document = {"a": {"b": [{"id": 1, "x": Real("2.50")}, {"id": 2, "x": Real("0.5")}]}, "when": "now"}

    assert compile_expression("a.b[?x > `1`].id").find(document) == [1]
    assert compile_expression("a.c.d").find(document) is None
    assert compile_expression("a.b.c").find(document) is None
    assert compile_expression("when.x").find(document) is None
    assert compile_expression("a").find(None) is None
    assert compile_expression("a").find([1]) is None
    assert compile_expression("nothing").text_of(document) == ""
    assert compile_expression('"a"."b"[1].x').text_of(document) == "0.5"


@pytest.mark.parametrize("document", [{"a": "1"}, {"a": "1", "b": 2}, None, [], "x"])
def test_an_expression_that_does_not_fit_says_so_without_the_value(document: object) -> None:
    with pytest.raises(ExpressionFault, match=r"join\(\)"):
        compile_expression("join('@', [a, b])").find(document if isinstance(document, dict) else {"a": document})


def test_a_comparison_of_unlike_things_is_a_fault_and_no_crash() -> None:
    with pytest.raises(ExpressionFault):
        compile_expression("[?a > `1`]").find([{"a": "text"}])


@given(JSON, st.sampled_from(["a", "a.b", '"".a', "a.b.c"]))
def test_the_fast_way_finds_what_jmespath_finds(document: object, text: str) -> None:
    expression = JmesPath(text)

    assert expression.find(document) == expression._parsed.search(document)


def test_the_fingerprint_knows_no_order() -> None:
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"})
    assert fingerprint({"a": "1"}) != fingerprint({"a": "2"})
    assert fingerprint({"a": "\ufffd"}) != fingerprint({"a": ""})


def test_raw_text_can_be_stored() -> None:
    raw = json_text({"a": "\ud800\x00é"}, limit=100)

    assert raw == '{"a":"\ufffd\\u0000é"}'
    assert json_text([Real("1e5")] * 100, limit=10) == "[100000.0,"
