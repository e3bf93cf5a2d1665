"""
Five thousand records through the real command line, with every name and text that has ever broken a client.

The export must agree with the instance one to one, each caller must be right, and no query may have been read otherwise
than it was meant.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.scenarios.world import ROUTE, Callers, Fields, World, as_text, world

MORE_USERS = 300
#: People besides those that every sandbox has; user_name is what counts.
USERS = [
    {"user_name": name}
    for name in (
        "Dana.Dup", "dana.DUP",  # nobody is exactly dana.dup
        "opsXnight", "ops^day^night", "ops", "night",  # what a cut or dropped part of ops^night would find
        "b^c", "^front", "back^", "trailing.blank", "straße.süd", "admin", "true", "0", "null", "42",
        "in.list", "OR", "NQ", "user_name", "a", "b", "a,b,c", "山田.太郎", "иван.иванов", "dot.", "semi;colon",
    )
]  # fmt: skip
LOGINS: list[object] = [
    "abel.tuter", "beth.anglin", "wendy.wu", "ops^night", "a,b", "a,b,c", "a", "b", "javascript:gs.getUserID()",
    "JavaScript:gs.getUserName()", " javascript:alert(1)", "", " ", "\t\n", "nobody.at.all", "abel.tuter ", "\u00a0abel.tuter\r\n",
    "ABEL.TUTER", "Carla.Case", "carla.case", "CARLA.CASE", "dana.dup", "Dana.Dup", "zoë.ångström",
    unicodedata.normalize("NFD", "zoë.ångström"), "ZOË.ÅNGSTRÖM", "rené.müller", unicodedata.normalize("NFD", "rené.müller"),
    "long." + "x" * 295, "long." + "x" * 294, "long." + "x" * 296, "y" * 300, "z" * 5000, "ä" * 3000, "山田.太郎", "ИВАН.ИВАНОВ",
    "STRASSE.SÜD", "o'brien", "50%_off", "50%", "o&m=team", "*", "%", "^", "^^", "^front", "back^", "b^c", "ops^day^night", "ops^",
    "^night", "x^ORactive=true", "x^NQuser_nameISNOTEMPTY", "abel.tuter^ORDERBYuser_name", "abel.tuter^active=true",
    "^ORuser_nameSTARTSWITHa", "abel.tuter^ORuser_name=admin", "OR", "NQ", "user_name", "ISNOTEMPTY", "abel.tuter,beth.anglin",
    "admin\x00", "ad\x01min", "abel\ntuter", "half\ud800", "\udfff", "null", "true", None, 42, 0, "{{ 7*7 }}", "<script>alert(1)</script>",
    "'; DROP TABLE sys_user; --", "\u202eresu", "trailing.blank   ", "dot.", "semi;colon", "former.employee", "emoji😀",
]  # fmt: skip
TEXTS: list[object] = [
    "plain", "emoji 😀 👩‍👩‍👧‍👦", "\"quotes\" and 'quotes' and `these`", "two\nlines", "with\r\nCRLF\rand CR", "{{7*7}} {{ config }}",
    "{% for x in range(10**9) %}", "{#", "<script>alert(1)</script>", "[code]<b>bold</b>[/code]", "x" * 500, "a" * 200_000,
    "ü" * 200_000, "\x01\x02\x1b[31m\x7f", "lone \ud800 half", "\udc00", "nul \x00 inside", "\x00", "", " ", "back\\slash \\u0041",
    "javascript:gs.log(1)", "^OR^NQactive=true", "\u202eright to left",
    "zero\u200bwidth", "é" + "e\u0301", "山田太郎", 42, 1.5, True, False,
    None, [1, "two", None], {"a": {"b": "c"}}, "'; DROP TABLE incident; --", "%s %d %n {0} $HOME `id`", "\ufeffbom", "\u2028\u2029",
    "]]>&lt;&amp;", "=cmd|' /C calc'!A0",
]  # fmt: skip


def tickets(count: int) -> list[Fields]:
    """Return so many tickets: each name and each text at least once, ordinary ones between."""
    hostile: list[Fields] = [
        {"requester": {"login": login}, "subject": f"name {n}", "body": ""} for n, login in enumerate(LOGINS)
    ]
    hostile += [{"requester": {"login": "abel.tuter"}, "subject": f"text {n}", "body": t} for n, t in enumerate(TEXTS)]
    hostile += [{"requester": {"login": "beth.anglin"}, "subject": text, "body": "x"} for text in TEXTS]
    plain: list[Fields] = [
        {"requester": {"login": f"user{n % MORE_USERS + 1:04d}"}, "subject": f"Ticket {n}", "body": f"Line {n}\nend"}
        for n in range(count - len(hostile))
    ]
    step = max(1, len(plain) // len(hostile))
    found: list[Fields] = []
    for position, one in enumerate(hostile):
        found += [one, *plain[position * step : (position + 1) * step]]
    return found + plain[len(hostile) * step :]


#: What a query of the product may consist of; the values are looked at one by one.
_PART = re.compile(
    r"(?P<field>user_name|correlation_id|sys_id|sys_created_on|name|element)"
    r"(?P<operator>IN|=|STARTSWITH|ENDSWITH|>=|>|ISNOTEMPTY)(?P<value>.*)",
    re.DOTALL,
)


def misread(ledger: Sequence[Fields], logins: Iterable[str]) -> list[str]:
    """Return queries that the instance read otherwise than meant: parts dropped, injected, cut at a comma or run."""
    cleaned = {unicodedata.normalize("NFC", login).strip() for login in logins}
    names = cleaned | {unicodedata.normalize("NFD", name) for name in cleaned}
    found = []
    for entry in ledger:
        if "query" not in entry:
            continue
        if entry["dropped"]:
            found.append(f"dropped {entry['dropped']}: {entry['query'][:200]!r}")
        conditions = [part for part in entry["query"].split("^") if part != "ORDERBYsys_id"]
        parts = [(part, _PART.fullmatch(part)) for part in conditions]
        found += [f"no condition of ours: {part[:200]!r}" for part, match in parts if match is None]
        if not conditions:
            found.append(f"no condition at all: {entry['path']}")
        for part, match in parts:
            if match is not None and not _meant(match["field"], match["operator"], match["value"], names):
                found.append(f"not what anybody asked for: {part[:200]!r}")
    return found


def _meant(field: str, operator: str, value: str, names: set[str]) -> bool:
    if value.strip().lower().startswith("javascript:") or re.search(r"[\x00-\x1f\x7f]", value):
        return False
    if operator == "ISNOTEMPTY" or re.fullmatch(r"poller-probe:[0-9a-f]{32}", value):
        return field in {"user_name", "correlation_id"} and not (operator == "ISNOTEMPTY" and value)
    if field != "user_name":
        shapes = {
            "correlation_id": r"(poller-probe:[0-9a-f]{32}|[a-z0-9-]+:|([a-z0-9-]+:[0-9a-f]{8}:[0-9a-f]{32},?)+)",
            "sys_id": r"([0-9a-f]{32},?)+",
            # The dictionary's.
            "name": "incident,task",
            "element": "caller_id,short_description,description,work_notes",
            "sys_created_on": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
        }
        return re.fullmatch(shapes[field], value) is not None
    if operator == "IN":
        return set(value.split(",")) <= names
    if operator == "=":
        return value in names
    parted = [name for name in names if "^" in name]
    heads = {name.partition("^")[0] for name in parted}
    tails = {name.rpartition("^")[2] for name in parted}
    return value in {"STARTSWITH": heads, "ENDSWITH": tails}[operator]


def configure(here: World, unknown_user: str) -> None:
    here.configure(
        concurrency=16,
        source='url = "{helpdesk}/api/tickets/link"\nparams = { per_page = "250" }\npaging = { type = "link" }',
        sink=f"unknown_user = {unknown_user}",
    )


def run_twice(here: World, given: list[Fields], *, default: str = "") -> list[Fields]:
    """Run ``once`` twice and hold everything against everything; return the export."""
    here.sandbox.add_users(*USERS)
    here.sandbox.add_tickets(*given)
    code = here.once(280)
    first = here.sandbox.creates()
    export = here.export()
    findings = here.check(export=export, default=default)
    ledger = here.sandbox.ledger()
    again = here.once()

    assert not any(findings.values()), {kind: what[:10] for kind, what in findings.items() if what}
    assert misread(ledger, [as_text(login) for login in LOGINS] + [f"user{n:04d}" for n in range(MORE_USERS + 1)]) == []
    assert not any(entry["cookies"] for entry in first)
    # One to one: as many rows as delivered records, and the same pairs of number and sys_id.
    delivered = {(one["number"], one["sys_id"], one["correlation_id"]) for one in export if one["state"] == "delivered"}
    rows = {(row["number"], row["sys_id"], row["correlation_id"]) for row in here.sandbox.incidents()}
    assert delivered == rows
    assert len(export) == len(given)
    assert len(first) == len(rows), "each incident took one create"
    assert here.sandbox.creates() == first, "the second poll created something"
    unhappy = any(one["state"] == "dead" for one in export)
    assert (code, again) == ((1, 1) if unhappy else (0, 0))
    return export


def unknown(here: World) -> set[str]:
    """Return the keys of tickets whose requester is nobody, or more than one."""
    callers = Callers(here.sandbox.users())
    return {
        str(ticket["id"])
        for ticket in here.sandbox.tickets()
        if callers.find(as_text(ticket["requester"]["login"])) is None
    }


@pytest.mark.slow
def test_five_thousand_records_become_as_many_incidents_each_with_its_caller(tmp_path: Path) -> None:
    with world(tmp_path, None, "--tickets", "0", "--users", str(MORE_USERS)) as here:
        configure(here, '{ policy = "dead" }')
        export = run_twice(here, tickets(5000))
        dead = {one["key"]: one["reason"] for one in export if one["state"] == "dead"}

        assert dead.keys() == unknown(here)
        assert all(dead.values()), "a dead letter says why"
        logins = {str(one["id"]): as_text(one["requester"]["login"]) for one in here.sandbox.tickets()}
        assert {logins[key] for key in dead} >= {
            "",
            "nobody.at.all",
            "CARLA.CASE",
            "dana.dup",
            "javascript:gs.getUserID()",
        }
        found = {logins[one["key"]] for one in export if one["state"] == "delivered"}
        assert found >= {
            "ops^night",
            "a,b",
            "abel.tuter ",
            "ABEL.TUTER",
            "rené.müller",
            "long." + "x" * 295,
            "ops^day^night",
        }


@pytest.mark.parametrize("policy", ["omit", "default"])
def test_unknown_users_as_the_settings_say(policy: str, tmp_path: Path) -> None:
    with world(tmp_path, None, "--tickets", "0", "--users", str(MORE_USERS)) as here:
        username = ', username = "wendy.wu"' if policy == "default" else ""
        configure(here, f'{{ policy = "{policy}"{username} }}')
        (wendy,) = [user["sys_id"] for user in here.sandbox.users() if user["user_name"] == "wendy.wu"]
        default = wendy if policy == "default" else ""
        export = run_twice(here, tickets(300), default=default)
        rows = {row["correlation_display"]: row["caller_id"] for row in here.sandbox.incidents()}

        assert {one["state"] for one in export} == {"delivered"}
        assert {rows[f"{ROUTE}/{key}"] for key in unknown(here)} == {default}
