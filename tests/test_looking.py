"""Whoever only looks at a source must not let it believe that what it gave is safe by now."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poller.model import Page, SourceRecord
from poller.ports import Known, nothing_known
from poller.settings import Route
from poller.wiring import look


class Letting:
    """Lets go of a page when it is asked for the next one, as a folder of files does."""

    def __init__(self) -> None:
        self.let_go: list[str] = []

    def poll(self, checkpoint: str | None, known: Known = nothing_known) -> Iterator[Page]:
        for key in ("1", "2"):
            yield Page(records=(SourceRecord(key=key, version="1", fields={}),), last=key == "2")
            self.let_go.append(key)


class Showing(Letting):
    """Has a way to be looked at besides."""

    def look(self, checkpoint: str | None) -> Iterator[Page]:
        yield from (Page(records=(SourceRecord(key=key, version="1", fields={}),), last=key == "2") for key in "12")


def route(kind: str) -> Route:
    return cast("Route", SimpleNamespace(source=SimpleNamespace(type=kind)))


@pytest.mark.parametrize(
    ("source", "kind", "keys", "let_go"),
    [
        (Letting(), "directory", ["1"], []),
        (Showing(), "directory", ["1", "2"], []),
        (Letting(), "http", ["1", "2"], ["1", "2"]),
    ],
)
def test_looking_lets_go_of_nothing(source: Any, kind: str, keys: list[str], let_go: list[str]) -> None:
    pages = list(look(route(kind), source, None))

    assert [record.key for page in pages for record in page.records] == keys
    assert source.let_go == let_go
