"""What is stored of records that a source offers again."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, exists, select

from poller.store.receiving import MALFORMED, UNSENT, version_kept
from poller.store.rows import chunks
from poller.tables import deliveries, records


def readable_keys(
    connection: Connection, route_id: int, offered: Sequence[tuple[str, str]], *, changes_count: bool
) -> set[str]:
    """
    Return the keys that are stored, but for records that could not be read: these may be readable now.

    Args:
        offered: Keys with their versions.

        changes_count: A key is only known with the very version that was seen last: the route owes something for others.
            So it is for a record of which nothing was ever sent, and whose other versions take its place.
    """
    versions = {key: version_kept(version) for key, version in offered}
    of_it = deliveries.c.record_id == records.c.id
    unread = exists().where(of_it, deliveries.c.note == MALFORMED)
    unsent = exists().where(of_it, UNSENT)
    found: set[str] = set()
    for chunk in chunks(versions):
        query = select(records.c.key, records.c.seen_version, unsent.label("unsent")).where(
            records.c.route_id == route_id, records.c.key.in_(chunk), ~unread
        )
        found.update(
            row.key
            for row in connection.execute(query)
            if not (changes_count or row.unsent) or row.seen_version == versions[row.key]
        )
    return found
