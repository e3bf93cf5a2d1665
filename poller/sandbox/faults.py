"""
The faults a sandbox can be made to show; ``--help`` prints this table too.

``before`` faults answer without carrying the call out, ``after`` ones carry it out and then spoil the answer,
``late`` ones carry it out when the client has long lost its connection. A call that fails for a reason of its
own, such as a dead token, is answered as it deserves and not spoilt.

A fault is set by probability (``--fault NAME=PROB``, ``POST /sandbox/faults``; it then befalls every kind of call
it can happen to, or one kind when written ``create:NAME``, ``read:``, ``write:``, ``token:``), for the next calls
(``POST /sandbox/next``) or for one call (header ``X-Sandbox-Fault: NAME``).
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate

from poller.sandbox.options import Json, Switches
from poller.sandbox.wire import Manner, Response

CREATE, READ, WRITE, TOKEN = "create", "read", "write", "token"
_EVERY = frozenset({CREATE, READ, WRITE, TOKEN})
_TABLE = frozenset({CREATE, READ, WRITE})
_CREATE = frozenset({CREATE})
BEFORE, AFTER, LATE, HEAD = "before", "after", "late", "head"

Spoiler = Callable[[Response, Switches], Response]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to go wrong."""

    name: str
    text: str
    when: str
    kinds: frozenset[str]
    spoil: Spoiler


def error(status: int, message: str, detail: str | None) -> Response:
    """Return ServiceNow's own error form."""
    body = {"error": {"message": message, "detail": detail}, "status": "failure"}
    return Response(status, json.dumps(body, separators=(",", ":")).encode())


def html(status: int, title: str, text: str = "") -> Response:
    """Return an HTML page."""
    page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body><center><h1>{title}</h1></center>{text}</body>\r\n</html>\r\n"
    return Response(status, page.encode(), "text/html")


CANCELLED = "Transaction cancelled: maximum execution time exceeded"
_CANCELLED_DETAIL = (
    f"{CANCELLED}. Check logs for error trace or enable glide.rest.debug property to verify REST request processing"
)


def _cancelled(status: int) -> Spoiler:
    return lambda _response, _switches: error(status, CANCELLED, _CANCELLED_DETAIL)


def _nginx(status: int, title: str) -> Spoiler:
    def spoil(_response: Response, switches: Switches) -> Response:
        page = html(status, f"{status} {title}", "<hr><center>nginx</center>")
        return _with_retry_after(page, switches) if status == 503 else page

    return spoil


def _with_retry_after(response: Response, switches: Switches) -> Response:
    value = switches.retry_after
    if value == "date":
        value = formatdate(time.time() + switches.clock_skew + 2, usegmt=True)
    if value != "missing":
        response.headers.append(("Retry-After", value))
    return response


def limited(switches: Switches, limit: int = 100) -> Response:
    """Return the 429 of a rate-limit rule."""
    text = f"Rate limit of {limit} requests per hour for Table API exceeded"
    return _with_retry_after(error(429, "Rate limit exceeded", text), switches)


def _manner(manner: Manner) -> Spoiler:
    return lambda response, switches: replace(response, manner=manner, pace=switches.slow)


def _accepted(_response: Response, _switches: Switches) -> Response:
    return Response(202, b"", "")


def _hibernating(_response: Response, _switches: Switches) -> Response:
    return html(200, "Instance Hibernating page", "<p>Your instance is hibernating.</p>")


def _login(_response: Response, _switches: Switches) -> Response:
    return html(200, "Log in | ServiceNow", '<form action="login.do"><input name="user_name"></form>')


def _redirect(status: int) -> Spoiler:
    return lambda _response, switches: Response(status, b"", "text/html", [("Location", switches.redirect_to)])


