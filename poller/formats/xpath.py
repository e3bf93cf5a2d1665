"""
XPath 1.0 expressions into XML, compiled once.

Everything that can be known without data is refused at load: the grammar, unknown functions, how many arguments they
take, and prefixes without a namespace (libxml2 finds all but the grammar while searching, and only where it gets to).
There are no regular expressions: those of EXSLT can be made to run for ever.

What is found becomes a value as XPath's own ``string()`` would have it: of several nodes the first one in the document,
of an element all text in it, of an attribute its value. White space stays; ``normalize-space(…)`` takes it off.

Source: XML Path Language 1.0, sections 3.7 (lexical structure) and 4 (core functions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lxml import etree

from poller.formats.interface import ExpressionFault
from poller.formats.texts import to_text

#: Longest expression.
MAX_EXPRESSION = 4_000

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<literal>"[^"]*"|'[^']*')
      | (?P<number>\d+(?:\.\d*)?|\.\d+)
      | (?P<variable>\$\s*[^\W\d][\w.-]*)
      | (?P<name>[^\W\d][\w.-]*(?::(?!:)(?:\*|[^\W\d][\w.-]*))?)
      | (?P<mark>::|//|\.\.|!=|<=|>=|[()\[\].@,/|+\-=<>*])
    )""",
    re.VERBOSE,
)
_OPERATORS = frozenset({"and", "or", "mod", "div"})
#: After one of these, a name is no operator and * is no multiplication (section 3.7).
_BEFORE_OPERAND = frozenset({"@", "::", "(", "[", ",", "/", "//", "|", "+", "-", "=", "!=", "<", "<=", ">", ">="})
_NODE_TYPES = frozenset({"comment", "text", "processing-instruction", "node"})
_MANY = 1_000
#: name: (fewest, most arguments)
_FUNCTIONS = {
    "boolean": (1, 1), "ceiling": (1, 1), "concat": (2, _MANY), "contains": (2, 2), "count": (1, 1), "false": (0, 0),
    "floor": (1, 1), "id": (1, 1), "lang": (1, 1), "last": (0, 0), "local-name": (0, 1), "name": (0, 1),
    "namespace-uri": (0, 1), "normalize-space": (0, 1), "not": (1, 1), "number": (0, 1), "position": (0, 0),
    "round": (1, 1), "starts-with": (2, 2), "string": (0, 1), "string-length": (0, 1), "substring": (2, 3),
    "substring-after": (2, 2), "substring-before": (2, 2), "sum": (1, 1), "translate": (3, 3), "true": (0, 0),
}  # fmt: skip
_PREFIX = re.compile(r"[A-Za-z_][\w.-]*")
_SAMPLE = etree.Element("a")
_STRING = etree.XPath("string()", smart_strings=False)


class XPath:
    """One expression; made by `compile_xpath`."""

    #: XML has no columns.
    column: str | None = None

    def __init__(self, text: str, namespaces: Mapping[str, str]) -> None:
        self.text = text
        tokens = _tokens(text)
        _check(tokens, namespaces)
        self._compiled = etree.XPath(text, namespaces=dict(namespaces), regexp=False, smart_strings=False)
        self._compiled(_SAMPLE)
        self._root = _compiled_root(tokens, namespaces)

    def __repr__(self) -> str:
        return f"XPath({self.text!r})"

    def nodes(self, context: Any) -> object:  # noqa: ANN401  an element, which other formats have not
        """
        Return what the expression gives, as lxml does: a list of nodes, or text, a number or a boolean.

        Raises:
            ExpressionFault: It does not fit the document.
        """
        try:
            return self._compiled(context)
        except (etree.XPathError, TypeError, ValueError) as error:
            raise ExpressionFault(f'"{self.text}" does not fit the value ({type(error).__name__})') from None

    def fits(self, root: etree._Element) -> bool:
        """Return whether the document has the root that an expression such as ``/tickets/ticket`` begins with."""
        return self._root is None or bool(self._root(root))

    def find(self, document: object) -> Any:  # noqa: ANN401  text, a number, a boolean or None
        found = self.nodes(document)
        if isinstance(found, list):
            return _value(found[0]) if found else None
        if isinstance(found, float):
            if found != found:  # noqa: PLR0124  not a number: what XPath gives for a text that is none
                return None
            return int(found) if found.is_integer() else found
        return found

    def text_of(self, document: object) -> str:
        return to_text(self.find(document))


