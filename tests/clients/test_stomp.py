"""The STOMP client against a server that misbehaves, byte by byte."""

from __future__ import annotations

import datetime as dt
import gc
import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from poller.clients.stomp import StompSession, StompSettings
from poller.clients.tls import Trust
from poller.errors import BlockedError, PermanentError, PollerError, TransientError, UnknownOutcome
from poller.values import Secret
from tests.clients.stomp_stub import CONNECTED, Cut, Deaf, Frame, Stub, kind, stub

Answer = Callable[[Frame], bytes]


def settings(url: str, folder: Path | None = None, **keys: Any) -> StompSettings:
    given = {"url": url, "destination": "/queue/q", "receipt_timeout": "1s", "connect_timeout": "2s", "heartbeat": "0s"}
    return StompSettings.model_validate(given | keys, context={"base": folder or Path()})


def session(server: Stub, **keys: Any) -> StompSession:
    return StompSession(settings(server.url, **keys), None)


def send(
    server: Stub, body: bytes = b"hello", headers: dict[str, str] | None = None, **keys: Any
) -> PollerError | None:
    """Send one message over a connection of its own; return what became of it."""
    try:
        one = session(server, **keys)
    except PollerError as error:
        return error
    try:
        one.send("/queue/q", body, {"x-message-id": "m-1"} | (headers or {}))
    except PollerError as error:
        return error
    finally:
        one.end()
    return None


def on_send(then: Answer) -> Answer:
    return lambda frame: then(frame) if frame.command == "SEND" else kind(frame)


def raising(error: Exception) -> Answer:
    def act(_frame: Frame) -> bytes:
        raise error

    return act


# What is on the wire.


def test_a_message_is_persistent_and_has_its_length_and_is_sent_once_the_receipt_is_there() -> None:
    with stub() as server:
        assert send(server, b"a\0b\n\n\0SEND\ndestination:/queue/other\n\nx") is None
    (frame,) = server.sent
    assert frame.body == b"a\0b\n\n\0SEND\ndestination:/queue/other\n\nx"
    assert frame.headers["persistent"] == "true"
    assert frame.headers["content-length"] == str(len(frame.body))
    assert frame.headers["destination"] == "/queue/q"


def test_s08_an_empty_body_has_its_length_too() -> None:
    with stub() as server:
        assert send(server, b"") is None
    assert server.sent[0].headers["content-length"] == "0"


@pytest.mark.parametrize(
    "text",
    [
        "a\nreceipt:x",
        "a\r\nb",
        "a:b",
        "a\\nb",
        "\\",
        "\\c",
        "\r",
        "\n\n",
        "ä\u2028€",
        " x ",
        "a\\:\\\n\\\\c",
        "\x01\x7f",
    ],
)
def test_s07_a_header_carries_any_text_and_ends_no_line(text: str) -> None:
    with stub() as server:
        assert send(server, headers={"poller-key": text}) is None
    assert [frame.command for frame in server.frames] == ["CONNECT", "SEND"]
    assert server.sent[0].headers["poller-key"] == text
    assert server.sent[0].body == b"hello"


def test_s07_a_header_with_a_nul_is_refused_and_nothing_is_sent() -> None:
    with stub() as server:
        assert isinstance(send(server, headers={"poller-key": "a\0b"}), PermanentError)
    assert server.sent == []


def test_what_may_not_be_sent_any_more_is_not() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with stub() as server:
        one = session(server)
        with pytest.raises(ZeroDivisionError):
            one.send("/queue/q", b"x", {}, check=fail)
        one.close()
    assert [frame.command for frame in server.frames] == ["CONNECT", "DISCONNECT"]


def test_one_session_sends_many() -> None:
    with stub() as server:
        one = session(server)
        for number in range(50):
            one.send("/queue/q", str(number).encode(), {})
        one.close()
    assert [frame.body for frame in server.sent] == [str(number).encode() for number in range(50)]
    assert server.connections == 1


