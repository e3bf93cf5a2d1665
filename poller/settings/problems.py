"""
What is wrong with a settings file, in words for the person who wrote it.

Takes what pydantic found; `between` adds what concerns several values at once. No value is ever repeated: what stands in
the wrong place may be a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from poller.settings import shape
from poller.settings.positions import Path

#: Names of keys whose values never stand in a text, wherever they are.
_SECRET_KEY = re.compile(
    r"secret|password|passwd|passphrase|token|credential|authorization|private|api.?key|cookie|^value$|^key$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    path: Path
    text: str
    #: Where to look, if that is not *path* itself.
    at: Path | None = None

    def name(self) -> str:
        """Return the path as it would stand in TOML: ``routes.helpdesk.source.fields."@id"``."""
        return ".".join(key(step) for step in self.path)

    def among(self, told: Collection[Path]) -> bool:
        """Say whether *told* holds this place, or the value that it is a part of."""
        return self.path in told or (len(self.path) > 5 and self.path[:5] in told)


def key(step: str | int) -> str:
    """Return one step of a path as it would stand in TOML."""
    if isinstance(step, int) or re.fullmatch(r"[A-Za-z0-9_-]+", step):
        return str(step)
    return json.dumps(step[:80])


# What pydantic found.


def found(error: ValidationError, raw: Mapping[str, Any]) -> list[Problem]:
    """Return the problems in *error*; of several at one place, the most telling."""
    best: dict[Path, tuple[int, list[Problem]]] = {}
    for detail in error.errors(include_input=False, include_url=False):
        path = plain_path(detail["loc"], raw)
        if detail["type"].startswith("union_tag_"):
            path = (*path, "type")
        rank = _rank(detail)
        if path not in best or rank < best[path][0]:
            best[path] = (rank, _apart(path, _text(detail, path, raw), raw))
    problems = [problem for _, several in best.values() for problem in several]
    # Where one of several forms was meant, the fault within it says more than "must be text".
    return [problem for problem in problems if not (problem.text.startswith("must be") and _deeper(problem, problems))]


#: ``url: …``, ``"every" is …``, ``auth.token_url is required``: a check of a whole table names the key that it means.
_NAMED = re.compile(r'"?([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)"?(:? )(.+)', re.DOTALL)


def _apart(path: Path, text: str, raw: Any) -> list[Problem]:  # noqa: ANN401
    """Return one problem for each key that *text* names; a check of a whole table joins several by semicolons."""
    table = shape.at(path, raw)
    if not isinstance(table, dict) or table.keys() & {"credential", "file", "env"}:
        return [Problem(path=path, text=text)]
    problems: list[Problem] = []
    for piece in text.split("; "):
        named = _NAMED.fullmatch(piece)
        steps = tuple(named[1].split(".")) if named else ()
        if named and steps[0] in table:
            shorter = named[2] == ": " or named[3].startswith("is ")
            problems.append(Problem(path=(*path, *steps), text=named[3] if shorter else piece))
        elif problems:
            problems[-1] = replace(problems[-1], text=f"{problems[-1].text}; {piece}")
        else:
            problems.append(Problem(path=path, text=piece))
    return problems


def _deeper(one: Problem, problems: list[Problem]) -> bool:
    length = len(one.path)
    return any(len(other.path) > length and other.path[:length] == one.path for other in problems)


def plain_path(loc: tuple[str | int, ...], raw: Any) -> Path:  # noqa: ANN401
    """Return the place in the file that pydantic's *loc* speaks of: without the names of types and forms in between."""
    path: Path = ()
    here = raw
    tag_seen = False
    for index, step in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(here, dict):
            if not tag_seen and path and step == here.get("type"):
                tag_seen = True
                continue
            if step in here:
                path, here, tag_seen = (*path, step), here[step], False
                continue
            if last and step != "[key]" and isinstance(step, str) and re.fullmatch(r"[a-z_0-9]+", step):
                path = (*path, step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            path, here, tag_seen = (*path, step), here[step], False
    return path


def _rank(detail: ErrorDetails) -> int:
    kind = detail["type"]
    order = ("value_error", "extra_forbidden", "literal_error", "missing")
    return order.index(kind) if kind in order else len(order)


def _text(detail: ErrorDetails, path: Path, raw: Mapping[str, Any]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context.get("error", "")) or detail["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return _required(path, raw)
    if kind == "extra_forbidden":
        return _unknown(path, raw)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = str(context.get("expected_tags") or ", ".join(shape.types(path[:-1], raw))).replace("'", '"')
        return f"unknown type; known: {known}" if kind == "union_tag_invalid" else f"is required: {known}"
    if kind == "literal_error":
        expected = str(context.get("expected", "")).replace("'", '"')
        return f"unknown type; known: {expected}" if path[-1:] == ("type",) else f"must be {expected}"
    if kind == "string_pattern_mismatch" and path[:1] == ("routes",):
        return "a route's name is made of a-z, 0-9 and -, begins with a letter or digit and has at most 63 characters"
    if kind == "string_pattern_mismatch" and path[-1:] == ("correlation_prefix",):
        return "is made of a-z, 0-9 and -, begins with a letter or digit, and has at most 40 characters"
    if kind == "too_short" and path == ("routes",):
        return "at least one route is required: [routes.NAME]"
    said = re.sub(r"^(Input|String|List|Dictionary) should (be|have|match) ", r"must \2 ", detail["msg"])
    said = (
        said.replace("greater than or equal to", "at least")
        .replace("a valid string", "text")
        .replace("a valid dictionary", "a table")
        .replace("a valid boolean", "true or false")
    )
    said = re.sub(r"must be a valid dictionary.*|must be an object.*", "must be a table", said)
    return said.replace("a valid integer", "a whole number").replace("a valid array", "a list")


#: Where the model has no description to quote.
_WANTED = {
    "client_secret": '{ credential = "…" }, { file = "…" }, { env = "…" } or text',
    "correlation_prefix": 'the name of this installation, such as "acme-prod"; it is never changed',
    "fields": "name = expression, what templates see",
    "instance": 'such as "https://acme.service-now.com"',
}


def _required(path: Path, raw: Mapping[str, Any]) -> str:
    if path[-1] == "type" and (types := shape.types(path[:-1], raw)):
        return f"is required: {' or '.join(types)}"
    if path[-1] in _WANTED:
        return f"is required: {_WANTED[str(path[-1])]}"
    for node in shape.nodes(path[:-1], raw):
        field = node.get("properties", {}).get(path[-1], {})
        if described := field.get("description"):
            return f"is required: {described}"
        if choices := field.get("enum"):
            return f"is required: {' or '.join(json.dumps(choice) for choice in choices)}"
    return "is required"


def _unknown(path: Path, raw: Mapping[str, Any]) -> str:
    wrong = str(path[-1])
    known = sorted({name for node in shape.nodes(path[:-1], raw) for name in node.get("properties", {})})
    if close := difflib.get_close_matches(wrong, known, n=1, cutoff=0.6):
        return f"unknown key; did you mean {close[0]}?"
    for length in range(len(path) - 2, -1, -1):
        above = path[:length]
        if any(wrong in node.get("properties", {}) for node in shape.nodes(above, raw)):
            table = f"[{Problem(path=above, text='').name()}]" if above else "the top of the file"
            return f"unknown key here; it belongs to {table}, before any of its sub-tables"
    return f"unknown key; known: {', '.join(known)}" if known else "unknown key"


def hidden(raw: object, *, secret: bool = False) -> Iterator[str]:
    """Yield every text of the file that may be a secret, to be taken out of whatever is printed."""
    if isinstance(raw, str):
        if secret and len(raw) >= 6:
            yield raw
    elif isinstance(raw, dict):
        for key, part in raw.items():
            yield from hidden(
                part,
                secret=key not in ("credential", "file", "env", "type") and (secret or bool(_SECRET_KEY.search(key))),
            )
    elif isinstance(raw, list):
        for part in raw:
            yield from hidden(part, secret=secret)
