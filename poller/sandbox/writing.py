"""
The writing half of the Table API: what a POST or PATCH really stores.

Nothing is refused for being odd: unknown columns are ignored, long texts cut, wrong choices dropped, and what is
no sys_id is stored in a reference all the same, cut to 32 characters. So only the row that comes back tells.
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from poller.sandbox.clock import Clock
from poller.sandbox.encoded_query import Row
from poller.sandbox.faults import error
from poller.sandbox.options import Json, Switches
from poller.sandbox.reading import Patience
from poller.sandbox.store import Fields, Store, new_sys_id
from poller.sandbox.tables import PRIORITY, Column
from poller.sandbox.wire import Request, Response

LARGEST_BODY = 10 * 1024 * 1024
_SYS_ID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE | re.ASCII)
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What a change leaves on its row beside its columns, where that is not what every change leaves."""

    silent: bool = False  # neither stamp nor count, as a script's autoSysFields(false)
    stamp: str = ""  # sys_updated_on, instead of now
    mod_count: str = ""  # instead of one more
    late: float = 0.0  # seconds until readers see the change


_PLAIN = Marks()


class Refusal(Exception):
    """The instance refuses a write; carries the answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def body_fields(request: Request) -> Fields:
    """
    Return the object in the body of *request*, read as leniently as a real instance does.

    Raises:
        Refusal: The body is too large or not JSON.
    """
    if len(request.body) > LARGEST_BODY:
        text = f"Rejected large REST payload with content-length = {len(request.body)} bytes. Max allowed: {LARGEST_BODY} bytes."
        raise Refusal(error(400, "Exception while reading request", text))
    text = request.body.decode("utf-8", "replace").strip()
    if not text:
        return {}
    try:
        content = json.loads(text)
    except ValueError:
        try:
            content = json.loads(_SINGLE.sub(_double_quoted, text))
        except ValueError as problem:
            raise Refusal(error(400, "Exception while reading request", f"{problem}")) from problem
    if isinstance(content, list):
        content = content[0] if content else {}  # only the first record of an array is created
    if not isinstance(content, dict):
        raise Refusal(error(400, "Exception while reading request", "The payload is not valid JSON."))
    return content


def _double_quoted(found: re.Match[str]) -> str:
    if found[1] is None:
        return found[0]
    return '"' + found[1].replace("\\'", "'").replace('"', '\\"') + '"'


def as_text(value: Json) -> str:
    """Return a JSON value as the instance stores it, objects in Java's way."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={as_text(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_text(one) for one in value) + "]"
    return str(value)


