"""``python -m poller.settings --schema`` writes the JSON schema of settings.toml; ``make schema`` keeps it in the repository."""

import json
import sys

from poller.settings.shape import schema


def text() -> str:
    """Return the committed form of the schema."""
    head = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return json.dumps(head | schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--schema"]:
        sys.exit("usage: python -m poller.settings --schema")
    sys.stdout.write(text())
