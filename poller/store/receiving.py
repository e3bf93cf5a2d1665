"""
Receive: a page of a poll becomes records and deliveries, once each, and the checkpoint moves as design section 3 says.

The idempotent receiver is one ``INSERT … ON CONFLICT DO NOTHING RETURNING``: only new rows come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from poller.identity import correlation_id, malformed_key
from poller.model import Malformed, Operation, Page, SourceRecord, State
from poller.store.changing import Change, names, owe_changes
from poller.store.rows import chunks, dump, upsert
from poller.store.standing import PollStanding
from poller.tables import checkpoints, deliveries, payloads, records

#: `deliveries.note` of a record that could not be read; a readable version of it is received after all.
MALFORMED = "malformed"
#: `deliveries.reason` of a record that was there before the route's first whole poll had finished.
BASELINE = "baseline"
#: In characters; PostgreSQL's indexes carry some 2,700 bytes.
LONGEST_KEY, LONGEST_VERSION = 600, 200

r, d = records.c, deliveries.c

#: Nothing was ever sent for it, and nothing will be as it stands: another version takes its place. Messages are not meant, of
#: which each version is owed.
UNSENT = and_(
    d.state == State.DEAD,
    or_(d.note == MALFORMED, and_(d.operation == Operation.CREATE, d.attempts == 0)),
)


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """Who receives: the route, and how its records are named."""

    route_id: int
    identity: str
    prefix: str
    operation: Operation
    #: Records are skipped, reason ``baseline``: the route's first whole poll is still under way.
    baseline: bool
    #: What is owed for another version of a known key; None: nothing.
    changes: Operation | None = None
    #: Records come because somebody sends them: what was skipped as baseline is wanted after all.
    pushed: bool = False


@dataclass(kw_only=True)
class Counts:
    """What one page, or one poll, brought."""

    new: int = 0
    known: int = 0
    changed: int = 0
    malformed: int = 0
    #: Key and reason of each record that became a dead letter just now.
    dead: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Count *other* in."""
        self.new += other.new
        self.known += other.known
        self.changed += other.changed
        self.malformed += other.malformed
        self.dead += other.dead


@dataclass(frozen=True, kw_only=True)
class _Arrival(Change):
    key: str
    order: str | None = None


def receive(
    connection: Connection, receiver: Receiver, page: Page, *, now: datetime, since: PollStanding | None = None
) -> Counts:
    """
    Store what is new on *page*; with a page that is the last, or allowed to, the checkpoint moves too.

    Args:
        since: As the poll has found or left it: the checkpoint moves from there and from nowhere else, so that what an
            operator has set meanwhile stays. None: from wherever it is.
    """
    counts = Counts(malformed=len(page.malformed))
    arrivals = [_arrival(record, receiver) for record in page.records] + [_dead(each) for each in page.malformed]
    # The same key twice on a page: the first stands, the later is a known one.
    unique: dict[str, _Arrival] = {}
    for arrival in arrivals:
        unique.setdefault(arrival.key, arrival)
    for chunk in chunks(unique.values()):
        new = _insert(connection, receiver, chunk, now)
        known = [arrival for arrival in chunk if arrival.key not in new]
        counts.new += sum(1 for arrival in chunk if arrival.key in new and arrival.note != MALFORMED)
        counts.dead += [(each.key, each.reason or "") for each in chunk if each.key in new and each.note == MALFORMED]
        counts.known += len(known)
        if receiver.pushed:
            _want(connection, receiver, known, now)
        changed = _note_changes(connection, receiver, known, now)
        counts.changed += len(changed)
        if receiver.changes is not None:
            counts.dead += [(each.key, each.reason or "") for each in changed if each.note == MALFORMED]
    if page.checkpoint is not None and (page.last or page.resume):
        move_checkpoint(connection, receiver.route_id, page.checkpoint, now=now, since=since)
    return counts


