"""
What is made of the settings' models and kept in the repository; ``make schema`` makes both.

``python -m poller.settings --schema`` writes the JSON schema of settings.toml, ``--reference`` the page ``docs/settings.md``.
"""

import json
import sys
from typing import Any

from poller.settings import reference
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
    made = {"--schema": text, "--reference": reference.text}
    if len(sys.argv) != 2 or sys.argv[1] not in made:
        sys.exit("usage: python -m poller.settings --schema | --reference")
    sys.stdout.write(made[sys.argv[1]]())
