"""The ingress as a whole: a server, the application on it, and both exchanged as settings change."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from poller import metrics
from poller.clients.tls import Trust
from poller.ingress.app import App
from poller.ingress.listening import CannotListen
from poller.ingress.server import Server
from poller.ingress.settings import ServerSettings
from poller.logs import get_logger

log = get_logger()

#: Settings that belong to the server below the application.
_OF_SERVER = ("listen", "connections", "head_timeout", "body_timeout")


class Ingress:
    """
    Listens from the moment that it is made, and answers from `begin` on.

    Args:
        app: Made of the same settings.

    Raises:
        CannotListen: Another process has the address, or it is not this machine's.
    """

    def __init__(self, settings: ServerSettings, app: App) -> None:
        self._settings = settings
        self._app = app
        self._server = self._open(settings)

    def begin(self) -> None:
        """Answer from now on."""
        self._server.begin()
        log.info("server_started", listen=self._settings.listen, tls=self._settings.tls is not None)

    @property
    def alive(self) -> bool:
        """Whether it still accepts connections."""
        return self._server.alive

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        return self._server.open_connections

    def use(self, settings: ServerSettings, app: App) -> None:
        """
        Use other settings from now on; connections stay where the address does.

        Raises:
            CannotListen: The former ones stay in use.
        """
        was = self._settings
        same = all(getattr(settings, name) == getattr(was, name) for name in _OF_SERVER)
        same = same and (settings.tls is None) == (was.tls is None)
        replaced = self._app
        if same:
            self._settings, self._app = settings, app
            self._server.encrypt(_context(settings))
            replaced.close()
            return
        former = self._server
        server = self._open(settings, former if settings.listen == was.listen else None)
        self._settings, self._app, self._server = settings, app, server
        self.begin()
        former.end()
        if settings.listen != was.listen:
            log.info("server_stopped", listen=was.listen)
        replaced.close()

    def end(self, seconds: float = 5.0) -> None:
        """Accept nobody any more, and let requests under way end, within a limit."""
        self._server.end()
        until = time.monotonic() + seconds
        while self._server.answering and time.monotonic() < until:
            time.sleep(0.02)
        log.info("server_stopped", listen=self._settings.listen)
        self._app.close()

    def _open(self, settings: ServerSettings, before: Server | None = None) -> Server:
        try:
            return Server(settings, self._call, _context(settings), metrics.refused, before)
        except OSError as error:
            # Python adds in brackets what stands before it already.
            why = (error.strerror or "it is no address of this machine").partition(" (while")[0]
            raise CannotListen(f"server.listen: cannot listen on {settings.listen}: {why}") from None

    def _call(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._app(environ, start_response)


def _context(settings: ServerSettings) -> Callable[[], ssl.SSLContext] | None:
    """Return what gives the TLS of each connection, as the files are by then."""
    return Trust(settings.tls).context if settings.tls else None
