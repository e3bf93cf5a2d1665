"""
The schema, once for SQLite and PostgreSQL (SQLAlchemy Core). Every change needs a revision in ``migrations/``.

Times are integers, microseconds since 1970 in UTC: both databases compare them alike and neither guesses a zone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime | None) -> int | None:
    """Return *at* as microseconds since 1970 in UTC, as `Time` keeps it."""
    return None if at is None else (at - _EPOCH) // _MICROSECOND


class Time(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970 in UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401
        """Turn a datetime into microseconds."""
        return microseconds(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401
        """Turn microseconds into a datetime."""
        return None if value is None else _EPOCH + timedelta(microseconds=int(value))


# SQLite numbers rows by itself only where the key is INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")

#: Named constraints from the first day: SQLite's batch migrations cannot drop what has no name.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: What is true of this installation: prefix, newest intent number, owner of a SQLite file.
facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

routes = Table(
    "routes",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False, unique=True),
    # The name at its first start; it is hashed into every correlation_id and never changes.
    Column("identity", String(64), nullable=False, unique=True),
    Column("created_at", Time, nullable=False),
    # Until one whole poll has finished, a route with first_run = "baseline" skips what it sees.
    Column("baseline_done", Boolean, nullable=False, server_default=text("false")),
    Column("succeeded_at", Time),
    Column("refused_at", Time),
    # Blocked: waits by itself and probes. Held: no creates until the cause is gone or an operator lifts it.
    Column("blocked_until", Time),
    Column("blocked_failures", Integer, nullable=False, server_default=text("0")),
    Column("blocked_error", Text),
    Column("held_reason", String(32)),
    Column("held_error", Text),
    Column("held_at", Time),
    Column("held_until", Time),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("route_id", _Id, ForeignKey("routes.id"), primary_key=True),
    Column("value", Text),
    Column("moved_at", Time),
    Column("polled_at", Time),
    Column("finished_at", Time),
    # Persisted and not slept: a restart must not hammer a source that asked to wait.
    Column("not_before", Time),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
)

#: A remote that is down or asked to wait; everything for it waits, and one request probes it.
remotes = Table(
    "remotes",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("paused_until", Time),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    # The hourly budget, shared by every process on this database.
    Column("tokens", Float),
    Column("filled_at", Time),
)

#: What is proven of an instance, table and integration user (guarantee 2.3, 7).
proofs = Table(
    "proofs",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("sys_id", Boolean),
    Column("lookup", Boolean, nullable=False, server_default=text("false")),
    Column("why", Text, nullable=False),
    Column("changed_at", Time, nullable=False),
)

records = Table(
    "records",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("route_id", _Id, ForeignKey("routes.id"), nullable=False),
    Column("key", Text, nullable=False),
    # The version that is owed or was delivered, and the newest one seen at the source.
    Column("version", Text, nullable=False),
    Column("seen_version", Text, nullable=False),
    # What that version sorts as, where versions can be compared.
    Column("seen_order", Text),
    Column("correlation_id", String(100), nullable=False, unique=True),
    Column("sys_id", String(64)),
    Column("number", String(64)),
    Column("created_at", Text),
    Column("first_seen", Time, nullable=False),
    Column("settled_at", Time),
    Column("reason", Text),
    UniqueConstraint("route_id", "key"),
)

#: Apart from the records, so that listings stay light and bodies can expire.
payloads = Table(
    "payloads",
    metadata,
    Column("record_id", _Id, ForeignKey("records.id"), primary_key=True),
    Column("version", Text, primary_key=True),
    Column("fields", Text),
    Column("raw", Text),
    Column("stored_at", Time, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("record_id", _Id, ForeignKey("records.id"), nullable=False),
    Column("route_id", _Id, ForeignKey("routes.id"), nullable=False),
    Column("operation", String(8), nullable=False),
    Column("version", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("body", Text),
    Column("note", Text),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("refusals", Integer, nullable=False, server_default=text("0")),
    Column("lookups", Integer, nullable=False, server_default=text("0")),
    Column("not_before", Time, nullable=False),
    # No copy of any earlier attempt can be alive after this.
    Column("safe_after", Time),
    Column("owner", String(64)),
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("lease_until", Time),
    Column("intent", BigInteger),
    Column("guard", String(8)),
    Column("with_sys_id", Boolean),
    Column("omit_sys_id", Boolean, nullable=False, server_default=text("false")),
    # Past the caches: an operator asked for it again.
    Column("fresh", Boolean, nullable=False, server_default=text("false")),
    Column("started_at", Time),
    # When the flood guard let it through.
    Column("admitted_at", Time),
    Column("changed_at", Time, nullable=False),
    UniqueConstraint("record_id", "operation", "version"),
    # What is due is one walk of this index.
    Index("ix_deliveries_due", "route_id", "state", "not_before", "id"),
    Index("ix_deliveries_admitted", "route_id", "admitted_at"),
    # The few that somebody works on, among all there ever were.
    Index(
        "ix_deliveries_owner",
        "owner",
        sqlite_where=text("owner IS NOT NULL"),
        postgresql_where=text("owner IS NOT NULL"),
    ),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("delivery_id", _Id, ForeignKey("deliveries.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("intent", BigInteger),
    Column("started_at", Time),
    Column("ended_at", Time, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer),
    Column("transaction_id", String(64)),
    Column("excerpt", Text),
    Index("ix_attempts_delivery", "delivery_id", "id"),
)

#: Numbers that came in for a delivery that another daemon had taken over meanwhile; they shorten its doubt.
late_results = Table(
    "late_results",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("delivery_id", _Id, ForeignKey("deliveries.id"), nullable=False),
    Column("sys_id", String(64)),
    Column("number", String(64)),
    Column("arrived_at", Time, nullable=False),
)

#: What operators did, and why.
acts = Table(
    "acts",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("at", Time, nullable=False),
    Column("who", String(64), nullable=False),
    Column("act", String(16), nullable=False),
    Column("route_id", _Id, ForeignKey("routes.id")),
    Column("record_id", _Id, ForeignKey("records.id")),
    Column("reason", Text),
    Index("ix_acts_record", "record_id", "id"),
)

#: Tokens that our own endpoint has handed out, by their SHA-256: a copy of the database opens nothing.
tokens = Table(
    "tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("client", String(200), nullable=False),
    Column("scopes", Text, nullable=False),
    # SHA-256 of the hash of the client's secret: another secret makes the token void.
    Column("fingerprint", String(64), nullable=False),
    Column("expires_at", Time, nullable=False),
    Index("ix_tokens_expires", "expires_at"),
)
