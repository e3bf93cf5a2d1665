"""Private authorities, our own certificate, and files that change under a running daemon."""

from __future__ import annotations

import datetime as dt
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import ValidationError

from poller.clients.http import HttpRemote, RemoteSettings
from poller.clients.tls import TlsSettings
from poller.errors import BlockedError, PollerError, TransientError
from tests.clients.fake import Act, Fake, answer, serving

# Each connection is a new one: what is in the files now is what counts.
WHOLE = answer(b"{}", headers={"Connection": "close"})


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def server(ca: trustme.CA, *names: str, clients: trustme.CA | None = None, **more: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("127.0.0.1", "localhost")), **more).configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
    return context


def remote(folder: Path, **tls: Any) -> HttpRemote:
    given = {"ca": "ca.pem", **tls}
    settings = RemoteSettings.model_validate({"tls": given}, context={"base": folder})
    return HttpRemote(settings)


def url(fake: Fake, host: str = "127.0.0.1") -> str:
    return f"https://{host}:{fake.port}/"


def own(ca: trustme.CA, folder: Path, passphrase: str = "") -> None:
    issued = ca.issue_cert("poller.example")
    write(folder / "own.crt", issued.cert_chain_pems[0].bytes())
    key = issued.private_key_pem.bytes()
    if passphrase:
        seal = BestAvailableEncryption(passphrase.encode())
        key = load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, seal)
    write(folder / "own.key", key)


_ticks: Iterator[int] = iter(range(2_000_000_000, 2_100_000_000))


def write(path: Path, data: bytes) -> None:
    """Write in place, with a time of its own: two writes within the clock's grain would look like one."""
    path.write_bytes(data)
    os.utime(path, (next(_ticks),) * 2)


OWN = {"certificate": "own.crt", "key": "own.key"}


def test_s36_self_signed_expired_and_foreign_certificates_are_refused(ca: trustme.CA, tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    expired = server(ca, not_before=now - dt.timedelta(days=9), not_after=now - dt.timedelta(days=1))
    for context in (server(trustme.CA()), expired, server(ca, "other.example")):
        with serving(lambda _: Act(WHOLE), tls=context) as fake:
            with pytest.raises(TransientError, match=r"not trusted .*; see tls\.ca") as caught:
                remote(tmp_path).request("POST", url(fake), body=b"x")
            assert caught.value.remote
            assert not fake.arrived


def test_s36_the_name_of_the_host_is_told_in_the_handshake(ca: trustme.CA, tmp_path: Path) -> None:
    names: list[str | None] = []
    context = server(ca)
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    with serving(lambda _: Act(WHOLE), tls=context) as fake:
        remote(tmp_path).request("GET", url(fake, "localhost"))
    assert names == ["localhost"]


def test_a_protected_key_is_opened_by_its_pass_phrase(ca: trustme.CA, tmp_path: Path) -> None:
    own(ca, tmp_path, "open sesame")
    with serving(lambda _: Act(WHOLE), tls=server(ca, clients=ca)) as fake:
        http = remote(tmp_path, **OWN, passphrase="open sesame")
        assert http.request("GET", url(fake)).status == 200


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", [False, True])
def test_a_server_that_does_not_take_our_certificate_has_surely_done_nothing(
    ca: trustme.CA, tmp_path: Path, newest: ssl.TLSVersion, *, shown: bool
) -> None:
    own(trustme.CA(), tmp_path)
    context = server(ca, clients=ca)
    context.maximum_version = newest
    # TLS 1.2 has no word for "none".
    wanted = TransientError if newest is ssl.TLSVersion.TLSv1_2 and not shown else BlockedError
    with serving(lambda _: Act(WHOLE), tls=context) as fake:
        kinds: set[type[PollerError]] = set()
        # A reset may overtake the server's word, the more so on a busy machine; the outcome is unknown then, which is safe.
        for _ in range(100):
            with pytest.raises(PollerError) as caught:
                remote(tmp_path, **(OWN if shown else {})).request("POST", url(fake), body=b"x")
            kinds.add(type(caught.value))
            if isinstance(caught.value, BlockedError):
                assert "tls.certificate" in str(caught.value)
            if wanted in kinds:
                break
        assert wanted in kinds
        assert not fake.arrived


def test_f62_new_connections_use_the_files_as_they_are_now(ca: trustme.CA, tmp_path: Path) -> None:
    old, new = trustme.CA(), trustme.CA()
    own(old, tmp_path)
    http = remote(tmp_path, **OWN)
    with serving(lambda _: Act(WHOLE), tls=server(ca, clients=old)) as fake:
        assert http.request("GET", url(fake)).status == 200
    own(new, tmp_path)
    with serving(lambda _: Act(WHOLE), tls=server(ca, clients=new)) as fake:
        assert http.request("GET", url(fake)).status == 200
    other = trustme.CA()
    write(tmp_path / "ca.pem", other.cert_pem.bytes())
    with serving(lambda _: Act(WHOLE), tls=server(other, clients=new)) as fake:
        assert http.request("GET", url(fake)).status == 200


def test_f62_a_half_written_file_leaves_the_old_one_in_use_and_is_told_once(
    ca: trustme.CA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from poller.logs import flush, setup

    setup("info", "json")
    own(ca, tmp_path)
    http = remote(tmp_path, **OWN)
    other = ca.issue_cert("poller.example")
    with serving(lambda _: Act(WHOLE), tls=server(ca, clients=ca)) as fake:
        for half in (b"", other.private_key_pem.bytes()[:90], other.private_key_pem.bytes()):
            write(tmp_path / "own.key", half)
            for _ in range(3):
                assert http.request("GET", url(fake)).status == 200
        (tmp_path / "own.crt").unlink()
        assert http.request("GET", url(fake)).status == 200
        write(tmp_path / "own.crt", other.cert_chain_pems[0].bytes())
        assert http.request("GET", url(fake)).status == 200
    flush()
    told = capsys.readouterr().out.splitlines()

    assert sum("certificate_refused" in line for line in told) == 4
    assert sum("certificate_reloaded" in line for line in told) == 1
    assert "PRIVATE" not in "".join(told)


@pytest.mark.parametrize(
    ("files", "given", "words"),
    [
        ({"ca.pem": b""}, {}, "ca: .*ca.pem holds no certificate in PEM"),
        ({"ca.pem": b"junk"}, {}, "holds no certificate in PEM"),
        ({}, {"ca": "nowhere.pem"}, "does not exist"),
        ({}, {"key": "own.key"}, "certificate is required"),
        ({"own.key": b"junk"}, OWN, "key: .*own.key holds no private key in PEM"),
        ({"own.crt": b"junk"}, OWN, "certificate: .*own.crt holds no certificate in PEM"),
        ({"own.key": trustme.CA().issue_cert("x").private_key_pem.bytes()}, OWN, "is not the one of"),
        ({"protected": b""}, OWN, "protected by a pass phrase; give it as tls.passphrase"),
        ({"protected": b""}, {**OWN, "passphrase": "wrong"}, "passphrase: it does not open"),
    ],
)
def test_files_that_cannot_be_used_are_named_when_the_settings_are_read(
    ca: trustme.CA, tmp_path: Path, files: dict[str, bytes], given: dict[str, str], words: str
) -> None:
    own(ca, tmp_path, "right" if "protected" in files else "")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    with pytest.raises(ValidationError, match=words) as caught:
        TlsSettings.model_validate({"ca": "ca.pem", **given}, context={"base": tmp_path})

    assert "BEGIN" not in str(caught.value)
