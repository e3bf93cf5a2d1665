"""What `poller check` says of the ingress."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from poller.commands.checking.findings import Status
from poller.commands.checking.ingress import ingress
from poller.ingress.settings import ServerSettings


@contextmanager
def provider(answer: dict[str, Any], status: int = 200) -> Iterator[str]:
    """Answer everything with the same JSON."""

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.do_GET()

        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def found(now: datetime | None = None, **keys: Any) -> dict[Status, list[str]]:
    settings = ServerSettings.model_validate(keys, context={"base": Path()})
    told: dict[Status, list[str]] = {}
    for finding in ingress(settings, now=now):
        told.setdefault(finding.status, []).append(finding.said)
    return told


def test_an_address_that_somebody_has_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (said,) = found(listen=address)[Status.OK]
    assert "somebody listens" in said
    (said,) = found(listen=address)[Status.OK]
    assert "would listen" in said


def test_a_socket_is_tried_without_being_made(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert found(listen=f"unix:{path}").keys() == {Status.OK}
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        # What a process has left that is gone is no reason not to start, and is the daemon's to remove.
        assert "would listen" in found(listen=f"unix:{path}")[Status.OK][0]
        other.listen()
        assert "somebody listens" in found(listen=f"unix:{path}")[Status.OK][0]
    path.unlink()
    path.write_text("precious")
    assert "no socket" in found(listen=f"unix:{path}")[Status.FAULT][0]
    assert "No such file" in found(listen=f"unix:{tmp_path}/none/socket")[Status.FAULT][0]
    assert path.read_text() == "precious"


def test_a_provider_that_is_away_is_a_fault_with_its_cause() -> None:
    told = found(auth={"issuer": "http://127.0.0.1:9", "audience": "poller"})

    assert "connection refused" in told[Status.FAULT][0]


def test_a_provider_without_a_fitting_key_is_a_fault() -> None:
    with provider({"keys": []}) as url:
        told = found(auth={"issuer": url, "jwks_url": f"{url}/keys", "audience": "poller"})

    assert "no key that is fit for RS256" in told[Status.FAULT][0]


def test_a_provider_that_is_asked_about_tokens_must_know_nobodys() -> None:
    with provider({"active": False}) as url:
        good = found(auth={"introspection_url": url, "client_id": "p", "client_secret": "s"})
    with provider({"active": True, "client_id": "x", "scope": "poll", "exp": 4102444800}) as url:
        bad = found(auth={"introspection_url": url, "client_id": "p", "client_secret": "s"})

    assert "the provider answers about tokens" in good[Status.OK]
    assert "accepts a token that nobody has" in bad[Status.FAULT][0]


def test_a_certificate_is_told_of_before_it_ends(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    issued = trustme.CA().issue_cert("localhost", not_after=now + timedelta(days=60))
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    tls = {"certificate": str(tmp_path / "server.pem")}

    assert any("lasts until" in said for said in found(now, tls=tls)[Status.OK])
    assert "the certificate ends on" in found(now + timedelta(days=45), tls=tls)[Status.WARNING][0]
    assert "the certificate has ended" in found(now + timedelta(days=61), tls=tls)[Status.FAULT][0]
