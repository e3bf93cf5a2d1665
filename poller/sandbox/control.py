"""
The control endpoints of the ServiceNow port, under ``/sandbox/``: for tests, not authenticated.

=================================  ==============================================================
GET /sandbox/ledger[?after=N]      ``{"entries": [...]}``, oldest first, numbered ``n``
GET /sandbox/incidents             ``{"incidents": [...]}``, flat strings, hidden ones too
GET /sandbox/counts                calls by kind, total, most_at_once; DELETE starts them anew
GET /sandbox/users, POST           all users; POST adds one object or a list of them
POST /sandbox/rows                 ``{"table", "rows": [...]}``, rows of any table, such as ``sys_user_group``
POST /sandbox/incidents            adds rows as they are, doubles included; object or list; ``late`` as below
DELETE /sandbox/incidents          removes those that ``{"sys_id" | "number" | "query"}`` names
POST /sandbox/change               changes incidents as a person at the desk does, see `changing`
GET /sandbox/faults, POST          probabilities by name; POST replaces them all
POST /sandbox/next                 ``{"fault", "method", "path", "contains", "count"}`` for the next calls
GET /sandbox/switch, POST          the switches; POST changes those named; ``revoke_all`` kills tokens
POST /sandbox/reset                no faults, nothing ordered; those of the business rule too
GET /sandbox/rules, POST           a business rule that calls out, see `rules`
=================================  ==============================================================
"""

import json
from collections.abc import Callable

from poller.sandbox.changing import Desk
from poller.sandbox.clock import Clock
from poller.sandbox.dice import Dice, Ordered
from poller.sandbox.ledger import Ledger
from poller.sandbox.oauth import Gate
from poller.sandbox.options import Json, Switches, seconds
from poller.sandbox.people import named_row, user_row
from poller.sandbox.reading import parameters
from poller.sandbox.rules import Rules
from poller.sandbox.store import Fields, Store, new_sys_id
from poller.sandbox.tables import PRIORITY, TABLES
from poller.sandbox.wire import Request, Response
from poller.sandbox.writing import Writer

Answer = Callable[[Request], Json]


def as_json(status: int, content: Json) -> Response:
    """Return *content* as an answer."""
    return Response(
        status, json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"), "application/json"
    )


def many(request: Request) -> list[Fields]:
    """
    Return the objects in a body that holds one or a list of them.

    Raises:
        ValueError: It holds something else.
    """
    content = json.loads(request.body)
    items = content if isinstance(content, list) else [content]
    if not all(isinstance(item, dict) for item in items):
        message = "expected an object or a list of objects"
        raise ValueError(message)
    return items


def one(request: Request) -> Fields:
    """
    Return the object in a body; an empty body is an empty object.

    Raises:
        ValueError: It holds something else.
    """
    content = json.loads(request.body or b"{}")
    if not isinstance(content, dict):
        message = "expected an object"
        raise ValueError(message)  # noqa: TRY004 - the caller answers 400 to every ValueError
    return content


def routed(request: Request, routes: dict[tuple[str, str], Answer]) -> Response:
    """Answer a control call from a table of routes; what it refuses is a 400 with the reason."""
    answer = routes.get((request.method, request.path.rstrip("/")))
    if answer is None:
        known = ", ".join(f"{method} {path}" for method, path in sorted(routes))
        return as_json(404, {"error": f"no {request.method} {request.path}; there are: {known}"})
    try:
        return as_json(200, answer(request))
    except (ValueError, TypeError) as error:
        return as_json(400, {"error": str(error)})


