"""
Who a record is, wherever it is seen again: the correlation_id and the sys_id derived from it (guarantee 2.2).

Pure. The three parts are length-prefixed before hashing, so that ("a", "bc") differs from ("ab", "c").
"""

from __future__ import annotations

import hashlib
from functools import lru_cache


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        # A lone surrogate cannot be encoded otherwise, and a key must always have an identity.
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def derived_sys_id(prefix: str, route_identity: str, key: str) -> str:
    """Return the 32 hex that stand for this record: our choice of sys_id, and the tail of its correlation_id."""
    return _hash(prefix, route_identity, key)[:32]


def correlation_id(prefix: str, route_identity: str, key: str) -> str:
    """Return ``<prefix>:<8 hex of the route>:<32 hex of the record>``."""
    return correlation_start(prefix, route_identity) + derived_sys_id(prefix, route_identity, key)


def correlation_start(prefix: str, route_identity: str) -> str:
    """Return how the correlation_ids of all records of a route begin."""
    return f"{prefix}:{_hash(route_identity)[:8]}:"


def correlation_display(route: str, key: str) -> str:
    """Return ``<route>/<key>``, cut to the column's 100 characters."""
    return f"{route}/{key}"[:100]


def message_id(correlation_id: str, operation: str, version: str) -> str:
    """Return what every copy of one delivery bears and no other delivery does: the correlation_id and 16 hex."""
    return f"{correlation_id}:{_version_mark(operation, version)}"


@lru_cache(maxsize=1024)
def _version_mark(operation: str, version: str) -> str:
    # Most records of a route have their first version.
    return _hash(operation, version)[:16]


def malformed_key(raw: str) -> str:
    """Return the key under which a record without a readable key is kept, the same each time it is seen."""
    return f"malformed:{_hash(raw)[:32]}"
