"""``/api/now[/v1|/v2]/table/...``: the calls of the Table API, their status codes and headers; and ``/stats``."""

import functools
import json
import re

from poller.sandbox.faults import error
from poller.sandbox.options import Json
from poller.sandbox.reading import Ask, Reader, pagination, parameters
from poller.sandbox.rights import Rights
from poller.sandbox.store import Fields, Store
from poller.sandbox.wire import Request, Response
from poller.sandbox.writing import Refusal, Writer, body_fields

_PATH = re.compile(r"/api/now(/v[12])?/(table|stats)/([^/]+)(?:/([^/]+))?/?", re.ASCII)
_NO_RECORD = ("No Record found", "Record doesn't exist or ACL restricts the record retrieval")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
_WRITES = {"POST", "PUT", "PATCH"}


def _json(status: int, content: Json) -> Response:
    return Response(status, _ENCODER.encode(content).encode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=4096)
def path_of(path: str) -> tuple[str, str, str, str] | None:
    """Return version segment, ``table`` or ``stats``, table and sys_id of a path; None for another path."""
    found = _PATH.fullmatch(path)
    return None if found is None else (found[1] or "", found[2], found[3], found[4] or "")


class TableApi:
    """Carries out calls that are authenticated by now."""

    def __init__(self, store: Store, reader: Reader, writer: Writer, rights: Rights) -> None:
        self._rights = rights
        self._store = store
        self._reader = reader
        self._writer = writer

    def call(self, request: Request, url: str, entry: Fields, *, delay: float = 0.0, short: bool = False) -> Response:
        """
        Carry out *request*.

        Args:
            request: An authenticated call.

            url: ``http://host:port``, for links.

            entry: The ledger's entry of this call, which gets the facts.

            delay: Seconds an insert takes before it commits.

            short: A 201 shows sys_id and number only.
        """
        parts = path_of(request.path)
        if parts is None:
            return error(400, "Requested URI does not represent any resource", None)
        version, area, table, sys_id = parts
        if table not in self._store.tables:
            return error(400, f"Invalid table {table}", None)
        if (refused := _unacceptable(request) or self._rights.refused(table, request.method)) is not None:
            return refused
        ask = Ask(
            parameters=parameters(request.query),
            base=f"{url}/api/now{version}/table",
            identity=request.identity,
        )
        try:
            if area == "stats":
                return self._count(table, ask, entry)
            if request.method in {"GET", "HEAD"}:
                if self._reader.forbidden(table):
                    return error(403, "Insufficient rights to query records", None)
                return (
                    self._one(table, sys_id, ask)
                    if sys_id
                    else self._list(table, ask, url + request.path, version, entry)
                )
            if request.method == "POST" and not sys_id:
                return self._insert(table, request, ask, entry, delay, short=short)
            return self._change(table, sys_id, request, ask)
        except Refusal as refusal:
            return refusal.response

    def _list(self, table: str, ask: Ask, url: str, version: str, entry: Fields) -> Response:
        found = self._reader.find(table, ask)
        entry["query"] = ask.parameters.get("sysparm_query", "")
        entry["dropped"] = found.query.dropped
        entry["rows"] = len(found.rows)
        if version == "/v1" and not found.rows:
            response = error(404, *_NO_RECORD)
        else:
            response = _json(200, {"result": [self._reader.encoded(table, row, ask) for row in found.rows]})
        if not ask.flag("sysparm_no_count"):
            response.headers.append(("X-Total-Count", str(found.total)))
        if not ask.flag("sysparm_suppress_pagination_header") and (link := pagination(url, ask, found.total)):
            response.headers.append(("Link", link))
        return response

    def _count(self, table: str, ask: Ask, entry: Fields) -> Response:
        found = self._reader.find(table, ask)
        entry["query"], entry["dropped"] = ask.parameters.get("sysparm_query", ""), found.query.dropped
        stats = {"count": str(found.total)} if ask.flag("sysparm_count") else {}
        return _json(200, {"result": {"stats": stats}})

    def _one(self, table: str, sys_id: str, ask: Ask) -> Response:
        row = self._store.tables[table].seen(sys_id.lower())
        if row is None or self._reader.hidden(table):
            return error(404, *_NO_RECORD)
        return _json(200, {"result": self._reader.encoded(table, row, ask)})

    def _insert(self, table: str, request: Request, ask: Ask, entry: Fields, delay: float, *, short: bool) -> Response:
        sent = body_fields(request)
        if table == "incident":
            entry |= {**_facts(sent), "committed": False}
        row = self._writer.insert(
            table, sent, request.identity, by_display=ask.flag("sysparm_input_display_value"), delay=delay
        )
        if table == "incident":
            entry |= {"sys_id": row["sys_id"], "number": row["number"], "caller": row["caller_id"], "committed": True}
        response = _json(201, {"result": self._reader.encoded(table, row, ask)})
        if short:
            response = _json(201, {"result": {"sys_id": row["sys_id"], "number": row.get("number", "")}})
        if request.headers.get("x-no-response-body", "").lower() == "true":
            response = Response(201, b"")
        response.headers.append(("Location", f"{ask.base}/{table}/{row['sys_id']}"))
        return response

    def _change(self, table: str, sys_id: str, request: Request, ask: Ask) -> Response:
        sys_id = sys_id.lower()
        if request.method in {"PUT", "PATCH"} and sys_id:
            by_display = ask.flag("sysparm_input_display_value")
            changed = self._writer.change(table, sys_id, body_fields(request), request.identity, by_display=by_display)
            return (
                error(404, *_NO_RECORD)
                if changed is None
                else _json(200, {"result": self._reader.encoded(table, changed, ask)})
            )
        if request.method == "DELETE" and sys_id:
            return Response(204) if self._writer.delete(table, sys_id) else error(404, *_NO_RECORD)
        return error(405, "Method not supported", f"{request.method} is not supported here")


def _facts(sent: Fields) -> Fields:
    names = {"correlation_id": "correlation_id", "correlation_display": "correlation_display"}
    names |= {"caller": "caller_id", "sys_id": "sys_id"}
    return {shown: sent.get(name, "") for shown, name in names.items()}


def create_facts(request: Request) -> Fields:
    """Return what the ledger tells of a create; nothing where its body cannot be read."""
    try:
        return _facts(body_fields(request))
    except Refusal:
        return {}


def _unacceptable(request: Request) -> Response | None:
    accept = request.headers.get("accept", "*/*")
    if "json" not in accept and "*/*" not in accept and "application/*" not in accept:
        return error(406, "Requested media type is not supported", None)
    kind = request.headers.get("content-type", "application/json")
    if request.method in _WRITES and "json" not in kind:
        return error(415, "Unsupported media type", kind)
    return None
