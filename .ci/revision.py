"""Write a new migration: what poller/tables.py has and migrations/ does not. Read it before committing it."""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine


def main(message: str) -> int:
    """Bring an empty SQLite database to the last migration, then let Alembic write down the difference."""
    if not message:
        print('say what changes: make revision m="add a column"', file=sys.stderr)
        return 2
    root = Path(__file__).parents[1]
    number = len(list((root / "migrations/versions").glob("*.py"))) + 1
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/empty.db")
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(root / "migrations").replace("%", "%%"))
            config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
            config.attributes["connection"] = connection
            if number > 1:
                command.upgrade(config, "head")
            command.revision(config, message, autogenerate=True, rev_id=f"{number:04d}")
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
