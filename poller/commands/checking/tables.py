"""
One table that incidents are made in: whether it can be read, found again, written, and has the columns of the settings.

Everything is read; nothing is written. So the right to create can only be guessed from the roles, and is said to be.

Source: servicenow.md sections 2.3, 3, 4.1 and 10; guarantee.md 2.3 (3).
"""

from __future__ import annotations

import difflib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from poller.clients.dictionary import Columns, Dictionary
from poller.clients.query import Query
from poller.clients.rows import Incidents
from poller.clients.servicenow import ServiceNowClient
from poller.commands.checking.account import READ_ONLY, WRITERS, Account
from poller.commands.checking.findings import Finding, fault, warning, well
from poller.errors import BlockedError, HeldError, PollerError
from poller.model import Fields
from poller.settings import Route

#: A look-up by correlation_id that takes longer wants an index.
_SLOW: Final = timedelta(seconds=1)
#: What people write into ``table``, to guess what was meant.
_TABLES: Final = (
    "incident", "task", "problem", "change_request", "sc_request", "sc_req_item", "sc_task", "interaction",
    "sn_si_incident", "sn_customerservice_case", "sn_hr_core_case", "u_incident",
)  # fmt: skip
#: Of the base system, where neither a row nor the dictionary can be seen; also what a typo is compared with.
_USUAL: Final = (
    "short_description", "description", "caller_id", "assignment_group", "assigned_to", "category", "subcategory",
    "impact", "urgency", "priority", "cmdb_ci", "contact_type", "comments", "work_notes", "location", "company",
    "business_service", "opened_by", "state", "parent",
)  # fmt: skip