def test_two_threads_never_mix_their_frames_with_heart_beats() -> None:
    with stub(
        lambda frame: CONNECTED.replace(b"0,0", b"50,50") if frame.command == "CONNECT" else kind(frame)
    ) as server:
        outcomes: list[PollerError | None] = []
        body = b"x" * 300_000
        threads = [
            threading.Thread(
                target=lambda: outcomes.append(send(server, body, heartbeat="50ms", receipt_timeout="20s"))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == [None] * 4
    assert [frame.body for frame in server.sent] == [body] * 4


# Being let in.


def test_the_password_is_read_anew_by_each_session(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    with stub() as server:
        for text in ("first-secret", "sec:ond"):
            secret.write_text(text + "\n", "utf-8")
            given = {"username": "u", "password": {"file": "password"}}
            StompSession(settings(server.url, tmp_path, **given), None).end()
    assert [(frame.headers["login"], frame.headers["passcode"]) for frame in server.frames] == [
        ("u", "first-secret"),
        ("u", "sec:ond"),
    ]
    assert server.frames[0].headers["host"] == "127.0.0.1"
    assert server.frames[0].headers["accept-version"] == "1.2"


@pytest.mark.parametrize("password", ["a\nreceipt:1", "a\rb", "a\0b"])
def test_s07_a_password_that_would_end_its_line_is_not_sent(password: str) -> None:
    with stub() as server:
        error = send(server, username="u", password=Secret(text=password))
    assert isinstance(error, BlockedError)
    assert password not in str(error)
    assert server.frames == []


def test_a_wrong_password_blocks_the_route_and_is_not_shown() -> None:
    said = b"ERROR\nmessage:User name [u] or password is invalid.\n\nbad\0"
    with stub(raising(Cut(said))) as server:
        error = send(server, username="u", password="hidden-secret")
    assert isinstance(error, BlockedError)
    assert "hidden-secret" not in str(error)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad\r\n\r\n", b"", b"\0\0\0", b"ERROR\nmessage:overloaded\n\n\0", b"RECEIPT\n\n\0", b"CONNECTED"],
)
def test_whatever_is_not_connected_means_that_surely_nothing_was_sent(answer: bytes) -> None:
    with stub(raising(Cut(answer))) as server:
        error = send(server)
    assert isinstance(error, TransientError)
    assert error.remote


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_stated() -> None:
    with stub(lambda _frame: b"") as server:
        before = time.monotonic()
        error = send(server, connect_timeout="300ms")
    assert isinstance(error, TransientError)
    assert error.remote
    assert time.monotonic() - before < 5


def test_an_older_stomp_is_told() -> None:
    with stub(lambda _frame: b"CONNECTED\nversion:1.1\n\n\0") as server:
        assert isinstance(send(server), BlockedError)


def test_a_refused_connection_is_the_brokers_fault_and_not_the_records() -> None:
    with stub() as server:
        pass
    error = send(server)
    assert isinstance(error, TransientError)
    assert error.remote


# Cut, wrong, silent.


def test_f68_a_send_cut_at_every_byte_is_never_taken_for_sent_and_goes_again_with_the_same_bytes() -> None:
    with stub() as server:
        assert send(server) is None
        whole = len(server.sent[0].raw) + 1
    for most in range(whole):
        with stub() as server:
            server.most = most
            assert isinstance(send(server), UnknownOutcome | TransientError), most
            assert server.sent == []
            server.most = None
            assert send(server) is None
    (frame,) = server.sent
    assert (frame.body, frame.headers["x-message-id"]) == (b"hello", "m-1")


def test_f68_a_receipt_cut_at_every_byte_is_an_unknown_outcome() -> None:
    with stub() as server:
        assert send(server) is None
        whole = server.sent[0].receipt
    for length in range(len(whole)):
        with stub(on_send(lambda frame, length=length: raising(Cut(frame.receipt[:length]))(frame))) as server:  # type: ignore[misc]
            assert isinstance(send(server), UnknownOutcome), length
    with stub(on_send(lambda frame: raising(Cut(frame.receipt))(frame))) as server:
        assert send(server) is None


@pytest.mark.parametrize(
    "before", [b"\n", b"\n\n", b"\r\n\r\n", b"\n\r\n\n", b"MESSAGE\ncontent-length:3\n\n\0a\0\0\n\n\n"]
)
def test_f68_a_receipt_behind_heart_beats_and_other_frames_is_a_receipt(before: bytes) -> None:
    with stub(on_send(lambda frame: before + frame.receipt + b"\n\n")) as server:
        assert send(server) is None


def test_f68_a_receipt_in_single_bytes_is_a_receipt() -> None:
    with stub() as server:
        server.drip = True
        one = session(server)
        for _ in range(3):
            one.send("/queue/q", b"x", {})
        one.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"RECEIPT\nreceipt-id:another\n\n\0",
        b"RECEIPT\n\n\0",
        b"RECEIPT\nreceipt-id:\n\n\0",
        b"MESSAGE\nsubscription:1\nmessage-id:1\n\nx\0",
        b"NONSENSE\n\n\0",
        b"\xff\xfe\xfd\0",
        b"",
    ],
)
def test_f68_only_the_receipt_that_was_asked_for_counts(answer: bytes) -> None:
    with stub(on_send(lambda _frame: answer)) as server:
        assert isinstance(send(server, receipt_timeout="300ms"), UnknownOutcome)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("User u is not authorized to write to: queue://q", BlockedError),
        ("The maximum frame size was exceeded", PermanentError),
        ("The maximum data length was exceeded", PermanentError),
        ("The maximum header length was exceeded", PermanentError),
        ("Illegal destination name", BlockedError),
        ("Usage Manager Memory Limit reached. Stopping producer", TransientError),
        ("anything else", TransientError),
    ],
)
def test_f68_an_error_that_names_our_receipt_is_a_no(message: str, wanted: type[PollerError]) -> None:
    def refuse(frame: Frame) -> bytes:
        return f"ERROR\nreceipt-id:{frame.headers['receipt']}\nmessage:{message}\n\ntrace\0".encode()

    with stub(on_send(refuse)) as server:
        assert type(send(server)) is wanted


