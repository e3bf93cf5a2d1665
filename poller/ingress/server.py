"""
The server below the application: cheroot, bounded in time, size and number.

Connections that say nothing wait in cheroot's selector and cost no thread, and so do those that wait for a refusal, or for
their turn where nothing is known of them; the others get a thread once they speak, and a time for their head and their body.
Where all places are taken, the oldest connection on which nobody proven is being answered gives way, those that are refused or
never proved anything first: neither slow clients nor idle ones can keep others out. TLS shakes hands in a thread, and not where
cheroot accepts.

Source: cheroot 11.1 (``server``, ``connections``), read; dependencies.md section 9.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from cheroot.connections import ConnectionManager
from cheroot.server import HTTPServer
from cheroot.wsgi import Gateway_10

from poller.ingress.acquaintances import Acquaintances, beginning
from poller.ingress.connection import Connection
from poller.ingress.holding import Holding
from poller.ingress.limits import Pace
from poller.ingress.listening import Listener, listen
from poller.ingress.newcomers import Newcomers
from poller.ingress.settings import ServerSettings
from poller.ingress.threads import Threads
from poller.logs import get_logger

log = get_logger()

#: Bytes of a request's head, with its first line.
MOST_HEAD: Final = 16_384
#: Seconds that a connection may be silent between two requests, or before its first.
IDLE: Final = 30.0
#: Who speaks beyond that waits: the system's limits are the whole daemon's.
_THREADS: Final = 256
#: Bodies that nobody wants and that are read to their end, at once.
_DRAINS: Final = 8
#: Requests of whom nothing is known yet that are looked at, at once; and the pause in seconds after one that was in vain.
_TURNS, _PAUSE = 1, 0.005
#: A connection of this age, in seconds, may have to give way.
_GIVES_WAY: Final = 1.0


class _Gateway(Gateway_10):  # type: ignore[misc]
    """Hands the application what WSGI has no word for."""

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["poller.connection"] = self.req.conn
        return environ


class _Tls:
    """What cheroot asks of its TLS: sockets that have not shaken hands yet."""

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        self._context = context

    def wrap(self, connected: socket.socket) -> tuple[socket.socket, dict[str, str]]:
        return self._context().wrap_socket(connected, server_side=True, do_handshake_on_connect=False), {}

    def makefile(self, *_: object) -> None:
        """Never used: see `Connection`."""


class Server(HTTPServer):  # type: ignore[misc]
    """
    A server on one socket.

    Args:
        app: The WSGI application.

        context: For TLS; asked for each connection, so that certificates may be replaced.

        told: Called with the reason of each refusal that the application does not see.

        before: At the same address; it accepts nobody any more once this one is made.

    Raises:
        OSError: The address cannot be listened on.
    """

    ConnectionClass = Connection

    def __init__(
        self,
        settings: ServerSettings,
        app: Callable[..., Any],
        context: Callable[[], ssl.SSLContext] | None,
        told: Callable[[str], None],
        before: Server | None = None,
    ) -> None:
        super().__init__(settings.unix_path or settings.address, gateway=_Gateway, server_name="poller")
        self.wsgi_app = app
        self.timeout = IDLE
        self.keep_alive_conn_limit = None
        self.max_request_header_size = MOST_HEAD
        self.software = "poller"
        self.encrypt(context)
        self.head_seconds = settings.head_timeout.total_seconds()
        self.body_seconds = settings.body_timeout.total_seconds()
        self.pace = Pace()
        self.told = told
        self.drains = threading.BoundedSemaphore(_DRAINS)
        self._most = settings.connections
        self._open: dict[Connection, None] = {}
        self._counting = threading.Lock()
        self.listener: Listener = before.listener.copy() if before else listen(settings)
        self.requests = Threads(self._speak, min(settings.connections, _THREADS))
        self.acquaintances: Acquaintances = before.acquaintances if before else Acquaintances()
        self.newcomers = Newcomers(self._begin_turn, _TURNS, _PAUSE)
        self._holding = Holding(self.requests.put)
        self._thread = threading.Thread(target=self.serve, name="ingress", daemon=True)
        self.socket = self.listener.socket
        if self.listener.path is None:
            self.bind_addr = self.socket.getsockname()[:2]
        self.socket.settimeout(1)
        try:
            self._connections = ConnectionManager(self)
        except OSError:
            self.socket.close()
            raise
        if before:
            before.hand_over()

    def begin(self) -> None:
        """Serve from now on, in threads of its own."""
        self.ready = True
        self._holding.start()
        self.newcomers.start()
        self._thread.start()

    def encrypt(self, context: Callable[[], ssl.SSLContext] | None) -> None:
        """Take the TLS of connections that come from now on from there."""
        self.ssl_adapter = _Tls(context) if context else None

    def hand_over(self) -> None:
        """Accept nobody any more, since another server does; to be ended soon after."""
        self._connections._selector.unregister(self.socket.fileno())  # noqa: SLF001  cheroot knows no other way
        self.listener.leave()

    @property
    def alive(self) -> bool:
        """Whether it still accepts."""
        return self._thread.is_alive()

    @property
    def answering(self) -> int:
        """How many requests of somebody who is known are under way, up to the last byte of their answers."""
        return sum(each.proven for each in list(self._open))

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        return len(self._open)

    def end(self) -> None:
        """Accept nobody any more; requests under way may end."""
        if not self.ready:
            self.socket.close()
            return
        self.ready = False
        self._unservicable_conns.put(None)
        self._connections.stop()
        self.socket.close()
        self._connections.close()
        self._holding.stop()
        self.newcomers.stop()
        self.requests.stop(0)
        self.listener.remove()
        # Those who have said nothing yet, or whose refusal is not told yet.
        for conn in list(self._open):
            if not conn.busy:
                conn.close()

    def serve(self) -> None:
        """Accept until `end`."""
        while self.ready:
            try:
                self._connections.run(self.expiration_interval)
            except Exception:  # noqa: BLE001  one bad moment must not end it
                log.error("crashed", exception=traceback.format_exc())
                time.sleep(0.1)

    def process_conn(self, conn: Connection) -> None:
        """Serve a connection that has something to say; a new one has first to say something."""
        if conn.known:
            self._serve(conn)
        elif not conn.fresh:
            self._look(conn)
        elif self._enter(conn):
            conn.fresh = False
            self._connections.put(conn)

    def _look(self, conn: Connection) -> None:
        """Find out who has something to say, where nobody knows."""
        head = beginning(conn.socket)
        if conn.leaves or (head is None and not conn.rfile.has_data()):
            # It would take a turn, and the pause after it, to say nothing.
            conn.close()
            return
        conn.recognised = self.acquaintances.recognise(head or b"")
        conn.queued = not conn.recognised
        if conn.queued:
            self.newcomers.put(conn)
        else:
            self._serve(conn)

    def _begin_turn(self, conn: Connection, number: int) -> None:
        conn.queued = False
        conn.begin_turn(number)
        self._serve(conn)

    def _serve(self, conn: Connection) -> None:
        """Have a thread answer it, even if the server ends meanwhile."""
        conn.busy = True
        if not self.requests.put(conn):
            conn.close()

    def _speak(self, conn: Connection) -> None:
        """Answer one request, or tell of a refusal that has waited, in a thread of the pool; raises nothing."""
        if conn.due is not None:
            conn.tell()
        else:
            self._answer(conn)

    def _answer(self, conn: Connection) -> None:
        kept = False
        try:
            kept = conn.communicate()
        except OSError:
            pass  # the client is gone, in the middle of being refused
        except Exception:  # noqa: BLE001  nobody else would tell of it
            log.error("crashed", exception=traceback.format_exc())
        if conn.due is not None:
            self._holding.put(conn, conn.due)
            return
        try:
            if kept:
                self.put_conn(conn)
        except Exception:  # noqa: BLE001  it has been stopped meanwhile
            kept = False
        if not kept:
            conn.close()

    def _enter(self, conn: Connection) -> bool:
        """Give a new connection a place, if need be that of another one."""
        with self._counting:
            staying = [each for each in self._open if not each.leaves]
            full = len(staying) >= self._most
            leaving = _one_to_leave(staying) if full else None
            # Those that leave have their descriptors still.
            if len(self._open) >= 2 * self._most or (full and leaving is None):
                conn.close_now()
                return False
            self._open[conn] = None
            if leaving is not None:
                leaving.leave()
        if leaving is not None and self.newcomers.withdraw(leaving):
            # Nobody reads from it who would wake.
            leaving.close()
        return True

    def forget(self, conn: Connection) -> None:
        """Count a connection out."""
        with self._counting:
            self._open.pop(conn, None)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:  # noqa: FBT001, FBT002
        """Tell what cheroot has to say; never what a client has sent."""
        if level >= logging.ERROR:
            log.error("crashed", error=f"the ingress: {msg.partition('(')[0][:100]}")


def _one_to_leave(among: Sequence[Connection]) -> Connection | None:
    """Return the connection that can be spared first; of those that wait to be looked at, it is the one that came last."""
    now = time.monotonic()
    spared = (each for each in among if not each.proven and (each.due is not None or now - each.since > _GIVES_WAY))

    def order(each: Connection) -> tuple[bool, bool, bool, float]:
        known = each.known or each.recognised
        return each.due is None, known, each.queued, -each.since if each.queued else each.since

    return min(spared, key=order, default=None)
