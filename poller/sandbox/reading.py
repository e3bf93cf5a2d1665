"""
The reading half of the Table API: queries, fields, encodings, paging.

Everything is a string, an empty value is ``""``. Unknown columns are left out of the answer without a word, and
unknown names in a query are dropped, so that a typo reads the whole table.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlencode
from zoneinfo import ZoneInfo

from poller.sandbox.clock import Clock, stamp
from poller.sandbox.encoded_query import Condition, Context, Query, Row, compiled, narrowing, parse, sorted_rows
from poller.sandbox.options import Json, Switches
from poller.sandbox.store import Fields, Store, Table
from poller.sandbox.tables import Column

DEFAULT_LIMIT = 10_000
_SCRIPT = re.compile(r"javascript:\s*gs\.(\w+)\(([^()]*)\);?\s*")
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The parameters of a call."""

    parameters: Mapping[str, str]
    base: str  # "http://host:port/api/now/table" with the version segment of the request, for links
    identity: str  # user_name of the account

    @property
    def display(self) -> str:
        """``false``, ``true`` or ``all``."""
        return self.parameters.get("sysparm_display_value", "false")

    def flag(self, name: str) -> bool:
        """Tell whether a parameter is ``true``."""
        return self.parameters.get(name, "").lower() == "true"

    def number(self, name: str, default: int) -> int:
        """Return a parameter as a whole number, or the default where it is none."""
        text = self.parameters.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else default


def parameters(query: str) -> dict[str, str]:
    """Return the parameters in a query string."""
    return dict(parse_qsl(query, keep_blank_values=True))


@dataclass(kw_only=True)
class Found:
    """What a query found."""

    rows: list[Row]  # the page
    total: int  # of all pages, before row ACLs
    query: Query


