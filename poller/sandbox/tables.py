"""The tables the stand-in instance knows: columns, lengths, references, choices and defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    kind: str = "string"
    length: int = 40
    reference: str = ""  # table that a reference points into
    choices: Mapping[str, str] = field(default_factory=dict)  # value: label
    default: str = ""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A table."""

    label: str
    columns: Mapping[str, Column]
    display: str = "sys_id"  # column shown where a reference points here
    prefix: str = ""  # of its numbers
    indexed: tuple[str, ...] = ()


def _text(length: int = 40, default: str = "") -> Column:
    return Column(length=length, default=default)


def _reference(table: str) -> Column:
    return Column(kind="reference", length=32, reference=table)


def _choice(default: str = "", **labels: str) -> Column:
    return Column(
        kind="choice", choices={key.removeprefix("_"): label for key, label in labels.items()}, default=default
    )


def _true(default: str) -> Column:
    return Column(kind="boolean", default=default)


def _number(default: str = "") -> Column:
    return Column(kind="integer", default=default)


_MOMENT = Column(kind="glide_date_time")
_SYSTEM = {
    "sys_id": Column(kind="GUID", length=32),
    "sys_created_on": _MOMENT,
    "sys_created_by": _text(),
    "sys_updated_on": _MOMENT,
    "sys_updated_by": _text(),
    "sys_mod_count": _number("0"),
    "sys_class_name": _text(80),
    "sys_tags": _text(),
}
_STATES = {"_1": "New", "_2": "In Progress", "_3": "On Hold", "_6": "Resolved", "_7": "Closed", "_8": "Canceled"}
_LEVELS = {"_1": "1 - High", "_2": "2 - Medium", "_3": "3 - Low"}
_PRIORITIES = {"_1": "1 - Critical", "_2": "2 - High", "_3": "3 - Moderate", "_4": "4 - Low", "_5": "5 - Planning"}
_CATEGORIES = {
    "inquiry": "Inquiry / Help", "software": "Software", "hardware": "Hardware", "network": "Network",
    "database": "Database",
}  # fmt: skip
_CLOSE_CODES = ("Solution provided", "Duplicate", "Known error", "Resolved by caller", "No resolution provided")

_INCIDENT = _SYSTEM | {
    "number": _text(),
    "short_description": _text(160),
    "description": _text(4000),
    "caller_id": _reference("sys_user"),
    "opened_by": _reference("sys_user"),
    "opened_at": _MOMENT,
    "assigned_to": _reference("sys_user"),
    "assignment_group": _reference("sys_user_group"),
    "resolved_by": _reference("sys_user"),
    "resolved_at": _MOMENT,
    "closed_by": _reference("sys_user"),
    "closed_at": _MOMENT,
    "state": _choice("1", **_STATES),
    "incident_state": _choice("1", **_STATES),
    "hold_reason": _choice("", _1="Awaiting Caller", _2="Awaiting Evidence", _3="Awaiting Problem"),
    "active": _true("true"),
    "impact": _choice("3", **_LEVELS),
    "urgency": _choice("3", **_LEVELS),
    "severity": _choice("3", **_LEVELS),
    "priority": _choice("5", **_PRIORITIES),
    "category": _choice("inquiry", **_CATEGORIES),
    "subcategory": _text(),
    "contact_type": _text(40),
    "cmdb_ci": _reference("cmdb_ci"),
    "business_service": _reference("cmdb_ci_service"),
    "location": _reference("cmn_location"),
    "company": _reference("core_company"),
    "parent": _reference("incident"),
    "parent_incident": _reference("incident"),
    "problem_id": _reference("problem"),
    "rfc": _reference("change_request"),
    "correlation_id": _text(100),
    "correlation_display": _text(100),
    "work_notes": Column(kind="journal_input", length=4000),
    "comments": Column(kind="journal_input", length=4000),
    "close_code": Column(kind="choice", choices={code: code for code in _CLOSE_CODES}),
    "close_notes": _text(4000),
    "due_date": _MOMENT,
    "made_sla": _true("true"),
    "knowledge": _true("false"),
    "notify": _number("1"),
    "escalation": _number("0"),
    "approval": _text(40, "not requested"),
    "upon_approval": _text(40, "proceed"),
    "upon_reject": _text(40, "cancel"),
    "reopen_count": _number("0"),
    "reassignment_count": _number("0"),
    "child_incidents": _number("0"),
    "calendar_duration": _text(),
    "business_duration": _text(),
    "watch_list": _text(4000),
    "user_input": _text(4000),
    "sys_domain": Column(kind="reference", length=32, reference="sys_user_group", default="global"),
    "sys_domain_path": _text(255, "/"),
}
_USER = _SYSTEM | {
    "user_name": _text(400),
    "name": _text(151),
    "first_name": _text(50),
    "last_name": _text(50),
    "email": _text(100),
    "title": _text(60),
    "phone": _text(),
    "active": _true("true"),
    "locked_out": _true("false"),
    "department": _reference("cmn_department"),
    "manager": _reference("sys_user"),
    "time_zone": _text(),
    "web_service_access_only": _true("false"),
}

