"""What tests of metrics use: counts from zero, and the exposition as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from poller import metrics
from poller.metrics import RouteFacts
from poller.metrics.counts import Counts
from poller.model import Measured

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    """Counts belong to the process: each test begins at zero."""
    metrics.start()
    counts().rest = 0.0
    yield
    metrics.stop()


def scraped() -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return what a scrape shows: by the name of the sample, its values by their labels."""
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    assert not found["poller_metrics_faults"][()]
    return found


def value(name: str, **labels: str) -> float:
    """Return the sum over all samples of *name* that have these labels; 0 where there are none."""
    samples = scraped().get(name, {})
    return sum(number for at, number in samples.items() if labels.items() <= dict(at).items())


def every(seconds: float) -> RouteFacts:
    return RouteFacts(next_poll=lambda after: after + timedelta(seconds=seconds))


def standing(**changes: Any) -> Measured:
    given = Measured(
        route="helpdesk", states={"pending": 2}, oldest_at=None, created_at=NOW, whole_poll_at=NOW, checkpoint_at=None,
        poll_failures=0, held=None, blocked=False,
    )  # fmt: skip
    return replace(given, **changes)


def counts() -> Counts:
    """Return the counts of this process."""
    found = metrics._counts
    assert found is not None
    return found
