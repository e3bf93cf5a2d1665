"""
XML that is sent: built from names and texts, never by joining strings.

Characters that XML cannot carry (NUL and other controls, lone surrogates, U+FFFE, U+FFFF) become U+FFFD, the replacement
character; everything else arrives as it was. A carriage return is written as a character reference, since a reader would
take a bare one for a line feed; in attributes tabs and line feeds too, which a reader would take for blanks.

Source: XML 1.0 (fifth edition), sections 2.2 and 2.11; guarantee.md S13.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape as _escape

from lxml import etree

DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
#: Documents larger than this are refused, in characters.
LARGEST: Final = 10_000_000
#: Files of the settings beyond this are refused, in bytes.
LARGEST_OWN: Final = 1_000_000

_IMPOSSIBLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]")
_NAMESPACE: Final = re.compile(r"[!-z|~]+")

#: A path of elements, the last of which may be an attribute (``@id``), and its text; several texts: the element repeated.
Part = tuple[tuple[str, ...], Sequence[str]]


def clean(text: str) -> str:
    """Return *text* with each character that XML cannot carry replaced by U+FFFD."""
    return _IMPOSSIBLE.sub("\ufffd", text)


def escape(text: str) -> str:
    """Return *text* as it stands in an element or in an attribute of either quote."""
    return _escape(clean(text), {'"': "&quot;", "'": "&apos;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})


def check_name(name: str) -> str:
    """
    Return *name* if it can be an element's.

    Raises:
        ValueError: It cannot.
    """
    if not _NAME.fullmatch(name) or name.lower().startswith("xml"):
        raise ValueError(f'"{name[:80]}" is no name of an element: letters, digits, "_", "-" and no blank')
    return name


def check_namespace(namespace: str) -> str:
    """
    Return *namespace* if it can be one.

    Raises:
        ValueError: It cannot.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f'"{namespace[:80]}" is no namespace, such as "urn:example:vendor"')
    return namespace


def name_of(text: str) -> str:
    """Return *text* as the name of an element: what a name cannot have becomes ``_``."""
    name = _NO_NAME.sub("_", text) or "_"
    return name if _NAME.fullmatch(name) and not name.lower().startswith("xml") else f"_{name}"


def path_of(name: str) -> tuple[str, ...]:
    """
    Return the elements of a dotted name, such as ``Caller.Name`` or ``Caller.@id``.

    Raises:
        ValueError: A part of it is no name.
    """
    if not name:
        raise ValueError("a field without a name")
    *elements, last = name.split(".")
    for each in elements:
        check_name(each)
    check_name(last.removeprefix("@"))
    return (*elements, last)


def document(root: str, namespace: str | None, parts: Iterable[Part]) -> etree._Element:
    """Return the tree that *parts* make, in their order; parts with the same parents share them."""
    prefix = f"{{{namespace}}}" if namespace else ""
    tree = etree.Element(prefix + root, nsmap={None: namespace} if namespace else None)  # type: ignore[dict-item]
    for path, texts in parts:
        parent = tree
        for name in path[:-1]:
            parent = _first(parent, prefix + name)
        if path[-1].startswith("@"):
            parent.set(path[-1][1:], clean(texts[0]))
            continue
        for text in texts:
            _empty(parent, prefix + path[-1]).text = clean(text)
    return tree


def _first(parent: etree._Element, tag: str) -> etree._Element:
    found = parent.find(tag)
    return etree.SubElement(parent, tag) if found is None else found


def _empty(parent: etree._Element, tag: str) -> etree._Element:
    """Return the element that an attribute has made before its text came, else a new one."""
    found = parent.find(tag)
    return etree.SubElement(parent, tag) if found is None or found.text is not None else found


def written(tree: etree._Element) -> str:
    """Return the text of a whole document; it is UTF-8 once it is sent."""
    return DECLARATION + etree.tostring(tree, encoding="unicode") + "\n"


def parsed(text: str) -> etree._Element:
    """
    Return the root of *text*.

    Raises:
        ValueError: It is not well-formed, or brings its own document type. Tells a line, and nothing of the text.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"it is not well-formed XML, line {error.lineno}") from None
    if typed(root):
        raise ValueError("it has a document type (DOCTYPE), which is not sent")
    return root


def read_file(path: Path) -> bytes:
    """
    Return what is in a file that the settings name.

    Raises:
        ValueError: It cannot be read, or is too large for one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(data) > LARGEST_OWN:
        raise ValueError(f"{path}: is larger than {LARGEST_OWN} bytes")
    return data


def read_own(path: Path) -> etree._Element:
    """
    Return the root of a stylesheet or a schema that an admin wrote.

    Raises:
        ValueError: It cannot be read, is not well-formed, too large, or has a document type.
    """
    data = read_file(path)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"{path}: is not well-formed XML: {error.msg}") from None
    if typed(root):
        raise ValueError(f"{path}: has a document type (DOCTYPE); leave it out")
    return root


def typed(root: etree._Element) -> bool:
    """Return whether the document of *root* has a document type, in whatever encoding it came."""
    about = root.getroottree().docinfo
    return bool(about.doctype) or about.internalDTD is not None  # type: ignore[attr-defined]
