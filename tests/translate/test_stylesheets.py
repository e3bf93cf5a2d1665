"""Stylesheets and schemas: what they make, and that they reach nothing and never hold up another record."""

from __future__ import annotations

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lxml import etree

from poller.errors import TransientError
from poller.translate.documents import TranslateFault
from poller.translate.stylesheet import Stylesheet, StylesheetFault
from tests.translate.making import COPY, LOADING, SCHEMA, SHEET, problem, translator


def test_a_stylesheet_makes_another_document(tmp_path: Path) -> None:
    (tmp_path / "v.xsl").write_text(COPY)
    fields = {"@id": "{{ key }}", "Summary": "{{ s }}", "Note": "n"}
    made = translator(tmp_path, format="xml", root="Incident", xslt="v.xsl", fields=fields)
    for number in range(3):
        text = made.render({"s": "a < b"}, key=str(number))
        assert f'<Ticket nr="{number}"><Title>a &lt; b</Title><Note>n</Note></Ticket>' in text
    made.close()


def test_a_stylesheet_may_give_text(tmp_path: Path) -> None:
    body = '<xsl:output method="text"/><xsl:template match="/">T:<xsl:value-of select="//A"/></xsl:template>'
    (tmp_path / "v.xsl").write_text(SHEET.format(body=body))
    made = translator(tmp_path, format="xml", xslt="v.xsl", fields={"A": "x & y"})
    assert made.render({}) == "T:x & y"
    assert made.content_type == "text/plain; charset=utf-8"
    made.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('<xsl:template match="/"/>', "makes no element"),
        ('<xsl:template match="/">only text</xsl:template>', "makes no element"),
        ('<xsl:template match="/"><a/><b/></xsl:template>', "more than one outermost element"),
        ('<xsl:template match="/"><a/>text</xsl:template>', "more than one outermost element"),
        (
            '<xsl:template match="/"><xsl:message terminate="yes"><xsl:value-of select="."/></xsl:message></xsl:template>',
            "failed",
        ),
    ],
)
def test_a_stylesheet_that_gives_no_document_is_the_fault_of_the_record(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "v.xsl").write_text(SHEET.format(body=body))
    made = translator(tmp_path, format="xml", xslt="v.xsl", fields={"A": "{{ a }}"})
    with pytest.raises(TranslateFault, match=words) as caught:
        made.render({"a": "secret"})
    made.close()
    assert "secret" not in str(caught.value)


def test_cdata_of_a_stylesheet_holds_every_character_whatever_encoding_it_asks_for(tmp_path: Path) -> None:
    body = """<xsl:output method="xml" encoding="ISO-8859-1" cdata-section-elements="A"/>
    <xsl:template match="/"><A><xsl:value-of select="//A"/></A></xsl:template>"""
    (tmp_path / "v.xsl").write_text(SHEET.format(body=body))
    made = translator(tmp_path, format="xml", xslt="v.xsl", fields={"A": "{{ a }}"})
    text = made.render({"a": "<!DOCTYPE html> ☃ ]]> &#9731;"})
    made.close()
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<A><![CDATA[')
    assert etree.fromstring(text.encode("utf-8")).text == "<!DOCTYPE html> ☃ ]]> &#9731;"


def test_a_stylesheet_serves_several_threads_and_goes_on_after_its_process_was_killed() -> None:
    body = '<xsl:template match="/"><x><xsl:value-of select="."/></x></xsl:template>'
    sheet = Stylesheet(SHEET.format(body=body).encode())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(sheet.transform, [f"<a>{n}</a>" for n in range(50)])) == [f"<x>{n}</x>" for n in range(50)]
    assert sheet._process is not None
    sheet._process.kill()

    assert sheet.transform("<a>after</a>") == "<x>after</x>"
    sheet.close()


def test_what_is_not_valid_is_not_sent_and_no_text_of_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "v.xsd").write_text(SCHEMA)
    fields = {"@id": "{{ key }}", "Summary": "{{ s }}"}
    made = translator(tmp_path, format="xml", root="Incident", xsd="v.xsd", fields=fields)
    assert "short" in made.render({"s": "short"}, key="1")
    with pytest.raises(TranslateFault, match=r"not valid by v\.xsd: /Incident/Summary: ") as caught:
        made.render({"s": "much too long a secret"}, key="1")
    assert "secret" not in str(caught.value)