@dataclass(kw_only=True)
class Target:
    """
    A table and whoever delivers into it.

    Args:
        routes: Those whose sink it is, by name.
    """

    account: Account
    table: str
    routes: Mapping[str, Route]
    #: A row to look at, once one was seen; its texts are never shown.
    row: Fields | None = field(default=None, init=False)

    @property
    def _client(self) -> ServiceNowClient:
        return self.account.client

    @property
    def _where(self) -> str:
        return f"routes.{next(iter(self.routes))}.sink"

    def checks(self) -> list[Callable[[], Iterator[Finding]]]:
        """Return what is asked once `readable` is true."""
        return [self.visible, self.columns, self.create_right]

    def readable(self) -> Iterator[Finding]:
        """Look a random correlation_id up: is the table there, may we read it, is our condition heeded, how long."""
        name, started = f"table {self.table}", time.monotonic()
        try:
            Incidents(self._client, self.table).probe(secrets.token_hex(16))
        except HeldError:
            yield fault(
                name,
                "asked for a random correlation_id, the instance drops that condition and gives other rows: look-ups "
                "cannot be trusted, and nothing would be created",
                f"let {self.account.name} read the column correlation_id of {self.table} (field ACL)",
            )
        except BlockedError as error:
            yield self._unreadable(name, error)
        except PollerError as error:
            yield fault(name, str(error), "try again; see that the instance is well")
        else:
            yield self._timed(name, timedelta(seconds=time.monotonic() - started))

    def _unreadable(self, name: str, error: BlockedError) -> Finding:
        status = error.evidence.status
        if status in {400, 404}:
            meant = difflib.get_close_matches(self.table, _TABLES, n=1, cutoff=0.6)
            guess = f"; did you mean {meant[0]}?" if meant else ""
            return fault(
                name, f'{status}: the instance has no table "{self.table}"', f"correct {self._where}.table{guess}"
            )
        if status != 403:
            return fault(name, str(error), "see servicenow.auth")
        roles = self.account.roles
        none = (
            "" if roles is None else ", and has no role at all" if not roles else f", with {', '.join(sorted(roles))}"
        )
        return fault(
            name,
            f"403: {self.account.name} may not read {self.table}{none}",
            f"give {self.account.name} a role that reads and creates {self.table}, such as sn_incident_write",
        )

    def _timed(self, name: str, took: timedelta) -> Finding:
        milliseconds = f"{took / timedelta(milliseconds=1):.0f} ms"
        said = f"can be read, and a random correlation_id is found nowhere ({milliseconds})"
        if took > _SLOW:
            return warning(
                name,
                f"can be read, but a look-up by correlation_id took {took.total_seconds():.1f} s",
                f"ask for an index on {self.table}.correlation_id",
            )
        return well(name, said)

    # Its columns.

    def visible(self) -> Iterator[Finding]:
        """See whether correlation_id comes back, or only seems to be empty everywhere."""
        name = f"{self.table}.correlation_id"
        remedy = f"let {self.account.name} read the column correlation_id of {self.table} (field ACL)"
        try:
            marked = self._rows(Query().not_empty("correlation_id"), ["sys_id", "correlation_id"], 5)
            anyone = self._rows(Query().not_empty("sys_id"), [], 1)
        except PollerError as error:
            yield well(name, f"not known to be seen: {error}")
            return
        self.row = anyone[0] if anyone else None
        if self.row is not None and "correlation_id" not in self.row:
            said = f"{self.account.name} does not see it, it is left out of every row: no incident could be found again"
            yield fault(name, said, remedy)
        elif marked and not any(row.get("correlation_id") for row in marked):
            said = f"it comes back empty to {self.account.name} even where it is not: no incident could be found again"
            yield fault(name, said, remedy)
        elif self.row is None:
            yield well(name, "no row of the table is to be seen yet; the first incident will be read back to prove it")
        else:
            yield well(name, "can be seen")

    def _rows(self, query: Query, columns: list[str], limit: int) -> list[Fields]:
        return self._client.table_get(self.table, query, columns, limit)

    def columns(self) -> Iterator[Finding]:
        """See whether the columns of the settings are there, and take what they are given."""
        for name, route in self.routes.items():
            wanted = tuple(dict.fromkeys((*route.sink.fields, *(getattr(route.sink, "update_fields", None) or {}))))
            try:
                known = Dictionary(self._client, self.table, wanted).columns()
            except PollerError as error:
                yield well(f"columns of {name}", f"not known: {error}")
                continue
            found = [*self._missing(name, wanted, known), *_misfits(name, route, known)]
            yield from found or [self._all_there(name, wanted, known)]

    def _missing(self, name: str, wanted: tuple[str, ...], known: Columns) -> Iterator[Finding]:
        seen = set(self.row or ())
        if not seen and known.why is not None:
            return
        there = seen | (set() if known.why else set(known.by_name))
        for column in wanted:
            if column in there:
                continue
            meant = difflib.get_close_matches(column, sorted({*there, *_USUAL}), n=1, cutoff=0.6)
            guess = f"did you mean {meant[0]}?" if meant else "see the table's columns at the instance"
            unread = "" if known.why is None else f", or {self.account.name} may not read it"
            yield fault(
                f"columns of {name}",
                f'{self.table} has no column "{column}"{unread}; what is sent there would be lost without a word',
                f"correct routes.{name}.sink.fields.{column}: {guess}",
            )

    def _all_there(self, name: str, wanted: tuple[str, ...], known: Columns) -> Finding:
        if known.why is not None and self.row is None:
            return well(f"columns of {name}", f"not known: no row and no dictionary is to be seen ({known.why})")
        how = "by a row of the table" if known.why else "by the dictionary"
        return well(f"columns of {name}", f"{', '.join(wanted)} are there, {how}")

    # What may be written.

    def create_right(self) -> Iterator[Finding]:
        """Say what the roles let expect; only a create could prove it, and nothing is written here."""
        name, roles, who = f"create right on {self.table}", self.account.roles, self.account.name
        later = "the first incident will tell: where it is refused, the route waits and nothing is lost"
        if roles is None:
            yield well(name, f"cannot be known without writing; {later}")
        elif READ_ONLY in roles:
            yield fault(name, f"none, by the role {READ_ONLY}", f"take the role {READ_ONLY} from {who}")
        elif roles & WRITERS:
            yield well(name, f"by the role {', '.join(sorted(roles & WRITERS))}")
        else:
            yield warning(
                name,
                f"{who} has none of the roles that create incidents as delivered; {later}",
                "give it sn_incident_write, unless a role of your own allows it",
            )


def _misfits(name: str, route: Route, known: Columns) -> Iterator[Finding]:
    """Plain text into a reference is stored as it is, and points nowhere (servicenow.md 4.1)."""
    for column, form in route.sink.fields.items():
        kind = known.by_name.get(column)
        if kind is None or kind.kind != "reference" or not isinstance(form, str):
            continue
        table = kind.reference or "another table"
        key = '{ user = "…" }' if table == "sys_user" else f'{{ lookup = "{table}", by = "name", value = "…" }}'
        yield warning(
            f"columns of {name}",
            f"{column} points into {table} and is given plain text: a record is a dead letter unless that is a sys_id",
            f"write {column} = {key}",
        )
