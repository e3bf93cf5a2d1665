"""The command line of the sandbox."""

import argparse
import json
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from poller.sandbox import changing, control, dice, door, faults, helpdesk, inbox, proxy, rules, setups
from poller.sandbox.options import Options, Rule, Switches, seconds
from poller.sandbox.sandbox import Sandbox
from poller.sandbox.store import StateError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def _duration(text: str) -> float:
    try:
        value = seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if value < 0:
        message = f"not a duration: {text!r}"
        raise argparse.ArgumentTypeError(message)
    return value


def _count(most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) <= most):
            message = f"not a whole number up to {most}: {text!r}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return whole


def _chance(kinds: Mapping[str, frozenset[str]]) -> Callable[[str], tuple[str, float]]:
    def chance(text: str) -> tuple[str, float]:
        name, _, number = text.partition("=")
        try:
            return next(iter(dice.probabilities({name: float(number)}, kinds).items()))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return chance


_PROG = "python -m poller.sandbox"
_LOOKING = """\
Users and groups that records can name are listed with the password of the integration user:
  curl -u svc.poller:sandbox-password http://HOST:PORT/api/now/table/sys_user
  curl -u svc.poller:sandbox-password http://HOST:PORT/api/now/table/sys_user_group
"""


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="A stand-in ServiceNow and a stand-in help desk. Prints one JSON line with their addresses, then serves.",
        epilog=f"{_LOOKING}\nSet-ups:\n{setups.table()}\n\nFaults:\n{faults.table()}\n{control.__doc__}\n{rules.__doc__}{rules.table()}\n{changing.__doc__}\n{helpdesk.__doc__}\n{inbox.__doc__}\n{door.__doc__}\n{proxy.__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, number, port = parser.add_argument, _count(10_000_000), _count(65535)
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=port, default=0, help="port of the instance; 0, the default: a free one")
    add(
        "--helpdesk-port",
        type=port,
        default=0,
        metavar="PORT",
        help="port of the help desk; 0, the default: a free one",
    )
    add("--state", metavar="FILE", help="keep everything here; default: in memory")
    add("--ledger", metavar="FILE", help="also write the ledger here, one JSON object a line")
    add("--certificate", metavar="PEM", help="speak TLS on the instance's port")
    add("--key", metavar="PEM", help="private key of the certificate")
    add("--seed", type=int, default=0, help="of the faults' dice and the made-up tickets")
    add("--latency", type=_duration, default=0.0, metavar="150ms", help="slept in every call")
    add(
        "--late",
        type=_duration,
        default=None,
        metavar="0.5s",
        help="delay of late commits; default: 0.2 to 1 s at random",
    )
    add("--slow", type=_duration, default=1.0, metavar="1s", help="duration of the faults slow and slow_drip")
    add("--retry-after", default="1", metavar="VALUE", help="of 429 and 503: seconds, 'date', 'missing' or any text")
    add("--max-execution", type=_duration, default=0.0, metavar="0s", help="time an insert takes before it commits")
    add("--tickets", type=number, default=6, metavar="N", help="tickets a fresh help desk has (%(default)s)")
    add("--grow", type=_duration, default=0.0, metavar="10s", help="a new ticket every so often; default: never")
    add("--users", type=number, default=0, metavar="N", help="further users user0001...")
    add("--token-life", type=_duration, default=1800.0, metavar="30m", help="life of an access token (30m)")
    add("--token-reuse", choices=("same+remaining", "same+extended", "new-each-time"), default="same+remaining")
    add("--client-id", default="poller", help="(%(default)s)")
    add("--client-secret", default="sandbox-secret", help="(%(default)s)")
    add("--username", default="svc.poller", help="the integration user (%(default)s)")
    add("--password", default="sandbox-password", help="its password, for Basic and the password grant (%(default)s)")
    add(
        "--api-key",
        default="sandbox-key",
        help="for the header x-sn-apikey, the help desk's Bearer and x-api-key (%(default)s)",
    )
    add("--jwt-key", metavar="PEM", help="RSA public key: the JWT bearer grant takes what is signed for it (RS256)")
    add("--client-ca", metavar="PEM", help="client certificates of this authority act as the integration user")
    add("--client-certificate", choices=("optional", "required"), default="optional", help="(%(default)s)")
    add("--helpdesk-tls", action="store_true", help="the help desk speaks TLS too, with the same files")
    add(
        "--helpdesk-auth",
        choices=("none", "basic", "bearer", "header", "token", "certificate"),
        default="none",
        help="what the help desk demands; token: of its POST /oauth/token; header: x-api-key (%(default)s)",
    )
    add("--proxy-port", type=port, metavar="PORT", help="also be a forward proxy; 0: on a free port; default: none")
    add("--proxy-username", default="", help="the proxy demands this name; default: it demands nothing")
    add("--proxy-password", default="sandbox-proxy", help="(%(default)s)")
    add("--sys-id", choices=("honoured", "ignored", "refused"), default="honoured", help="a client's own sys_id")
    add("--invalid-query", choices=("drops", "no-rows"), default="drops", help="what invalid parts of a query do")
    add("--idle", type=_duration, default=20.0, metavar="20s", help="idle keep-alive connections are closed after this")
    add(
        "--semaphore",
        type=number,
        default=54,
        metavar="N",
        help="calls at one time before a bare 429; 0: no limit (%(default)s)",
    )
    add("--setup", choices=tuple(setups.SETUPS), default="", metavar="NAME", help="one of the set-ups below")
    add(
        "--fault",
        type=_chance(faults.KINDS),
        action="append",
        default=[],
        metavar="NAME=PROB",
        help="may be given several times",
    )
    _add_rule(parser)
    return parser


