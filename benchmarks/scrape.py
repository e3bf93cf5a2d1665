"""
What a scrape costs the database: the questions of `poller.store.measuring` with many records, and their query plans.

    python benchmarks/scrape.py [--delivered 1000000] [--waiting 10000] [--url postgresql+psycopg://…]

Without ``--url``: a SQLite file in a temporary folder. With it: an empty database, which is filled.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, insert, text

from poller.migrate import upgrade
from poller.store import Store, measuring, open_store
from poller.store.standing import enter_route
from poller.tables import deliveries, payloads, records

#: At most this long, in seconds, or a scrape is felt.
MOST = 0.2
ROUTES = ("helpdesk", "helpdesk/reply", "monitoring", "vendor", "baseline")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def main() -> int:
    """Fill a database, ask, and print; 1 where an answer took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delivered", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--url", help="an empty database; default: a SQLite file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(given.url or f"sqlite:///{folder}/poller.db")
        upgrade(store.engine)
        fill(store, given.delivered, given.waiting)
        print(f"{given.delivered} delivered and {given.waiting} unfinished on {store.engine.dialect.name}")
        worst = ask(store)
        if store.sqlite_path is not None:
            print(f"file: {Path(folder, 'poller.db').stat().st_size / 1e6:.0f} MB")
        store.close()
    return int(worst > MOST)


def fill(store: Store, delivered: int, waiting: int) -> None:
    """Make the rows, half a million a transaction."""
    with store.write() as connection:
        ids = [enter_route(connection, name, None, now=NOW).id for name in ROUTES]
    states = ("pending", "ready", "waiting", "unknown", "dead")
    for some in batched(range(1, delivered + waiting + 1), 100_000):
        with store.write() as connection:
            rows = [record(number, ids) for number in some]
            connection.execute(insert(records), rows)
            connection.execute(
                insert(deliveries),
                [
                    delivery(row, states[row["id"] % 5] if row["id"] > delivered else finished(row["id"]))
                    for row in rows
                ],
            )
            unfinished = [row for row in rows if row["id"] > delivered]
            if unfinished:
                connection.execute(insert(payloads), [payload(row) for row in unfinished])
    with store.engine.connect() as connection:
        vacuum = "ANALYZE" if connection.dialect.name == "sqlite" else "VACUUM ANALYZE"
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(vacuum))


def finished(number: int) -> str:
    """Return one that is skipped for nine delivered."""
    return "skipped" if number % 10 == 0 else "delivered"


def record(number: int, ids: Sequence[int]) -> dict[str, Any]:
    """Return the row of one record."""
    return {
        "id": number,
        "route_id": ids[number % len(ids)],
        "key": f"key-{number}",
        "version": f"{number:064x}",
        "seen_version": f"{number:064x}",
        "correlation_id": f"bench:{number:032x}",
        "sys_id": f"{number:032x}",
        "number": f"INC{number:07}",
        "first_seen": NOW,
    }


def delivery(row: dict[str, Any], state: str) -> dict[str, Any]:
    """Return the row of its delivery."""
    return {
        "id": row["id"],
        "record_id": row["id"],
        "route_id": row["route_id"],
        "operation": "create",
        "version": row["version"],
        "state": state,
        "body": '{"short_description":"' + "x" * 300 + '"}',
        "not_before": NOW,
        "changed_at": NOW,
    }


def payload(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of its payload."""
    return {"record_id": row["id"], "version": row["version"], "fields": "{}", "stored_at": NOW}


def batched(numbers: range, size: int) -> Iterator[range]:
    """Yield *numbers* in pieces."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def ask(store: Store) -> float:
    """Print each answer's time and plan; return the longest."""
    with store.read() as connection:
        known = measuring.finished_counts(connection)
        return max(
            timed("unfinished, oldest, standings", lambda: measuring.measured(connection, known)),
            timed("finished", lambda: measuring.finished_counts(connection)),
            *(plan(connection, each) for each in (measuring.unfinished_query(), measuring.finished_query())),
        )


def timed(name: str, act: Callable[[], object]) -> float:
    """Print how long *act* takes, in milliseconds; return the median in seconds."""
    took = []
    for _ in range(7):
        started = time.perf_counter()
        act()
        took.append(time.perf_counter() - started)
    print(f"{name}: median {statistics.median(took) * 1000:.1f} ms, first {took[0] * 1000:.1f} ms")
    return statistics.median(took)


def plan(connection: Connection, query: Select[Any]) -> float:
    """Print how the database goes about *query*."""
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    compiled = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
    for row in connection.exec_driver_sql(explain + compiled):
        print(f"    {row[-1]}")
    return 0.0


if __name__ == "__main__":
    raise SystemExit(main())
