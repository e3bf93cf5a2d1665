"""Fixtures for all tests."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from poller.logs.logger import threshold
from poller.logs.output import OutputHandler
from poller.migrate import upgrade
from poller.store import Store, open_store
from tests import postgres
from tests.house import House
from tests.support import require_or_skip


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Logging belongs to the process: what a command sets up in one test must not reach the next."""
    level = threshold.level
    yield
    threshold.level = level
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, OutputHandler)]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A PostgreSQL server; one for each worker of pytest-xdist, started when the first test asks for it."""
    programs = postgres.binaries()
    require_or_skip(
        programs, "PostgreSQL's initdb is missing: apt-get install postgresql, or name its folder in POLLER_TEST_PG_BIN"
    )
    assert programs
    with postgres.server(programs) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: postgres.Server) -> Iterator[str]:
    """The URL of an empty PostgreSQL database that lives as long as the test."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/poller.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An open store with the newest schema, on each kind of database in turn."""
    opened = open_store(database_url)
    upgrade(opened.engine)
    yield opened
    opened.close()


@pytest.fixture
def house(store: Store) -> House:
    """One route with fakes at both ends, on each kind of database in turn."""
    return House(store)
