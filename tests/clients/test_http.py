from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from poller.clients.http import HttpRemote, RemoteSettings, TlsSettings, check_url
from poller.errors import BlockedError, NotSentError, TransientError, UnknownOutcome
from tests.clients.fake import Act, Arrived, answer, serving


@contextmanager
def remote(**settings: Any) -> Iterator[HttpRemote]:
    writes = settings.pop("writes", False)
    connections = settings.pop("connections", 4)
    one = HttpRemote(RemoteSettings.model_validate(settings), writes=writes, connections=connections)
    try:
        yield one
    finally:
        one.close()


WHOLE = answer(b'{"result": []}', headers={"Date": "Mon, 23 Nov 2026 19:00:00 GMT", "X-A": "1"})


def test_an_answer_is_handed_over_whole() -> None:
    with serving(lambda _: Act(WHOLE)) as fake, remote() as http:
        got = http.request("POST", fake.url + "/ä?x=1", params={"q": "a^b,c:d"}, headers={"X-B": "ü"}, body=b"body")

        assert (got.status, got.body, got.headers["x-a"], got.is_json) == (200, b'{"result": []}', "1", True)
        assert got.date is not None
        assert got.date.isoformat() == "2026-11-23T19:00:00+00:00"
        assert fake.arrived[0].line == "POST /%C3%A4?x=1&q=a%5Eb,c:d HTTP/1.1"
        assert fake.arrived[0].body == b"body"
        assert fake.arrived[0].headers["host"] == f"127.0.0.1:{fake.port}"


ZIPPED = gzip.compress(b"hello")
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (ZIPPED[:9], ZIPPED[9:]))
    + b"0\r\n\r\n"
)


@pytest.mark.parametrize(("whole", "body"), [(WHOLE, b'{"result": []}'), (CHUNKED, b"hello")])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_an_answer_cut_at_any_byte_is_unknown(whole: bytes, body: bytes, then: str) -> None:
    cut = {"at": 0}
    with serving(lambda _: Act(whole[: cut["at"]], then)) as fake, remote(writes=True) as http:
        for at in range(len(whole)):
            cut["at"] = at
            with pytest.raises(UnknownOutcome):
                http.request("POST", fake.url, body=b"x")
        cut["at"] = len(whole)
        if then == "close":
            assert http.request("POST", fake.url, body=b"x").body == body
        arrived = len(fake.arrived)
    assert arrived == len(whole) + (then == "close")


def _always(act: Act) -> Callable[[Arrived], Act]:
    return lambda _: act


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with serving(lambda _: Act(WHOLE)) as second, remote() as http:
        for status in ("301 M", "302 F", "303 S", "307 T", "308 P"):
            moved = answer(status=status, headers={"Location": second.url + "/"})
            with serving(_always(Act(moved))) as first:
                assert http.request("POST", first.url, body=b"x").status == int(status[:3])
        assert second.connections == 0


def test_a_connection_closed_as_we_send_is_never_tried_again() -> None:
    def second_is_lost(request: Arrived) -> Act:
        return Act(WHOLE) if len(fake.arrived) == 1 else Act(then="reset")

    with serving(second_is_lost) as fake, remote(writes=True) as http:
        http.request("POST", fake.url, body=b"1")
        with pytest.raises(UnknownOutcome):
            http.request("POST", fake.url, body=b"2")

        assert [one.body for one in fake.arrived] == [b"1", b"2"]
        assert fake.connections == 1


def test_a_connection_that_the_server_has_closed_is_not_used() -> None:
    with serving(lambda _: Act(WHOLE, "close")) as fake, remote() as http:
        for _ in range(3):
            http.request("GET", fake.url)
            _until_closed(http)

        assert fake.connections == 3


def _until_closed(http: HttpRemote) -> None:
    """Wait for the server's FIN, which the kernel shows as a connection to be read."""
    import select

    pool = next(iter(http._transport._pools.values()))
    kept = [one for one in pool.pool.queue if one is not None and one.sock is not None]  # type: ignore[union-attr]
    for one in kept:
        select.select([one.sock], [], [], 5)


def test_a_connection_idle_for_ten_seconds_is_closed_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Act(WHOLE)) as fake, remote() as http:
        http.request("GET", fake.url)
        http.request("GET", fake.url)
        assert fake.connections == 1

        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + 10.5)
        http.request("GET", fake.url)

        assert fake.connections == 2


