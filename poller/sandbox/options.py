"""
What a sandbox can be told: options at its start, switches while it runs.

Options are fixed for the life of a sandbox. Switches are what ``POST /sandbox/switch`` changes; each one
turns on one way in which real instances differ from each other or go wrong.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, get_args, get_type_hints

Json: TypeAlias = Any  # a JSON value, whatever it holds

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h|d|)", re.ASCII)


def seconds(text: object) -> float:
    """
    Return a duration such as ``150ms``, ``10s``, ``30m`` or a bare number of seconds, in seconds.

    Raises:
        ValueError: It is not such a duration.
    """
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        message = f"not a duration such as 150ms, 10s or 30m: {text!r}"
        raise ValueError(message)
    return float(found[1]) * _UNITS[found[2]]


@dataclass(kw_only=True)
class Switches:
    """How the stand-in instance behaves just now; every field may be changed while it runs."""

    # Clock and speed. Times are in seconds here; the control endpoint also takes "2s" or "150ms".
    latency: float = 0.0  # slept in every call of the Table API and the token endpoint
    late: float | None = None  # delay of a late commit; None: at random between 0.2 and 1 s
    slow: float = 1.0  # duration of the faults slow and slow_drip
    insert_delay: float = 0.0  # an insert takes this long before it commits, whether the client waits or not
    hold_commits: bool = False  # inserts wait, uncommitted, until this is false again
    clock_skew: float = 0.0  # of Date and of every stamp, against the real clock
    visibility_delay: float = 0.0  # a new row can be queried only after this time; its key counts at once

    # Tokens and accounts.
    token_life: float = 1800.0
    refresh_life: float = 8_640_000.0
    token_reuse: str = "same+remaining"  # or same+extended, new-each-time
    expires_in: Json = None  # any JSON value answered instead of the right one; "absent" leaves it out
    client_credentials: bool = True  # False: the grant's system property is off
    application_user: bool = True  # False: the application record names no user
    guest_token: bool = False  # tokens are issued, every call with one is a 401 (before Washington DC)
    basic: bool = True  # False: Basic is denied, as for interactive users on new releases
    wording: str = "old"  # of the 401: old, or new

    # Queries and reading.
    invalid_query: str = "drops"  # or no-rows
    case_sensitive: bool = False
    drop_fields: list[str] = field(default_factory=list)  # conditions on these columns count as invalid
    hide_incidents: bool = False  # our account may create incidents but sees none; the count stays
    unreadable_fields: list[str] = field(default_factory=list)  # left out of every row; "table.column" of that table
    unreadable: str = "left-out"  # or empty: such a field comes back as ""
    hide_tables: list[str] = field(default_factory=list)  # no row of these is seen; the count stays
    forbid_tables: list[str] = field(default_factory=list)  # reading these is a 403
    total_count: bool = True  # False: no X-Total-Count

    # Rights and zone of the integration user.
    roles: list[str] = field(default_factory=lambda: ["sn_incident_write"])
    time_zone: str = "GMT"  # display values are in it
    literals: str = "utc"  # what a date in a query is read as; or user: in the user's time zone

    # Writing.
    sys_id: str = "honoured"  # or ignored, refused
    cut_correlation: int = 100  # length of correlation_id
    rewrite_correlation: str = ""  # a business rule stores this instead; {} stands for what was sent
    refuse: list[dict[str, Any]] = field(default_factory=list)  # {"field", "contains", "status", "message", "detail"}
    short_answer: bool = False  # 201 has sys_id and number only: may create, may not read

    # Limits.
    semaphore: int = 54  # calls at one time before a bare 429 (4 threads + a queue of 50); 0: none
    session_queue: int = 10  # calls that may wait in one cookie session before a 202
    rate_limit: int = 0  # Table API calls an hour; 0: no rule, and no headers
    retry_after: str = "1"  # of the faults 429 and 503; "missing" leaves it out, "date" sends an HTTP date
    redirect_to: str = "/login.do"
    gzip: bool = False

    # The help desk and the vendor.
    vendor_key: str = ""  # when set, what is sent to the vendor's inbox needs "Authorization: Bearer KEY" or X-Api-Key
    helpdesk_key: str = ""  # when set, GET needs "Authorization: Bearer KEY"

    def change(self, wanted: Mapping[str, Any]) -> None:
        """
        Take new values for the switches named in *wanted*; all of them or, when one is wrong, none.

        Raises:
            ValueError: An unknown name or a value of the wrong kind.
        """
        kinds = get_type_hints(type(self))
        values: dict[str, Any] = {}
        for name, value in wanted.items():
            if name not in kinds:
                message = f"unknown switch {name!r}; there are: {', '.join(sorted(kinds))}"
                raise ValueError(message)
            values[name] = _as_kind(name, kinds[name], value)
        for name, value in values.items():
            setattr(self, name, value)

    def shown(self) -> dict[str, Any]:
        """Return every switch by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