class Writer:
    """Inserts, changes and deletes rows."""

    def __init__(self, store: Store, switches: Switches, clock: Clock, patience: Patience) -> None:
        self._store = store
        self._switches = switches
        self._clock = clock
        self._patience = patience
        self.commits = threading.Event()  # clear while the switch hold_commits is on
        if not switches.hold_commits:
            self.commits.set()

    def insert(self, table: str, sent: Fields, identity: str, *, by_display: bool, delay: float = 0.0) -> Row:
        """
        Make a row of *sent* and commit it.

        Raises:
            Refusal: A rule, a policy or the primary key forbids it.
        """
        switches = self._switches
        columns = self._store.tables[table].definition.columns
        stamp = self._clock.stamp()  # taken when the insert starts, not when it commits
        row = {name: column.default for name, column in columns.items()}
        row |= dict(self._stored(table, sent, by_display=by_display))
        row["sys_id"] = self._sys_id(sent)
        if "number" in columns and not row["number"]:
            row["number"] = self._store.next_number(table)
        row |= {
            "sys_created_on": stamp,
            "sys_updated_on": stamp,
            "sys_created_by": identity,
            "sys_updated_by": identity,
        }
        row |= {"sys_mod_count": "0", "sys_class_name": table}
        if table == "incident":
            self._complete(row, sent, identity, stamp)
            self._obey(row)
        notes = self._notes(table, row, identity, stamp)
        self._patience.sleep(delay + (switches.insert_delay if table == "incident" else 0.0))
        self.commits.wait()
        if switches.visibility_delay > 0:
            self._store.tables[table].delay(row["sys_id"], switches.visibility_delay)
        if not self._store.insert(table, row):
            raise Refusal(
                error(403, "Operation Failed", f"Error during insert of {table} ({row.get('number', row['sys_id'])})")
            )
        for note in notes:
            self._store.insert("sys_journal_field", note)
        return row

    def _sys_id(self, sent: Fields) -> str:
        wanted = sent.get("sys_id")
        if not isinstance(wanted, str) or not wanted or self._switches.sys_id == "ignored":
            return new_sys_id()
        if self._switches.sys_id == "refused":
            text = "ACL Exception Insert Failed due to security constraints"
            raise Refusal(error(403, "Operation Failed", text))
        return wanted.lower() if _SYS_ID.fullmatch(wanted) else new_sys_id()

    def _stored(self, table: str, sent: Mapping[str, Json], *, by_display: bool) -> Iterator[tuple[str, str]]:
        """Yield the columns of *sent* with what is stored of them."""
        columns = self._store.tables[table].definition.columns
        for name, value in sent.items():
            column = columns.get(name)
            if column is None or (name.startswith("sys_") and not name.startswith("sys_domain")):
                continue
            text = as_text(value)
            if by_display:
                text = self._by_display(column, text)
            if column.choices and text not in column.choices:
                continue  # an invalid choice is dropped, and so is an empty one
            if name == "correlation_id" and table == "incident":
                yield name, self._correlation(text)
            elif column.kind == "boolean":
                yield name, "true" if text.lower() in {"true", "1"} else "false"
            else:
                yield name, text[: column.length]

    def _correlation(self, text: str) -> str:
        rule = self._switches.rewrite_correlation
        return (rule.replace("{}", text) if rule else text)[: self._switches.cut_correlation]

    def _by_display(self, column: Column, text: str) -> str:
        if column.reference in self._store.tables:
            shown = self._store.tables[column.reference].definition.display
            rows = self._store.tables[column.reference].all()
            return next((row["sys_id"] for row in rows if row[shown].casefold() == text.casefold()), "")
        return next((key for key, label in column.choices.items() if label.casefold() == text.casefold()), text)

    def _complete(self, row: dict[str, str], sent: Mapping[str, Json], identity: str, stamp: str) -> None:
        """Fill in what the rules of an incident derive."""
        row["priority"] = PRIORITY[row["impact"], row["urgency"]]
        if "incident_state" in sent and "state" not in sent:
            row["state"] = row["incident_state"]
        row["incident_state"] = row["state"]
        if "active" not in sent and not sent.keys().isdisjoint({"state", "incident_state"}):
            row["active"] = "false" if row["state"] in {"7", "8"} else "true"
        row["opened_at"] = row["opened_at"] or stamp
        if not row["opened_by"]:
            users = self._store.tables["sys_user"].among("user_name", [identity])
            row["opened_by"] = users[0]["sys_id"] if users else ""

    def _obey(self, row: Row) -> None:
        """Hold *row* against data policies and business rules."""
        if row["state"] in {"6", "7"} and not (row["close_code"] and row["close_notes"]):
            text = "Data Policy Exception: The following fields are mandatory: Resolution code, Resolution notes"
            raise Refusal(error(403, "Operation Failed", text))
        for rule in self._switches.refuse:
            if str(rule.get("contains", "")) in row.get(str(rule.get("field", "short_description")), ""):
                text = "Operation against file 'incident' was aborted by Business Rule 'Refuse^0f'. Business Rule Stack:Refuse"
                status = int(rule.get("status", 403))
                raise Refusal(error(status, str(rule.get("message", "Operation Failed")), rule.get("detail", text)))

    def _notes(self, table: str, row: dict[str, str], identity: str, stamp: str) -> list[Row]:
        """Take journal texts out of *row* and return them as rows of their own."""
        notes: list[Row] = []
        template = self._store.tables["sys_journal_field"].definition.columns
        for name, column in self._store.tables[table].definition.columns.items():
            if column.kind == "journal_input" and row.get(name):
                note = dict.fromkeys(template, "")
                note |= {
                    "sys_id": new_sys_id(),
                    "element": name,
                    "element_id": row["sys_id"],
                    "name": table,
                    "value": row[name],
                }
                note |= {"sys_created_on": stamp, "sys_updated_on": stamp, "sys_created_by": identity}
                notes.append(note)
                row[name] = ""
        return notes

    def change(
        self, table: str, sys_id: str, sent: Fields, identity: str, *, by_display: bool, marks: Marks = _PLAIN
    ) -> Row | None:
        """Change a row, fields not sent are kept; None when there is no such row."""
        with self._store.lock:
            before = self._store.tables[table].rows.get(sys_id)
            if before is None:
                return None
            stamp = self._clock.stamp()
            row = {**before, **dict(self._stored(table, sent, by_display=by_display))}
            if table == "incident":
                self._complete(row, sent, identity, stamp)
                self._obey(row)
                self._date_ends(row, stamp)
            notes = self._notes(table, row, identity, stamp)
            if row != before or notes or marks != _PLAIN:
                row |= _marked(before, identity, stamp, marks)
                if marks.late > 0:
                    self._store.tables[table].delay(sys_id, marks.late, older=before)
                self._store.replace(table, row)
            for note in notes:
                self._store.insert("sys_journal_field", note)
            return row

    @staticmethod
    def _date_ends(row: dict[str, str], stamp: str) -> None:
        if row["state"] in {"6", "7"} and not row["resolved_at"]:
            row["resolved_at"] = stamp
        if row["state"] == "7" and not row["closed_at"]:
            row["closed_at"] = stamp

    def delete(self, table: str, sys_id: str) -> bool:
        """Delete a row; False when there is none."""
        return self._store.remove(table, sys_id)


def _marked(before: Row, identity: str, stamp: str, marks: Marks) -> dict[str, str]:
    """Return the columns in which a row remembers that it was changed."""
    count = str(int(before["sys_mod_count"] or "0") + 1)
    columns = {} if marks.silent else {"sys_updated_on": stamp, "sys_updated_by": identity, "sys_mod_count": count}
    given = {"sys_updated_on": marks.stamp, "sys_mod_count": marks.mod_count}
    return columns | {name: value for name, value in given.items() if value}