class Reader:
    """Answers questions about the rows of a store."""

    def __init__(self, store: Store, switches: Switches, clock: Clock) -> None:
        self._store = store
        self._switches = switches
        self._clock = clock

    # Columns and dot-walks.

    def column(self, table: str, path: str) -> Column | None:
        """Return the column that *path* ends at, walking references; None when there is no such."""
        name, dot, rest = path.partition(".")
        found = self._store.tables[table].definition.columns.get(name)
        if not dot or found is None:
            return found
        return self.column(found.reference, rest) if found.reference in self._store.tables else None

    def value(self, table: str, row: Row, path: str) -> str:
        """Return the stored value at *path*; empty where a reference leads nowhere."""
        name, dot, rest = path.partition(".")
        stored = row.get(name, "")
        if not dot:
            return stored
        column = self._store.tables[table].definition.columns.get(name)
        if column is None or column.reference not in self._store.tables:
            return ""
        target = self._store.tables[column.reference].rows.get(stored)
        return "" if target is None else self.value(column.reference, target, rest)

    # Queries.

    def parsed(self, table: str, ask: Ask) -> Query:
        """Return the query of a call, from ``sysparm_query`` or from name=value pairs."""
        dropped = self._switches.drop_fields

        def known(path: str) -> bool:
            return path not in dropped and self.column(table, path) is not None

        if "sysparm_query" in ask.parameters:
            return self._timed(table, parse(ask.parameters["sysparm_query"], known))
        query = Query(sets=[[]])
        for name, value in ask.parameters.items():
            if name.startswith("sysparm_") or name == "access_token":
                continue
            if known(name):
                query.sets[0].append([self._pair(table, name, value)])
            else:
                query.dropped.append(f"{name}={value}")
        return query

    def _timed(self, table: str, query: Query) -> Query:
        """Read the dates in *query* in the user's zone, where the switch literals says so."""
        if self._switches.literals != "user":
            return query

        def read(one: Condition) -> Condition:
            column = self.column(table, one.field)
            if column is None or column.kind != "glide_date_time":
                return one
            return replace(one, value=moved(one.value, "GMT", self._switches.time_zone))

        query.sets = [[[read(one) for one in either] for either in every] for every in query.sets]
        return query

    def _pair(self, table: str, name: str, value: str) -> Condition:
        """Return the condition for ``name=value``, where display values will do as well."""
        column = self.column(table, name)
        values = [value]
        if column is not None:
            values += [key for key, label in column.choices.items() if label.casefold() == value.casefold()]
            values += [row["sys_id"] for row in self._called(column.reference, value)]
        return Condition(field=name, operator="IN" if len(values) > 1 else "=", value=",".join(values))

    def _called(self, table: str, display: str) -> list[Row]:
        """Return the rows of *table* whose display value is *display*."""
        if table not in self._store.tables:
            return []
        shown = self._store.tables[table].definition.display
        return [row for row in self._store.tables[table].all() if row[shown].casefold() == display.casefold()]

    def find(self, name: str, ask: Ask) -> Found:
        """Return the page a call asks for."""
        table = self._store.tables[name]
        query = self.parsed(name, ask)
        rows = self._matching(table, query, ask)
        offset = ask.number("sysparm_offset", 0)
        limit = ask.number("sysparm_limit", DEFAULT_LIMIT)
        page = rows[offset : offset + limit]
        if self.hidden(name):
            page = []  # the limit comes before the ACLs, and so does the count
        return Found(rows=page, total=len(rows), query=query)

    def _matching(self, table: Table, query: Query, ask: Ask) -> list[Row]:
        if any(query.dropped) and self._switches.invalid_query == "no-rows":
            return []
        context = self.context(table.name, ask.identity)
        shortcut = narrowing(query, (*table.definition.indexed, "sys_id"))
        rows = table.all() if shortcut is None else table.among(*shortcut)
        test = compiled(query, context)
        return sorted_rows((row for row in rows if test(row)), query, context)

    def context(self, table: str, identity: str) -> Context:
        """Return what a query of *table* is run in."""
        return Context(
            read=lambda row, path: self.value(table, row, path) if "." in path else row.get(path, ""),
            script=lambda text: self._script(text, identity),
            case_sensitive=self._switches.case_sensitive,
        )

    def hidden(self, table: str) -> bool:
        """Tell whether an ACL hides the rows of *table* from us."""
        return (table == "incident" and self._switches.hide_incidents) or table in self._switches.hide_tables

    def forbidden(self, table: str) -> bool:
        """Tell whether we may not read *table* at all."""
        return table in self._switches.forbid_tables

    def _script(self, text: str, identity: str) -> str:
        """Return what a ``javascript:`` value evaluates to; a script that fails gives nothing."""
        found = _SCRIPT.fullmatch(text)
        if found is None:
            return ""
        function, argument = found[1], found[2].strip()
        now = self._clock.now()
        if function == "getUserName":
            return identity
        if function == "getUserID":
            rows = self._store.tables["sys_user"].among("user_name", [identity])
            return rows[0]["sys_id"] if rows else ""
        if function == "dateGenerate":
            return " ".join(part.strip(" '\"") for part in argument.split(","))
        if function in {"now", "nowDateTime"}:
            return stamp(now)
        if function == "beginningOfToday":
            return stamp(now)[:10] + " 00:00:00"
        ago = re.fullmatch(r"(seconds|minutes|hours|days)Ago(Start|End)?", function)
        if ago is not None and argument.isdigit():
            return stamp(now - int(argument) * _UNITS[ago[1]])
        return ""

    # Encodings.

    def shown(self, table: str, row: Row, path: str) -> str:
        """Return the display value at *path*."""
        column = self.column(table, path)
        value = self.value(table, row, path)
        if column is None or not value:
            return value
        if column.kind == "glide_date_time" and self._switches.time_zone != "GMT":
            return moved(value, self._switches.time_zone, "GMT")
        if column.reference:
            target = (
                self._store.tables[column.reference].rows.get(value) if column.reference in self._store.tables else None
            )
            return target[self._store.tables[column.reference].definition.display] if target else ""
        return column.choices.get(value, value)

    def encoded(self, table: str, row: Row, ask: Ask) -> Fields:
        """Return *row* as a call wants to see it."""
        wanted = [name.strip() for name in ask.parameters.get("sysparm_fields", "").split(",") if name.strip()]
        names = list(dict.fromkeys(wanted)) or list(self._store.tables[table].definition.columns)
        hidden, columns = self._switches.unreadable_fields, self._store.tables[table].definition.columns
        display, links = ask.display, not ask.flag("sysparm_exclude_reference_link")
        result: Fields = {}
        for name in names:
            column = columns.get(name) or self.column(table, name)
            if column is None:
                continue
            if name in hidden or f"{table}.{name}" in hidden:
                if self._switches.unreadable == "empty":
                    result[name] = ""
                continue
            value = row[name] if name in row else self.value(table, row, name)
            if column.kind == "journal_input":
                value = ""  # journal fields are write-only; their entries are rows elsewhere
            if not column.reference and display == "false":
                result[name] = value
            else:
                result[name] = self._cell(table, row, name, column, value, display, ask.base if links else "")
        return result

    def _cell(self, table: str, row: Row, name: str, column: Column, value: str, display: str, base: str) -> Json:
        link = {"link": f"{base}/{column.reference}/{value}"} if column.reference and base and value else {}
        if display == "all":
            return {"display_value": self.shown(table, row, name), **link, "value": value}
        if display == "true":
            return {"display_value": self.shown(table, row, name), **link} if link else self.shown(table, row, name)
        return {**link, "value": value} if link else value


def moved(moment: str, zone: str, whence: str) -> str:
    """Return a ``YYYY-MM-DD HH:MM:SS`` of the zone *whence* as one of *zone*; anything else as it is."""
    try:
        read = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S").replace(tzinfo=ZoneInfo(whence))
    except ValueError:
        return moment
    return f"{read.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}"


def pagination(url: str, ask: Ask, total: int) -> str:
    """Return the ``Link`` header of a list; empty for a single page."""
    limit, offset = ask.number("sysparm_limit", DEFAULT_LIMIT), ask.number("sysparm_offset", 0)
    if limit < 1 or (total <= limit and offset == 0):
        return ""

    def links() -> Iterator[str]:
        last = (total - 1) // limit * limit if total else 0
        targets = {"first": 0, "prev": offset - limit, "next": offset + limit, "last": last}
        for name, target in targets.items():
            if (name == "prev" and offset == 0) or (name == "next" and target >= total):
                continue
            values = {**ask.parameters, "sysparm_limit": str(limit), "sysparm_offset": str(max(0, target))}
            yield f'<{url}?{urlencode(values, quote_via=quote)}>;rel="{name}"'

    return ",".join(links())


class Patience:
    """Waits that the sandbox's end cuts short."""

    def __init__(self) -> None:
        self.over = False

    def sleep(self, duration: float) -> None:
        """Sleep in slices."""
        until = time.monotonic() + duration
        while not self.over and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


def as_seen(ask: Ask, **changes: str) -> Ask:
    """Return *ask* with some parameters changed."""
    return replace(ask, parameters={**ask.parameters, **changes})