_CHOICES = {
    "token_reuse": ("same+remaining", "same+extended", "new-each-time"),
    "wording": ("old", "new"),
    "invalid_query": ("drops", "no-rows"),
    "literals": ("utc", "user"),
    "unreadable": ("left-out", "empty"),
    "sys_id": ("honoured", "ignored", "refused"),
    "auth": ("oauth", "basic", "none"),
    "client_auth": ("post", "basic"),
}


def _as_kind(name: str, kind: Json, value: Json) -> Json:
    if name in _CHOICES and value not in _CHOICES[name]:
        message = f"{name}: expected one of {', '.join(_CHOICES[name])}, got {value!r}"
        raise ValueError(message)
    if kind is Json or (value is None and type(None) in get_args(kind)):
        return value
    if kind is float or float in get_args(kind):
        return seconds(value)
    if kind is str and not isinstance(value, str):
        return str(value)
    wanted = getattr(kind, "__origin__", kind)
    if not isinstance(wanted, type) or not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        message = f"{name}: expected {getattr(wanted, '__name__', wanted)}, got {value!r}"
        raise ValueError(message)
    return value


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A business rule that calls out; see `rules`."""

    ring: list[str] = field(default_factory=list)
    push: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    query: str = ""
    auth: str = "oauth"
    token_url: str = ""
    client_id: str = ""
    client_secret: str = ""
    client_auth: str = "post"
    scope: str = ""
    resource: str = ""
    ca: str = ""
    delay: float = 2.0
    faults: dict[str, float] = field(default_factory=dict)  # at the start; the dice have them then

    def changed(self, wanted: Mapping[str, Json]) -> "Rule":
        """
        Return the rule with other values for the keys in *wanted*.

        Raises:
            ValueError: An unknown key or a value of the wrong kind.
        """
        kinds = {name: kind for name, kind in get_type_hints(type(self)).items() if name != "faults"}
        if unknown := wanted.keys() - kinds:
            message = f"unknown {', '.join(sorted(unknown))}; there are: {', '.join(sorted(kinds))}"
            raise ValueError(message)
        rule = replace(self, **{name: _as_kind(name, kinds[name], value) for name, value in wanted.items()})
        if not all(str(url).startswith(("http://", "https://")) for url in (*rule.ring, *rule.push)):
            message = "ring and push: expected addresses with http:// or https://"
            raise ValueError(message)
        if rule.auth == "oauth" and (rule.ring or rule.push) and not rule.token_url:
            message = "token_url: with auth oauth, there must be one"
            raise ValueError(message)
        return rule

    def shown(self) -> dict[str, Json]:
        """Return every key by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "faults"}


@dataclass(kw_only=True)
class Options:
    """How a sandbox is started; the command line of ``python -m poller.sandbox`` in Python form."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    helpdesk_port: int = 0
    state: str | None = None  # file; None keeps everything in memory
    ledger: str | None = None  # file the ledger is also written to, one JSON object a line
    certificate: str | None = None  # PEM; with it (and key) the ServiceNow port speaks TLS
    key: str | None = None
    seed: int = 0  # of the faults' dice
    tickets: int = 6
    grow: float = 0.0  # a new ticket every so many seconds; 0: never
    users: int = 0  # further users user0001...
    client_id: str = "poller"
    client_secret: str = "sandbox-secret"
    username: str = "svc.poller"  # the integration user, for Basic and the password grant
    password: str = "sandbox-password"
    api_key: str = "sandbox-key"
    jwt_key: str | None = None  # PEM file, RSA public key; with it the JWT bearer grant is known
    client_ca: str | None = None  # PEM file; client certificates of it are asked for, and act as the integration user
    client_certificate: str = "optional"  # or required: no handshake without one
    helpdesk_tls: bool = False  # the help desk speaks TLS too, with the same certificate and client CA
    helpdesk_auth: str = "none"  # or basic, bearer, header, token, certificate; see `door`
    proxy_port: int | None = None  # a forward proxy on this port; 0: a free one
    proxy_username: str = ""  # the proxy demands it, with proxy_password; empty: it demands nothing
    proxy_password: str = "sandbox-proxy"
    idle: float = 20.0  # keep-alive connections close after so many seconds without a request
    setup: str = ""  # name of a preset, see `setups`; people's incidents are there then
    faults: dict[str, float] = field(default_factory=dict)  # name: probability
    rule: Rule = field(default_factory=Rule)
    switches: Switches = field(default_factory=Switches)