TABLES: dict[str, Definition] = {
    "incident": Definition(
        label="Incident",
        columns=_INCIDENT,
        display="number",
        prefix="INC",
        indexed=("correlation_id", "number", "short_description"),
    ),
    "sys_user": Definition(label="User", columns=_USER, display="name", indexed=("user_name", "email")),
    "sys_user_group": Definition(
        label="Group",
        columns=_SYSTEM
        | {"name": _text(80), "description": _text(1000), "active": _true("true"), "manager": _reference("sys_user")},
        display="name",
    ),
    "cmdb_ci": Definition(
        label="Configuration Item",
        columns=_SYSTEM
        | {
            "name": _text(255),
            "serial_number": _text(255),
            "asset_tag": _text(),
            "company": _reference("core_company"),
            "operational_status": _choice("1", _1="Operational", _2="Non-Operational", _6="Retired"),
        },
        display="name",
        indexed=("name",),
    ),
    "core_company": Definition(
        label="Company",
        columns=_SYSTEM | {"name": _text(80), "stock_symbol": _text(), "customer": _true("false")},
        display="name",
    ),
    "sys_user_role": Definition(label="Role", columns=_SYSTEM | {"name": _text(100)}, display="name"),
    "sys_user_has_role": Definition(
        label="User Role",
        columns=_SYSTEM | {"user": _reference("sys_user"), "role": _reference("sys_user_role"), "state": _text()},
    ),
    "sys_db_object": Definition(
        label="Table",
        columns=_SYSTEM | {"name": _text(80), "label": _text(80), "super_class": _reference("sys_db_object")},
        display="label",
    ),
    "sys_journal_field": Definition(
        label="Journal Entry",
        columns=_SYSTEM | {"element": _text(80), "element_id": _text(32), "name": _text(80), "value": _text(4000)},
        indexed=("element_id",),
    ),
    "sys_dictionary": Definition(
        label="Dictionary Entry",
        columns=_SYSTEM
        | {
            "name": _text(80),
            "element": _text(80),
            "column_label": _text(80),
            "internal_type": _text(),
            "max_length": _number(),
            "reference": _text(80),
            "choice": _number(),
            "mandatory": _true("false"),
            "active": _true("true"),
        },
        display="element",
    ),
}

# What an incident has of its own; its other columns stand in the dictionary under the table that it extends.
OWN = {
    "incident": (
        "caller_id", "category", "subcategory", "severity", "incident_state", "hold_reason", "notify", "parent_incident",
        "problem_id", "rfc", "reopen_count", "child_incidents", "resolved_by", "resolved_at", "business_service",
        "made_sla", "knowledge", "close_code",
    )
}  # fmt: skip
EXTENDS = {"incident": "task"}

# impact, urgency: priority
PRIORITY = {
    ("1", "1"): "1", ("1", "2"): "2", ("2", "1"): "2", ("1", "3"): "3", ("2", "2"): "3", ("3", "1"): "3",
    ("2", "3"): "4", ("3", "2"): "4", ("3", "3"): "5",
}  # fmt: skip
