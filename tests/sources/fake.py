"""A source of records on a real socket, as the test scripts it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Asked:
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    port: int
    method: str = "GET"
    body: bytes = b""

    @property
    def sent(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)


@dataclass
class Say:
    """One answer. *body* is JSON unless it is bytes; *drip* writes it byte by byte until the client goes away."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    date: datetime | None = None
    no_date: bool = False
    drip: float = 0.0


@dataclass
class Fake:
    answer: Callable[[Asked], Say]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(answer: Callable[[Asked], Say]) -> Iterator[Fake]:  # noqa: C901  one server, its whole life
    fake = Fake(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            query = dict(parse_qsl(parts.query))
            asked = Asked(parts.path, query, dict(self.headers), server.server_port, self.command, body)
            fake.asked.append(asked)
            say = fake.answer(asked)
            body = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
            self.send_response_only(say.status)
            if not say.no_date:
                self.send_header("Date", format_datetime(say.date or datetime.now(UTC), usegmt=True))
            for name, value in {"Content-Type": "application/json", **say.headers}.items():
                self.send_header(name, value)
            if say.status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if say.status == 304:
                return
            if not say.drip:
                self.wfile.write(body)
                return
            try:
                for index in range(len(body)):
                    self.wfile.write(body[index : index + 1])
                    self.wfile.flush()
                    if fake.stopping.wait(say.drip):
                        return
            except OSError:
                return

        do_POST = do_GET  # noqa: N815  the name http.server asks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