def test_a_server_that_keeps_connections_shorter_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    short = answer(headers={"Keep-Alive": "timeout=3"})
    with serving(lambda _: Act(short)) as fake, remote() as http:
        http.request("GET", fake.url)
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + 2.5)
        http.request("GET", fake.url)

        assert fake.connections == 2


def test_connections_that_carry_writes_are_bounded_and_aborted() -> None:
    seen: list[socket.socket] = []
    with serving(lambda _: Act(WHOLE)) as fake, remote(writes=True) as http:

        def look() -> None:
            pass

        http.request("POST", fake.url, body=b"x", send_check=look)
        pool = next(iter(http._transport._pools.values()))
        seen = [one.sock for one in pool.pool.queue if one is not None]  # type: ignore[union-attr]

        assert seen[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert seen[0].getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\x01\0\0\0\0\0\0\0"
        assert seen[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_gzip_bomb_is_stopped_early() -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(200)) + squeeze.flush()
    bad = answer(bomb, headers={"Content-Encoding": "gzip"})
    with serving(lambda _: Act(bad)) as fake, remote(max_body="1MB") as http:
        began = time.process_time()
        with pytest.raises(UnknownOutcome, match="larger than max_body"):
            http.request("GET", fake.url)
        assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnope\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_understood_is_unknown(data: bytes) -> None:
    with serving(lambda _: Act(data, "close")) as fake, remote() as http, pytest.raises(UnknownOutcome):
        http.request("POST", fake.url, body=b"x")


@pytest.mark.parametrize("drip_from", [0, len(WHOLE) - 10])
def test_a_drip_is_cut_off_by_the_deadline(drip_from: int) -> None:
    slow = Act(WHOLE, drip=0.05, drip_from=drip_from)
    with serving(lambda _: slow) as fake, remote(read_timeout="5s", deadline="300ms") as http:
        began = time.monotonic()
        with pytest.raises(UnknownOutcome, match="timeout"):
            http.request("GET", fake.url)
        assert 0.25 < time.monotonic() - began < 2


def test_silence_is_unknown() -> None:
    with serving(lambda _: Act(then="hang")) as fake, remote(read_timeout="100ms") as http:
        with pytest.raises(UnknownOutcome, match="timeout"):
            http.request("POST", fake.url, body=b"x")
        with pytest.raises(TransientError):
            http.get(fake.url)


def test_a_refused_connection_was_surely_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with remote() as http, pytest.raises(TransientError, match="connection refused") as caught:
        http.request("POST", f"http://127.0.0.1:{port}/", body=b"x")
    assert caught.value.remote


def test_a_name_that_does_not_resolve_was_surely_not_sent() -> None:
    with remote() as http, pytest.raises(TransientError, match="cannot be resolved"):
        http.request("POST", "https://nowhere.invalid/", body=b"x")


def test_a_check_that_says_no_sends_nothing() -> None:
    def no() -> None:
        raise NotSentError("too late")

    with serving(lambda _: Act(WHOLE)) as fake, remote() as http:
        with pytest.raises(NotSentError):
            http.request("POST", fake.url, body=b"x", send_check=no)
        http.request("GET", fake.url)
        assert [one.line for one in fake.arrived] == ["GET / HTTP/1.1"]


def test_no_cookie_is_kept() -> None:
    with serving(lambda _: Act(answer(headers={"Set-Cookie": "JSESSIONID=a; Path=/"}))) as fake, remote() as http:
        http.request("GET", fake.url)
        http.request("GET", fake.url)
        http.session.get(fake.url)
        http.session.get(fake.url)
        assert all("cookie" not in one.headers for one in fake.arrived)
        assert not http.session.cookies


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Act(WHOLE)) as proxy, serving(lambda _: Act(WHOLE)) as fake:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
        monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
        with remote() as http:
            http.request("GET", fake.url)
            http.session.get(fake.url)
        assert (proxy.connections, len(fake.arrived)) == (0, 2)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return ca, path


