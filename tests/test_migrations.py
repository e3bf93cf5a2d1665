"""
The schema: made at once or migrated step by step, it is the same one, on SQLite and on PostgreSQL.

An empty database gets its tables from `poller.tables` without Alembic, which would cost each fresh start half a second of CPU. That is
allowed because of what is proven here.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, func, inspect, select, table, text

from poller.migrate import SchemaError, _lock, migrations, pending, upgrade
from poller.store import open_store
from poller.tables import metadata

FIRST = """
import sqlalchemy as sa
from alembic import op
revision = "0001"
down_revision = None
def upgrade():
    op.create_table("parents", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String, nullable=False))
    op.create_table(
        "children",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent", sa.Integer, sa.ForeignKey("parents.id", ondelete="CASCADE"), nullable=False),
    )
"""
# On SQLite this makes parents anew and drops the old table.
SECOND = """
import sqlalchemy as sa
from alembic import op
revision: str = "0002"
down_revision: str | None = "0001"
def upgrade():
    with op.batch_alter_table("parents") as batch:
        batch.alter_column("name", new_column_name="title", existing_type=sa.String)
"""
BROKEN = """
from alembic import op
revision = "0003"
down_revision = "0002"
def upgrade():
    op.execute("CREATE TABLE half (id INTEGER)")
    op.execute("INSERT INTO parents (no_such_column) VALUES (1)")
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    sqlite = request.param == "sqlite"
    store = open_store(f"sqlite:///{tmp_path}/a.db" if sqlite else request.getfixturevalue("postgres_url"))
    yield store.engine
    store.close()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A folder of two migrations, with the environment of the real ones."""
    folder = tmp_path / "100% made up"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text((migrations() / "env.py").read_text("utf-8"), "utf-8")
    (folder / "versions/0001_first.py").write_text(FIRST, "utf-8")
    (folder / "versions/0002_second.py").write_text(SECOND, "utf-8")
    return folder


def migrate_step_by_step(engine: Engine, to: str = "head", folder: Path | None = None) -> None:
    """Do what an installation goes through that was there from the first release on."""
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(folder or migrations()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _index(found: Any) -> dict[str, Any]:
    """Return an index that can be compared: conditions of partial ones come as clauses without equality."""
    return {**found, "dialect_options": {k: str(v) for k, v in found.get("dialect_options", {}).items()}}


def describe(engine: Engine) -> dict[str, Any]:
    """Return all that the database itself says about its tables, the table of revisions included."""
    with engine.connect() as connection:
        inspector = inspect(connection)
        return {
            name: {
                "columns": [{**column, "type": str(column["type"])} for column in inspector.get_columns(name)],
                "primary key": inspector.get_pk_constraint(name),
                "foreign keys": sorted(inspector.get_foreign_keys(name), key=str),
                "unique": sorted(inspector.get_unique_constraints(name), key=str),
                "checks": sorted(inspector.get_check_constraints(name), key=str),
                "indexes": sorted((_index(each) for each in inspector.get_indexes(name)), key=str),
                "options": inspector.get_table_options(name),
            }
            for name in inspector.get_table_names()
        }


def rows(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        names = inspect(connection).get_table_names()
        return {name: connection.scalar(select(func.count()).select_from(table(name))) or 0 for name in names}


def test_an_empty_database_gets_the_schema_that_migrating_leads_to(engine: Engine, tmp_path: Path) -> None:
    upgrade(engine)
    made_at_once = describe(engine), rows(engine)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
    migrate_step_by_step(engine)
    migrated = describe(engine), rows(engine)

    assert made_at_once == migrated
    # A migration that writes rows would be missed by the short way.
    assert made_at_once[1] == {name: int(name == "alembic_version") for name in [*metadata.tables, "alembic_version"]}


@pytest.mark.parametrize("way", [upgrade, migrate_step_by_step])
def test_the_tables_and_the_migrations_agree(engine: Engine, way: Any) -> None:
    way(engine)

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_there_is_one_head_and_it_is_read_without_alembic(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))

    assert pending(engine)[-1:] == ScriptDirectory.from_config(config).get_heads()


def test_a_second_upgrade_has_nothing_to_do(engine: Engine) -> None:
    assert upgrade(engine)
    before = describe(engine)

    assert not upgrade(engine)
    assert pending(engine) == []
    assert describe(engine) == before


def test_pending_changes_nothing(engine: Engine) -> None:
    assert pending(engine)

    assert describe(engine) == {}


def test_a_database_of_a_newer_release_is_refused(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from the future'"))

    with pytest.raises(SchemaError, match=r"revision from the future.*newer release"):
        upgrade(engine)
    with pytest.raises(SchemaError, match="newer release"):
        pending(engine)


def test_an_older_database_is_migrated_and_keeps_its_rows(engine: Engine, history: Path) -> None:
    migrate_step_by_step(engine, "0001", history)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO parents (id, name) VALUES (1, 'p')"))
        connection.execute(text("INSERT INTO children (id, parent) VALUES (1, 1)"))
    assert pending(engine, folder=history) == ["0002"]

    assert upgrade(engine, folder=history)

    assert pending(engine, folder=history) == []
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT title FROM parents")) == "p"
        # Replacing a table on SQLite would delete what refers to it.
        assert connection.scalar(text("SELECT parent FROM children")) == 1


def test_foreign_keys_are_enforced_again_after_a_migration(tmp_path: Path, history: Path) -> None:
    engine = open_store(f"sqlite:///{tmp_path}/a.db").engine
    migrate_step_by_step(engine, "0001", history)
    seen = []
    event.listen(engine, "checkin", lambda driver, _: seen.append(driver.execute("PRAGMA foreign_keys").fetchone()[0]))

    upgrade(engine, folder=history)

    assert seen == [1]


def test_a_migration_that_fails_leaves_nothing_behind(engine: Engine, history: Path) -> None:
    migrate_step_by_step(engine, "0001", history)
    before = describe(engine)
    (history / "versions/0003_broken.py").write_text(BROKEN, "utf-8")

    with pytest.raises(Exception, match="no_such_column"):
        upgrade(engine, folder=history)

    assert describe(engine) == before
    assert pending(engine, folder=history) == ["0002", "0003"]


@pytest.mark.parametrize("older", [False, True], ids=["from nothing", "from an older release"])
def test_daemons_that_start_together_upgrade_once(engine: Engine, history: Path, *, older: bool) -> None:
    folder = history if older else None
    if older:
        migrate_step_by_step(engine, "0001", history)
    code = (
        "import sys; from pathlib import Path; from poller.store import open_store; from poller.migrate import upgrade;"
        "upgrade(open_store(sys.argv[1]).engine, folder=Path(sys.argv[2]) if sys.argv[2] else None)"
    )
    url = engine.url.render_as_string(hide_password=False)

    with ThreadPoolExecutor(3) as pool:
        done = list(
            pool.map(
                lambda _: subprocess.run(
                    [sys.executable, "-c", code, url, str(folder or "")],
                    capture_output=True,
                    text=True,
                    check=False,
                    cwd=Path(__file__).parents[1],
                ),
                range(3),
            )
        )

    assert [(process.returncode, process.stderr) for process in done] == [(0, "")] * 3
    assert pending(engine, folder=folder) == []


@pytest.mark.postgres
@pytest.mark.parametrize("older", [False, True], ids=["from nothing", "from an older release"])
def test_an_upgrade_waits_for_another_one(postgres_url: str, history: Path, *, older: bool) -> None:
    engine = open_store(postgres_url).engine
    folder = history if older else None
    if older:
        migrate_step_by_step(engine, "0001", history)
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    deadline = time.monotonic() + 30

    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as other:
            _lock(other)
            second = pool.submit(upgrade, engine, folder=folder)
            while not other.scalar(waiting):
                assert not second.done()
                assert time.monotonic() < deadline
        assert second.result(timeout=30)

    assert pending(engine, folder=folder) == []


def test_migrations_that_form_no_chain_are_refused(engine: Engine, history: Path) -> None:
    (history / "versions/0003_second_head.py").write_text('revision = "0003"\ndown_revision = "0001"\n', "utf-8")

    with pytest.raises(SchemaError, match="one chain"):
        upgrade(engine, folder=history)


def test_a_start_does_not_pay_for_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from poller.store import open_store; from poller.migrate import upgrade;"
        "engine = open_store(sys.argv[1]).engine; print(upgrade(engine), upgrade(engine), 'alembic' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path}/a.db"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )

    assert done.stdout.split() == ["True", "False", "False"]
