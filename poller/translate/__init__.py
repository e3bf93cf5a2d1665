"""
Templates: sandboxed Jinja2 without a loader, as the message translator.

Templates come from the settings file alone, never from a record: what a record holds is a value and stays literal.
A template may neither reach Python nor use up memory or time: sizes are checked before anything is made, loops and
macros look at the clock. Values are written as `poller.formats.texts.to_text` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from jinja2 import TemplateError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from poller.formats.texts import to_text
from poller.translate.bounded import MAX_OUTPUT, Bounded
from poller.translate.escaping import Escaping

#: Longest template text.
MAX_TEMPLATE = 100_000

_MARKS = ("{{", "{%", "{#")
_ENVIRONMENT = Bounded()
#: By what every value is passed through: one environment for each.
_ESCAPING: dict[Callable[[str], str], Escaping] = {}
#: Errors whose text never holds a value of the record.
_TELLING = (SecurityError, TypeError, ZeroDivisionError, OverflowError, TimeoutError, RecursionError)


class TemplateFault(ValueError):
    """A template could not be rendered for this record. ``str`` is one line without the record's text."""


class Template:
    """
    A template, compiled once and rendered for each record; made by `compile_template`.

    Most templates are constant or only name fields: these never reach Jinja while rendering.
    """

    def __init__(self, text: str, escape: Callable[[str], str] | None = None) -> None:
        self.text = text
        self._environment = _ENVIRONMENT if escape is None else _ESCAPING.setdefault(escape, Escaping(escape))
        #: The variables that it needs.
        self.names: frozenset[str] = frozenset()
        self._pieces: tuple[str | nodes.Name, ...] | None = (text,)
        if not any(mark in text for mark in _MARKS):
            return
        tree = self._environment.parse(text)
        self._environment.refuse_unknown(tree)
        self.names = frozenset(meta.find_undeclared_variables(tree))
        self._pieces = _plain(tree) if escape is None else None
        self._compiled = self._environment.bounded(tree)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def render(self, variables: Mapping[str, object]) -> str:
        """
        Return the text for one record.

        Raises:
            TemplateFault: A name is missing, a value does not fit, or the text, the work or the time is too much.
        """
        try:
            if self._pieces is None:
                return self._environment.render(self._compiled, variables)
            text = "".join(
                [
                    piece if isinstance(piece, str) else to_text(_named(variables, piece.name), limit=MAX_OUTPUT)
                    for piece in self._pieces
                ]
            )
        except TemplateFault as error:
            raise TemplateFault(f'template "{_cut(self.text)}": {error}') from None
        except Exception as error:  # whatever an expression does to a value is a fault of this record
            raise TemplateFault(f'template "{_cut(self.text)}": {self._told(error)}') from error
        if len(text) > MAX_OUTPUT:
            raise TemplateFault(f'template "{_cut(self.text)}": the text is longer than {MAX_OUTPUT} characters')
        return text

    def _told(self, error: Exception) -> str:
        said = " ".join(str(error).split())[:200]
        if isinstance(error, _TELLING):
            return said or type(error).__name__
        if isinstance(error, UndefinedError):
            # {{ table[title] }} would name the title; a name that stands in the template tells nothing.
            quoted = re.findall(r"'([^']*)'", said)
            if quoted and (quoted[-1] in self.text or quoted[0] in self.text):
                return said
            return "a look-up found nothing"
        return f"{type(error).__name__} while rendering"


def compile_template(text: str, *, escape: Callable[[str], str] | None = None) -> Template:
    """
    Compile *text* once, at load.

    Args:
        escape: Every value that the template writes is passed through it; None: values are written as they are.

    Raises:
        ValueError: One line that says what is wrong with it, unknown filters included.
    """
    if len(text) > MAX_TEMPLATE:
        raise ValueError(f"the template is longer than {MAX_TEMPLATE} characters")
    try:
        return Template(text, escape)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line} of the template)" if line is not None and line > 1 else ""
        said = " ".join(str(error.message or error).split())
        raise ValueError(f"bad template: {said}{where}") from error
    except (SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError("bad template: nested too deeply") from error
    except Exception as error:
        raise ValueError(f"bad template: {type(error).__name__}") from error


def _plain(tree: nodes.Template) -> tuple[str | nodes.Name, ...] | None:
    """Return the pieces of a template that is only text and names, None for any other."""
    pieces: list[str | nodes.Name] = []
    for statement in tree.body:
        if not isinstance(statement, nodes.Output):
            return None
        for node in statement.nodes:
            if isinstance(node, nodes.TemplateData):
                pieces.append(node.data)
            elif isinstance(node, nodes.Name) and node.name not in _ENVIRONMENT.globals:
                pieces.append(node)
            else:
                return None
    return tuple(pieces)


def _named(variables: Mapping[str, object], name: str) -> object:
    try:
        return variables[name]
    except KeyError:
        raise TemplateFault(f"'{name}' is undefined") from None


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}…"