def test_f68_an_error_about_nothing_in_particular_is_an_unknown_outcome() -> None:
    with stub(on_send(lambda _frame: b"ERROR\nmessage:Unknown STOMP action: text of a record\n\n\0")) as server:
        error = send(server)
    assert isinstance(error, UnknownOutcome)
    assert "text of a record" not in str(error)


def test_f68_a_server_whose_heart_stops_is_noticed_long_before_the_receipt_is_overdue() -> None:
    def beating(frame: Frame) -> bytes:
        return CONNECTED.replace(b"0,0", b"200,200") if frame.command == "CONNECT" else b""

    with stub(beating) as server:
        before = time.monotonic()
        error = send(server, heartbeat="200ms", receipt_timeout="60s")
    assert isinstance(error, UnknownOutcome)
    assert time.monotonic() - before < 20


def test_an_idle_session_whose_server_has_gone_is_not_used_again() -> None:
    def leave(frame: Frame) -> bytes:
        raise Cut(frame.receipt)

    with stub(on_send(leave)) as server:
        one = session(server)
        one.send("/queue/q", b"x", {})
        until = time.monotonic() + 10
        while one.alive and time.monotonic() < until:
            time.sleep(0.01)
        assert not one.alive
        one.end()


def memory() -> int:
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def test_f69_a_broker_that_takes_nothing_is_waited_for_so_long_and_memory_stays_flat() -> None:
    body = b"x" * 20_000_000

    def attempt() -> None:
        error = send(server, body, receipt_timeout="50ms")
        # Not all of it was taken, so surely nothing was: it counts against the broker and not against the record.
        assert isinstance(error, TransientError)
        assert error.remote

    with stub() as server:
        server.talk = never_reading(server)  # type: ignore[method-assign]
        for _ in range(8):
            attempt()
        gc.collect()
        before, started = memory(), time.monotonic()
        for _ in range(16):
            attempt()
        gc.collect()
        assert time.monotonic() - started < 60
        assert memory() - before < 4 * len(body)


def never_reading(server: Stub) -> Callable[..., None]:
    """Let in whoever comes, and read nothing behind CONNECT."""

    def talk(sock: Any, _number: int) -> None:
        data = b""
        while not data.endswith(b"\0"):
            data += sock.recv(1)
        sock.sendall(CONNECTED)
        raise Deaf

    return talk


def test_a_frame_without_end_is_not_read_for_ever() -> None:
    def endless(_frame: Frame) -> bytes:
        return b"RECEIPT\nreceipt-id:" + b"a" * 3_000_000

    with stub(on_send(endless)) as server:
        before = time.monotonic()
        assert isinstance(send(server, receipt_timeout="60s"), UnknownOutcome)
    assert time.monotonic() - before < 30


