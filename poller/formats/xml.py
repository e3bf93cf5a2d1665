"""
XML from strangers: no DOCTYPE whatever it holds, bounded in depth and in nodes, and never anything but the bytes at hand.

The caller bounds the size. What libxml2 refuses by itself changes with its version, so what matters is looked at here,
before the parser sees a byte: that takes no memory, however the document is made.

Source: lxml 6.1 (libxml2 2.14), tried in ``dependencies.md`` section 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lxml import etree

from poller.formats.decoding import FormatFault, decode
from poller.formats.interface import Expression
from poller.formats.texts import storable
from poller.formats.xpath import XPath, check_namespaces, compile_xpath

#: Deepest nesting of elements.
MAX_DEPTH = 100
#: Most elements and attributes of one document.
MAX_NODES = 500_000
#: Longest tag with its attributes, in bytes. A text may be longer.
MAX_TAG = 1_000_000

_DECLARED = re.compile(rb"<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")
#: UTF-16 without a byte order mark shows itself by its first character.
_WIDE = ((b"<\x00", "utf-16-le"), (b"\x00<", "utf-16-be"))
_ASIDE = {b"<!--": b"-->", b"<![CDATA[": b"]]>", b"<?": b"?>"}
_ASIDE_BEGINS = re.compile(rb"<!--|<!\[CDATA\[|<\?|<![A-Za-z]{1,10}(?:\s+[A-Za-z]{1,10})?")
_LONG_TAG = re.compile(rb"<[^!?<>][^<>]{%d}" % MAX_TAG)
_DEEPER = etree.XPath(f"boolean({'/*' * (MAX_DEPTH + 1)})")


def parse_xml(body: bytes, encoding: str | None = None) -> etree._Element:
    """
    Return the root element of *body*.

    Args:
        encoding: What the settings or the server state; None: what the XML declaration says, else UTF-8. A byte order
            mark counts more than either.

    Raises:
        FormatFault: Not XML, a DOCTYPE, deeper than `MAX_DEPTH`, or more than `MAX_NODES`.
    """
    text = decode(body, encoding or _stated(body)).lstrip("\ufeff \t\r\n")
    if not text:
        raise FormatFault("it is empty")
    if text[0] != "<":
        raise FormatFault("it is not XML: it does not begin with <")
    plain = text.encode()
    _look(plain)
    root = _parsed(plain)
    if etree.QName(root).localname.lower() == "html":
        raise FormatFault("it is HTML, not XML")
    if _DEEPER(root):
        raise FormatFault(f"it is nested deeper than {MAX_DEPTH}")
    return root


@dataclass(frozen=True)
class XmlDocument:
    """One XML document; its value is the root element."""

    value: etree._Element
    names: frozenset[str] | None = None

    @property
    def root(self) -> str | None:
        return str(self.value.tag)

    def rows(self, expression: Expression | None = None) -> list[object]:
        if expression is None:
            return [child for child in self.value if _element(child)]
        assert isinstance(expression, XPath)  # noqa: S101  the same format compiled it
        found = expression.nodes(self.value)
        if not isinstance(found, list) or not all(_element(node) for node in found):
            raise FormatFault(f'"{expression.text}" gives text or a number, and elements are needed')
        if not found and not expression.fits(self.value):
            # An error text in XML would otherwise pass for an empty list, and end the poll.
            raise FormatFault(f'it has another root than "{expression.text}" begins with')
        return found


class XmlFormat:
    """
    XML, and XPath 1.0 into it.

    Args:
        namespaces: Prefix -> URI, for the expressions.

    Raises:
        ValueError: A namespace that cannot be one.
    """

    name = "xml"
    accept = "application/xml, text/xml;q=0.9"
    whole = True

    def __init__(self, namespaces: Mapping[str, str] | None = None) -> None:
        self._namespaces = dict(check_namespaces(namespaces or {}))

    def compile(self, text: str) -> XPath:
        return compile_xpath(text, self._namespaces)

    def read(self, body: bytes, encoding: str | None = None) -> XmlDocument:
        return XmlDocument(parse_xml(body, encoding))

    def raw(self, row: object, limit: int) -> str:
        return storable(_written(row)[:limit])

    def comparable(self, rows: list[object]) -> list[object]:
        # Elements are equal to nothing but themselves.
        return [_written(row) for row in rows]


def _element(node: object) -> bool:
    return isinstance(node, etree._Element) and isinstance(node.tag, str)  # noqa: SLF001  lxml has no public name for it


def _written(row: Any) -> str:  # noqa: ANN401  lxml's element
    return str(etree.tostring(row, encoding="unicode", with_tail=False))


def _stated(body: bytes) -> str | None:
    for beginning, name in _WIDE:
        if body.startswith(beginning):
            return name
    found = _DECLARED.match(body.lstrip(b" \t\r\n")[:300])
    return found[1].decode() if found else None


def _look(body: bytes) -> None:
    """Refuse what must not reach the parser; comments, CDATA and instructions are passed over as the parser would."""
    if _LONG_TAG.search(body):
        raise FormatFault(f"it has a tag longer than {MAX_TAG} bytes")
    if b"<!" not in body and body.count(b"<") <= MAX_NODES and body.count(b"=") <= MAX_NODES:
        return
    nodes = 0
    for piece in _markup(body):
        nodes += piece.count(b"<") - piece.count(b"</")
        if nodes <= MAX_NODES < nodes + piece.count(b"="):
            # Attributes, however much room there is around the sign.
            close = piece.translate(None, b" \t\r\n")
            nodes += close.count(b'="') + close.count(b"='")
        if nodes > MAX_NODES:
            raise FormatFault(f"it holds more than {MAX_NODES} elements and attributes; use paging")


def _markup(body: bytes) -> Iterator[bytes]:
    """Yield what stands between comments, CDATA and instructions: tags and text."""
    position = 0
    while found := _ASIDE_BEGINS.search(body, position):
        yield body[position : found.start()]
        end = _ASIDE.get(found[0])
        if end is None:
            html = found[0].lower().split()[1:] == [b"html"]
            raise FormatFault("it is HTML, not XML" if html else "it has a DOCTYPE, which is never read")
        position = body.find(end, found.end())
        if position < 0:
            raise FormatFault("it is not XML: a comment, CDATA or an instruction does not end (cut off?)")
        position += len(end)
    yield body[position:]


def _parsed(body: bytes) -> etree._Element:
    # One parser a document: a shared one is locked while it parses.
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        collect_ids=False,
    )
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        # Its own words would quote the document.
        words = etree.ErrorTypes._getName(error.code, "ERR_SYNTAX").removeprefix("ERR_").replace("_", " ").lower()  # type: ignore[attr-defined]  # noqa: SLF001
        cut = " (cut off?)" if "not finished" in words or not body.rstrip().endswith(b">") else ""
        raise FormatFault(f"it is not XML: {words}, line {line} column {column}{cut}") from None
    info: Any = root.getroottree().docinfo
    if info.doctype or info.internalDTD is not None:
        raise FormatFault("it has a DOCTYPE, which is never read")
    return root
