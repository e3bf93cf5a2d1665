"""
What this process has prepared and nobody has sent yet: ready in the database, and known here without being read again.

For a lone daemon, and for sinks that are simply sent to again. Nothing rests on it: the claim is written only where the row
is still as it was, and whatever is not here is found by `poller.store.due`.
"""

from __future__ import annotations

from collections.abc import Iterable

from poller.lifecycle import Claim

#: Characters of bodies that are kept at most; what is more waits in the database alone.
LARGEST = 16 << 20


class Stock:
    """Claims by the id of their route, those that were prepared first in front."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._claims: dict[int, dict[int, Claim]] = {}
        self._size = 0

    def add(self, claim: Claim) -> bool:
        """Keep *claim* as the database has it now; return False where it is too much."""
        if self._size + len(claim.intent.body) > self._largest:
            return False
        self.drop(claim.route_id, (claim.id,))
        self._claims.setdefault(claim.route_id, {})[claim.id] = claim
        self._size += len(claim.intent.body)
        return True

    def count(self, route_id: int) -> int:
        """Return how many claims of a route are here."""
        return len(self._claims.get(route_id, ()))

    def take(self, route_id: int, most: int) -> list[Claim]:
        """Return and forget the first of a route."""
        claims = list(self._claims.get(route_id, {}).values())[:most]
        self.drop(route_id, [claim.id for claim in claims])
        return claims

    def drop(self, route_id: int, ids: Iterable[int]) -> None:
        """Forget these deliveries, where they are here."""
        claims = self._claims.get(route_id, {})
        for each in ids:
            claim = claims.pop(each, None)
            self._size -= len(claim.intent.body) if claim is not None else 0

    def clear(self) -> None:
        """Forget all."""
        self._claims.clear()
        self._size = 0
