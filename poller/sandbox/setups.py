"""
Instances as they are found when something was not set up as it should be: presets of options, switches and faults.

Each is one way in which a real admin's first hour goes wrong (servicenow.md sections 1 to 5). Two more need no preset: a
mistyped ``table`` in the settings, and an instance behind a private CA, which ``--certificate`` and ``--key`` play.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from poller.sandbox.options import Json, Options
from poller.sandbox.store import Store, new_sys_id
from poller.sandbox.tables import PRIORITY, TABLES


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One preset."""

    text: str
    switches: Mapping[str, Json] = field(default_factory=dict)
    faults: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Json] = field(default_factory=dict)


SETUPS: Mapping[str, Setup] = {
    "well": Setup(text="nothing is wrong; some incidents of people are there"),
    "wrong-secret": Setup(text="the client secret is another", options={"client_secret": "rotated-since"}),
    "missing-property": Setup(text="the client-credentials property is off", switches={"client_credentials": False}),
    "no-application-user": Setup(text="the OAuth application names no user", switches={"application_user": False}),
    "guest-token": Setup(text="tokens act as guest, every call is a 401", switches={"guest_token": True}),
    "no-role": Setup(text="the integration user has no role", switches={"roles": []}),
    "read-only": Setup(
        text="the integration user may read and not write", switches={"roles": ["sn_incident_read", "snc_read_only"]}
    ),
    "hidden-correlation-id": Setup(
        text="correlation_id is left out of every row", switches={"unreadable_fields": ["correlation_id"]}
    ),
    "dropped-conditions": Setup(
        text="conditions on correlation_id are dropped", switches={"drop_fields": ["correlation_id"]}
    ),
    "other-zone": Setup(
        text="the integration user is in US/Pacific, and dates in queries are read so",
        switches={"time_zone": "US/Pacific", "literals": "user"},
    ),
    "login-page": Setup(text="the API answers with a login page", faults={"read:html_login_200": 1.0}),
}


def apply(name: str, options: Options) -> None:
    """Change *options* to those of a preset."""
    setup = SETUPS[name]
    options.switches.change(setup.switches)
    options.faults |= setup.faults
    for key, value in setup.options.items():
        setattr(options, key, value)


def people_have_reported(store: Store, stamp: str, *, count: int = 3) -> None:
    """Make incidents of people, as every instance in use has them."""
    for place in range(1, count + 1):
        row = {name: column.default for name, column in TABLES["incident"].columns.items()}
        row |= {"sys_id": new_sys_id(), "number": store.next_number("incident"), "sys_class_name": "incident"}
        row |= {"short_description": f"Reported by hand, {place}", "opened_at": stamp, "sys_created_by": "fred.luddy"}
        row |= {"sys_created_on": stamp, "sys_updated_on": stamp, "sys_updated_by": "fred.luddy"}
        row["priority"] = PRIORITY[row["impact"], row["urgency"]]
        # The last one comes from another integration, which has its own marks.
        row["correlation_id"] = "" if place < count else "monitoring-4711"
        store.insert("incident", row)


def table() -> str:
    """Return the presets as lines of text."""
    return "\n".join(f"  {name:<24} {setup.text}" for name, setup in SETUPS.items())