def test_a_schema_may_load_another_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "types.xsd").write_text(
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:simpleType name="T"><xs:restriction base="xs:int"/>'
        "</xs:simpleType></xs:schema>"
    )
    loading = LOADING.format(kind="include", where="types.xsd")
    (tmp_path / "v.xsd").write_text(loading.replace("/></", '/><xs:element name="R" type="T"/></'))
    (tmp_path / "t.j2").write_text("<R>{{ a }}</R>")
    made = translator(tmp_path, format="xml", xsd="v.xsd", template="t.j2")
    assert "<R>7</R>" in made.render({"a": "7"})
    with pytest.raises(TranslateFault, match="not valid by"):
        made.render({"a": "x"})


@pytest.mark.parametrize("kind", ["include", "import", "redefine"])
def test_s11_a_schema_loads_nothing_from_a_network(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"http://127.0.0.1:{listener.getsockname()[1]}/x.xsd"
        (tmp_path / "v.xsd").write_text(LOADING.format(kind=kind, where=where))
        (tmp_path / "outer.xsd").write_text(LOADING.format(kind="include", where="v.xsd"))
        for name in ("v.xsd", "outer.xsd"):
            assert f"v.xsd: line 2: xs:{kind} takes a file beside" in problem(tmp_path, format="xml", xsd=name)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("key", ["xslt", "xsd"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_s11_s12_no_file_of_the_settings_brings_a_document_type(tmp_path: Path, key: str, encoding: str) -> None:
    good = {"xslt": COPY, "xsd": SCHEMA}[key]
    doubling = "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    bomb = f'<!DOCTYPE a [<!ENTITY a "xxxxxxxxxx">{doubling}]>' + good.replace('"Incident"', '"&j;"')
    (tmp_path / "bomb.xml").write_bytes(bomb.encode(encoding))
    (tmp_path / "plain.xml").write_bytes(f'<!DOCTYPE a [<!ENTITY b "c">]>{good}'.encode(encoding))
    began = time.process_time()
    assert problem(tmp_path, format="xml", **{key: "bomb.xml"})
    assert time.process_time() - began < 0.5
    assert "DOCTYPE" in problem(tmp_path, format="xml", **{key: "plain.xml"})


def test_s12_a_stylesheet_nested_without_end_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "v.xsl").write_text(SHEET.format(body="<a>" * 100_000 + "</a>" * 100_000))
    assert "not well-formed" in problem(tmp_path, format="xml", xslt="v.xsl")


def test_a_template_brings_no_document_type_and_no_broken_xml(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{% if a == '1' %}<!DOCTYPE a><a/>{% else %}<a>{{ b }}<b></a>{% endif %}")
    made = translator(tmp_path, format="xml", template="t.j2")
    with pytest.raises(TranslateFault, match="DOCTYPE"):
        made.render({"a": "1", "b": ""})
    with pytest.raises(TranslateFault, match="not well-formed XML, line 1") as caught:
        made.render({"a": "2", "b": "secret"})
    assert "secret" not in str(caught.value)


def test_s14_a_stylesheet_writes_no_file_and_reaches_no_python(tmp_path: Path) -> None:
    target = tmp_path / "written.txt"
    body = f"""<xsl:template match="/"><x><e:write xmlns:e="http://icl.com/saxon" file="{target}">x</e:write>
    <s:document xmlns:s="http://exslt.org/common" href="{target}">x</s:document></x></xsl:template>"""
    (tmp_path / "v.xsl").write_text(
        SHEET.replace("version=", 'extension-element-prefixes="s" xmlns:s="http://exslt.org/common" version=').format(
            body=body
        )
    )
    made = translator(tmp_path, format="xml", xslt="v.xsl", fields={"A": "x"})
    with pytest.raises(TranslateFault):
        made.render({})
    made.close()
    assert not target.exists()


def test_s15_a_stylesheet_reads_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret.xml").write_text("<s>hidden</s>")
    body = f"""<xsl:template match="/"><x><xsl:value-of select="document('file://{tmp_path}/secret.xml')"/></x></xsl:template>"""
    (tmp_path / "v.xsl").write_text(SHEET.format(body=body))
    made = translator(tmp_path, format="xml", xslt="v.xsl", fields={"A": "x"})
    with pytest.raises(TranslateFault, match="the stylesheet failed") as caught:
        made.render({})
    made.close()
    assert "hidden" not in str(caught.value)


def test_s15_a_stylesheet_opens_no_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"http://127.0.0.1:{listener.getsockname()[1]}/x.xml"
        (tmp_path / "v.xsl").write_text(
            SHEET.format(
                body=f"""<xsl:template match="/"><x><xsl:copy-of select="document('{where}')"/></x></xsl:template>"""
            )
        )
        made = translator(tmp_path, format="xml", xslt="v.xsl", fields={"A": "x"})
        with pytest.raises(TranslateFault, match="the stylesheet failed"):
            made.render({})
        made.close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_machine_that_starts_no_process_is_no_fault_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = Stylesheet(COPY.encode())
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(TransientError):
            sheet.transform("<Incident/>")
    assert sheet.transform("<Incident/>").startswith("<Ticket")
    sheet.close()


@pytest.mark.parametrize("name", ["include", "import"])
def test_s15_a_stylesheet_loads_no_other(tmp_path: Path, name: str) -> None:
    (tmp_path / "v.xsl").write_text(SHEET.format(body=f'<xsl:{name} href="http://127.0.0.1:1/x.xsl"/>'))
    assert f"xsl:{name} is not offered" in problem(tmp_path, format="xml", xslt="v.xsl")


@pytest.mark.parametrize(
    "body",
    [
        # Calls itself for ever, and doubles a text for ever.
        """<xsl:template match="/"><x><xsl:call-template name="n"/></x></xsl:template><xsl:template name="n">
        <xsl:call-template name="n"/></xsl:template>""",
        """<xsl:template match="/"><x><xsl:call-template name="n"><xsl:with-param name="t" select="'xxxxxxxx'"/>
        </xsl:call-template></x></xsl:template><xsl:template name="n"><xsl:param name="t"/><xsl:call-template name="n">
        <xsl:with-param name="t" select="concat($t, $t)"/></xsl:call-template></xsl:template>""",
    ],
)
def test_s15_a_stylesheet_that_never_ends_is_ended_and_the_next_document_goes_through(body: str) -> None:
    sheet = Stylesheet(SHEET.format(body=body).encode(), patience=3)
    for _ in range(2):
        with pytest.raises(StylesheetFault):
            sheet.transform("<a/>")
    sheet.close()


def test_s15_a_stylesheet_that_loops_for_one_document_harms_no_other() -> None:
    nested = "".join('<xsl:for-each select="//a">' for _ in range(8)) + "<y/>" + "</xsl:for-each>" * 8
    body = f'<xsl:template match="/"><x><xsl:if test="count(//a) &gt; 20">{nested}</xsl:if></x></xsl:template>'
    sheet = Stylesheet(SHEET.format(body=body).encode(), patience=2)
    with pytest.raises(StylesheetFault, match="takes longer than 2 s"):
        sheet.transform("<r>" + "<a/>" * 40 + "</r>")
    assert sheet.transform("<r><a/></r>") == "<x/>"
    sheet.close()
