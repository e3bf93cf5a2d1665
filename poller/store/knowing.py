"""What is stored of records that a source offers again."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, exists, select

from poller.store.receiving import MALFORMED
from poller.store.rows import chunks
from poller.tables import deliveries, records


def readable_keys(connection: Connection, route_id: int, keys: Sequence[str]) -> set[str]:
    """Return those of *keys* that are stored, but for records that could not be read: these may be readable now."""
    unread = exists().where(deliveries.c.record_id == records.c.id, deliveries.c.note == MALFORMED)
    found: set[str] = set()
    for chunk in chunks(keys):
        query = select(records.c.key).where(records.c.route_id == route_id, records.c.key.in_(chunk), ~unread)
        found.update(connection.execute(query).scalars())
    return found
