"""What the ingress asks of the rest of the house; it knows neither the store nor a route."""

from __future__ import annotations

from typing import Protocol

from poller.model import Kept, Page
from poller.ports import Pushed


class House(Protocol):
    """Whoever runs the ingress; for any number of threads."""

    def pushed(self, route: str) -> Pushed | None:
        """
        Return what reads pushes to *route*; None: it takes none.

        Raises:
            KeyError: There is no such route.
        """
        ...

    def polled(self, route: str) -> bool:
        """
        Return whether *route* has something to poll.

        Raises:
            KeyError: There is no such route.
        """
        ...

    def push(self, route: str, page: Page) -> list[Kept]:
        """
        Commit *page* and return its records as they stand, malformed ones last.

        Raises:
            KeyError: There is no such route any more.

            TransientError: It was not committed.
        """
        ...

    def record(self, route: str, key: str) -> Kept | None:
        """
        Return how a record stands.

        Raises:
            KeyError: There is no such route.

            TransientError: The database does not answer.
        """
        ...

    def ring(self, route: str) -> None:
        """Poll *route* soon, however often it is asked."""
        ...

    def stuck(self) -> list[str]:
        """Return what does not move, of scheduler, dispatcher, database; ``stopping`` once the end has begun."""
        ...
