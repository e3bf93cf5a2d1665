"""Options that many commands share. Nothing but click is imported here, as in `cli`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def with_settings(command: F) -> F:
    """Let a command take ``--settings FILE``."""
    return click.option(
        "--settings",
        metavar="FILE",
        help="The settings file; else $POLLER_SETTINGS, ./settings.toml, /etc/poller/settings.toml.",
    )(command)


#: Let a command take ``--json``.
as_json = click.option("--json", "machine", is_flag=True, help="For machines.")
