"""
What people at the desk do to incidents: ``POST /sandbox/change`` and ``DELETE /sandbox/incidents``.

``POST /sandbox/change`` takes one object and answers ``{"changed": [sys_ids]}``. It follows the rules of the instance, its
business rules and data policies included, and bypasses what a client meets: credentials, rights, faults, latency. A query of
which a part is invalid, a column or a name that is not there are refused here, since they can only be mistakes.

=====================  ==========================================================================================
number, sys_id, query  which incidents: one of these; a query is an encoded one, and must hold a condition
fields                 column: value; references as sys_id or by name (of users: user_name); ``work_notes`` append
by                     user_name of the person; left out: ``fred.luddy``
silent                 true: ``sys_updated_on``, ``sys_updated_by`` and ``sys_mod_count`` stay, as by autoSysFields(false)
stamp                  ``sys_updated_on``, such as ``2026-01-02 03:04:05``; left out: now
mod_count              ``sys_mod_count``; left out: one more
late                   seconds, or ``"500ms"``, until queries find the change, although it is stamped now
=====================  ==========================================================================================

Another incident than an existing one is no error: nothing is changed, and the answer shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from poller.sandbox.options import Json, seconds
from poller.sandbox.reading import Ask, Reader
from poller.sandbox.store import Fields, Store
from poller.sandbox.tables import TABLES
from poller.sandbox.writing import Marks, Refusal, Writer, as_text

_WHICH = ("sys_id", "number", "query")
_KEYS = frozenset({*_WHICH, "fields", "by", "silent", "stamp", "mod_count", "late"})
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_COLUMNS = TABLES["incident"].columns
#: What names a row for people, besides the column that references show.
_NAMES = {"sys_user": "user_name"}


class Desk:
    """Changes and removes incidents for people."""

    def __init__(self, store: Store, reader: Reader, writer: Writer) -> None:
        self._store = store
        self._reader = reader
        self._writer = writer

    def change(self, given: Fields) -> Json:
        """
        Change the incidents that *given* names.

        Raises:
            ValueError: What is asked for makes no sense, or a rule of the instance forbids it.
        """
        if unknown := given.keys() - _KEYS:
            message = f"unknown {', '.join(sorted(unknown))}; there are: {', '.join(sorted(_KEYS))}"
            raise ValueError(message)
        sent, marks = self._sent(given.get("fields", {})), _marks(given)
        by = str(given.get("by", "fred.luddy"))
        changed = []
        for sys_id in self._named(given):
            try:
                row = self._writer.change("incident", sys_id, sent, by, by_display=False, marks=marks)
            except Refusal as refusal:
                raise ValueError(json.loads(refusal.response.body)["error"]["detail"]) from refusal
            changed += [sys_id] if row is not None else []
        return {"changed": changed}

    def remove(self, given: Fields) -> Json:
        """
        Delete the incidents that *given* names.

        Raises:
            ValueError: It names none of sys_id, number and query.
        """
        return {"removed": [one for one in self._named(given) if self._writer.delete("incident", one)]}

    def referred(self, column: str, value: str) -> str:
        """Return the sys_id of the row that *value* names in a reference column, else *value* as it is."""
        table = self._store.tables.get(_COLUMNS[column].reference)
        if table is None or not value or value in table.rows:
            return value
        names = (table.definition.display, _NAMES.get(table.name, ""))
        for row in table.all():
            if any(row.get(name, "") == value for name in names):
                return row["sys_id"]
        return value

    def _sent(self, fields: Json) -> Fields:
        if not isinstance(fields, Mapping):
            message = "fields: expected an object of columns"
            raise ValueError(message)  # noqa: TRY004 - answered by 400
        sent = {}
        for name, value in fields.items():
            if name not in _COLUMNS or name.startswith("sys_"):
                message = f"fields: {name!r} is no column of incident that people change"
                raise ValueError(message)
            sent[name] = self.referred(name, as_text(value))
            table = self._store.tables.get(_COLUMNS[name].reference)
            if table is not None and sent[name] and sent[name] not in table.rows:
                message = f"fields: {name}: no row of {table.name} is named {value!r}"
                raise ValueError(message)
            choices = _COLUMNS[name].choices
            if choices and sent[name] not in choices:
                message = f"fields: {name}: expected one of {', '.join(choices)}, got {value!r}"
                raise ValueError(message)
        return sent

    def _named(self, given: Fields) -> list[str]:
        """Return the sys_ids that *given* names; what readers cannot see yet is among them."""
        which = [name for name in _WHICH if name in given]
        if len(which) != 1:
            message = f"expected one of {', '.join(_WHICH)}, got {', '.join(which) or 'none'}"
            raise ValueError(message)
        wanted = str(given[which[0]])
        if which[0] == "sys_id":
            return [wanted.lower()]
        if which[0] == "number":
            return [
                row["sys_id"] for row in list(self._store.tables["incident"].rows.values()) if row["number"] == wanted
            ]
        found = self._reader.find("incident", Ask(parameters={"sysparm_query": wanted}, base="", identity="admin"))
        if found.query.dropped or not any(found.query.sets):
            message = f"query: expected conditions on columns of incident, got {wanted!r}"
            raise ValueError(message)
        return [row["sys_id"] for row in found.rows]


def _marks(given: Fields) -> Marks:
    stamp = str(given.get("stamp", ""))
    if stamp and not _STAMP.fullmatch(stamp):
        message = f"stamp: expected YYYY-MM-DD HH:MM:SS, got {stamp!r}"
        raise ValueError(message)
    silent, count = given.get("silent", False), given.get("mod_count")
    if not isinstance(silent, bool) or not (count is None or (isinstance(count, int) and count >= 0)):
        message = "expected silent, true or false, and mod_count, a whole number"
        raise ValueError(message)
    count_text = "" if count is None else str(count)
    return Marks(silent=silent, stamp=stamp, mod_count=count_text, late=seconds(given.get("late", 0)))