class Control:
    """Answers the control calls."""

    def __init__(  # noqa: PLR0913 - put together in one place, Sandbox
        self,
        *,
        store: Store,
        switches: Switches,
        clock: Clock,
        gate: Gate,
        ledger: Ledger,
        dice: Dice,
        writer: Writer,
        desk: Desk,
        rules: Rules,
    ) -> None:
        self._store = store
        self._switches = switches
        self._clock = clock
        self._gate = gate
        self._ledger = ledger
        self._dice = dice
        self._writer = writer
        self._desk = desk
        self._rules = rules
        self._routes: dict[tuple[str, str], Answer] = {
            ("GET", "/sandbox/ledger"): self._entries,
            ("GET", "/sandbox/incidents"): lambda _request: {"incidents": self._rows("incident")},
            ("POST", "/sandbox/incidents"): self._add_incidents,
            ("DELETE", "/sandbox/incidents"): lambda request: desk.remove(one(request)),
            ("POST", "/sandbox/change"): lambda request: desk.change(one(request)),
            ("GET", "/sandbox/users"): lambda _request: {"users": self._rows("sys_user")},
            ("POST", "/sandbox/users"): self._add_users,
            ("POST", "/sandbox/rows"): self._add_rows,
            ("GET", "/sandbox/counts"): lambda _request: ledger.counts(),
            ("DELETE", "/sandbox/counts"): self._forget_counts,
            ("GET", "/sandbox/faults"): lambda _request: dice.chances,
            ("POST", "/sandbox/faults"): self._set_faults,
            ("POST", "/sandbox/next"): self._order,
            ("GET", "/sandbox/switch"): lambda _request: switches.shown(),
            ("POST", "/sandbox/switch"): self._switch,
            ("POST", "/sandbox/reset"): self._reset,
            ("GET", "/sandbox/rules"): lambda _request: rules.shown(),
            ("POST", "/sandbox/rules"): lambda request: rules.change(one(request)),
            ("GET", "/sandbox/rules/sent"): lambda request: rules.sent(_after(request)),
            ("GET", "/sandbox/rules/faults"): lambda _request: rules.dice.chances,
            ("POST", "/sandbox/rules/faults"): self._set_rule_faults,
        }

    def answer(self, request: Request) -> Response:
        """Answer a control call."""
        return routed(request, self._routes)

    def _entries(self, request: Request) -> Json:
        return {"entries": self._ledger.entries(_after(request))}

    def _forget_counts(self, _request: Request) -> Json:
        self._ledger.forget_counts()
        return self._ledger.counts()

    def _rows(self, table: str) -> list[Json]:
        return list(self._store.tables[table].rows.values())

    def _add_incidents(self, request: Request) -> Json:
        added = []
        for given in many(request):
            stamp = self._clock.stamp()
            row = {name: column.default for name, column in TABLES["incident"].columns.items()}
            row |= {"sys_id": new_sys_id(), "sys_class_name": "incident", "opened_at": stamp}
            row |= {
                "sys_created_on": stamp,
                "sys_updated_on": stamp,
                "sys_created_by": "admin",
                "sys_updated_by": "admin",
            }
            row |= {name: self._desk.referred(name, str(value)) for name, value in given.items() if name in row}
            row["number"] = row["number"] or self._store.next_number("incident")
            row["priority"] = given.get("priority") or PRIORITY.get((row["impact"], row["urgency"]), "5")
            if not self._store.insert("incident", row):
                message = f"sys_id {row['sys_id']} is taken"
                raise ValueError(message)
            if "late" in given:
                self._store.tables["incident"].delay(row["sys_id"], seconds(given["late"]))
            added.append({"sys_id": row["sys_id"], "number": row["number"]})
        return {"added": added}

    def _add_users(self, request: Request) -> Json:
        rows = [user_row({"sys_id": new_sys_id(), **given}, self._clock.stamp()) for given in many(request)]
        for row in rows:
            self._store.replace("sys_user", row)
        return {"added": [{"sys_id": row["sys_id"], "user_name": row["user_name"]} for row in rows]}

    def _add_rows(self, request: Request) -> Json:
        given = one(request)
        table, rows = str(given.get("table")), given.get("rows")
        if table not in TABLES or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            message = f"expected table, one of {', '.join(sorted(TABLES))}, and rows, a list of objects"
            raise ValueError(message)
        made = [named_row(table, {"sys_id": new_sys_id(), **row}, self._clock.stamp()) for row in rows]
        for row in made:
            self._store.replace(table, row)
        return {"added": [{"sys_id": row["sys_id"]} for row in made]}

    def _set_faults(self, request: Request) -> Json:
        self._dice.replace(one(request))
        return self._dice.chances

    def _set_rule_faults(self, request: Request) -> Json:
        self._rules.dice.replace(one(request))
        return self._rules.dice.chances

    def _order(self, request: Request) -> Json:
        self._dice.order(Ordered(**one(request)))
        return {}

    def _switch(self, request: Request) -> Json:
        wanted = one(request)
        if wanted.pop("revoke_all", False):
            self._gate.kill_all()
        self._switches.change(wanted)
        if self._switches.hold_commits:
            self._writer.commits.clear()
        else:
            self._writer.commits.set()
        return self._switches.shown()

    def _reset(self, _request: Request) -> Json:
        self._dice.forget()
        self._rules.dice.forget()
        return {}


def _after(request: Request) -> int:
    return int(parameters(request.query).get("after", "0"))