def _add_rule(parser: argparse.ArgumentParser) -> None:
    """Add the options of the business rule, which are told in `rules`."""
    add = parser.add_argument_group("a business rule that calls out, see below").add_argument
    for name, many in (("ring", "URL"), ("push", "URL"), ("fields", "COLUMN")):
        add(f"--rule-{name}", action="append", default=[], metavar=many, help="may be given several times")
    for name in ("query", "token-url", "client-id", "client-secret", "scope", "resource", "ca"):
        add(f"--rule-{name}", default="")
    add("--rule-auth", choices=("oauth", "basic", "none"), default="oauth", help="(%(default)s)")
    add("--rule-client-auth", choices=("post", "basic"), default="post", help="(%(default)s)")
    add("--rule-delay", type=_duration, default=2.0, metavar="2s")
    add(
        "--rule-fault",
        type=_chance(rules.KINDS),
        action="append",
        default=[],
        metavar="NAME=PROB",
        help="may be given several times",
    )


def _rule(parser: argparse.ArgumentParser, given: dict[str, Any]) -> Rule:
    """Return the business rule, whose options are taken out of *given*."""
    taken = {name.removeprefix("rule_"): given.pop(name) for name in list(given) if name.startswith("rule_")}
    chances = dict(taken.pop("fault"))
    if sum(chances.values()) > 1:
        parser.error("--rule-fault: the probabilities add up to more than 1")
    try:
        return Rule(faults=chances).changed(taken)
    except ValueError as error:
        parser.error(f"--rule: {error}")


def options_from(argv: Sequence[str] | None = None, *, prog: str = _PROG) -> Options:
    """Return the options a command line asks for; a wrong one ends the process with one line and exit code 2."""
    parser = _parser(prog)
    given = vars(parser.parse_args(argv))
    if bool(given["certificate"]) != bool(given["key"]):
        parser.error("--certificate and --key go together")
    if (given["client_ca"] or given["helpdesk_tls"]) and not given["certificate"]:
        parser.error("--client-ca and --helpdesk-tls need --certificate and --key")
    chances = dict(given.pop("fault"))
    if sum(chances.values()) > 1:
        parser.error("--fault: the probabilities add up to more than 1")
    rule = _rule(parser, given)
    given["insert_delay"] = given.pop("max_execution")
    of_switches = {name: given.pop(name) for name in list(given) if hasattr(Switches, name) or name == "late"}
    options = Options(**given, faults=chances, rule=rule, switches=Switches(**of_switches))
    if options.setup:
        setups.apply(options.setup, options)
    return options


def main(argv: Sequence[str] | None = None, *, prog: str = _PROG) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code; *prog* is what it was started as."""
    options = options_from(argv, prog=prog)
    try:
        sandbox = Sandbox(options)
    except (ssl.SSLError, OSError, StateError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = (
            f" (host {options.host}, ports {options.port} and {options.helpdesk_port})"
            if isinstance(error, OSError)
            else ""
        )
        sys.stderr.write(f"{prog}: cannot start: {reason}{where}\n")
        return 1
    # A handler may take no lock, as an Event does: it could run while the main thread holds it.
    ended, rung = socket.socketpair()
    rung.setblocking(False)
    signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    sandbox.start()
    addresses = {
        "servicenow": sandbox.servicenow_url,
        "helpdesk": sandbox.helpdesk_url,
        "client_id": options.client_id,
        "client_secret": options.client_secret,
    }
    if sandbox.proxy_url:
        addresses["proxy"] = sandbox.proxy_url
    sys.stdout.write(json.dumps(addresses) + "\n")
    sys.stdout.flush()
    ended.recv(1)
    sandbox.stop()
    return 0
