"""
Where in a TOML file a key stands.

`tomllib` reads the file and decides what is valid; `toml_rs` only says on which line each key is. It is young, so nothing
depends on it: without it, a plain scan finds table headers and the keys that begin a line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

#: A key's place in the file: ``("routes", "helpdesk", "source", "detail", 0, "url")``.
Path = tuple[str | int, ...]

_KEY = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'))*)\s*="""
)


class Positions:
    """The lines of one file. Everything is best effort: a wrong guess costs a line number, never a start."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        inside: set[int] = set()
        for path, first, last in _exact(text):
            self._note(path, first)
            inside.update(range(first + 1, last + 1))
        for path, line in _scanned(text, inside):
            self._note(path, line)
        self._lines[()] = 1

    def _note(self, path: Path, line: int) -> None:
        self._lines.setdefault(path, line)

    def line(self, path: Sequence[str | int]) -> int:
        """Return the line of *path*, or of the nearest table above it that stands in the file."""
        wanted = tuple(path)
        while wanted not in self._lines:
            if below := [line for known, line in self._lines.items() if known[: len(wanted)] == wanted]:
                return min(below)  # a table that only its sub-tables imply
            wanted = wanted[:-1]
        return self._lines[wanted]


def _exact(text: str) -> Iterator[tuple[Path, int, int]]:
    """Yield the path of each key with the first and the last line of it and its value, where toml_rs knows."""
    try:
        import toml_rs  # only wanted when something is wrong

        nodes = toml_rs.load_with_metadata(text).meta["nodes"]
        yield from _walk(nodes, ())
    except Exception:  # noqa: BLE001  line numbers are a courtesy
        return


def _walk(nodes: dict[str, Any], path: Path) -> Iterator[tuple[Path, int, int]]:
    for key, node in nodes.items():
        if "value_line" in node and not isinstance(node["value_line"], dict):
            yield (*path, key), _first(node["key_line"]), _last(node["value_line"])
            yield from _inside(node.get("value"), (*path, key))
        else:
            yield from _walk(node, (*path, key))


def _inside(value: object, path: Path) -> Iterator[tuple[Path, int, int]]:
    if isinstance(value, dict):
        yield from _walk(value, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict) and "value_line" in item:
                yield (*path, index), _first(item["value_line"]), _last(item["value_line"])
                yield from _inside(item.get("value"), (*path, index))


def _first(line: int | tuple[int, int]) -> int:
    return line if isinstance(line, int) else line[0]


def _last(line: int | tuple[int, int]) -> int:
    return line if isinstance(line, int) else line[1]


def _scanned(text: str, inside: set[int]) -> Iterator[tuple[Path, int]]:
    """Yield the path of each table header, and of each key that begins a line, with its line."""
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if number in inside:
            continue
        if line.lstrip().startswith("["):
            keys = _names(line)
            if keys:
                table = _table(keys, counts, array=line.lstrip().startswith("[["))
                yield table, number
        elif found := _KEY.match(line):
            yield (*table, *_names(f"{found[1]} = 0")), number


def _names(line: str) -> list[str]:
    """Return the parts of the one key or header on *line*."""
    try:
        node: Any = tomllib.loads(line)
    except ValueError:
        return []
    names = []
    while node and isinstance(node, dict | list):
        if isinstance(node, list):
            node = node[0]
        elif node:
            name, node = next(iter(node.items()))
            names.append(name)
    return names


def _table(names: list[str], counts: dict[Path, int], *, array: bool) -> Path:
    """Return the path of a header's table, with the index of each array of tables on the way."""
    path: Path = ()
    for name in names[:-1]:
        path = (*path, name)
        if path in counts:
            path = (*path, counts[path] - 1)
    path = (*path, names[-1])
    if not array:
        return path
    counts[path] = counts.get(path, 0) + 1
    return (*path, counts[path] - 1)
