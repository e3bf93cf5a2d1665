"""What the tests of the message translator are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from poller.translate.documents import DocumentSettings, Translator

SHEET = """<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
{body}
</xsl:stylesheet>"""
COPY = SHEET.format(
    body="""<xsl:template match="/Incident"><Ticket nr="{@id}"><Title><xsl:value-of select="Summary"/></Title>
<xsl:copy-of select="Note"/></Ticket></xsl:template>"""
)
LOADING = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
<xs:{kind} schemaLocation="{where}"/></xs:schema>"""
SCHEMA = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
<xs:element name="Incident"><xs:complexType><xs:sequence>
<xs:element name="Summary"><xs:simpleType><xs:restriction base="xs:string"><xs:maxLength value="10"/></xs:restriction>
</xs:simpleType></xs:element>
</xs:sequence><xs:attribute name="id" use="required"/></xs:complexType></xs:element></xs:schema>"""


def settings(folder: Path, **keys: Any) -> DocumentSettings:
    return DocumentSettings.model_validate(keys, context={"base": folder})


def translator(folder: Path, **keys: Any) -> Translator:
    return Translator(settings(folder, **keys))


def problem(folder: Path, **keys: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(folder, **keys)
    return str(caught.value.errors()[0]["msg"])
