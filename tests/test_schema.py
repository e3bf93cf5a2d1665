"""The committed JSON schema, the models, and the shipped settings agree."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from poller.settings import __main__ as command
from poller.settings.shape import schema

ROOT = Path(__file__).parents[1]


def test_the_committed_schema_is_that_of_the_models() -> None:
    committed = (ROOT / "settings.schema.json").read_text("utf-8")

    assert committed == command.text(), "run: python -m poller.settings --schema > settings.schema.json"


def test_the_shipped_settings_name_the_schema_first() -> None:
    assert (ROOT / "settings.toml").read_text("utf-8").startswith("#:schema ./settings.schema.json\n")


def test_unknown_keys_are_errors_in_every_table() -> None:
    tables = [schema(), *schema()["$defs"].values()]

    assert all(table["additionalProperties"] is False for table in tables if "properties" in table)


def test_each_kind_of_table_is_told_apart_by_its_type() -> None:
    text = json.dumps(schema())

    assert '"discriminator"' in text
    assert '"client_credentials"' in text


def test_the_shipped_settings_show_every_key() -> None:
    text = (ROOT / "settings.toml").read_text("utf-8")
    route = schema()["$defs"]["Route"]["properties"]
    shown = (
        "Database", "Retry", "Retention", "Maintenance", "Log", "ServiceNowSettings", "HttpSourceSettings",
        "ServiceNowSinkSettings", "ServiceNowSourceSettings", "HttpSinkSettings", "DirectorySinkSettings", "ReplySettings",
        "PushSettings", "ServerSettings", "ServerTls", "AuthSettings", "ClientSettings",
    )  # fmt: skip
    tables = [(schema()["$defs"][name]["properties"], name) for name in shown]

    missing = [
        f"{name}.{key}"
        for properties, name in [(route, "Route"), (schema()["properties"], ""), *tables]
        for key in properties
        if not re.search(rf"\b{key}\b", text)
    ]
    assert not missing


def test_what_is_commented_out_is_right_too() -> None:
    """Every `# key = value` of the shipped file, put in force, is a key that the models know."""
    table: list[str] = []
    unknown = []
    for line in (ROOT / "settings.toml").read_text("utf-8").splitlines():
        if header := re.match(r"(?:# )?\[\[?([a-z_.-]+)\]", line):
            table = header[1].split(".")
        elif found := re.match(r"(?:# )?([a-z_]+) = (.*?)(?:\s{2,}#.*)?$", line):
            tomllib.loads(f"{found[1]} = {found[2]}")
            if not _known([*table, found[1]]):
                unknown.append(f"[{'.'.join(table)}] {found[1]}")
    assert not unknown


def _known(path: list[str]) -> bool:
    nodes: list[dict[str, Any]] = [schema()]
    for step in path:
        nodes = [form for node in nodes for part in _below(node, step) for form in _forms(part)]
    return bool(nodes)


def _below(node: dict[str, Any], step: str) -> list[dict[str, Any]]:
    open_to_all = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
    return [part for part in (node.get("properties", {}).get(step), *open_to_all) if isinstance(part, dict)]


def _forms(node: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return _forms(schema()["$defs"][node["$ref"].rpartition("/")[2]])
    if isinstance(node.get("items"), dict):
        return _forms(node["items"])
    parts = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    return [form for part in parts for form in _forms(part)] or [node]
