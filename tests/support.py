"""What tests of several folders use."""

import os
from collections.abc import Mapping

import pytest


def everything_required(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether this run must not skip anything: in continuous integration, or where asked for."""
    return environ.get("CI") == "true" or environ.get("POLLER_REQUIRE_ALL", "") not in ("", "0")


def require_or_skip(condition: object, reason: str) -> None:
    """
    Go on when *condition* holds; else skip, naming *reason*, and fail where everything is required.

    Args:
        reason: What is missing and how to get it: ``"PostgreSQL's initdb is missing: apt-get install postgresql"``.
    """
    if condition:
        return
    if everything_required():
        pytest.fail(f"required here: {reason}", pytrace=False)
    pytest.skip(reason)