def _context(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


def test_only_our_own_authority_is_trusted_when_one_is_given(authority: tuple[trustme.CA, Path]) -> None:
    ca, path = authority
    with serving(lambda _: Act(WHOLE), tls=_context(ca, "127.0.0.1")) as fake:
        url = fake.url.replace("http://", "https://")
        with remote(tls={"ca": str(path)}, writes=True) as http:
            assert http.request("POST", url, body=b"x").status == 200
            assert http.request("POST", url, body=b"x").status == 200
            assert fake.connections == 1
        with remote() as http, pytest.raises(TransientError, match="certificate is not trusted") as caught:
            http.request("POST", url, body=b"x")
        assert caught.value.remote
        assert len(fake.arrived) == 2


def test_another_host_name_and_old_tls_are_refused(authority: tuple[trustme.CA, Path]) -> None:
    ca, path = authority
    with (
        serving(lambda _: Act(WHOLE), tls=_context(ca, "other.example")) as fake,
        remote(tls={"ca": str(path)}) as http,
        pytest.raises(TransientError, match="not trusted"),
    ):
        http.request("GET", fake.url.replace("http://", "https://"))
    old = _context(ca, "127.0.0.1")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        serving(lambda _: Act(WHOLE), tls=old) as fake,
        remote(tls={"ca": str(path)}) as http,
        pytest.raises(TransientError, match="TLS failed"),
    ):
        http.request("GET", fake.url.replace("http://", "https://"))


def test_our_certificate_is_shown(authority: tuple[trustme.CA, Path], tmp_path: Path) -> None:
    ca, path = authority
    ours = ca.issue_cert("poller.example")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    context = _context(ca, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    tls = TlsSettings.model_validate({"ca": str(path), "certificate": "ours.pem"}, context={"base": tmp_path})
    with serving(lambda _: Act(WHOLE), tls=context) as fake, remote(tls=tls) as http:
        assert http.request("GET", fake.url.replace("http://", "https://")).status == 200


def test_a_proxy_is_asked_to_connect_and_its_refusal_means_not_sent(authority: tuple[trustme.CA, Path]) -> None:
    with serving(lambda _: Act(b"HTTP/1.1 407 Who\r\n\r\n", "close")) as proxy, remote(proxy=proxy.url) as http:
        with pytest.raises(BlockedError, match="407"):
            http.request("POST", "https://far.example/", body=b"x")
        assert proxy.arrived[0].line.startswith("CONNECT far.example:443")
    broken = Act(b"HTTP/1.1 502 No\r\n\r\n", "close")
    slow = Act(b"HTTP/1.1 200 Connection made\r\n", drip=0.05)
    for act, words in ((broken, "Tunnel connection failed: 502"), (slow, "timeout")):
        with (
            serving(_always(act)) as proxy,
            remote(proxy=proxy.url, deadline="200ms") as http,
            pytest.raises(TransientError, match=words),
        ):
            http.request("POST", "https://far.example/", body=b"x")


def test_plain_http_through_a_proxy_names_the_whole_address() -> None:
    with serving(lambda _: Act(WHOLE)) as proxy, remote(proxy=proxy.url) as http:
        http.request("GET", "http://localhost:1/a")
        assert proxy.arrived[0].line == "GET http://localhost:1/a HTTP/1.1"


def test_more_calls_than_connections_wait_for_their_turn() -> None:
    with serving(lambda _: Act(WHOLE)) as fake, remote(connections=2) as http:
        done: list[int] = []

        def call() -> None:
            done.extend(http.request("GET", fake.url).status for _ in range(20))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert done == [200] * 160
        assert fake.connections <= 2


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0", "–"])
def test_a_header_cannot_be_split(value: str) -> None:
    with serving(lambda _: Act(WHOLE)) as fake, remote() as http:
        with pytest.raises(ValueError, match="no header may"):
            http.request("GET", fake.url, headers={"X-A": value})
        assert not fake.arrived


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://far.example/", "this machine only"),
        ("ftp://far.example/", "begins with https"),
        ("https:///x", "names no host"),
        ("https://user:pass@far.example/", "no user or password"),
        ("https://far.example/a b", "blank"),
        ("https://far.example:99999/", "no proper address"),
        ("http://127.0.0.1.evil.example/", "this machine only"),
        ("http://localhost.evil.example/", "this machine only"),
    ],
)
def test_addresses_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        check_url(url, allow_plaintext=False)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://a.example", "http://localhost:8", "http://127.0.0.1/", "http://[::1]:1/x"])
def test_addresses_that_are_accepted(url: str) -> None:
    check_url(url, allow_plaintext=False)


def test_plain_http_elsewhere_needs_the_settings_word() -> None:
    check_url("http://far.example/", allow_plaintext=True)


def test_secrets_are_taken_out_of_an_excerpt() -> None:
    body = b"<h1>no</h1>\x1b[0m\nBearer s3cr/et and s3cr%2Fet " + b"x" * 500
    with serving(lambda _: Act(answer(body, kind="text/html"))) as fake, remote() as http:
        text = http.request("GET", fake.url).text_excerpt(("s3cr/et",))
        assert "s3cr" not in text
        assert len(text) == 300
        assert text.isprintable()
