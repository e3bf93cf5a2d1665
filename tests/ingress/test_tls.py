"""TLS at the ingress: handshakes, certificates of ours and of clients, and what is no TLS at all."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.ingress.daemon import CLIENTS, Ingress, files, running
from tests.scenarios.world import wait_for

pytestmark = pytest.mark.xdist_group("ingress_tls")

TLS = """
head_timeout = "2s"
connections = 60
[server.tls]
certificate = "server.pem"
client_ca = "clients.pem"
"""


@dataclass(kw_only=True)
class Paper:
    """Who is who: our authority, that of the clients, one that nobody trusts."""

    ours: trustme.CA
    theirs: trustme.CA
    strange: trustme.CA
    known: trustme.LeafCert
    unknown: trustme.LeafCert

    def context(self, shown: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return what a client verifies us with, and shows."""
        found = ssl.create_default_context()
        self.ours.configure_trust(found)
        if shown is not None:
            shown.configure_cert(found)
        return found


@pytest.fixture(scope="module")
def paper() -> Paper:
    theirs, strange = trustme.CA(), trustme.CA()
    return Paper(
        ours=trustme.CA(),
        theirs=theirs,
        strange=strange,
        known=theirs.issue_cert("known.example"),
        unknown=theirs.issue_cert("unknown.example"),
    )


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory, paper: Paper) -> Iterator[Ingress]:
    folder = tmp_path_factory.mktemp("tls")
    ours(folder, paper)
    paper.theirs.cert_pem.write_to_path(str(folder / "clients.pem"))
    shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(paper.known.cert_chain_pems[0].bytes().decode())).hexdigest()
    clients = {**CLIENTS, "certified": f'scopes = ["records:write:push"]\ncertificate = "sha256:{shown}"'}
    with running(folder, server=TLS, clients=clients, trust=paper.context()) as made:
        yield made


def ours(folder: Path, paper: Paper) -> None:
    """Put a new certificate of the server in place, as a tool that renews it does."""
    beside = folder / "server.new"
    beside.write_bytes(paper.ours.issue_cert("localhost").private_key_and_cert_chain_pem.bytes())
    beside.chmod(0o600)
    beside.rename(folder / "server.pem")


def test_pushes_go_over_tls_1_2_and_1_3_and_nothing_older(ingress: Ingress, paper: Paper) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = paper.context()
        context.minimum_version = context.maximum_version = version
        assert ingress.ask("GET", "/healthz", context=context).status == 200
    ingress.serves()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError, match=r"(?i)ssl|version|reset"):
        ingress.ask("GET", "/healthz", context=old)


def test_a_client_certificate_is_a_proof_where_it_is_a_clients(ingress: Ingress, paper: Paper) -> None:
    body = b'{"id": "certified", "version": "1"}'

    def push(shown: trustme.LeafCert | None, route: str = "push", token: str | None = None) -> int:
        return ingress.ask("POST", f"/routes/{route}/records", body, context=paper.context(shown), token=token).status

    assert push(None) == 401
    assert push(paper.unknown) == 401
    assert "certified" not in ingress.stored()
    assert push(paper.known) == 202
    assert push(paper.known, "other") == 403
    # A token says more than a certificate; a wrong one is not helped by it.
    assert push(paper.known, "other", token=ingress.token()) == 202
    assert push(paper.unknown, token=ingress.token()) == 202
    assert push(paper.known, token="A" * 43) == 401
    assert ingress.said("request_answered", client="certified", status=202)


def test_a_certificate_of_an_authority_that_is_not_ours_ends_the_handshake(ingress: Ingress, paper: Paper) -> None:
    stranger = paper.context(paper.strange.issue_cert("known.example"))
    data = b""
    # With TLS 1.3 the client is done before the server has looked at its certificate.
    with contextlib.suppress(OSError), ingress.connect(context=stranger) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = connection.recv(65536)

    assert data == b""
    ingress.serves()


def test_a_kept_connection_keeps_its_proof(ingress: Ingress, paper: Paper) -> None:
    with ingress.connect(context=paper.context(paper.known)) as connection:
        for number in range(3):
            body = b'{"id": "kept %d", "version": "1"}' % number
            head = ingress.head("/routes/push/records", f"Content-Length: {len(body)}", proven=False)
            connection.sendall(head + b"\r\n" + body)
            data = b""
            while b"kept %d" % number not in data:
                data += connection.recv(65536)
            assert data.startswith(b"HTTP/1.1 202")


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100


@pytest.mark.parametrize("said", [b"", b"\x16", HELLO])
def test_handshakes_that_never_end_hold_up_nobody(ingress: Ingress, said: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(ingress.bare())
                connection.sendall(said)
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > 1.1, "them to be a second old")
        for _ in range(5):
            ingress.serves(5)


@pytest.mark.parametrize(
    "said", [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0" * 1000, b"\x16\x03\x01\xff\xff" + b"x" * 9000]
)
def test_what_is_no_tls_is_ended_without_an_answer(ingress: Ingress, said: bytes) -> None:
    with ingress.bare(15) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(said)
        answer = connection.recv(65536)
        assert not answer.startswith(b"HTTP")
    ingress.serves()


@pytest.mark.parametrize(
    "before", [b"", b"GET /hea", b"POST /routes/push/records HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"]
)
def test_junk_within_tls_is_no_crash(ingress: Ingress, paper: Paper, before: bytes) -> None:
    """Records that do not decrypt, behind a proper handshake."""
    plain = ingress.bare()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = paper.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with plain:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65536))
        if before:
            tls.write(before)
        plain.sendall(outgoing.read() + b"\x17\x03\x03\x00\x20" + b"junk" * 8)
        with contextlib.suppress(ConnectionError):
            while plain.recv(65536):
                pass
    ingress.serves()
    assert not ingress.said("crashed")


def test_a_connection_cut_within_tls_is_no_crash(ingress: Ingress) -> None:
    for said in (b"", b"GET /hea", ingress.head("/routes/push/records", "Content-Length: 50") + b"\r\n{"):
        for how in (socket.SHUT_WR, None):
            with ingress.connect() as connection:
                if said:
                    connection.sendall(said)
                if how is not None:
                    connection.shutdown(how)
    ingress.serves()


def test_a_certificate_that_was_renewed_is_shown_without_a_restart(ingress: Ingress, paper: Paper) -> None:
    def shown() -> bytes | None:
        with ingress.connect() as connection:
            assert isinstance(connection, ssl.SSLSocket)
            return connection.getpeercert(binary_form=True)

    first = shown()
    with ingress.connect() as kept:
        ours(ingress.folder, paper)
        second = shown()
        # Half written: the last good one stays.
        (ingress.folder / "server.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
        third = shown()
        ours(ingress.folder, paper)
        fourth = shown()
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")

    assert first != second == third != fourth
    assert ingress.said("certificate_refused")
    assert ingress.memory() > 0


def test_tls_is_added_and_taken_away_by_sighup(tmp_path: Path, paper: Paper) -> None:
    ours(tmp_path, paper)
    tls = '[server.tls]\ncertificate = "server.pem"'
    with running(tmp_path) as ingress:
        ingress.serves()
        ingress.write(server=tls, routes=files("push", "other"), more="", clients=CLIENTS)
        assert ingress.reload()["event"] == "settings_reloaded"
        ingress.trust = paper.context()
        ingress.serves()
        ingress.write(server="", routes=files("push", "other"), more="", clients=CLIENTS)
        assert ingress.reload()["event"] == "settings_reloaded"
        ingress.trust = None
        ingress.serves()
