"""Texts that fit their columns: nothing is lost that there is room for, no sign is taken apart, no record fails."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, strategies as st

from poller.clients.dictionary import DELIVERED, Column
from poller.clients.servicenow import ServiceNowClient
from poller.model import Ready
from poller.sandbox.sandbox import Sandbox
from poller.sinks.lengths import MARK, cut, fit, units
from poller.sinks.servicenow import ServiceNowSink
from tests.sinks.house import body, calls, make, prepare, record

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
SIGNS = ["a", "é", "e\u0301", "🙂", "👍🏽", FAMILY, "🇩🇪", "한", "\r\n", "ก\u0e33", "❤\ufe0f", "\n"]


def mix(*signs: str) -> str:
    return "".join(signs)


@given(st.lists(st.sampled_from(SIGNS), max_size=120), st.integers(1, 200))
def test_a_cut_text_fits_begins_like_the_whole_and_takes_no_sign_apart(signs: list[str], most: int) -> None:
    text = mix(*signs)

    short = cut(text, most)

    assert units(short) <= most
    kept = short.removesuffix(MARK) if short != text else text
    assert text.startswith(kept)
    rest = text[len(kept) :]
    if most < 60:
        return  # one sign alone may be longer than there is room
    assert not rest or (rest[0] != "\u200d" and not unicodedata.category(rest[0]).startswith("M"))
    assert not (kept.endswith(("\u200d", "\r")) and rest)
    if rest:
        assert any(mix(*signs[:n]) == kept for n in range(len(signs) + 1)) or _flags(kept, rest)


def _flags(kept: str, rest: str) -> bool:
    return "\U0001f1e6" <= kept[-1] <= "\U0001f1ff" and "\U0001f1e6" <= rest[0] <= "\U0001f1ff" and len(kept) % 2 == 0


@given(st.text(max_size=400), st.integers(0, 300))
def test_any_text_can_be_cut(text: str, most: int) -> None:
    text = text.encode("utf-8", "replace").decode()

    short = cut(text, most)

    assert units(short) <= most or not most
    assert (short == text) == (units(text) <= most) or most == 0


def test_length_is_counted_as_java_does() -> None:
    assert [units(text) for text in ("abc", "äöü", "山", "🙂", "e\u0301")] == [3, 3, 1, 2, 2]
    assert cut("🙂" * 80, 160) == "🙂" * 80
    assert cut("🙂" * 81, 160) == "🙂" * 76 + MARK
    assert cut("x" * 170, 160) == "x" * 152 + MARK


def test_marks_without_end_are_cut_somewhere() -> None:
    assert len(cut("e" + "\u0301" * 1000, 160)) == 160


def test_the_whole_of_a_title_stands_in_the_description() -> None:
    fitted, notes = fit({"short_description": "t" * 300, "description": "text"}, DELIVERED)

    assert fitted["short_description"] == "t" * 152 + MARK
    assert fitted["description"] == f"text\n\n[short_description] {'t' * 300}"
    assert notes == {"short_description": "cut to 160 of 300 characters; the whole is in description"}


def test_where_the_description_has_no_room_it_is_a_work_note() -> None:
    fitted, notes = fit({"short_description": "t" * 300, "description": "d" * 3900}, DELIVERED)

    assert fitted["description"] == "d" * 3900
    assert fitted["work_notes"] == f"[short_description] {'t' * 300}"
    assert notes == {"short_description": "cut to 160 of 300 characters; the whole is in work_notes"}


def test_a_description_goes_on_in_a_work_note() -> None:
    text = "".join(f"{n:05d} " for n in range(1000))

    fitted, notes = fit({"description": text}, DELIVERED)

    head = fitted["description"].removesuffix(MARK)
    assert fitted["work_notes"] == f"[description, continued] {text[len(head) :]}"
    assert notes == {"description": "cut to 4000 of 6000 characters; more of it is in work_notes"}


def test_a_text_beyond_all_room_is_kept_as_far_as_there_is_room() -> None:
    fitted, notes = fit({"description": "x" * 200_000}, DELIVERED)

    assert [units(fitted[name]) for name in ("description", "work_notes")] == [4000, 4000]
    assert fitted["work_notes"].endswith(MARK)
    assert notes == {"description": "cut to 4000 of 200000 characters; more of it is in work_notes"}


def test_without_another_place_the_rest_is_told_to_be_lost() -> None:
    columns = {"u_title": Column(kind="string", length=40)}

    fitted, notes = fit({"u_title": "x" * 50}, columns)

    assert fitted == {"u_title": "x" * 32 + MARK}
    assert notes == {"u_title": "cut to 40 of 50 characters; the rest is not kept"}


def test_columns_of_other_kinds_and_unknown_ones_are_left_as_they_are() -> None:
    given = {"u_list": "a," * 100, "urgency": "1" * 50, "u_unknown": "x" * 9000}
    columns = {"u_list": Column(kind="glide_list", length=40), "urgency": Column(kind="integer", length=40)}

    assert fit(given, columns) == (given, {})


@given(st.dictionaries(st.sampled_from([*DELIVERED, "u_x"]), st.text(max_size=50).map(lambda text: text * 150)))
def test_whatever_comes_fits_and_fails_nothing(given_: dict[str, str]) -> None:
    texts = {name: text for name, text in given_.items() if text}

    fitted, notes = fit(texts, DELIVERED)

    for name, text in fitted.items():
        column = DELIVERED.get(name)
        if column is not None and column.kind != "reference":
            assert column.length is not None
            assert units(text) <= column.length
        elif name in texts:
            assert text == texts[name]
    assert notes.keys() <= texts.keys()
    assert fit(texts, DELIVERED) == (fitted, notes)


# With the sandbox's dictionary.


def test_the_length_is_that_of_the_dictionary_and_it_is_read_once(sandbox: Sandbox, client: ServiceNowClient) -> None:
    sink = make(client, fields={"close_notes": "{{ title }}", "subcategory": "{{ title }}", "description": "x"})

    frozen, *_ = [body(prepare(sink, record(key, title="t" * 300))[0]) for key in ("1", "2", "3")]

    assert frozen["close_notes"] == "t" * 300
    assert frozen["subcategory"] == "t" * 32 + MARK
    assert (calls(sandbox, "sys_dictionary"), calls(sandbox, "sys_db_object")) == (1, 0)


@pytest.mark.parametrize("switches", [{"forbid_tables": ["sys_dictionary"]}, {"hide_tables": ["sys_dictionary"]}])
def test_without_a_dictionary_columns_are_as_delivered(
    sandbox: Sandbox, sink: ServiceNowSink, switches: dict[str, list[str]]
) -> None:
    sandbox.switches.change(switches)

    frozen = body(prepare(sink, record(title="t" * 300))[0])

    assert frozen["short_description"] == "t" * 152 + MARK
    assert "t" * 300 in frozen["description"]
    why = sink.bodies.dictionary.columns().why
    assert why is not None
    assert "sys_dictionary" in why
    prepare(sink, record("2"))
    assert calls(sandbox, "sys_dictionary") == 1


def test_a_frozen_body_is_the_same_each_time(client: ServiceNowClient) -> None:
    given_ = record(title=FAMILY * 100, description="é" * 5000)

    frozen = {json.dumps(body(prepare(make(client), given_)[0])) for _ in range(3)}

    assert len(frozen) == 1


def test_what_was_cut_is_told_once_and_without_the_text(sink: ServiceNowSink, caplog: pytest.LogCaptureFixture) -> None:
    prepared = prepare(sink, record("1", title="secret " * 100), record("2", title="secret " * 100))

    assert all(isinstance(one, Ready) for one in prepared)
    told = [record.getMessage() for record in caplog.records if "text_cut" in record.getMessage()]
    assert len(told) == 1
    assert "secret" not in told[0]