@pytest.mark.parametrize("headers", [b"content-length:" + b"9" * digits for digits in (9, 20, 5000)])
def test_a_frame_of_impossible_length_is_no_receipt(headers: bytes) -> None:
    with stub(on_send(lambda _frame: b"MESSAGE\n" + headers + b"\n\nx\0" + b"y" * 200_000)) as server:
        before = time.monotonic()
        assert isinstance(send(server, receipt_timeout="60s"), UnknownOutcome)
    assert time.monotonic() - before < 30


def test_the_librarys_own_log_never_shows_frames(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), stub(on_send(lambda _frame: b"NONSENSE\n\ntext of a record\0")) as server:
        send(server, b"text of a record", receipt_timeout="100ms")
    assert "text of a record" not in caplog.text
    assert [record for record in caplog.records if record.name.startswith("stomp")] == []


def test_nothing_is_left_running_behind_a_session() -> None:
    before = threading.active_count()
    with stub(
        lambda frame: CONNECTED.replace(b"0,0", b"100,100") if frame.command == "CONNECT" else kind(frame)
    ) as server:
        for _ in range(5):
            session(server, heartbeat="100ms").close()
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before


# TLS.


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def server_context(ca: trustme.CA, *names: str, **more: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("127.0.0.1", "localhost")), **more).configure_cert(context)
    return context


def over_tls(server: Stub, folder: Path, body: bytes = b"hello") -> None:
    url = f"stomp+ssl://127.0.0.1:{server.port}"
    one = settings(url, folder, tls={"ca": "ca.pem"}, receipt_timeout="20s")
    made = StompSession(one, Trust(one.tls).context())
    try:
        made.send("/queue/q", body, {})
    finally:
        made.end()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def good(request: pytest.FixtureRequest, ca: trustme.CA) -> ssl.SSLContext:
    context = server_context(ca)
    context.maximum_version = request.param
    return context


def test_s36_a_large_message_passes_through_tls_whole(good: ssl.SSLContext, tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_000
    with stub(tls=good) as server:
        over_tls(server, tmp_path, body)
    assert [frame.body for frame in server.sent] == [body]


def test_s36_self_signed_expired_and_foreign_certificates_are_refused(ca: trustme.CA, tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    expired = server_context(ca, not_before=now - dt.timedelta(days=9), not_after=now - dt.timedelta(days=1))
    for context in (server_context(trustme.CA()), expired, server_context(ca, "other.example")):
        with stub(tls=context) as server:
            with pytest.raises(TransientError, match=r"not trusted .*; see tls\.ca") as caught:
                over_tls(server, tmp_path)
            assert caught.value.remote
            assert server.frames == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_s36_an_old_tls_and_no_tls_are_refused(ca: trustme.CA, tmp_path: Path) -> None:
    old = server_context(ca)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    for context in (old, None):
        with stub(tls=context) as server:
            with pytest.raises(TransientError):
                over_tls(server, tmp_path)
            assert server.sent == []


# Settings.


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"url": "stomp://mq.example:61613"}, "this machine only"),
        ({"url": "http://mq.example"}, "begins with stomp"),
        ({"url": "stomp+ssl://u:geheim@mq.example"}, "no user or password"),
        ({"url": "stomp+ssl://mq.example/x"}, "bare address"),
        ({"url": "stomp+ssl://mq.example:99999"}, "no proper address"),
        ({"url": "stomp+ssl://"}, "bare address"),
        ({"destination": "incidents"}, "one place"),
        ({"destination": "/queue/a,/queue/b"}, "one place"),
        ({"destination": "/queue/a>"}, "one place"),
        ({"destination": "/queue/a\nreceipt:1"}, "one place"),
        ({"username": "u"}, "go together"),
        ({"username": "u\n", "password": "p"}, "control character"),
        ({"receipt_timeout": "0s"}, "longer than nothing"),
    ],
)
def test_settings_that_make_no_sense_are_told(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        settings(**({"url": "stomp+ssl://mq.example"} | keys))
    assert "geheim" not in str(caught.value)


def test_plain_stomp_to_another_machine_needs_a_word() -> None:
    assert settings("stomp://mq.example", allow_plaintext=True).remote == "stomp://mq.example:61613"
    assert settings("stomp+ssl://mq.example").remote == "stomp+ssl://mq.example:61612"
