"""The users and groups a fresh sandbox has: ordinary ones, and those that break a careless client."""

import hashlib
import unicodedata

from poller.sandbox.store import Fields, Store
from poller.sandbox.tables import TABLES

# user_name, first name, last name
_ORDINARY = (
    ("abel.tuter", "Abel", "Tuter"),
    ("beth.anglin", "Beth", "Anglin"),
    ("charlie.whitherspoon", "Charlie", "Whitherspoon"),
    ("david.loo", "David", "Loo"),
    ("don.goodliffe", "Don", "Goodliffe"),
    ("fred.luddy", "Fred", "Luddy"),
    ("joe.employee", "Joe", "Employee"),
    ("luke.wilson", "Luke", "Wilson"),
    ("wendy.wu", "Wendy", "Wu"),
)
_HOSTILE = (
    ("ops^night", "Operations", "Night"),
    ("a,b", "Anna", "Berg"),
    ("javascript:gs.getUserID()", "Java", "Script"),
    ("", "Nameless", "Account"),
    ("zoë.ångström", "Zoë", "Ångström"),
    (unicodedata.normalize("NFD", "rené.müller"), "René", "Müller"),  # stored decomposed
    ("long." + "x" * 295, "Long", "Login"),
    ("Carla.Case", "Carla", "Case"),
    ("carla.case", "Carla", "Case Second"),
    ("o'brien", "Pat", "O'Brien"),
    ("50%_off", "Percy", "Cent"),
    ("o&m=team", "Olga", "Ampersand"),
)
_GROUPS = ("Service Desk", "Network", "Database", "Hardware", "Software")


def derived_id(table: str, name: str) -> str:
    """Return the sys_id a seeded row has in every sandbox."""
    return hashlib.md5(f"{table}:{name}".encode(), usedforsecurity=False).hexdigest()


def user_row(given: Fields, stamp: str) -> dict[str, str]:
    """Return a whole ``sys_user`` row from some of its columns; nothing is cut or checked."""
    row = {name: column.default for name, column in TABLES["sys_user"].columns.items()}
    row |= {name: str(value) for name, value in given.items() if name in row}
    row["sys_id"] = row["sys_id"] or derived_id("sys_user", f"{row['user_name']}:{row['name']}")
    row["name"] = row["name"] or f"{row['first_name']} {row['last_name']}".strip() or row["user_name"]
    row |= {"sys_created_on": stamp, "sys_updated_on": stamp, "sys_created_by": "system", "sys_class_name": "sys_user"}
    return row


def populate(store: Store, *, integration: str, more: int, stamp: str) -> None:
    """Fill a fresh store with users and groups."""
    people = [*_ORDINARY, *_HOSTILE, *((f"user{count:04d}", "User", f"{count:04d}") for count in range(1, more + 1))]
    for login, first, last in people:
        email = f"{first}.{last}@example.com".lower().replace(" ", ".")
        given = {
            "sys_id": derived_id("sys_user", login),
            "user_name": login,
            "first_name": first,
            "last_name": last,
            "email": email,
        }
        store.insert("sys_user", user_row(given, stamp))
    for login, first, last, active, service in (
        ("former.employee", "Former", "Employee", "false", "false"),
        (integration, "Poller", "Integration", "true", "true"),
    ):
        given = {"sys_id": derived_id("sys_user", login), "user_name": login, "first_name": first, "last_name": last}
        given |= {"active": active, "web_service_access_only": service, "time_zone": "GMT"}
        store.insert("sys_user", user_row(given, stamp))
    for name in _GROUPS:
        row = {column: definition.default for column, definition in TABLES["sys_user_group"].columns.items()}
        row |= {
            "sys_id": derived_id("sys_user_group", name),
            "name": name,
            "sys_created_on": stamp,
            "sys_updated_on": stamp,
        }
        store.insert("sys_user_group", row)


def describe(store: Store) -> None:
    """Fill ``sys_dictionary`` from the definitions; it is never journalled."""
    table = store.tables["sys_dictionary"]
    for name, definition in TABLES.items():
        for element, column in definition.columns.items():
            row = dict.fromkeys(table.definition.columns, "")
            row |= {"sys_id": derived_id("sys_dictionary", f"{name}.{element}"), "name": name, "element": element}
            row |= {"internal_type": column.kind, "max_length": str(column.length), "reference": column.reference}
            row |= {"column_label": element.replace("_", " ").capitalize(), "mandatory": "false", "active": "true"}
            table.put(row)
