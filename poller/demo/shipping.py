"""The files that come with poller as an example, found in a checkout and in an installed package."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from poller.errors import SettingsError
from poller.sandbox import Sandbox

SETTINGS, SCHEMA = "settings.toml", "vendor.xsd"
#: Where the schema stands in a checkout, and in the settings.
_RECIPES = "docs/recipes"

#: As the shipped settings have them.
_INSTANCE, _HELPDESK, _DATABASE = "http://127.0.0.1:18080", "http://127.0.0.1:18081", "sqlite:///poller.db"


def shipped(name: str) -> str:
    """
    Return the text of `SETTINGS` or `SCHEMA`.

    Raises:
        SettingsError: It is in neither place.
    """
    package = Path(str(files("poller")))
    for place in (package / f"_{name}", package.parent / name, package.parent / _RECIPES / name):
        if place.is_file():
            return place.read_text("utf-8")
    raise SettingsError([f"{name}: the shipped one is not in {package}; install poller anew"])


def rehearsed(sandbox: Sandbox, folder: Path) -> str:
    """Return the shipped settings with the sandbox's addresses, and the database in *folder*."""
    database = f"sqlite:///{folder.absolute() / 'poller.db'}"
    places = {_INSTANCE: sandbox.servicenow_url, _HELPDESK: sandbox.helpdesk_url, _DATABASE: database}
    text = shipped(SETTINGS).replace(f"{_RECIPES}/{SCHEMA}", SCHEMA)
    for was, now in places.items():
        text = text.replace(was, json.dumps(now, ensure_ascii=False)[1:-1])  # TOML escapes as JSON does
    return text
