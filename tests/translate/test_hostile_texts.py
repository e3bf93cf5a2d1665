"""Hostile texts in what goes out: they arrive as they were, by readers that nobody here wrote."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import require_or_skip
from tests.translate.making import SHEET, translator

#: What XML cannot carry, what it treats in its own way, and what looks like markup.
HOSTILE = [
    "plain", "ünï ☃ 😀", "a & b < c > d", "]]>", "<!-- x -->", "<![CDATA[x]]>", "&amp; &#65;", "tab\there", "two\nlines",
    "carriage\r\nreturn", "\x00nul", "\x08 \x0b \x1f", "\ufffe\uffff", "\ud800 lone", "lone \udfff", "'quote' \"double\"",
    " leading and trailing ", "{{7*7}}", "{% raw %}", "<?xml version='1.0'?>", "\u2028\u2029", "\u202eabc", "x" * 5000,
]  # fmt: skip


def arrived(text: str) -> str:
    """What a reader of XML gets, by the documented rule."""
    return "".join("\ufffd" if _impossible(each) else each for each in text)


def _impossible(each: str) -> bool:
    code = ord(each)
    return (code < 0x20 and each not in "\t\n\r") or 0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF)


def hostile(dice: random.Random) -> str:
    return " ".join(dice.choice(HOSTILE) for _ in range(dice.randint(1, 4)))


@pytest.mark.parametrize("by", ["fields", "template", "xslt"])
def test_s13_a_thousand_hostile_incidents_arrive_as_they_were(tmp_path: Path, by: str) -> None:
    require_or_skip(shutil.which("xmllint"), "xmllint (Debian: libxml2-utils)")
    (tmp_path / "t.j2").write_text('<Incident id="{{ key }}"><Summary>{{ s }}</Summary></Incident>')
    body = (
        '<xsl:template match="@*|node()"><xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy></xsl:template>'
    )
    (tmp_path / "v.xsl").write_text(SHEET.format(body=body))
    fields = {"@id": "{{ key }}", "Summary": "{{ s }}"}
    by_name: dict[str, dict[str, Any]] = {
        "fields": {"root": "Incident", "fields": fields},
        "template": {"template": "t.j2"},
        "xslt": {"root": "Incident", "fields": fields, "xslt": "v.xsl"},
    }
    made = translator(tmp_path, format="xml", **by_name[by])
    dice = random.Random(7)
    texts = [(hostile(dice), hostile(dice)) for _ in range(1000)]
    names = []
    for number, (text, key) in enumerate(texts):
        name = tmp_path / f"{number:04}.xml"
        name.write_bytes(made.render({"s": text}, key=key).encode("utf-8"))
        names.append(str(name))
    made.close()

    marks = "@@TEXT@@", "@@KEY@@", "@@END@@"
    asked = f"concat('{marks[0]}', /Incident/Summary, '{marks[1]}', /Incident/@id, '{marks[2]}')"
    told = subprocess.run(["xmllint", "--nonet", "--xpath", asked, *names], capture_output=True, check=False)
    assert (told.returncode, told.stderr) == (0, b"")
    values = re.findall("{}(.*?){}(.*?){}\n".format(*marks), told.stdout.decode("utf-8"), re.DOTALL)
    assert values == [(arrived(text), arrived(key)) for text, key in texts]


def test_s13_json_carries_every_text_but_nul_and_lone_surrogates(tmp_path: Path) -> None:
    made = translator(tmp_path, fields={"a": "{{ a }}"})
    for text in HOSTILE:
        back = json.loads(made.render({"a": text}).encode("utf-8"))["a"]
        assert back == "".join("\ufffd" if each == "\x00" or 0xD800 <= ord(each) < 0xE000 else each for each in text)
