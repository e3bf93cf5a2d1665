"""What goes out: documents made of fields or by a template, and what is wrong with the settings for them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from poller.translate.documents import TranslateFault
from tests.translate.making import SCHEMA, SHEET, problem, translator


def test_json_is_nested_by_dots_and_lists_are_arrays(tmp_path: Path) -> None:
    made = translator(
        tmp_path,
        fields={"id": "{{ key }}", "caller.name": "{{ who }}", "tags": ["{{ a }}"], "caller.mail": "{{ none }}"},
    )
    text = made.render({"who": 'A "B"', "a": "x", "none": ""}, key="7")
    assert json.loads(text) == {"id": "7", "caller": {"name": 'A "B"'}, "tags": ["x"]}


def test_fields_left_out_are_the_sources_own(tmp_path: Path) -> None:
    assert json.loads(translator(tmp_path).render({"a.b": "1", "c": ""}, key="7")) == {"a.b": "1"}


def test_xml_has_attributes_nesting_and_repeated_elements(tmp_path: Path) -> None:
    fields = {"@id": "{{ key }}", "Caller.@vip": "yes", "Caller.Name": "{{ who }}", "Note": ["{{ a }}", "{{ b }}"]}
    made = translator(tmp_path, format="xml", root="Incident", fields=fields)
    text = made.render({"who": "Eva & Co", "a": "1", "b": "2", "empty": ""}, key="INC1")
    assert text == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Incident id="INC1"><Caller vip="yes"><Name>Eva &amp; Co</Name></Caller><Note>1</Note><Note>2</Note></Incident>\n'
    )


def test_an_attribute_may_stand_before_the_text_of_its_element(tmp_path: Path) -> None:
    made = translator(tmp_path, format="xml", fields={"Caller.@id": "7", "Caller": "Eva", "Note": ["a", "b", "a"]})
    text = made.render({})
    assert '<Record><Caller id="7">Eva</Caller><Note>a</Note><Note>b</Note><Note>a</Note></Record>' in text


def test_names_of_the_source_become_names_that_xml_can_have(tmp_path: Path) -> None:
    fields = {"Short text": "1", "2nd": "2", "@id": "3", "xmlish": "4", "a.b": "5", "": "6", "a_b": "7", "a b": "8"}
    text = translator(tmp_path, format="xml").render(fields)
    assert (
        "<Record><Short_text>1</Short_text><_2nd>2</_2nd><_id>3</_id><_xmlish>4</_xmlish><a.b>5</a.b><_>6</_>"
        "<a_b>7</a_b><a_b>8</a_b></Record>"
    ) in text


def test_a_namespace_is_that_of_all_elements(tmp_path: Path) -> None:
    made = translator(tmp_path, format="xml", namespace="urn:v", fields={"A.B": "x"})
    assert '<Record xmlns="urn:v"><A><B>x</B></A></Record>' in made.render({})


def test_text_is_a_line_for_each_field(tmp_path: Path) -> None:
    assert translator(tmp_path, format="text", fields={"A": "{{ a }}", "B": ""}).render({"a": "1"}) == "A: 1\n"


def test_a_template_file_makes_the_whole_document_with_its_values_escaped(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("<T>{% if a %}{{ a|upper }}{% endif %}</T>")
    made = translator(tmp_path, format="xml", template="t.j2")
    assert "<T>&lt;X&gt; &amp; Y</T>" in made.render({"a": "<x> & y"})


def test_s10_a_record_adds_nothing_to_a_json_template(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text('{"a": "{{ a }}", "b": {{ a|tojson }}, "c": "{{ a|upper }}"}')
    hostile = 'x", "admin": "yes\\'
    text = translator(tmp_path, template="t.j2").render({"a": hostile})
    assert json.loads(text) == {"a": hostile, "b": hostile, "c": hostile.upper()}


def test_a_json_template_has_to_give_json(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text('{"a": {{ a }}}')
    made = translator(tmp_path, template="t.j2")
    assert json.loads(made.render({"a": "7"})) == {"a": 7}
    for text in ("secret", "secret, 1", "NaN", "[" * 100_000):
        with pytest.raises(TranslateFault, match="gives no JSON") as caught:
            made.render({"a": text})
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"format": "xml", "fields": {"a b": "x"}}, "no name of an element"),
        ({"format": "xml", "root": "1st"}, "no name of an element"),
        ({"format": "json", "root": "A"}, 'only for format = "xml"'),
        ({"fields": {"a": "x", "a.b": "y"}}, "has a text of its own"),
        ({"fields": {"a": "{{ x"}}, "bad template"),
        ({"format": "xml", "xslt": "none.xsl"}, "No such file"),
        ({"format": "xml", "xslt": "bad.xml"}, "is no stylesheet"),
        ({"format": "xml", "xslt": "broken.xml"}, "not well-formed"),
        ({"format": "xml", "xsd": "bad.xml"}, "is no schema"),
        ({"format": "xml", "template": "bad.j2"}, "bad template"),
        ({"template": "good.j2", "fields": {"a": "x"}}, "leave fields or template out"),
        ({"format": "xml", "fields": {"@id": ["a", "b"]}}, "an attribute has one text"),
        ({"format": "xml", "fields": {"A": "x", "A.B": "y"}}, "has a text of its own"),
        ({"format": "xml", "fields": {"A": ["x", "y"], "A.@id": "y"}}, "has a text of its own"),
        ({"format": "xml", "fields": {"A..B": "x"}}, "no name of an element"),
        ({"fields": {"a..b": "x"}}, "an empty part between its dots"),
        ({"format": "xml", "namespace": "a b"}, "is no namespace"),
        ({"format": "xml", "namespace": "urn:a", "template": "good.j2"}, "leave namespace or template out"),
        ({"format": "xml", "xslt": "html.xsl"}, "html.xsl: line 2: the output method is xml or text"),
        ({"format": "xml", "xslt": "text.xsl", "xsd": "good.xsd"}, "is text, which no schema describes"),
        ({"format": "xml", "xslt": "wrong.xsl"}, "wrong.xsl: line 2: is no stylesheet"),
        ({"format": "xml", "template": "latin.j2"}, "is not UTF-8"),
        ({"template": "macro.j2"}, "use filters on values (line 2 of the template)"),
        ({"template": "large.j2"}, "is larger than"),
    ],
)
def test_what_is_wrong_is_told_when_the_settings_are_read(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    (tmp_path / "bad.xml").write_text("<a/>")
    (tmp_path / "broken.xml").write_text("<a>")
    (tmp_path / "bad.j2").write_text("{% if %}")
    (tmp_path / "good.j2").write_text("{{ a }}")
    (tmp_path / "html.xsl").write_text(SHEET.format(body='<xsl:output method="html"/>'))
    (tmp_path / "text.xsl").write_text(SHEET.format(body='<xsl:output method="text"/>'))
    (tmp_path / "wrong.xsl").write_text(SHEET.format(body='<xsl:template match="/["/>'))
    (tmp_path / "good.xsd").write_text(SCHEMA)
    (tmp_path / "latin.j2").write_bytes(b"\xff")
    (tmp_path / "macro.j2").write_text("{}\n{% set a %}{% endset %}")
    (tmp_path / "large.j2").write_text("x" * 1_000_001)
    assert words in problem(tmp_path, **keys)


def test_f73_what_is_missing_is_the_fault_of_one_record(tmp_path: Path) -> None:
    made = translator(tmp_path, fields={"a": "{{ a }}"})
    with pytest.raises(TranslateFault, match="undefined"):
        made.render({})
    assert made.render({"a": "1"}) == '{"a": "1"}'


def test_s16_a_template_file_reaches_nothing_of_python(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("<a>{{ a.__class__.__mro__ }}</a>")
    with pytest.raises(TranslateFault):
        translator(tmp_path, format="xml", template="t.j2").render({"a": "x"})


@pytest.mark.parametrize(
    "text", ["{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "{{ 'x' * 10**9 }}"]
)
def test_s16_a_template_file_ends_in_time_and_within_its_size(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.j2").write_text(f"<a>{text}</a>")
    began = time.process_time()
    with pytest.raises(TranslateFault):
        translator(tmp_path, format="xml", template="t.j2").render({})
    assert time.process_time() - began < 5


def test_s17_template_text_in_a_record_stays_as_it_is(tmp_path: Path) -> None:
    assert json.loads(translator(tmp_path, fields={"a": "{{ a }}"}).render({"a": "{{7*7}}"})) == {"a": "{{7*7}}"}
