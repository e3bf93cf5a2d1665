"""Tokens of our own endpoint: their SHA-256, never a token. Those that have expired go when the next one comes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from poller.errors import DatabaseUnusable
from poller.model import StoredToken
from poller.store.engine import Store, first_line
from poller.tables import tokens


class Tokens:
    """
    Keeps tokens in a database, each act a transaction of its own.

    A database that does not answer gives `DatabaseUnusable`, since whoever asks here knows no database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def keep(self, token: StoredToken, *, now: datetime) -> None:
        """Remember *token*, durably, and forget those that have expired by *now*."""
        try:
            with self._store.write() as connection:
                forget(connection, now=now)
                keep(connection, token)
        except SQLAlchemyError as error:
            raise DatabaseUnusable(f"database cannot be used: {first_line(error)}") from None

    def find(self, digest: str) -> StoredToken | None:
        """Return the token with this SHA-256 (hex), expired or not."""
        try:
            with self._store.read() as connection:
                return find(connection, digest)
        except SQLAlchemyError as error:
            raise DatabaseUnusable(f"database cannot be used: {first_line(error)}") from None


def keep(connection: Connection, token: StoredToken) -> None:
    """Store *token*."""
    connection.execute(
        insert(tokens).values(
            digest=token.digest,
            client=token.client,
            scopes=" ".join(sorted(token.scopes)),
            fingerprint=token.fingerprint,
            expires_at=token.expires_at,
        )
    )


def find(connection: Connection, digest: str) -> StoredToken | None:
    """Return the token with this SHA-256 (hex), expired or not."""
    row = connection.execute(select(tokens).where(tokens.c.digest == digest)).one_or_none()
    if row is None:
        return None
    return StoredToken(
        digest=row.digest,
        client=row.client,
        scopes=frozenset(row.scopes.split()),
        fingerprint=row.fingerprint,
        expires_at=row.expires_at,
    )


def forget(connection: Connection, *, now: datetime) -> int:
    """Delete the tokens that have expired; return how many."""
    return connection.execute(delete(tokens).where(tokens.c.expires_at <= now)).rowcount
