"""The stand-in help desk's lists as JSON, XML and CSV, in the encodings that real systems still speak."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from poller.sandbox.options import Json
from poller.sandbox.store import Fields
from poller.sandbox.wire import Response

#: XML 1.0 cannot carry these, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COLUMNS = ("id", "subject", "body", "priority", "status", "requester", "author_id", "created_at", "updated_at")


def rendered(tickets: Sequence[Fields], more: Mapping[str, Json], given: Mapping[str, str]) -> Response:
    """
    Return a list of *tickets* as the query asks for it.

    Args:
        more: What stands beside the list: total, next_cursor…

        given: ``format`` = json, xml or csv; ``charset``; ``unstated``: the header does not name the charset;
            ``delimiter`` of CSV.

    Raises:
        ValueError: A format or a charset that nobody knows.
    """
    name, charset = given.get("format", "json"), given.get("charset", "utf-8")
    try:
        "".encode(charset)
    except LookupError as error:
        message = f"charset: not known: {charset!r}"
        raise ValueError(message) from error
    stated = "" if given.get("unstated") else f"; charset={charset}"
    if name == "json":
        text = json.dumps({"tickets": list(tickets), **more}, ensure_ascii=charset.lower() != "utf-8")
        return Response(200, text.encode(charset, "backslashreplace"), "application/json")
    if name == "xml":
        return Response(200, as_xml(tickets, more, charset), f"application/xml{stated}")
    if name == "csv":
        text = as_csv(tickets, given.get("delimiter", ","))
        return Response(200, text.encode(charset, "replace"), f"text/csv{stated}")
    message = f"format: one of json, xml, csv, got {name!r}"
    raise ValueError(message)


def as_xml(tickets: Sequence[Fields], more: Mapping[str, Json], charset: str) -> bytes:
    """Return ``<tickets total="…"><ticket id="…"><subject>…``; what is no text in a ticket nests."""
    attributes = "".join(f" {name}={quoteattr(_clean(value))}" for name, value in more.items() if value is not None)
    pieces = [f'<?xml version="1.0" encoding="{charset}"?>\n<tickets{attributes}>']
    pieces += [_ticket(ticket) for ticket in tickets]
    return "".join([*pieces, "\n</tickets>\n"]).encode(charset, "xmlcharrefreplace")


def one_as_xml(ticket: Fields, root: str) -> bytes:
    """Return one object as a document of its own."""
    inner = "".join(_element(name, value) for name, value in ticket.items())
    return f'<?xml version="1.0" encoding="utf-8"?>\n<{root}>{inner}</{root}>'.encode("utf-8", "replace")


def as_csv(tickets: Sequence[Fields], delimiter: str) -> str:
    """Return a header row and a row for each ticket."""
    out = io.StringIO(newline="")
    columns = [name for name in _COLUMNS if not tickets or any(name in ticket for ticket in tickets)]
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows([_cell(ticket.get(name)) for name in columns] for ticket in tickets)
    return out.getvalue()


def _ticket(ticket: Fields) -> str:
    inner = "".join(_element(name, value) for name, value in ticket.items() if name != "id")
    return f"\n  <ticket id={quoteattr(_clean(ticket['id']))}>{inner}</ticket>"


def _element(name: str, value: Json) -> str:
    if isinstance(value, dict):
        return f"<{name}>{''.join(_element(key, part) for key, part in value.items())}</{name}>"
    return f"<{name}>{escape(_clean(value))}</{name}>"


def _cell(value: Json) -> str:
    return str(value.get("login", "")) if isinstance(value, dict) else _clean(value)


def _clean(value: Json) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return _FORBIDDEN.sub("\ufffd", text)
