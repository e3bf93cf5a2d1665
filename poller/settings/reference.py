"""
The reference of the settings, ``docs/settings.md``: every key with type, default and meaning, written from the models.

It knows no key by name: what is said of one stands beside it, as the description of its field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from poller.settings.shape import schema

_HEAD = """\
# Settings

Every key of `settings.toml`. Written by `python -m poller.settings --reference`; [`settings.toml`](../settings.toml) shows them at work.

- *Required* keys have no default. Where a default is left blank, leaving the key out means: none.
- A **duration** is `"30s"`, `"5m"`, `"2h"`, `"7d"`; a **size** `"512kB"`, `"20MB"`.
- A **secret** is `{ credential = "name" }` (systemd's LoadCredential, or a file in `/etc/poller/credentials/`), `{ file = "path" }`,
  `{ env = "NAME" }`, or plain text, with a warning where others can read the file.
- A **template** is Jinja2 in a sandbox; an **expression** JMESPath (JSON, CSV, SQL rows) or XPath 1.0 (XML).
- Relative paths start at the settings file, a relative database at `$STATE_DIRECTORY` where that is set.
- `poller check --offline` says what is wrong, all of it at once, each with its line; an unknown key is an error.
"""

_DURATION = TypeAdapter(timedelta)
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))
#: Tables whose keys are names of the admin's choice; elsewhere such keys are columns.
_NAMED = frozenset({"routes", "server.clients"})

Node = dict[str, Any]


def text() -> str:
    """Return the whole page."""
    places = _places()
    parts = [_HEAD, *(_section(name, places) for name in places)]
    return "\n".join(parts)


def undescribed() -> list[str]:
    """Return each key that nobody has described, as ``Table.key``."""
    return [
        f"{name}.{key}"
        for name in _places()
        for key, node in schema()["$defs"][name]["properties"].items()
        if "description" not in node and "const" not in node
    ]


def _places() -> dict[str, list[str]]:
    """Return where each table may stand, by the name of its model, in the order of the file."""
    found: dict[str, list[str]] = {}
    _walk(schema(), "", found)
    return found


def _walk(node: Node, path: str, found: dict[str, list[str]]) -> None:
    for key, part in node.get("properties", {}).items():
        for name, place in _tables(part, f"{path}.{key}".strip(".")):
            known = found.setdefault(name, [])
            if place not in known:
                known.append(place)
                _walk(schema()["$defs"][name], place, found)


def _tables(node: Node, path: str) -> Iterator[tuple[str, str]]:
    """Yield the models of tables within *node*, each with its place."""
    if reference := node.get("$ref"):
        name = reference.rpartition("/")[2]
        if "properties" in schema()["$defs"][name]:
            yield name, path
    for part in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _tables(part, path)
    if isinstance(items := node.get("items"), dict):
        yield from _tables(items, path)
    for part in (node.get("additionalProperties"), *node.get("patternProperties", {}).values()):
        if isinstance(part, dict):
            yield from _tables(part, f"{path}.{'NAME' if path in _NAMED else 'COLUMN'}")


def _section(name: str, places: dict[str, list[str]]) -> str:
    table = schema()["$defs"][name]
    lines = [f"## {_title(name, places)}", "", " ".join(table.get("description", "").replace("``", "`").split())]
    if others := places[name][1:]:
        lines += ["", "The same at " + ", ".join(f"`[{place}]`" for place in others) + "."]
    lines += ["", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [_row(key, node, table, places) for key, node in _keys(table)]
    return "\n".join(lines) + "\n"


def _keys(table: Node) -> list[tuple[str, Node]]:
    """Return the keys of a table with their forms; the one that says which table it is goes first."""
    return sorted(table["properties"].items(), key=lambda item: "const" not in item[1])


def _title(name: str, places: dict[str, list[str]]) -> str:
    kind = schema()["$defs"][name]["properties"].get("type", {}).get("const")
    place = places[name][0]
    if place.endswith(".COLUMN"):
        first = next(iter(schema()["$defs"][name]["properties"]))
        return f"`[{place}]` with `{first}`"
    return f"`[{place}]`" + (f" with `type = {_quoted(kind)}`" if kind else "")


def _row(key: str, node: Node, table: Node, places: dict[str, list[str]]) -> str:
    default = "*required*" if key in table.get("required", ()) else _default(node)
    meaning = "tells this table from others in its place" if "const" in node else node.get("description", "")
    meaning = " ".join(str(meaning).split()).replace("<", "&lt;")
    cells = (f"`{key}`", _type(node, places), default, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(node: Node, places: dict[str, list[str]]) -> str:
    parts = [part for part in (*node.get("anyOf", ()), *node.get("oneOf", ())) if part.get("type") != "null"]
    if any("credential" in part.get("properties", {}) for part in parts):
        return "secret"
    if parts:
        return " or ".join(dict.fromkeys(_type(part, places) for part in parts))
    if reference := node.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{_named(name)}](#{anchor(_title(name, places))})" if name in places else "text, list or table"
    if "const" in node:
        return f"`{_quoted(node['const'])}`"
    if "enum" in node:
        return " or ".join(f"`{_quoted(each)}`" for each in node["enum"])
    if "pattern" in node and (named := _measured(node)):
        return named
    if node.get("type") == "array":
        return f"list of {_type(node['items'], places)}"
    if node.get("type") == "object":
        return f"table of {_type(_values(node), places)}"
    plain = {"string": "text", "integer": "number", "number": "number", "boolean": "`true` or `false`"}
    return "path" if node.get("format") == "path" else plain[node["type"]]


def _named(table: str) -> str:
    """Return what a table is called where it is one of several."""
    kind = schema()["$defs"][table]["properties"].get("type", {}).get("const")
    return f"`{_quoted(kind)}`" if kind else "table"


def _values(node: Node) -> Node:
    values: Node = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
    return values


def _measured(node: Node) -> str | None:
    first = str(node.get("examples", [""])[0])
    return None if not first else "size" if first.endswith("B") else "duration"


def anchor(title: str) -> str:
    """Return the address of a heading, as GitHub and GitLab make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _default(node: Node) -> str:
    value = node.get("default")
    if value is None or isinstance(value, dict) or value == []:
        return ""
    if isinstance(value, str) and _measures(node, "duration"):
        return f"`{_quoted(_span(_DURATION.validate_python(value)))}`"
    if isinstance(value, int) and _measures(node, "size"):
        size, unit = next((size, unit) for size, unit in _SIZES if value % size == 0)
        return f"`{_quoted(f'{value // size}{unit}')}`"
    return f"`{_quoted(value)}`"


def _measures(node: Node, what: str) -> bool:
    return any(_measured(part) == what for part in (node, *node.get("anyOf", ())))


def _span(length: timedelta) -> str:
    seconds = length.total_seconds()
    if seconds % 1:
        return f"{round(seconds * 1000)}ms"
    # The largest unit that is not longer than a reader would count in: 70 s, not 1 m 10 s.
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    return f"{int(seconds // size)}{unit}"


def _quoted(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_quoted(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
