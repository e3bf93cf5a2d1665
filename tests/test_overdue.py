"""When a route's polls have fallen silent, by the schedule of its settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from poller.commands.overdue import overdue
from poller.settings import Route
from poller.store.reading import RouteLine

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
EVERY_5S = {"every": "5s"}
OFFICE_HOURS = {"cron": "0 8-18 * * mon-fri", "timezone": "Europe/Berlin"}


def late(schedule: dict[str, str], finished_at: datetime, now: datetime = NOON, **checkpoint: Any) -> Any:
    route = Route.model_validate(
        {
            **schedule,
            "first_run": "all",
            "source": {
                "type": "http",
                "url": "http://127.0.0.1/tickets",
                "key": "id",
                "fields": {"username": "u", "title": "t", "description": "d"},
            },
            "sink": {"type": "servicenow"},
        }
    )
    values: dict[str, Any] = {**dict.fromkeys(RouteLine.__dataclass_fields__), "polled_at": finished_at, **checkpoint}
    line = RouteLine(**{**values, "finished_at": finished_at})
    return overdue(route, line, now=now, most=timedelta(minutes=15))


@pytest.mark.parametrize(("seconds", "missed"), [(900, False), (905, False), (906, True)])
def test_a_poll_is_missed_after_its_interval_and_the_age(*, seconds: int, missed: bool) -> None:
    assert bool(late(EVERY_5S, NOON - timedelta(seconds=seconds))) is missed


@pytest.mark.parametrize(("at", "missed"), [("07:15:00", False), ("07:15:01", True)])
def test_a_cron_route_misses_nothing_before_it_is_due_again(*, at: str, missed: bool) -> None:
    # From Friday evening to Monday 8:00 in Berlin, 7:00 in UTC, no poll is due.
    friday = datetime.fromisoformat("2026-11-20T17:00:04Z")

    assert bool(late(OFFICE_HOURS, friday, datetime.fromisoformat(f"2026-11-23T{at}Z"))) is missed


def test_a_source_that_asked_for_a_pause_is_told_with_its_own_error() -> None:
    long_ago = NOON - timedelta(hours=3)

    told = late(EVERY_5S, long_ago, failures=1, error="429", not_before=NOON + timedelta(hours=1))

    assert told["error"] == "429"
    assert "poller check" in told["remedy"]


def test_a_failure_that_nobody_tries_again_is_told_as_silence() -> None:
    tried = NOON - timedelta(hours=1)

    told = late(EVERY_5S, NOON - timedelta(hours=3), polled_at=tried, failures=1, error="refused", not_before=tried)

    assert told["error"] == "no try has ended since 2026-11-23T11:00:00Z"
