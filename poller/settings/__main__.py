"""``python -m poller.settings --schema`` writes the JSON schema of settings.toml; ``make schema`` keeps it in the repository."""

import json
import sys
from typing import Any

from poller.settings.shape import schema


def text() -> str:
    """Return the committed form of the schema."""
    head = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return json.dumps(head | _plain(schema()), indent=2, ensure_ascii=False) + "\n"


def _plain(node: Any) -> Any:  # noqa: ANN401  any piece of JSON
    """Leave out the titles that pydantic makes of the names."""
    if isinstance(node, dict):
        return {key: _plain(part) for key, part in node.items() if not (key == "title" and isinstance(part, str))}
    return [_plain(part) for part in node] if isinstance(node, list) else node


if __name__ == "__main__":
    if sys.argv[1:] != ["--schema"]:
        sys.exit("usage: python -m poller.settings --schema")
    sys.stdout.write(text())
