"""
JMESPath expressions into JSON values, compiled once.

Everything that can be known without data is refused at load: the grammar, unknown functions, and how many arguments
they take (JMESPath itself finds these while searching).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError, JMESPathTypeError, LexerError, ParseError
from jmespath.functions import Functions

from poller.formats.interface import ExpressionFault
from poller.formats.texts import to_text

#: Longest expression.
MAX_EXPRESSION = 4_000


class JmesPath:
    """One expression; made by `compile_expression`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._parsed = jmespath.compile(text)
        tree: Any = self._parsed.parsed
        _check(tree)
        # Most are dotted names, and a search costs twenty times a look-up.
        self._names = _names(tree)

    @property
    def column(self) -> str | None:
        """The one column of a table that it needs; None where that cannot be said."""
        return self._names[0] if self._names else None

    def __repr__(self) -> str:
        return f"JmesPath({self.text!r})"

    def find(self, document: object) -> Any:  # noqa: ANN401  any JSON value
        """
        Return what it finds in *document*, None for nothing.

        Raises:
            ExpressionFault: A function or a comparison does not fit the value.
        """
        if self._names is not None:
            for name in self._names:
                if not isinstance(document, dict):
                    return None
                document = document.get(name)
            return document
        try:
            return self._parsed.search(document)
        except JMESPathTypeError as error:
            wanted = " or ".join(sorted({str(kind) for kind in error.expected_types}))
            raise ExpressionFault(
                f'"{self.text}": {error.function_name}() takes {wanted}, and got {error.actual_type}'
            ) from None
        except (JMESPathError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
            raise ExpressionFault(f'"{self.text}" does not fit the value ({type(error).__name__})') from None

    def text_of(self, document: object) -> str:
        """Return what it finds as text, "" for nothing; see `to_text` and `find`."""
        return to_text(self.find(document))


@lru_cache(maxsize=1024)
def compile_expression(text: str) -> JmesPath:
    """
    Compile *text*.

    Raises:
        ValueError: One line that says what is wrong with it.
    """
    if not text.strip():
        raise ValueError("bad expression: it is empty")
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"the expression is longer than {MAX_EXPRESSION} characters")
    try:
        return JmesPath(text)
    except LexerError as error:
        raise ValueError(f"bad expression: {error.message.lower()} at column {error.lexer_position + 1}") from None
    except ParseError as error:
        if error.token_value is None:
            raise ValueError("bad expression: it ends too early") from None
        column = (error.lex_position or 0) + 1
        raise ValueError(f'bad expression: unexpected "{error.token_value}" at column {column}') from None
    except RecursionError:
        raise ValueError("bad expression: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"bad expression: {error}") from None


def _check(tree: dict[str, Any]) -> None:
    pending = [tree]
    while pending:
        node = pending.pop()
        if node["type"] == "function_expression":
            _check_call(node["value"], len(node["children"]))
        pending += [child for child in node["children"] if isinstance(child, dict)]


def _check_call(name: str, count: int) -> None:
    known: dict[str, dict[str, Any]] = Functions.FUNCTION_TABLE
    if name not in known:
        raise ValueError(f"no function {name}(); known: {', '.join(sorted(known))}")
    signature = known[name]["signature"]
    variadic = bool(signature and signature[-1].get("variadic"))
    if count < len(signature) or (count > len(signature) and not variadic):
        raise ValueError(f"{name}() takes {len(signature)} argument{'s' * (len(signature) != 1)}, not {count}")


def _names(tree: dict[str, Any]) -> tuple[str, ...] | None:
    if tree["type"] == "field":
        return (tree["value"],)
    if tree["type"] != "subexpression":
        return None
    names: list[str] = []
    for child in tree["children"]:
        inner = _names(child)
        if inner is None:
            return None
        names += inner
    return tuple(names)