def _cut_json(response: Response, _switches: Switches) -> Response:
    return replace(response, body=response.body[: max(1, len(response.body) * 2 // 3)])


def _appended_error(response: Response, _switches: Switches) -> Response:
    tail = json.dumps({"error": {"message": CANCELLED, "detail": _CANCELLED_DETAIL}, "status": "failure"})
    return replace(
        response, status=200, body=response.body.rstrip(b"}").rstrip(b"]").rstrip(b"}") + b"]," + tail[1:].encode()
    )


def _result_and_error(response: Response, _switches: Switches) -> Response:
    content = json.loads(response.body or b"{}") | {
        "error": {"message": CANCELLED, "detail": _CANCELLED_DETAIL},
        "status": "failure",
    }
    return replace(response, status=200, body=json.dumps(content).encode())


def _result(change: Callable[[dict[str, Json]], Json]) -> Spoiler:
    """Return a spoiler that changes the result of a 201."""

    def spoil(response: Response, _switches: Switches) -> Response:
        content = json.loads(response.body or b'{"result":{}}')
        return replace(response, body=json.dumps({"result": change(content["result"])}).encode())

    return spoil


def _text(old: str, new: str) -> Spoiler:
    """Return a spoiler that replaces text in the body, for what json.dumps would not write."""
    return lambda response, _switches: replace(response, body=response.body.replace(old.encode(), new.encode(), 1))


def _without(*names: str) -> Spoiler:
    return _result(lambda row: {name: value for name, value in row.items() if name not in names})


def _sleep(response: Response, switches: Switches) -> Response:
    time.sleep(switches.slow)
    return response


def _refused(status: int, message: str, detail: str | None) -> Spoiler:
    return lambda _response, _switches: error(status, message, detail)


_RULE = "Operation against file 'incident' was aborted by Business Rule 'Sandbox^0f'. Business Rule Stack:Sandbox"
_POLICY = "Data Policy Exception: The following fields are mandatory: Assignment group"
_ACL = "ACL Exception Insert Failed due to security constraints"
_OLD_REQUEST = "Failed API level ACL Validation"
_NO_URI = "Requested URI does not represent any resource"

_ROWS: list[tuple[str, str, frozenset[str], Spoiler, str]] = [
    ("reset_before", HEAD, _EVERY, _manner(Manner.RESET), "connection reset before the body is read"),
    ("lost_answer", AFTER, _EVERY, _manner(Manner.DROP), "carried out, then closed without an answer"),
    ("reset_after", AFTER, _EVERY, _manner(Manner.RESET), "carried out, then reset without an answer"),
    ("late_commit", LATE, _CREATE, _manner(Manner.DROP), "closed at once, the row commits after --late"),
    ("late_commit_hang", LATE, _CREATE, _manner(Manner.STALL), "never answered, the row commits after --late"),
    ("slow_commit", "slow", _CREATE, _manner(Manner.SEND), "commits after --late, then answers well"),
    ("500_before_commit", BEFORE, _EVERY, _cancelled(500), "500 'maximum execution time exceeded', not carried out"),
    ("500_after_commit", AFTER, _EVERY, _cancelled(500), "the same 500, although carried out"),
    ("502_before_commit", BEFORE, _EVERY, _nginx(502, "Bad Gateway"), "502 HTML, not carried out"),
    ("502_after_commit", AFTER, _EVERY, _nginx(502, "Bad Gateway"), "502 HTML, carried out"),
    ("503", BEFORE, _EVERY, _nginx(503, "Service Unavailable"), "503 HTML with Retry-After, not carried out"),
    ("503_after_commit", AFTER, _EVERY, _nginx(503, "Service Unavailable"), "503 HTML, carried out"),
    ("504_before_commit", BEFORE, _EVERY, _nginx(504, "Gateway Timeout"), "504 HTML, not carried out"),
    ("504_after_commit", AFTER, _EVERY, _nginx(504, "Gateway Timeout"), "504 HTML, carried out"),
    ("202", BEFORE, _TABLE, _accepted, "202 without a body, not carried out"),
    ("202_after_commit", AFTER, _TABLE, _accepted, "202 without a body, carried out"),
    ("429", BEFORE, _EVERY, lambda _response, switches: limited(switches), "429 of a rate rule, Retry-After by switch"),
    (
        "429_bare",
        BEFORE,
        _EVERY,
        lambda _r, _s: html(429, "Too Many Requests"),
        "429 of the semaphore: no JSON, no headers",
    ),
    ("html_200", BEFORE, _EVERY, _hibernating, "200 with the hibernation page, not carried out"),
    ("html_200_after_commit", AFTER, _EVERY, _hibernating, "the same page, carried out"),
    ("html_login_200", BEFORE, _EVERY, _login, "200 with a login page, not carried out"),
    ("error_200", BEFORE, _EVERY, _cancelled(200), "200 with an error object only, not carried out"),
    ("error_200_after_commit", AFTER, _EVERY, _cancelled(200), "200 with an error object only, carried out"),
    ("result_and_error_200", AFTER, _TABLE, _result_and_error, "200 with a result and an error, valid JSON"),
    ("poisoned_200", AFTER, _TABLE, _appended_error, "200 with an error appended to a cut result, invalid JSON"),
    ("truncated_json", AFTER, _EVERY, _cut_json, "carried out; the JSON ends at two thirds, HTTP is whole"),
    ("cut_connection", AFTER, _EVERY, _manner(Manner.CUT), "carried out; half the promised body, then closed"),
    ("slow_drip", AFTER, _EVERY, _manner(Manner.DRIP), "carried out; the answer dripped over --slow"),
    ("slow", AFTER, _EVERY, _sleep, "carried out; answered after --slow"),
    ("stall", BEFORE, _EVERY, _manner(Manner.STALL), "never answered, not carried out"),
    ("stall_after_commit", AFTER, _EVERY, _manner(Manner.STALL), "never answered, carried out"),
    *[
        (f"redirect_{status}", BEFORE, _EVERY, _redirect(status), f"{status} to the switch redirect_to")
        for status in (301, 302, 307, 308)
    ],
    ("token_expired", BEFORE, _TABLE, _manner(Manner.SEND), "the token of this call is revoked: 401"),
    ("access_denied", BEFORE, frozenset({TOKEN}), _manner(Manner.SEND), "the token endpoint's opaque 401"),
    ("business_rule", BEFORE, _CREATE, _refused(403, "Operation Failed", _RULE), "403, aborted by a business rule"),
    ("data_policy", BEFORE, _CREATE, _refused(403, "Operation Failed", _POLICY), "403, a data policy"),
    ("acl_insert", BEFORE, _CREATE, _refused(403, "Operation Failed", _ACL), "403, the create ACL"),
    ("acl_api", BEFORE, _TABLE, _refused(403, "User Not Authorized", _OLD_REQUEST), "403, API-level ACL"),
    (
        "acl_query",
        BEFORE,
        _TABLE,
        _refused(403, "Insufficient rights to query records", None),
        "403, table not readable",
    ),
    ("no_resource", BEFORE, _TABLE, _refused(400, _NO_URI, None), "400, no such resource"),
    ("empty_201", AFTER, _CREATE, lambda response, _s: replace(response, body=b""), "carried out; 201 without a body"),
    (
        "foreign_correlation_id",
        AFTER,
        _CREATE,
        _result(lambda row: row | {"correlation_id": "foreign:4711"}),
        "carried out; the answer's correlation_id is another",
    ),
    ("no_number_201", AFTER, _CREATE, _without("number"), "carried out; 201 without number"),
    ("no_sys_id_201", AFTER, _CREATE, _without("sys_id"), "carried out; 201 without sys_id"),
    ("no_correlation_201", AFTER, _CREATE, _without("correlation_id"), "carried out; 201 without correlation_id"),
    ("wrong_types_201", AFTER, _CREATE, _result(lambda row: [row, None, 1]), "carried out; result is a list"),
    (
        "wrong_values_201",
        AFTER,
        _CREATE,
        _result(lambda row: row | {"sys_id": 12, "number": None}),
        "carried out; sys_id is a number, number is null",
    ),
    (
        "duplicate_keys_201",
        AFTER,
        _CREATE,
        _text('{"result":{', '{"result":{"sys_id":"00000000000000000000000000000000","number":"INC0","result":{},'),
        "carried out; keys come twice",
    ),
    ("nan_201", AFTER, _CREATE, _text('{"result":{', '{"result":{"u_cost":NaN,'), "carried out; NaN in the JSON"),
    (
        "huge_int_201",
        AFTER,
        _CREATE,
        _text('{"result":{', '{"result":{"u_n":' + "9" * 5000 + ","),
        "carried out; a huge integer",
    ),
]

FAULTS: dict[str, Fault] = {
    name: Fault(name=name, when=when, kinds=kinds, spoil=spoil, text=text) for name, when, kinds, spoil, text in _ROWS
}
FAULTS |= {
    alias: FAULTS[name]
    for alias, name in {
        "202_before_commit": "202",
        "503_before_commit": "503",
        "error_200_before_commit": "error_200",
    }.items()
}
KINDS = {name: fault.kinds for name, fault in FAULTS.items()}


def table(faults: Mapping[str, Fault] = FAULTS) -> str:
    """Return the faults as lines of text."""
    return "\n".join(f"  {one.name:<24} {'/'.join(sorted(one.kinds)):<24} {one.text}" for one in faults.values())
