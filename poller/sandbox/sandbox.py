"""A whole sandbox: both ports, their state, and how they start and stop."""

import contextlib
import ssl
from typing import Self

from poller.sandbox import faults
from poller.sandbox.changing import Desk
from poller.sandbox.clock import Clock
from poller.sandbox.control import Control
from poller.sandbox.dice import Dice
from poller.sandbox.door import Door
from poller.sandbox.helpdesk import KINDS, HelpDesk
from poller.sandbox.inbox import Inbox
from poller.sandbox.instance import Instance
from poller.sandbox.ledger import Ledger
from poller.sandbox.oauth import Gate
from poller.sandbox.options import Options
from poller.sandbox.people import describe, group, populate
from poller.sandbox.proxy import ForwardProxy
from poller.sandbox.reading import Patience, Reader
from poller.sandbox.rights import Rights
from poller.sandbox.rules import Rules
from poller.sandbox.setups import people_have_reported
from poller.sandbox.store import Store
from poller.sandbox.table_api import TableApi
from poller.sandbox.tickets import Tickets
from poller.sandbox.wire import Application, Server
from poller.sandbox.writing import Writer


class Sandbox:
    """
    A stand-in ServiceNow and a stand-in help desk, in this process.

    Usable as a context manager. Options default to a fresh sandbox in memory on free ports.

    Raises:
        OSError: A port is taken.

        StateError: The state file cannot be used.

        ValueError: An unknown fault.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.switches = self.options.switches
        dice = Dice(self.options.seed, self.options.faults, kinds=faults.KINDS)
        self._store = Store(self.options.state)
        with contextlib.ExitStack() as undo:
            undo.callback(self._store.close)
            self._clock = Clock(self.switches)
            self._patience = Patience()
            self.ledger = Ledger(self._store, self.options.ledger)
            self._gate = Gate(self.options, self.switches, self._store)
            desk_gate = Gate(self.options, self.switches, self._store, kind="desk token")
            self._tickets = Tickets(self._store, self.options.seed)
            inbox = Inbox(self._store)
            self._writer = Writer(self._store, self.switches, self._clock, self._patience)
            self._fill()
            self._instance = self._assembled(dice)
            desk_dice = Dice(self.options.seed, {}, kinds=KINDS)
            self._desk = HelpDesk(tickets=self._tickets, inbox=inbox, switches=self.switches, dice=desk_dice)
            tls = self._tls()
            self._servicenow = self._server(self._instance, self.options.port, tls)
            undo.callback(self._servicenow.stop)
            door = Door(self._desk, desk_gate, self.options)
            desk_tls = tls if self.options.helpdesk_tls else None
            self._helpdesk = self._server(door, self.options.helpdesk_port, desk_tls)
            undo.callback(self._helpdesk.stop)
            self.proxy = self._forward_proxy()
            undo.pop_all()
        scheme = "https" if tls else "http"
        self.servicenow_url = f"{scheme}://{self._shown_host()}:{self._servicenow.port}"
        desk_scheme = "https" if desk_tls else "http"
        self.helpdesk_url = f"{desk_scheme}://{self._shown_host()}:{self._helpdesk.port}"
        self.proxy_url = "" if self.proxy is None else self.proxy.url
        self._instance.url = self.servicenow_url

    def _fill(self) -> None:
        self._store.load()
        describe(self._store)
        group(self._store, self._clock.stamp())
        if not self._store.seeded:
            populate(self._store, integration=self.options.username, more=self.options.users, stamp=self._clock.stamp())
            self._tickets.seed(self.options.tickets)
            if self.options.setup:
                people_have_reported(self._store, self._clock.stamp())
            self._store.mark_seeded()

    def _assembled(self, dice: Dice) -> Instance:
        reader = Reader(self._store, self.switches, self._clock)
        writer = self._writer
        self._rules = Rules(self._store, reader, self.options)
        control = Control(
            store=self._store,
            switches=self.switches,
            clock=self._clock,
            gate=self._gate,
            ledger=self.ledger,
            dice=dice,
            writer=writer,
            desk=Desk(self._store, reader, writer),
            rules=self._rules,
        )
        return Instance(
            options=self.options,
            switches=self.switches,
            clock=self._clock,
            gate=self._gate,
            api=TableApi(self._store, reader, writer, Rights(self._store, self.switches, self.options.username)),
            ledger=self.ledger,
            dice=dice,
            control=control,
            patience=self._patience,
        )

    def _tls(self) -> ssl.SSLContext | None:
        if self.options.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.options.certificate, self.options.key)
        if self.options.client_ca is not None:
            context.load_verify_locations(self.options.client_ca)
            required = self.options.client_certificate == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        return context

    def _forward_proxy(self) -> ForwardProxy | None:
        options = self.options
        if options.proxy_port is None:
            return None
        name, password = options.proxy_username, options.proxy_password
        return ForwardProxy(options.host, options.proxy_port, username=name, password=password)

    def _server(self, application: Application, port: int, tls: ssl.SSLContext | None) -> Server:
        return Server(
            application, (self.options.host, port), date=self._clock.http_date, idle=self.options.idle, tls=tls
        )

    def _shown_host(self) -> str:
        host = self.options.host
        return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound

    def start(self) -> None:
        """Begin to serve; returns at once."""
        self._servicenow.start()
        self._helpdesk.start()
        self._rules.start()
        if self.proxy is not None:
            self.proxy.start()
        if self.options.grow > 0:
            self._desk.grow(self.options.grow)

    def stop(self) -> None:
        """Close both ports, let late commits happen at once, close the state."""
        self._patience.over = True
        self._writer.commits.set()
        self._desk.finish()
        self._rules.stop()
        self._servicenow.stop()
        self._helpdesk.stop()
        if self.proxy is not None:
            self.proxy.stop()
        self._instance.finish()
        self.ledger.close()
        self._store.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
