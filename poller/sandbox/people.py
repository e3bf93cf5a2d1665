"""The users, groups and things a fresh sandbox has: ordinary ones, and those that break a careless client."""

import hashlib
import unicodedata

from poller.sandbox.store import Fields, Store
from poller.sandbox.tables import EXTENDS, OWN, TABLES, Column

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
_GROUPS = ("Service Desk", "Network", "Database", "Hardware", "Software", "Vendor")
_COMPANIES = ("ACME North America", "ACME Europe, Middle East", "Böhm & Söhne")
_ITEMS = ("mail01", "mail02", "Twin", "twin", "SAN^01", "*db*")


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
    """Fill a fresh store with users and things."""
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
    _name(store, "core_company", _COMPANIES, stamp)
    _name(store, "cmdb_ci", _ITEMS, stamp)
    # Two of one name: nobody can say which is meant.
    for count in (1, 2):
        store.insert(
            "cmdb_ci",
            named_row("cmdb_ci", {"sys_id": derived_id("cmdb_ci", f"double {count}"), "name": "double"}, stamp),
        )


def group(store: Store, stamp: str) -> None:
    """Add the groups that *store* lacks: one that an earlier release has filled knows fewer."""
    _name(store, "sys_user_group", _GROUPS, stamp)


def named_row(table: str, given: Fields, stamp: str) -> dict[str, str]:
    """Return a whole row of *table* from some of its columns; nothing is cut or checked."""
    columns = TABLES[table].columns
    row = {name: column.default for name, column in columns.items()}
    row |= {name: str(value) for name, value in given.items() if name in row}
    row["sys_id"] = row["sys_id"] or derived_id(table, row.get("name", ""))
    return row | {"sys_created_on": stamp, "sys_updated_on": stamp, "sys_created_by": "system", "sys_class_name": table}


def _name(store: Store, table: str, names: tuple[str, ...], stamp: str) -> None:
    for name in names:
        store.insert(table, named_row(table, {"name": name}, stamp))


def describe(store: Store) -> None:
    """Fill ``sys_dictionary`` and ``sys_db_object`` from the definitions; they are never journalled."""
    for name, definition in TABLES.items():
        parent = EXTENDS.get(name, "")
        for element, column in definition.columns.items():
            inherited = parent and element not in OWN[name]
            _describe_column(store, parent if inherited else name, element, column)
        _describe_table(store, name, definition.label, parent)
        if parent:
            _describe_table(store, parent, parent.capitalize(), "")


def _describe_column(store: Store, name: str, element: str, column: Column) -> None:
    table = store.tables["sys_dictionary"]
    kind = column.kind
    if column.choices:
        # What is a choice has a kind as any other column.
        kind = "integer" if all(value.isdigit() for value in column.choices) else "string"
    row = dict.fromkeys(table.definition.columns, "")
    row |= {"sys_id": derived_id("sys_dictionary", f"{name}.{element}"), "name": name, "element": element}
    row |= {"internal_type": kind, "max_length": str(column.length), "reference": column.reference}
    row |= {"column_label": element.replace("_", " ").capitalize(), "mandatory": "false", "active": "true"}
    table.put(row | {"choice": "1" if column.choices else ""})


def _describe_table(store: Store, name: str, label: str, parent: str) -> None:
    table = store.tables["sys_db_object"]
    row = dict.fromkeys(table.definition.columns, "")
    row |= {"sys_id": derived_id("sys_db_object", name), "name": name, "label": label}
    table.put(row | {"super_class": derived_id("sys_db_object", parent) if parent else ""})
