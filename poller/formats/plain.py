"""Plain text: one value, the whole of it. For follow-up requests, which some systems answer with a record's bare text."""

from __future__ import annotations

from dataclasses import dataclass

from poller.formats.decoding import FormatFault, decode
from poller.formats.expressions import JmesPath, compile_expression
from poller.formats.interface import Expression
from poller.formats.json import json_text


@dataclass(frozen=True)
class TextDocument:
    """One text."""

    value: object
    root: str | None = None
    names: frozenset[str] | None = None

    def rows(self, expression: Expression | None = None) -> list[object]:
        raise FormatFault("plain text holds no records")


class TextFormat:
    """Plain text; the one expression is ``@``, all of it."""

    name = "text"
    accept = "text/plain"
    whole = True

    def compile(self, text: str) -> JmesPath:
        if text != "@":
            raise ValueError('"@" is the one expression on plain text: all of it')
        return compile_expression(text)

    def read(self, body: bytes, encoding: str | None = None) -> TextDocument:
        return TextDocument(decode(body, encoding))

    def raw(self, row: object, limit: int) -> str:
        return json_text(row, limit=limit)

    def comparable(self, rows: list[object]) -> list[object]:
        return rows
