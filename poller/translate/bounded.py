"""
The bounded Jinja environment behind `poller.translate`.

Jinja's own sandbox keeps a template away from Python, but not from the memory: ``'a' * 10**9``, ``x ~ x`` in a loop or
``|center(10**9)`` make what they are told to. Here everything that can make much out of little is bounded beforehand,
and the filters are a list of known ones. Tried and found necessary in ``docs/decisions.md``.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
from jinja2 import StrictUndefined, Undefined, nodes, pass_environment
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.filters import (
    do_capitalize,
    do_format,
    do_indent,
    do_round,
    do_striptags,
    do_sum,
    do_title,
    do_truncate,
    do_urlencode,
)
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from poller.formats.texts import to_text

#: Most characters of a rendered text, and of any text on the way to it.
MAX_OUTPUT = 1_000_000
#: Most CPU seconds of one rendering. Of this thread alone, so that a busy machine makes no faults.
MAX_SECONDS = 1.0
_MAX_BITS = 10_000

# Words in a text, since forty lines of quotes read worse.
_AS_THEY_ARE = (  # noqa: SIM905
    "abs count d default dictsort first float groupby int items last length list map max min reject "
    "rejectattr reverse select selectattr sort unique"
).split()
_TEXT_METHODS = (  # noqa: SIM905
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace "
    "istitle isupper lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip "
    "split splitlines startswith strip swapcase title upper"
).split()
_LIST_METHODS = frozenset({"count", "index"})
_DICT_METHODS = frozenset({"get", "items", "keys", "values"})
_WIDTH = re.compile(r"\*|\d{4,}")


class Bounded(ImmutableSandboxedEnvironment):
    """No loader, undefined names are faults, and nothing in it can grow without bound."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, finalize: Callable[[object], str] | None = None) -> None:
        super().__init__(
            undefined=StrictUndefined,
            finalize=finalize or finalized,
            keep_trailing_newline=True,
            autoescape=False,
            # Constant folding would write values in Python's way, not in ours.
            optimized=False,
        )
        self._local = threading.local()
        known = self.filters
        self.filters = {name: known[name] for name in _AS_THEY_ARE} | _text_filters()
        self.globals.pop("lipsum", None)
        # What generated code joins its pieces with, for the whole text and for every buffer within.
        self.concat = self.join_pieces  # type: ignore[method-assign]

    def refuse_unknown(self, tree: nodes.Template) -> None:
        """
        Raise for what would only be found while rendering.

        Jinja lets an unknown filter inside ``{% if %}`` through until it is reached.
        """
        for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
            for node in tree.find_all(kind):
                raise TemplateAssertionError("a template cannot load others", node.lineno)
        for filtered in tree.find_all(nodes.Filter):
            self._known(filtered.name, self.filters, "filter", filtered.lineno)
            first = filtered.args[0] if filtered.args else None
            if isinstance(first, nodes.Const) and isinstance(first.value, str):
                if filtered.name == "map":
                    self._known(first.value, self.filters, "filter", filtered.lineno)
                elif filtered.name in {"select", "reject"}:
                    self._known(first.value, self.tests, "test", filtered.lineno)
        for test in tree.find_all(nodes.Test):
            self._known(test.name, self.tests, "test", test.lineno)

    def _known(self, name: str, names: Mapping[str, object], what: str, line: int) -> None:
        if name not in names:
            raise TemplateAssertionError(f"no {what} named '{name}'; known: {', '.join(sorted(names))}", line)

    def bounded(self, tree: nodes.Template) -> jinja2.Template:
        """Compile *tree* with a look at the clock in every loop and macro, and with ``~`` bounded."""
        return self.from_string(_Guards().visit(tree))

    def render(self, template: jinja2.Template, variables: Mapping[str, object]) -> str:
        """Render within `MAX_SECONDS` and `MAX_OUTPUT`."""
        self._local.deadline = time.thread_time() + MAX_SECONDS
        return self.join_pieces(template.root_render_func(template.new_context(dict(variables))))

    def tick(self) -> str:
        """Raise when the time of this rendering is over."""
        if time.thread_time() > getattr(self._local, "deadline", float("inf")):
            raise TimeoutError(f"takes longer than {MAX_SECONDS:g} s")
        return ""

    def tilde(self, *values: object) -> str:
        """What ``a ~ b`` gives."""
        return self.join_pieces(_text(value) for value in values)

    def join_pieces(self, pieces: Iterable[str]) -> str:
        """Join within `MAX_OUTPUT`."""
        joined: list[str] = []
        size = 0
        for piece in pieces:
            size += len(piece)
            _sized(size)
            joined.append(piece)
        self.tick()
        return "".join(joined)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Carry out an operator whose result may be far larger than its operands, if it is not."""
        self.tick()
        if operator == "%" and isinstance(left, (str, bytes)):
            raise SecurityError("text % values is not offered; use the filter format")
        if operator == "+" and _sequence(left) and _sequence(right):
            _sized(len(left) + len(right))
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if _sequence(many) and isinstance(times, int):
                    _sized(len(many) * max(times, 0))
            if isinstance(left, int) and isinstance(right, int):
                _number(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _number(left.bit_length() * max(right, 0))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: ANN401
        """Only methods that cannot make much out of little."""
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        if isinstance(obj, (list, tuple)):
            return attr in _LIST_METHODS
        if isinstance(obj, dict):
            return attr in _DICT_METHODS
        if isinstance(obj, (int, float, complex, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:  # noqa: ANN401
        """Offer no ``text.format``: its widths are unbounded."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, N805, PYI063
        """Call, with ``text.replace`` bounded."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace":
            return _replace(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)


class _Guards(NodeTransformer):
    """Puts the clock into loops and macros, and our own joining in place of ``~``."""

    def _ticking(self, node: Any) -> nodes.Node:  # noqa: ANN401
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [], node.lineno), lineno=node.lineno))
        return node  # type: ignore[no-any-return]

    visit_For = visit_Macro = visit_CallBlock = _ticking  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("tilde", node.nodes, node.lineno)


def _call(name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    method = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(method, arguments, [], None, None, lineno=line)


def finalized(value: object) -> str:
    """Return what a template writes for *value*."""
    if isinstance(value, Undefined):
        return str(value)  # raises, with Jinja's own words
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, Undefined):
        return str(value)
    return to_text(value, limit=MAX_OUTPUT)


def _sequence(value: object) -> bool:
    return isinstance(value, (str, bytes, list, tuple))


def _sized(size: int) -> None:
    if size > MAX_OUTPUT:
        raise OverflowError(f"the text is longer than {MAX_OUTPUT} characters")


def _number(bits: int) -> None:
    if bits > _MAX_BITS:
        raise OverflowError("the number is too large")


def _replace(value: str, old: object, new: object, count: int | None = None) -> str:
    old, new = _text(old), _text(new)
    found = value.count(old) if old else len(value) + 1
    _sized(len(value) + min(found, count if count is not None and count >= 0 else found) * len(new))
    return value.replace(old, new, -1 if count is None else count)


def _join(values: Iterable[object], by: object = "", attribute: str | None = None) -> str:
    between = _text(by)
    pieces: list[str] = []
    size = 0
    for value in values:
        picked = value.get(attribute) if attribute is not None and isinstance(value, Mapping) else value
        piece = _text(picked)
        size += len(piece) + len(between)
        _sized(size)
        pieces.append(piece)
    return between.join(pieces)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:  # noqa: FBT001, FBT002
    wide = len(width) if isinstance(width, str) else width
    _sized(len(value) + (value.count("\n") + 1) * wide)
    return do_indent(value, width, first, blank)


def _format(value: str, *args: object, **kwargs: object) -> str:
    if _WIDTH.search(value):
        raise SecurityError("format takes widths of up to three digits")
    return do_format(value, *args, **kwargs)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > 15:
        raise SecurityError("round takes at most 15 digits")
    return do_round(value, precision, method)  # type: ignore[arg-type]


@pass_environment
def _sum(environment: Bounded, values: Any, attribute: str | None = None, start: Any = 0) -> Any:  # noqa: ANN401
    if not isinstance(start, (int, float)):
        raise SecurityError("sum adds numbers")
    return do_sum(environment, values, attribute, start)


@pass_environment
def _truncate(environment: Bounded, value: object, *args: Any, **kwargs: Any) -> str:  # noqa: ANN401
    return do_truncate(environment, _text(value), *args, **kwargs)


def _text_filters() -> dict[str, Callable[..., object]]:
    """Filters on text. Whatever they get is text in our own way first: nothing is "", not "None"."""

    def on_text(function: Callable[..., object]) -> Callable[..., object]:
        return lambda value, *args, **kwargs: function(_text(value), *args, **kwargs)

    plain: dict[str, Callable[..., object]] = {
        "capitalize": do_capitalize,
        "format": _format,
        "indent": _indent,
        "lower": str.lower,
        "replace": _replace,
        "string": lambda value: value,
        "striptags": do_striptags,
        "title": do_title,
        "trim": str.strip,
        "upper": str.upper,
        "urlencode": do_urlencode,
        "wordcount": lambda value: len(value.split()),
    }
    return {name: on_text(function) for name, function in plain.items()} | {
        "join": _join,
        "round": _round,
        "sum": _sum,
        "tojson": _json,
        "truncate": _truncate,
    }


class Json(str):
    """JSON already, with quotes around texts."""

    __slots__ = ()


def _json(value: object) -> str:
    """JSON of any value, texts in quotes; a list of one is written and its brackets dropped."""
    if isinstance(value, Undefined):
        return str(value)
    return Json(to_text([value], limit=MAX_OUTPUT)[1:-1])
