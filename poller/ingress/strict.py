"""
One request, read more strictly than cheroot does: what two readers might understand differently is refused.

A proxy in front of us must never see another request than we do. So: CRLF alone ends a line, no line is folded, nothing that
frames a body comes twice, and a body has a length or comes in chunks, never both.

Source: RFC 9112; guarantee.md section 4, S28, S30, S31.
"""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from cheroot.errors import MaxSizeExceeded
from cheroot.server import HTTPRequest

from poller.ingress.incoming import Chunked, Sized

if TYPE_CHECKING:
    from poller.ingress.connection import Connection

_FIRST: Final = re.compile(rb"([A-Z-]{1,32}) ([^ ]+) HTTP/([0-9])\.([0-9])\r\n")
_TARGET: Final = re.compile(rb"/(?!/)[\x21\x24-\x7e]*")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):([^\x00-\x08\x0a-\x1f\x7f]*)\r\n")
#: More than any client sends.
MOST_FIELDS: Final = 100
#: Two of them would be two meanings.
_ONCE: Final = frozenset(
    {b"Authorization", b"Content-Encoding", b"Content-Length", b"Content-Type", b"Host", b"Transfer-Encoding"}
)
_FRAMING: Final = frozenset({b"Content-Length", b"Transfer-Encoding"})
_WORDS: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
}


class BadHead(ValueError):
    """
    A head that is refused.

    Args:
        status: Of the answer.
    """

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class StrictRequest(HTTPRequest):  # type: ignore[misc]  # cheroot's types say nothing of it
    """What cheroot makes of one request on a connection."""

    conn: Connection
    #: The head as it is read, then the body.
    rfile: Any

    def parse_request(self) -> None:
        """Read the head, within its time."""
        self.conn.reading_head()
        super().parse_request()

    def read_request_line(self) -> bool:
        """Read the first line; return whether the request may go on."""
        line = self.rfile.readline()
        self.started_request = True
        if line == b"\r\n":
            # RFC 9112 section 2.2: one empty line may come before it.
            line = self.rfile.readline()
        if not line:
            return False
        try:
            self._begin(line)
        except BadHead as error:
            self._refuse(error)
            return False
        return True

    def _begin(self, line: bytes) -> None:
        """Take the first line; cheroot would make a signed version of ``HTTP/+1.1``, and stumble over ``//[``."""
        first = _FIRST.fullmatch(line)
        if first is None:
            raise BadHead(
                "the request does not begin with a method, a target and a version on one line that ends in CRLF"
            )
        if first[3] != b"1" or first[4] not in b"01":
            raise BadHead("HTTP/1.1 is spoken here", 505)
        if not _TARGET.fullmatch(first[2]):
            raise BadHead("the request target is no path of printable ASCII")
        self.method, self.uri = first[1], first[2]
        path, _, query = first[2].partition(b"?")
        self.path, self.qs = path, query
        self.authority = b""
        self.response_protocol = f"HTTP/1.{first[4].decode()}"
        self.request_protocol = self.response_protocol.encode()

    def read_request_headers(self) -> bool:
        """Read the fields into ``inheaders``; return whether the request may go on."""
        try:
            self.inheaders = self._fields()
            self._frame()
        except MaxSizeExceeded:
            self.simple_response("431 Request Header Fields Too Large", "the head of the request is too large")
            return False
        except BadHead as error:
            self._refuse(error)
            return False
        if self.inheaders.get(b"Expect", b"").lower() == b"100-continue" and self.response_protocol == "HTTP/1.1":
            self.conn.end_turn()
            self.conn.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _refuse(self, error: BadHead) -> None:
        self.simple_response(f"{error.status} {HTTPStatus(error.status).phrase}", str(error))

    def _fields(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for _ in range(MOST_FIELDS + 1):
            line = self.rfile.readline()
            if line == b"\r\n":
                return found
            field = _FIELD.fullmatch(line)
            if field is None:
                raise BadHead("a header is not a name, a colon and a value on one line that ends in CRLF")
            name, value = field[1].title(), field[2].strip(b" \t")
            if b"_" in name:
                # WSGI, as CGI, would take it for the name with a hyphen; proxies do not.
                if name.replace(b"_", b"-") in _FRAMING:
                    raise BadHead("a header that frames the body has an underscore in its name")
                continue
            if name in found:
                if name in _ONCE:
                    raise BadHead(f"{name.decode()} comes twice")
                found[name] += b", " + value
            else:
                found[name] = value
        raise BadHead(f"there are more than {MOST_FIELDS} headers", 431)

    def _frame(self) -> None:
        """Find out where the body ends, and whether the connection is used again."""
        fields = self.inheaders
        if self.response_protocol == "HTTP/1.1" and b"Host" not in fields:
            raise BadHead("there is no Host")
        coding = fields.get(b"Transfer-Encoding")
        length = fields.get(b"Content-Length", b"0")
        if not length.isdigit() or len(length) > 18:
            raise BadHead("Content-Length is no number")
        if coding is not None:
            if b"Content-Length" in fields:
                raise BadHead("there is both a Content-Length and a Transfer-Encoding")
            if self.response_protocol != "HTTP/1.1":
                raise BadHead("HTTP/1.0 knows no Transfer-Encoding")
            if coding.lower() != b"chunked":
                raise BadHead("no other Transfer-Encoding is known than chunked", 501)
        self.chunked_read = coding is not None
        self.length = int(length)
        options = {each.strip().lower() for each in fields.get(b"Connection", b"").split(b",")}
        kept = b"close" not in options if self.response_protocol == "HTTP/1.1" else b"keep-alive" in options
        # Behind chunks some readers see other bytes than we do: nothing may follow them.
        self.close_connection = not kept or self.chunked_read

    def respond(self) -> None:
        """Let the application answer."""
        self.conn.credentials = self.inheaders.get(b"Authorization", b"")
        self.conn.take_turn()
        self.conn.reading_body()
        self.rfile = Chunked(self.conn.rfile) if self.chunked_read else Sized(self.conn.rfile, self.length)
        self.server.gateway(self).respond()
        if self.ready:
            self.ensure_headers_sent()

    def send_headers(self) -> None:
        """Send the head of the answer; where the body was not read, or it waits for its turn, the connection ends with it."""
        if self.rfile.remaining:
            self.conn.unread = True
        if self.conn.unread or self.conn.due is not None:
            self.close_connection = True
        super().send_headers()

    def simple_response(self, status: str, msg: str = "") -> None:
        """Refuse what is no proper request: a problem as RFC 9457 has it, and the end of the connection."""
        code = int(status[:3])
        self.close_connection = True
        self.conn.unread = True
        self.sent_headers = True
        self.conn.end_turn(vain=True)
        if not self.conn.refuse(f"http_{code}"):
            return
        problem = {"type": "about:blank", "title": _WORDS.get(code, status[4:]), "status": code}
        body = json.dumps(problem | ({"detail": _plain(msg)} if msg else {})).encode()
        head = (
            f"HTTP/1.1 {code} {problem['title']}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\nDate: {formatdate(usegmt=True)}\r\n\r\n"
        )
        self.conn.wfile.write(head.encode("latin-1") + body)


def _plain(text: Any) -> str:  # noqa: ANN401  cheroot gives bytes here and there
    return text.decode("latin-1") if isinstance(text, bytes) else str(text)
