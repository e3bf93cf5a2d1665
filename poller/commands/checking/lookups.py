"""
The tables and columns that names are looked up in: is a single row of them to be seen.

A mistyped one looks like "no such name" for every record; here it is told before the first. The question is the one
that the look-ups themselves ask before they take anybody for unknown. Nothing is written, and no row's text is shown.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from poller.commands.checking.account import Account
from poller.commands.checking.findings import Finding, fault, well
from poller.enrich import Question
from poller.enrich.trust import Trust
from poller.errors import BlockedError, PollerError
from poller.settings import Route

#: What people look things up in, to guess what was meant.
_TABLES: Final = (
    "sys_user", "sys_user_group", "cmdb_ci", "cmdb_ci_service", "cmdb_ci_server", "cmn_location", "cmn_department",
    "core_company", "service_offering", "sys_choice", "problem", "change_request", "incident",
)  # fmt: skip
#: `Account.users` has asked about it.
_ASKED: Final = Question(table="sys_user", by=("user_name",))


def lookups(account: Account, routes: Mapping[str, Route]) -> Iterator[Finding]:
    """Say of each table and column that *routes* look names up in whether it shows a row; each is asked once."""
    trust = Trust(account.client, time.monotonic)
    for question, where in _questions(routes).items():
        column, besides = question.by[0], "".join(f", {name} = {value[:80]}" for name, value in question.where)
        name = f"look-up {question.table}.{column}{besides}"
        try:
            trust.readable(question)
        except PollerError as error:
            yield fault(name, *_unread(account, question, where, error))
        else:
            yield well(name, "can be read")


def _questions(routes: Mapping[str, Route]) -> dict[Question, str]:
    """Return what is asked, one column at a time, and the first column of the settings that wants it."""
    found: dict[Question, str] = {}
    for name, route in routes.items():
        if route.sink.type != "servicenow":
            continue
        for field, question in route.sink.questions_by_key().items():
            for column in question.by:
                # Whether somebody is active is nothing to be asked for here.
                one = replace(question, by=(column,), active=False)
                if one != _ASKED:
                    found.setdefault(one, f"routes.{name}.sink.{field}")
    return found


def _unread(account: Account, question: Question, where: str, error: PollerError) -> tuple[str, str]:
    """Return what is said of a look-up that shows nothing, and the remedy."""
    status, table, column = error.evidence.status, question.table, question.by[0]
    if not isinstance(error, BlockedError):
        return str(error), "try again; see that the instance is well"
    if status in {400, 404}:
        # One that is named right belongs to a plugin that is not active there.
        meant = [] if table in _TABLES else difflib.get_close_matches(table, _TABLES, n=1, cutoff=0.6)
        guess = f"did you mean {meant[0]}?" if meant else "see the table's name at the instance"
        return f'{status}: the instance has no table "{table}"', f"correct {where}: {guess}"
    if status == 403:
        return f"403: {account.name} may not read {table}", f"give {account.name} a role that reads {table}"
    if status is not None:
        return str(error), "see servicenow.auth"
    besides = "".join(f" and {name} = {value[:80]}" for name, value in question.where)
    return (
        f"no row of {table} can be seen that shows {column}{besides}: records that name one would wait",
        f"correct {where}, or let {account.name} read {table} and its column {column}",
    )
