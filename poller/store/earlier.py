"""What became of records that were seen before, with the body that was frozen for them: what ``preview`` compares with. Reads only."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, and_, select

from poller.model import Fields, Operation
from poller.store.reading import line, record_lines
from poller.store.rows import chunks
from poller.tables import deliveries, records, routes


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """One record as it stands."""

    state: str
    version: str
    number: str | None
    sys_id: str | None
    reason: str | None
    #: Of the last body that was frozen; None: none was, or it is not kept any more.
    body: Fields | None


def earlier(connection: Connection, route: str, keys: Collection[str]) -> dict[str, Earlier]:
    """Return those of *keys* that were seen before, by key."""
    found: dict[str, Earlier] = {}
    for some in chunks(list(keys)):
        bodies = _bodies(connection, route, some)
        query = record_lines().where(and_(routes.c.name == route, records.c.key.in_(some)))
        for row in connection.execute(query):
            each = line(row)
            found[each.key] = Earlier(
                state=each.state,
                version=each.version,
                number=each.number,
                sys_id=each.sys_id,
                reason=each.reason,
                body=_object(bodies.get(each.key)),
            )
    return found


def _bodies(connection: Connection, route: str, keys: Collection[str]) -> dict[str, str]:
    d = deliveries.c
    query = (
        select(records.c.key, d.body)
        .join(deliveries, d.record_id == records.c.id)
        .join(routes, routes.c.id == records.c.route_id)
        .where(routes.c.name == route, records.c.key.in_(keys), d.operation != Operation.REPLY, d.body.is_not(None))
        .order_by(d.id)
    )
    return {row.key: row.body for row in connection.execute(query)}


def _object(text: str | None) -> Fields | None:
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