def _arrival(record: SourceRecord, receiver: Receiver) -> _Arrival:
    if len(record.key) > LONGEST_KEY:
        return _dead(Malformed(reason=f"the key is longer than {LONGEST_KEY} characters", raw=dump(record.fields)))
    state, reason = (State.SKIPPED, BASELINE) if receiver.baseline else (State.PENDING, None)
    return _Arrival(
        key=record.key,
        version=version_kept(record.version),
        state=state,
        fields=dump(record.fields),
        reason=reason,
        order=record.order,
    )


def keys_kept(page: Page) -> list[str]:
    """Return under which keys the records of *page* are stored, malformed ones last; one that comes twice is there twice."""
    too_long = [dump(record.fields) if len(record.key) > LONGEST_KEY else None for record in page.records]
    read = [
        record.key if raw is None else malformed_key(raw) for record, raw in zip(page.records, too_long, strict=True)
    ]
    return read + [_dead(each).key for each in page.malformed]


def version_kept(version: str) -> str:
    """Return a version that fits an index and both databases; it is compared for equality only."""
    return version if len(version) <= LONGEST_VERSION and version.isprintable() else malformed_key(version)


def _clean(raw: str) -> str:
    """Return text that PostgreSQL can keep too: without NUL and lone surrogates."""
    return raw.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _dead(malformed: Malformed) -> _Arrival:
    key = malformed.key if malformed.key and len(malformed.key) <= LONGEST_KEY else malformed_key(malformed.raw)
    return _Arrival(
        key=key,
        version=malformed_key(malformed.raw),
        state=State.DEAD,
        raw=_clean(malformed.raw),
        reason=malformed.reason,
        note=MALFORMED,
    )


def _insert(connection: Connection, receiver: Receiver, arrivals: Sequence[_Arrival], now: datetime) -> dict[str, int]:
    """Insert the records not yet known, with their payloads and deliveries; return their ids by key."""
    # Without naming an index: PostgreSQL would look into that one first, and two that come at once would meet in the other.
    statement = upsert(connection, records).on_conflict_do_nothing()
    rows = [
        {
            "route_id": receiver.route_id,
            "key": arrival.key,
            "version": arrival.version,
            "seen_version": arrival.version,
            "seen_order": arrival.order,
            "correlation_id": correlation_id(receiver.prefix, receiver.identity, arrival.key),
            "first_seen": now,
            "settled_at": now if arrival.state is State.SKIPPED else None,
            "reason": arrival.reason,
        }
        for arrival in arrivals
    ]
    returned = connection.execute(statement.returning(records.c.id, records.c.key), rows)
    new = {key: record_id for record_id, key in returned}
    fresh = [arrival for arrival in arrivals if arrival.key in new]
    if fresh:
        connection.execute(insert(payloads), [_payload(new[each.key], each, now) for each in fresh])
        connection.execute(insert(deliveries), [_delivery(new[each.key], each, receiver, now) for each in fresh])
    return new


def _payload(record_id: int, arrival: _Arrival, now: datetime) -> dict[str, object]:
    return {
        "record_id": record_id,
        "version": arrival.version,
        "fields": arrival.fields,
        "raw": arrival.raw,
        "stored_at": now,
    }


def _delivery(record_id: int, arrival: _Arrival, receiver: Receiver, now: datetime) -> dict[str, object]:
    return {
        "record_id": record_id,
        "route_id": receiver.route_id,
        "operation": str(receiver.operation),
        "version": arrival.version,
        "state": str(arrival.state),
        "reason": arrival.reason,
        "note": arrival.note,
        "not_before": now,
        "changed_at": now,
    }


