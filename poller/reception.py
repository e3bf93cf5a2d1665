"""
The ingress within the daemon: carries out what the end points ask, and exchanges them as settings change.

The daemon (`service`) owns the schedule and says what is stuck; `intake` stores what is pushed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from poller.clock import Clock
from poller.errors import SettingsError
from poller.ingress.listening import CannotListen
from poller.ingress.settings import ServerSettings
from poller.intake import Intake
from poller.model import Kept, Page
from poller.ports import Pushed
from poller.route import Route
from poller.store import Store
from poller.store.tokens import Tokens

if TYPE_CHECKING:
    from poller.ingress.app import App
    from poller.ingress.opening import Ingress


class Reception:
    """
    Carries out `poller.ingress.house.House`.

    Args:
        routes: Asked each time: settings may have changed.

        ring: Pulls the poll of a route forward.

        stuck: What does not move, by name.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        routes: Callable[[], Mapping[str, Route]],
        *,
        ring: Callable[[str], None],
        stuck: Callable[[], list[str]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._routes = routes
        self._intake = Intake(store, clock, routes)
        self.ring = ring
        self.stuck = stuck
        self._ingress: Ingress | None = None
        self._settings: ServerSettings | None = None

    # What the end points ask.

    def pushed(self, route: str) -> Pushed | None:
        return self._routes()[route].pushed

    def polled(self, route: str) -> bool:
        return self._routes()[route].source is not None

    def push(self, route: str, page: Page) -> list[Kept]:
        return self._intake.push(route, page)

    def record(self, route: str, key: str) -> Kept | None:
        return self._intake.record(route, key)

    # What the daemon asks.

    def open(self, settings: ServerSettings | None) -> None:
        """
        Listen as the settings say; nothing is answered before `begin`.

        Raises:
            CannotListen: The address cannot be had.
        """
        if settings is not None:
            from poller.ingress.opening import Ingress

            self._ingress = Ingress(settings, self._app(settings))
        self._settings = settings

    def begin(self) -> None:
        """Answer from now on."""
        if self._ingress is not None:
            self._ingress.begin()

    def use(self, settings: ServerSettings | None) -> None:
        """
        Use other settings from now on.

        Raises:
            SettingsError: The former ones stay in use.
        """
        if settings == self._settings:
            return
        try:
            if settings is None:
                self.end()
            elif self._ingress is None:
                self.open(settings)
                self.begin()
            else:
                app = self._app(settings)
                try:
                    self._ingress.use(settings, app)
                except CannotListen:
                    app.close()
                    raise
        except CannotListen as error:
            raise SettingsError([str(error)]) from None
        self._settings = settings

    @property
    def open_connections(self) -> int:
        """How many connections to the ingress there are."""
        return self._ingress.open_connections if self._ingress is not None else 0

    @property
    def alive(self) -> bool:
        """Whether it accepts connections, or has none to accept."""
        return self._ingress is None or self._ingress.alive

    def end(self) -> None:
        """Accept nobody any more; what is under way may end."""
        if self._ingress is not None:
            self._ingress.end()
            self._ingress = None

    def _app(self, settings: ServerSettings) -> App:
        # As with the server: whoever has no ingress does not wait for its libraries at each start.
        from poller.ingress.app import App
        from poller.ingress.tokens import open_proofs

        return App(settings, self, open_proofs(settings.auth, settings.clients, Tokens(self._store)))
