"""The JSON schema of the settings, asked for what would be right at a place of the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from poller.settings.models import Settings
from poller.settings.positions import Path


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of the settings file."""
    return Settings.model_json_schema()


def nodes(path: Path, raw: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the parts of the schema that describe *path*, of the types that the file itself names."""
    nodes, here = _forms(schema(), raw), raw
    for step in path:
        here = here[step] if has(here, step) else None
        below = []
        for node in nodes:
            if isinstance(step, int):
                part = node.get("items")
            else:
                named = node.get("properties", {}).get(step)
                part = (
                    named
                    or node.get("additionalProperties")
                    or next(iter(node.get("patternProperties", {}).values()), None)
                )
            if isinstance(part, dict):
                below.extend(_forms(part, here))
        nodes = below
    return nodes


def has(value: object, step: str | int) -> bool:
    """Say whether *value* holds *step*."""
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def _forms(node: dict[str, Any], value: object) -> list[dict[str, Any]]:
    if reference := node.get("$ref"):
        return _forms(schema()["$defs"][reference.rpartition("/")[2]], value)
    forms = [form for part in (*node.get("anyOf", ()), *node.get("oneOf", ())) for form in _forms(part, value)]
    if not forms:
        return [node]
    given = value.get("type") if isinstance(value, dict) else None
    typed = [form for form in forms if given is not None and _type_of(form) == given]
    return typed or forms


def _type_of(form: dict[str, Any]) -> object:
    return form.get("properties", {}).get("type", {}).get("const")


def types(path: Path, raw: Mapping[str, Any]) -> list[str]:
    """Return the types that are known at *path*, in quotes."""
    return [json.dumps(found) for node in nodes(path, raw) if (found := _type_of(node))]


def at(path: Path, raw: Any) -> Any:  # noqa: ANN401
    """Return what stands at *path* of the file, None where nothing does."""
    for step in path:
        if not has(raw, step):
            return None
        raw = raw[step]
    return raw
