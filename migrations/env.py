"""
What Alembic runs to bring a database to the newest schema.

There is no alembic.ini and no engine here: `poller.migrate` (or a test, or `make revision`) hands over an open connection, and
everything happens within its transaction.
"""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import DefaultClause, TextClause, TypeDecorator

from poller.tables import metadata


def render_item(kind: str, item: Any, _: AutogenContext) -> str | Literal[False]:  # noqa: ANN401
    """
    Write types and defaults into new migrations as plain SQLAlchemy.

    A migration must mean the same in ten years, so it names nothing of poller; and Alembic would put SQLite's parentheses around defaults.
    """
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl_instance!r}"
    if kind == "server_default" and isinstance(item, DefaultClause) and isinstance(item.arg, TextClause):
        return f"sa.text({item.arg.text!r})"
    return False


connection = context.config.attributes["connection"]

context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    # SQLite cannot alter a table: Alembic makes a new one, copies, and renames.
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=render_item,
)

with context.begin_transaction():
    context.run_migrations()