def compile_xpath(text: str, namespaces: Mapping[str, str]) -> XPath:
    """
    Compile *text*.

    Args:
        namespaces: Prefix -> URI; checked by `check_namespaces`.

    Raises:
        ValueError: One line that says what is wrong with it.
    """
    if not text.strip():
        raise ValueError("bad XPath: it is empty")
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"the XPath is longer than {MAX_EXPRESSION} characters")
    try:
        return XPath(text, namespaces)
    except etree.XPathError as error:
        said = " ".join(str(error).split()) or "it does not make sense"
        raise ValueError(f"bad XPath: {said[:1].lower()}{said[1:]}") from None
    except ValueError as error:
        raise ValueError(f"bad XPath: {error}") from None


def check_namespaces(namespaces: Mapping[str, str]) -> Mapping[str, str]:
    """
    Return *namespaces* if expressions can use them.

    Raises:
        ValueError: A prefix or an address cannot be one.
    """
    for prefix, uri in namespaces.items():
        if not _PREFIX.fullmatch(prefix) or prefix in {"xml", "xmlns"}:
            raise ValueError("a prefix is made of letters, digits, _ and -, and begins with a letter")
        if not uri or not uri.isprintable():
            raise ValueError(f'the namespace of prefix "{prefix}" is the address that stands in the document\'s xmlns')
    return namespaces


def string_of(node: etree._Element) -> str:
    """Return the text of an element, as XPath's ``string()`` would have it."""
    return str(_STRING(node))


def _value(node: Any) -> object:  # noqa: ANN401  lxml's nodes have no common type
    if isinstance(node, str):
        return node
    if isinstance(node, tuple):
        return node[1]  # the namespace axis
    if len(node) == 0 and isinstance(node.tag, str):
        return node.text or ""
    # Comments and processing instructions have their text alone.
    return string_of(node) if isinstance(node.tag, str) else node.text or ""


def _tokens(text: str) -> list[tuple[str, str, int]]:
    """Return kind, text and end of each word; an operator's name has the kind mark."""
    found: list[tuple[str, str, int]] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f'unexpected "{text[position:].lstrip()[:1]}" at column {position + 1}')
        kind, word = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "name" and word in _OPERATORS and found and found[-1][1] not in _BEFORE_OPERAND | _OPERATORS:
            kind = "mark"
        found.append((kind, word, match.end()))
        position = match.end()
    return found


def _check(tokens: list[tuple[str, str, int]], namespaces: Mapping[str, str]) -> None:
    """Refuse unknown functions, wrong numbers of arguments, variables, and prefixes without a namespace."""
    calls: list[tuple[str, int] | None] = []
    for index, (kind, word, _) in enumerate(tokens):
        following = tokens[index + 1][1] if index + 1 < len(tokens) else ""
        called = index > 0 and tokens[index - 1][0] == "name" and tokens[index - 1][1] not in _NODE_TYPES
        if kind == "variable":
            raise ValueError("there are no variables here")
        if kind == "name":
            _check_name(word, namespaces, calls=following == "(")
        elif word == "(":
            calls.append((tokens[index - 1][1], 0 if following == ")" else 1) if called else None)
        elif word == "[":
            calls.append(None)
        elif word == "," and calls and calls[-1]:
            calls[-1] = (calls[-1][0], calls[-1][1] + 1)
        elif word in {")", "]"} and calls and (call := calls.pop()):
            _check_call(*call)


def _check_name(name: str, namespaces: Mapping[str, str], *, calls: bool) -> None:
    prefix, colon, _ = name.partition(":")
    if calls and name not in _FUNCTIONS and name not in _NODE_TYPES:
        raise ValueError(f"no function {name}(); known: {', '.join(sorted(_FUNCTIONS))}")
    if colon and prefix != "xml" and prefix not in namespaces:
        raise ValueError(f'the prefix "{prefix}" is not among namespaces')


def _check_call(name: str, count: int) -> None:
    fewest, most = _FUNCTIONS[name]
    if not fewest <= count <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}" if most < _MANY else f"{fewest} or more"
        raise ValueError(f"{name}() takes {wanted} argument{'s' * (wanted != '1')}, not {count}")


def _compiled_root(tokens: list[tuple[str, str, int]], namespaces: Mapping[str, str]) -> etree.XPath | None:
    """Return ``/tickets`` of ``/tickets/ticket``, None where an expression says nothing of the root."""
    if len(tokens) < 3 or tokens[0][1] != "/" or tokens[1][0] != "name" or tokens[2][1] not in {"/", "//"}:
        return None
    if any(word == "|" for _, word, _ in tokens):
        return None
    return etree.XPath(f"/{tokens[1][1]}", namespaces=dict(namespaces), regexp=False, smart_strings=False)
