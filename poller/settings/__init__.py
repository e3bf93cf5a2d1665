"""
``settings.toml`` in, frozen models out; every problem at once, each with its file and line.

The models of sources, sinks and remotes stand beside the classes that they configure; this package puts them together.
It reads the one file and the secrets that it names: nothing is taken from the environment behind its back, nothing is
included, nothing is expanded.

`models` says what there is, `positions` where in the file it stands, `problems` and `between` what is wrong with it,
`reading` does it.
"""

from poller.settings.models import Database, Log, Maintenance, Retention, Retry, Route, Settings
from poller.settings.reading import find_settings, load, secrets, warnings

__all__ = [
    "Database",
    "Log",
    "Maintenance",
    "Retention",
    "Retry",
    "Route",
    "Settings",
    "find_settings",
    "load",
    "secrets",
    "warnings",
]
