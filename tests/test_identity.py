"""Who a record is (guarantee 2.2): stable for ever, so the values themselves are pinned here."""

import re

from hypothesis import given, strategies as st

from poller.identity import correlation_display, correlation_id, derived_sys_id, malformed_key

TEXT = st.text(max_size=200)


def test_two_values_are_what_they_were_in_the_first_release() -> None:
    # Changed values would make every installation create all of its incidents a second time.
    assert correlation_id("acme-prod", "helpdesk", "4711") == "acme-prod:6ceb4c8f:412908caabf25a99ef22839a3376a077"
    assert correlation_id("demo", "büro", "schlüssel ^ 🔑") == "demo:8ae861f4:e123f8ddc8b0c37d836aed384058f77f"


def test_the_tail_of_the_correlation_id_is_the_derived_sys_id() -> None:
    assert correlation_id("p", "r", "k")[-32:] == derived_sys_id("p", "r", "k")


@given(st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True), TEXT, TEXT)
def test_only_plain_characters_and_at_most_a_hundred(prefix: str, route: str, key: str) -> None:
    found = correlation_id(prefix, route, key)

    assert re.fullmatch(r"[a-z0-9:-]{43,100}", found)
    assert found.startswith(f"{prefix}:")
    assert re.fullmatch(r"[0-9a-f]{32}", derived_sys_id(prefix, route, key))


@given(st.lists(TEXT, min_size=3, max_size=3), st.lists(TEXT, min_size=3, max_size=3))
def test_other_parts_are_another_record(one: list[str], other: list[str]) -> None:
    same = one == other

    assert (derived_sys_id(*one) == derived_sys_id(*other)) is same


def test_parts_do_not_run_into_each_other() -> None:
    found = {
        derived_sys_id(*parts)
        for parts in [
            ("a", "b", "c"),
            ("ab", "", "c"),
            ("a", "bc", ""),
            ("", "ab", "c"),
            ("a", "", "bc"),
            ("", "", "abc"),
        ]
    }

    assert len(found) == 6


def test_a_key_that_no_encoding_knows_has_an_identity_all_the_same() -> None:
    assert derived_sys_id("p", "r", "\ud800") != derived_sys_id("p", "r", "\ud801")
    assert malformed_key("\udfff") != malformed_key("\ud800")


def test_the_display_fits_its_column() -> None:
    assert correlation_display("helpdesk", "4711") == "helpdesk/4711"
    assert len(correlation_display("helpdesk", "x" * 500)) == 100


def test_a_record_without_a_key_is_the_same_each_time() -> None:
    assert malformed_key('{"a": 1}') == malformed_key('{"a": 1}')
    assert malformed_key('{"a": 1}') != malformed_key('{"a": 2}')
