"""
What a mapping test may hold, and how a file is read: every problem of it in one line, with its file and line.

::

    route = "helpdesk"

    [sample]
    text = '''{"id": 4711, "subject": "Printer on fire", "requester": {"login": "joe"}}'''

    [lookups]
    "sys_user.user_name=joe" = "46c6f9efa9fe198101ddf5eed9adf6e7"

    [expect]
    key = "4711"

    [expect.fields]
    caller_id = "46c6f9efa9fe198101ddf5eed9adf6e7"
    short_description = "Printer on fire"
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from poller.clients.answers import is_sys_id
from poller.settings.positions import Positions
from poller.values import Model

#: A sample is a record; whatever is larger is something else.
MAX_BYTES: Final = 1_000_000
_LOOKUP: Final = re.compile(r"([a-z][a-z0-9_]{0,79})\.([a-z][a-z0-9_.]{0,199})=(.+)", re.DOTALL)
_AT: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class Sample(Model):
    """One record as the source gives it."""

    format: Annotated[
        Literal["json", "xml", "csv"] | None,
        Field(description="left out: as the source's; rows of CSV and SQL may also be given as JSON objects"),
    ] = None
    text: Annotated[str, Field(description="one JSON object, one XML element, or a CSV header and one row")]
    fields: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            description="fields that follow-up requests (detail) give, which nobody is asked for here",
        ),
    ]


class Expect(Model):
    """What is to come of it: fields, or the reason why it cannot be delivered."""

    key: Annotated[str | None, Field(description="left out: any")] = None
    fields: Annotated[
        dict[str, str] | None, Field(description="exactly these columns, but for the correlation ids")
    ] = None
    reason: Annotated[str | None, Field(description="words of the reason why it cannot be delivered")] = None

    @model_validator(mode="after")
    def _either(self) -> Expect:
        if (self.fields is None) == (self.reason is None):
            raise ValueError("give either fields or reason")
        return self


class MappingTest(Model):
    """One file."""

    route: Annotated[str, Field(description="name of the route")]
    sample: Sample
    lookups: Annotated[
        dict[str, str | list[str]],
        Field(
            default_factory=dict,
            description='"table.column=value" = the sys_id found, or a list of several; what is not here is unknown',
        ),
    ]
    lengths: Annotated[
        dict[str, int],
        Field(default_factory=dict, description="of columns, where the instance has others than delivered"),
    ]
    expect: Expect

    @field_validator("lookups")
    @classmethod
    def _rows(cls, lookups: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        for question, found in lookups.items():
            if not _LOOKUP.fullmatch(question):
                raise ValueError(f'"{question[:80]}" is not written "table.column=value"')
            if not all(is_sys_id(one) for one in ([found] if isinstance(found, str) else found)):
                raise ValueError(
                    f'"{question[:80]}" finds a sys_id, 32 hexadecimal digits in lower case, or a list of them'
                )
        return lookups

    def rows(self) -> dict[str, list[dict[str, str]]]:
        """Return the rows that look-ups find, by table."""
        tables: dict[str, dict[str, dict[str, str]]] = {}
        for question, found in self.lookups.items():
            parts = _LOOKUP.fullmatch(question)
            assert parts is not None  # noqa: S101  checked above
            for sys_id in [found] if isinstance(found, str) else found:
                row = tables.setdefault(parts[1], {}).setdefault(sys_id, {"sys_id": sys_id})
                row[parts[2]] = parts[3]
        return {table: list(rows.values()) for table, rows in tables.items()}


class Broken(Exception):
    """A file that is no mapping test; each argument is one line."""


def read_test(path: Path, routes: Collection[str]) -> MappingTest:
    """
    Return the mapping test in *path*.

    Raises:
        Broken: With each problem in a line, ``one.toml:3: expect: …``.
    """
    text = _text(path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _AT.search(str(error))
        line = int(at[1]) if at and at[1] else text.rstrip().count("\n") + 1
        said = str(error)[: at.start()] if at else "cannot be read"
        raise Broken(f"{path.name}:{line}: not valid TOML: {said[0].lower()}{said[1:]}") from None
    except (ValueError, RecursionError):
        raise Broken(f"{path.name}: not valid TOML") from None
    places = Positions(text)
    try:
        test = MappingTest.model_validate(raw)
    except ValidationError as error:
        # A misspelt key says more than the one that is missing for it.
        details = sorted(
            error.errors(include_input=False, include_url=False), key=lambda each: each["type"] == "missing"
        )
        raise Broken(*dict.fromkeys(_line(path.name, places, raw, each) for each in details)) from None
    if test.route not in routes:
        there = ", ".join(routes)
        raise Broken(
            f'{path.name}:{places.line(("route",))}: route: "{test.route[:80]}" is not in the settings; {there}'
        )
    return test


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Broken(f"{path.name}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise Broken(f"{path.name}: is larger than {MAX_BYTES} bytes: no mapping test")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Broken(f"{path.name}:{line}: is not UTF-8 text here; save it as UTF-8") from None


def _line(name: str, places: Positions, raw: Mapping[str, Any], detail: ErrorDetails) -> str:
    path: tuple[str | int, ...] = ()
    here: Any = raw
    for step in detail["loc"]:
        # Names of forms stand in between; what is missing stands at the end.
        inside = isinstance(here, dict) and step in here
        if inside or step == detail["loc"][-1]:
            path = (*path, step)
        here = here[step] if inside else None
    where = ".".join(str(step) for step in path)
    return f"{name}:{places.line(path)}: {where}{': ' if where else ''}{_said(detail, path)}"


def _said(detail: ErrorDetails, path: tuple[str | int, ...]) -> str:
    kind = detail["type"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        models: dict[str, type[Model]] = {"sample": Sample, "expect": Expect}
        model = models.get(str(path[0]) if len(path) > 1 else "", MappingTest)
        meant = difflib.get_close_matches(str(path[-1]), model.model_fields, n=1)
        return (
            f"unknown key; did you mean {meant[0]}?"
            if meant
            else f"unknown key; known: {', '.join(model.model_fields)}"
        )
    if kind == "value_error":
        return str(detail.get("ctx", {}).get("error", "")) or detail["msg"]
    said = detail["msg"].replace("Input should be", "must be").replace("a valid dictionary", "a table")
    return said.replace("a valid string", "text in quotes").replace("a valid integer", "a whole number")
