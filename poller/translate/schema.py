"""
XML schemas: what is sent is valid, or it is not sent. What is told of a fault is its place and kind, never a text.

A schema may consist of several files in one folder or below it; it loads nothing from a network, and none of its files
has a document type (guarantee.md S11, S12). Documents are checked within the daemon: a schema is an admin's own.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from lxml import etree

from poller.translate.markup import read_own

_XS = "{http://www.w3.org/2001/XMLSchema}"


class Schema:
    """
    One schema file, for any number of threads.

    Raises:
        ValueError: It is no schema, or wants something from a network; with the file and its line.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        # libxml2 keeps the errors of a validation in the schema.
        self._lock = threading.Lock()
        _check(path, set())
        try:
            self._schema = etree.XMLSchema(
                etree.parse(str(path), etree.XMLParser(resolve_entities=False, no_network=True))
            )
        except etree.XMLSchemaParseError as error:
            raise ValueError(f"{path}: is no schema: {' '.join(str(error).split())[:300]}") from None
        except (etree.XMLSyntaxError, OSError) as error:
            raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None

    def problem(self, document: str) -> str | None:
        """Return what is not valid in *document*, which is well-formed, first of all; None: all is."""
        tree = etree.fromstring(document.encode("utf-8", "replace"), etree.XMLParser(no_network=True))
        with self._lock:
            if self._schema.validate(tree):
                return None
            entries: list[Any] = list(self._schema.error_log)  # type: ignore[call-overload]
        if not entries:
            return f"not valid by {self._name}"
        first, *others = entries
        told = f"not valid by {self._name}: {first.path or 'the document'}: {first.type_name.removeprefix('SCHEMAV_')}"
        return f"{told}, and {len(others)} more" if others else told


def _check(path: Path, seen: set[Path]) -> None:
    """Look at a schema file and at all that it loads, before libxml2 does."""
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    root = read_own(path)
    for kind in ("include", "import", "redefine", "override"):
        for found in root.findall(_XS + kind):
            where = found.get("schemaLocation")
            if where is None:
                continue
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", where):
                raise ValueError(f"{path}: line {found.sourceline}: xs:{kind} takes a file beside this one, no URL")
            _check(path.parent / where, seen)
