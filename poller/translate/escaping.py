"""
Templates of whole documents: each value that they write is escaped as the document's format asks.

A record's text then stays a text, whatever stands in it: it can neither end an element nor add a key. Escaping happens
once, where a value is written; blocks whose written text is used again as a value would be escaped twice and are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from jinja2 import nodes
from jinja2.exceptions import TemplateAssertionError

from poller.translate.bounded import Bounded, Json, finalized

_TWICE = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)


class Escaping(Bounded):
    """An environment whose templates pass each value that they write through *escape*."""

    def __init__(self, escape: Callable[[str], str]) -> None:
        super().__init__(lambda value: escape(value if isinstance(value, Json) else finalized(value)))

    def refuse_unknown(self, tree: nodes.Template) -> None:
        """Raise for what would only be found while rendering, and for blocks whose values would be escaped twice."""
        super().refuse_unknown(tree)
        for kind in _TWICE:
            for node in tree.find_all(kind):
                said = "macro, call, filter and set blocks are not offered in JSON and XML documents; use filters on values"
                raise TemplateAssertionError(said, node.lineno)


def escape_json(text: str) -> str:
    """Return *text* as it stands between the quotes of a JSON text; what ``tojson`` gave has its quotes and stays."""
    return text if isinstance(text, Json) else json.dumps(text, ensure_ascii=False)[1:-1]