def _note_changes(
    connection: Connection, receiver: Receiver, known: Sequence[_Arrival], now: datetime
) -> list[_Arrival]:
    """Note new versions of known keys, and owe what the route owes for them; return them."""
    if not known:
        return []
    by_key = {arrival.key: arrival for arrival in known}
    query = (
        select(r.id, r.key, r.seen_version, r.seen_order, d.id.label("unread"), d.operation)
        # One that an operator has skipped stays so, whatever it looks like now.
        .join(deliveries, and_(d.record_id == r.id, UNSENT), isouter=True)
        .where(r.route_id == receiver.route_id, r.key.in_(by_key))
    )
    rows = connection.execute(query).all()
    if absent := by_key.keys() - {row.key for row in rows}:
        # Neither new nor known: nothing is to be lost without a word.
        raise IntegrityError("INSERT INTO records", sorted(absent), ValueError("others have their correlation_id"))
    changed = [(row, by_key[row.key]) for row in rows if _replaces(by_key[row.key], row.seen_version, row.seen_order)]
    if changed:
        connection.execute(
            update(records)
            .where(r.id == bindparam("row"))
            .values(seen_version=bindparam("seen"), seen_order=bindparam("seen_as")),
            [{"row": row.id, "seen": arrival.version, "seen_as": arrival.order} for row, arrival in changed],
        )
    for row, arrival in changed:
        if row.unread is not None and arrival.note != MALFORMED:
            # A record that was malformed, or for which there was no user, and is not any more is received.
            version = names(connection, {row.id: arrival.version}, row.operation)[row.id]
            _revive(connection, row.id, row.unread, replace(arrival, version=version), now)
    if receiver.changes is not None and not receiver.baseline:
        owed = {row.id: arrival for row, arrival in changed if row.unread is None}
        owe_changes(connection, receiver.route_id, receiver.changes, owed, now=now)
    return [arrival for _, arrival in changed]


def _want(connection: Connection, receiver: Receiver, known: Sequence[_Arrival], now: datetime) -> None:
    """Owe what a first poll has skipped, as it is now: who sends a record says that it is none of the old ones."""
    by_key = {arrival.key: arrival for arrival in known if arrival.note != MALFORMED}
    later = deliveries.alias("later")
    query = (
        select(r.id, r.key, d.id.label("skipped"))
        .join(deliveries, d.record_id == r.id)
        .where(r.route_id == receiver.route_id, r.key.in_(by_key))
        .where(d.state == State.SKIPPED, d.reason == BASELINE)
        # What has come since is owed already, and behind it nothing older may be.
        .where(~exists().where(later.c.record_id == r.id, later.c.id > d.id, later.c.operation != Operation.REPLY))
    )
    for row in connection.execute(query).all() if by_key else ():
        arrival = by_key[row.key]
        _revive(connection, row.id, row.skipped, arrival, now)
        seen = {"seen_version": arrival.version, "seen_order": arrival.order, "settled_at": None}
        connection.execute(update(records).where(r.id == row.id).values(**seen))


def _replaces(arrival: _Arrival, version: str, order: str | None) -> bool:
    """Return whether *arrival* is another version than the one seen last, and not an older one."""
    if arrival.version == version:
        return False
    comparable = arrival.order is not None and order is not None and arrival.order[:1] == order[:1]
    return not comparable or (arrival.order or "") >= (order or "")


def _revive(connection: Connection, record_id: int, delivery_id: int, arrival: _Arrival, now: datetime) -> None:
    connection.execute(upsert(connection, payloads).on_conflict_do_nothing(), [_payload(record_id, arrival, now)])
    connection.execute(
        update(records).where(records.c.id == record_id).values(version=arrival.version, reason=arrival.reason)
    )
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, deliveries.c.state.in_((State.DEAD, State.SKIPPED)))
        .values(
            version=arrival.version,
            state=str(arrival.state),
            note=None,
            reason=arrival.reason,
            not_before=now,
            changed_at=now,
            epoch=deliveries.c.epoch + 1,
        )
    )


def move_checkpoint(
    connection: Connection, route_id: int, value: str, *, now: datetime, since: PollStanding | None
) -> None:
    """Set the checkpoint of a route that `standing.enter_route` has entered, unless it is not what it was *since*."""
    c = checkpoints.c
    unmoved = [] if since is None else [c.value.is_not_distinct_from(since.value)]
    connection.execute(
        update(checkpoints)
        .where(c.route_id == route_id, c.value.is_distinct_from(value), *unmoved)
        .values(value=value, moved_at=now)
    )
