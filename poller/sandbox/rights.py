"""
What the integration user may do with incidents, by its roles; and its time zone, as its own row shows it.

Roles are a switch, so the rows that tell of them follow it. Custom roles grant nothing here, unlike on real instances.
"""

from __future__ import annotations

from poller.sandbox.faults import error
from poller.sandbox.options import Switches
from poller.sandbox.people import derived_id, named_row
from poller.sandbox.store import Store
from poller.sandbox.wire import Response

READERS = frozenset({"itil", "sn_incident_read", "sn_incident_write", "admin"})
WRITERS = frozenset({"itil", "sn_incident_write", "admin"})
READ_ONLY = "snc_read_only"
_VERBS = {"POST": "Insert", "PUT": "Update", "PATCH": "Update", "DELETE": "Delete"}


class Rights:
    """The rights of one user."""

    def __init__(self, store: Store, switches: Switches, user: str) -> None:
        self._store = store
        self._switches = switches
        self._user = user
        self._shown: tuple[list[str], str] | None = None

    def refused(self, table: str, method: str) -> Response | None:
        """Return the answer to a call that the roles do not allow; None where they do."""
        self._show()
        roles = set(self._switches.roles)
        if method in {"GET", "HEAD"}:
            if table == "incident" and not roles & READERS:
                return error(403, "Insufficient rights to query records", None)
            return None
        if READ_ONLY in roles or (table == "incident" and not roles & WRITERS):
            verb = _VERBS.get(method, "Insert")
            return error(403, "Operation Failed", f"ACL Exception {verb} Failed due to security constraints")
        return None

    def _show(self) -> None:
        """Bring the user's rows in step with the switches; none of it is journalled."""
        wanted = (list(self._switches.roles), self._switches.time_zone)
        if wanted == self._shown:
            return
        with self._store.lock:
            users = self._store.tables["sys_user"].among("user_name", [self._user])
            held = self._store.tables["sys_user_has_role"]
            for sys_id in list(held.rows):
                held.remove(sys_id)
            for user in users:
                self._store.tables["sys_user"].put({**user, "time_zone": wanted[1]})
                for role in wanted[0]:
                    self._hold(user["sys_id"], role)
            self._shown = wanted

    def _hold(self, user: str, role: str) -> None:
        made = named_row("sys_user_role", {"name": role}, "2026-01-01 00:00:00")
        self._store.tables["sys_user_role"].put(made)
        row = {"sys_id": derived_id("sys_user_has_role", f"{user}.{role}"), "user": user, "role": made["sys_id"]}
        held = named_row("sys_user_has_role", row, "2026-01-01 00:00:00")
        self._store.tables["sys_user_has_role"].put(held)
