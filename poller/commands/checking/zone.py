"""
In which time zone the instance reads a date of ours, proven on a row that is there.

A date in a query is UTC on an instance as we expect it; one that reads it in the integration user's zone would look for
our incidents some hours beside where they are. Nothing is written.

Source: servicenow.md 2.6 and section 10 (6).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from poller.clients.answers import is_sys_id
from poller.clients.query import Query
from poller.clients.servicenow import ServiceNowClient
from poller.commands.checking.account import Account
from poller.commands.checking.findings import Finding, fault, warning, well
from poller.errors import PollerError
from poller.model import Fields

_NAME: Final = "time zone"
_UTC: Final = frozenset({"GMT", "UTC", "Etc/UTC", "Etc/GMT", "Zulu"})
_SECOND: Final = timedelta(seconds=1)
#: Zones lie between UTC-12 and UTC+14, on quarters of an hour.
_QUARTER: Final = timedelta(minutes=15)
_FARTHEST: Final = 14 * 4


def time_zone(account: Account, row: Fields | None, table: str) -> Iterator[Finding]:
    """
    Say in which zone dates are read.

    Args:
        row: Any row of *table*; None: none is to be seen.
    """
    zone = str((account.row or {}).get("time_zone") or "")
    remedy = f"set the time zone of {account.name} to GMT"
    try:
        beside = _beside(account.client, row, table)
    except (PollerError, ValueError) as error:
        yield well(_NAME, f"not proven: {error}")
        return
    if beside:
        hours = f"{abs(beside) / timedelta(hours=1):g} h {'behind' if beside > timedelta(0) else 'ahead of'} UTC"
        whose = f"the zone of {account.name}{f' ({zone})' if zone else ''}"
        yield fault(
            _NAME, f"dates in queries are read in {whose}, {hours}: our incidents are not found by date", remedy
        )
    elif zone and zone not in _UTC:
        proven = "as they should be" if beside is not None else "as far as is known"
        yield warning(_NAME, f"{account.name} has {zone}; dates in queries are read as UTC, {proven}", remedy)
    elif beside is None:
        yield well(_NAME, f"{zone or 'not known'}; not proven, since no row is to be seen yet")
    else:
        yield well(_NAME, f"dates in queries are read as UTC, proven{f'; {account.name} has {zone}' if zone else ''}")


def _beside(client: ServiceNowClient, row: Fields | None, table: str) -> timedelta | None:
    """Return how far beside UTC a date of ours is read, later ones positive; None: no row to try it on."""
    created = str((row or {}).get("sys_created_on") or "")
    sys_id = (row or {}).get("sys_id")
    if not created or not is_sys_id(sys_id):
        return None
    made = datetime.strptime(created, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)

    def since(moment: datetime) -> bool:
        """Ask whether the row was made at *moment* or later."""
        query = Query().equals("sys_id", str(sys_id)).created_since(moment)
        return any(found.get("sys_id") == sys_id for found in client.table_get(table, query, ["sys_id"], 2))

    if since(made) and not since(made + _SECOND):
        return timedelta(0)
    # The latest date that still finds the row is as far from it as the zone is from UTC.
    low, high = -_FARTHEST, _FARTHEST
    if not since(made + low * _QUARTER) or since(made + (high + 1) * _QUARTER):
        raise ValueError("the instance does not compare dates as expected")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if since(made + middle * _QUARTER) else (low, middle - 1)
    return -low * _QUARTER
