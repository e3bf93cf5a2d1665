"""The sinks ``http`` and ``directory`` and the replies: what is sent, and what each answer means."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from poller.errors import BlockedError, NotSentError, PermanentError, PollerError, TransientError, UnknownOutcome
from poller.model import Intent, Operation, Prepared, Ready, Record, Undeliverable
from poller.sinks.directory import DirectorySink, DirectorySinkSettings
from poller.sinks.http import HttpSink, HttpSinkSettings
from poller.sinks.reply import ReplySettings, ReplySink, with_source_auth
from poller.sources.http_settings import HttpSourceSettings
from poller.values import Secret
from tests.clients.fake import Act, Arrived, Fake, answer, serving
from tests.sinks.house import NOW

Sink = HttpSink | ReplySink | DirectorySink


def record(key: str = "7", **fields: str) -> Record:
    return Record(
        route="r", key=key, version="1", fields={"title": "a & b"} | fields, correlation_id=f"t:1:{key}",
        derived_sys_id="0" * 32, first_seen=NOW, operation=Operation.SEND, sys_id="f" * 32, number="INC0010001",
        message_id="t:1:7:0123456789abcdef",
    )  # fmt: skip


def ready(sink: Sink, one: Record) -> str:
    (prepared,) = sink.prepare([one], now=NOW)
    assert isinstance(prepared, Ready), prepared
    return prepared.body


def intent(sink: Sink, one: Record | None = None) -> Intent:
    one = one or record()
    return Intent(
        route=one.route, key=one.key, version=one.version, operation=one.operation, body=ready(sink, one),
        correlation_id=one.correlation_id, derived_sys_id=one.derived_sys_id, attempt=1, message_id=one.message_id,
    )  # fmt: skip


def http(url: str, **keys: Any) -> HttpSink:
    return HttpSink(HttpSinkSettings.model_validate({"type": "http", "url": url, "read_timeout": "1s"} | keys))


def says(status: str, **headers: str) -> Any:
    return lambda _request: Act(answer(b"{}", status=status, headers=headers))


def outcome(status: str, **headers: str) -> PollerError | None:
    with serving(says(status, **headers)) as fake:
        sink = http(fake.url + "/in")
        try:
            sink.deliver(intent(sink))
        except PollerError as error:
            return error
        finally:
            sink.close()
    return None


# What is sent.


def test_a_record_is_one_request_with_a_key_that_each_copy_bears() -> None:
    with serving(says("202 Accepted")) as fake:
        sink = http(
            fake.url + "/in/{{ key }}?v={{ version }}",
            method="PUT",
            format="xml",
            root="I",
            fields={"T": "{{ title }}"},
        )
        frozen = intent(sink)
        sink.deliver(frozen)
        sink.deliver(replace(frozen, attempt=2))
        sink.close()
    first, second = fake.arrived
    assert first.line == "PUT /in/7?v=1 HTTP/1.1"
    assert first.headers["idempotency-key"] == frozen.message_id
    assert first.headers["content-type"] == "application/xml; charset=utf-8"
    assert b"<I><T>a &amp; b</T></I>" in first.body
    assert (second.headers["idempotency-key"], second.body) == (first.headers["idempotency-key"], first.body)


@pytest.mark.parametrize("key", ["a/b", "../x", "a?b#c", "a b", "ä%2f", "x\r\nEvil: 1", "x\x00y", "{{7*7}}"])
def test_s06_s07_a_key_is_one_segment_of_the_address_and_ends_no_header(key: str) -> None:
    with serving(says("200 OK")) as fake:
        sink = http(fake.url + "/in/{{ key }}")
        sink.deliver(intent(sink, record(key)))
        sink.close()
    (request,) = fake.arrived
    path = request.line.split(" ")[1]
    assert path.count("/") == 2
    assert path.startswith("/in/")
    assert "evil" not in request.headers


def test_a_key_that_would_lead_elsewhere_is_a_dead_letter() -> None:
    sink = http("http://127.0.0.1:1/in/{{ key }}")
    (prepared,) = sink.prepare([record("..")], now=NOW)
    assert isinstance(prepared, Undeliverable)
    sink.close()


@pytest.mark.parametrize("title", ["", ".", ".."])
def test_s06_an_empty_value_never_makes_the_address_that_of_all(title: str) -> None:
    sink = http("http://127.0.0.1:1/tickets/{{ title }}", method="DELETE")
    (prepared,) = sink.prepare([record(title=title)], now=NOW)
    assert isinstance(prepared, Undeliverable)
    sink.close()


def test_an_empty_value_in_the_query_and_slashes_of_the_settings_are_sent_as_they_are() -> None:
    with serving(says("200 OK")) as fake:
        sink = http(fake.url + "/a//b/?q={{ title }}/../")
        sink.deliver(intent(sink, record(title="")))
        sink.close()
    assert fake.arrived[0].line == "POST /a//b/?q=/../ HTTP/1.1"


def test_s34_a_frozen_message_goes_to_the_host_of_the_settings_and_takes_no_token_elsewhere() -> None:
    with serving(says("200 OK")) as former, serving(says("200 OK")) as now:
        before = http(former.url + "/in/{{ key }}")
        frozen = intent(before)
        sink = http(now.url + "/other", auth={"type": "bearer", "token": "s3cret-token"})
        sink.deliver(frozen)
        before.close()
        sink.close()
    assert former.arrived == []
    assert now.arrived[0].line == "POST /in/7 HTTP/1.1"


def test_f73_one_bad_record_harms_no_other() -> None:
    sink = http("http://127.0.0.1:1/in", fields={"a": "{{ extra }}"})
    answers: list[Prepared] = sink.prepare([record("1", extra="x"), record("2"), record("3", extra="y")], now=NOW)
    assert [type(each) for each in answers] == [Ready, Undeliverable, Ready]
    sink.close()


def test_headers_and_credentials_of_the_settings_are_sent_and_cookies_are_not() -> None:
    with serving(says("200 OK", **{"Set-Cookie": "a=b"})) as fake:
        sink = http(fake.url + "/in", headers={"X-Team": "desk"}, auth={"type": "bearer", "token": "s3cret-token"})
        for _ in range(2):
            sink.deliver(intent(sink))
        sink.close()
    for request in fake.arrived:
        assert (request.headers["x-team"], request.headers["authorization"]) == ("desk", "Bearer s3cret-token")
        assert "cookie" not in request.headers


def test_what_may_not_be_sent_any_more_is_not() -> None:
    with serving(says("200 OK")) as fake:
        sink = http(fake.url + "/in")
        sink.may_send = lambda _intent: False
        with pytest.raises(NotSentError):
            sink.deliver(intent(sink))
        sink.close()
    assert fake.arrived == []


# What answers mean.


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
def test_the_statuses_of_the_settings_mean_done(status: str) -> None:
    assert outcome(status) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad", PermanentError),
        ("409 Conflict", PermanentError),
        ("413 Large", PermanentError),
        ("422 Unprocessable", PermanentError),
        ("401 No", BlockedError),
        ("403 No", BlockedError),
        ("404 No", BlockedError),
        ("405 No", BlockedError),
        ("429 Slow", TransientError),
        ("408 Timeout", UnknownOutcome),
        ("500 Oops", UnknownOutcome),
        ("502 Oops", UnknownOutcome),
        ("504 Oops", UnknownOutcome),
        ("302 Found", UnknownOutcome),
        ("206 Odd", UnknownOutcome),
    ],
)
def test_each_other_answer_is_a_no_or_not_known(status: str, kind: type[PollerError]) -> None:
    assert type(outcome(status)) is kind


@pytest.mark.parametrize(("status", "first"), [("409 Conflict", PermanentError), ("423 Locked", TransientError)])
def test_a_copy_that_is_in_conflict_waits_for_the_one_before_it(status: str, first: type[PollerError]) -> None:
    assert type(outcome(status)) is first
    with serving(says(status)) as fake:
        sink = http(fake.url + "/in")
        with pytest.raises(TransientError) as caught:
            sink.deliver(replace(intent(sink), attempt=2))
        sink.close()
    # Of this record alone, and counted: after so many it is a dead letter.
    assert (caught.value.remote, caught.value.retry_after) == (False, None)


def test_what_a_receiver_says_to_a_refusal_is_kept_without_our_secrets() -> None:
    said = b"no such queue for s3cret-token of k3y-in-a-header"
    with serving(lambda _request: Act(answer(said, status="422 No"))) as fake:
        sink = http(
            fake.url + "/in",
            auth={"type": "bearer", "token": "s3cret-token"},
            headers={"X-Key": Secret(text="k3y-in-a-header")},
        )
        with pytest.raises(PermanentError) as caught:
            sink.deliver(intent(sink))
        sink.close()
    assert caught.value.evidence.excerpt == "no such queue for ********** of **********"
    assert "queue" not in str(caught.value)


def test_503_with_retry_after_is_a_wish_to_wait_and_without_not_known() -> None:
    waits = outcome("503 Busy", **{"Retry-After": "7"})
    assert isinstance(waits, TransientError)
    assert (waits.remote, waits.retry_after and waits.retry_after.total_seconds()) == (True, 7.0)
    assert isinstance(outcome("503 Busy"), UnknownOutcome)


@pytest.mark.parametrize("then", ["close", "reset", "hang"])
def test_an_answer_that_does_not_come_is_not_known(then: str) -> None:
    with serving(lambda _request: Act(b"", then)) as fake:
        sink = http(fake.url + "/in")
        with pytest.raises(UnknownOutcome):
            sink.deliver(intent(sink))
        sink.close()


def test_a_refused_connection_is_surely_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sink = http(f"http://127.0.0.1:{port}/in")
    with pytest.raises(TransientError) as caught:
        sink.deliver(intent(sink))
    assert caught.value.remote
    sink.close()


def test_s36_nothing_is_sent_to_a_receiver_whose_certificate_nobody_vouches_for() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with serving(says("200 OK"), tls=context) as fake:
        sink = http(fake.url.replace("http:", "https:") + "/in", auth={"type": "bearer", "token": "s3cret-token"})
        with pytest.raises(TransientError, match="not trusted") as caught:
            sink.deliver(intent(sink))
        sink.close()
    assert caught.value.remote
    assert fake.arrived == []


def test_s34_a_redirect_is_not_followed() -> None:
    with serving(says("200 OK")) as other, serving(says("307 Moved", Location=other.url)) as fake:
        sink = http(fake.url + "/in")
        with pytest.raises(UnknownOutcome, match="never followed"):
            sink.deliver(intent(sink))
        sink.close()
    assert other.arrived == []


def test_a_token_that_has_expired_is_renewed_by_the_next_attempt() -> None:
    tokens = iter(["one", "two"])

    def both(request: Arrived) -> Act:
        if request.line.startswith("POST /token"):
            body = json.dumps({"access_token": next(tokens), "token_type": "Bearer", "expires_in": 1800}).encode()
            return Act(answer(body))
        expired = request.headers["authorization"] == "Bearer one" and len(sent) > 0
        sent.append(request)
        return Act(answer(b"{}", status="401 No" if expired else "200 OK"))

    sent: list[Arrived] = []
    with serving(both) as fake:
        auth = {"type": "client_credentials", "token_url": fake.url + "/token", "client_id": "a", "client_secret": "b"}
        sink = http(fake.url + "/in", auth=auth)
        sink.deliver(intent(sink))
        with pytest.raises(TransientError, match="expired or was revoked"):
            sink.deliver(intent(sink))
        sink.deliver(intent(sink))
        sink.close()
    assert [request.headers["authorization"] for request in sent] == ["Bearer one", "Bearer one", "Bearer two"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"url": "http://vendor.example/in"}, "plain http|https"),
        ({"url": "https://{{ key }}/in"}, "scheme and host are fixed"),
        ({"url": "https://vendor.example/{{ key"}, "bad template"),
        ({"url": "https://vendor.example/in", "headers": {"Host": "x"}}, "set by the client itself"),
        ({"url": "https://vendor.example/in", "headers": {"idempotency-key": "x"}}, "set by the client itself"),
        ({"url": "https://vendor.example/a/../{{ key }}"}, "a dot or two"),
        (
            {
                "url": "https://vendor.example/in",
                "auth": {"type": "client_credentials", "client_id": "a", "client_secret": "b"},
            },
            "auth.token_url is required",
        ),
        ({"url": "https://vendor.example/in", "accepted": []}, "at least 1"),
        ({"url": "https://vendor.example/in", "accepted": [404]}, "less than or equal"),
    ],
)
def test_settings_that_make_no_sense_are_told(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        HttpSinkSettings.model_validate({"type": "http"} | keys)


# Replies.


def reply(fake: Fake, **keys: Any) -> ReplySink:
    return ReplySink(ReplySettings.model_validate({"url": fake.url + "/tickets/{{ key }}/links"} | keys))


def test_a_reply_tells_number_and_sys_id() -> None:
    with serving(says("200 OK")) as fake:
        body = {"incident": "{{ number }}", "ids": ["{{ sys_id }}", "{{ title }}"], "fixed": 1}
        sink = reply(fake, body=body)
        sink.deliver(intent(sink))
        sink.close()
    (request,) = fake.arrived
    assert request.line == "POST /tickets/7/links HTTP/1.1"
    assert json.loads(request.body) == {"incident": "INC0010001", "ids": ["f" * 32, "a & b"], "fixed": 1}
    assert request.headers["idempotency-key"] == "t:1:7:0123456789abcdef"


def test_a_reply_takes_the_way_of_the_source_to_the_same_host_unless_it_has_its_own() -> None:
    source = HttpSourceSettings.model_validate(
        {
            "type": "http", "url": "https://desk.example/api", "key": "id", "fields": {"a": "a"},
            "proxy": "http://proxy.example:3128", "proxy_username": "u", "proxy_password": "p",
        }
    )  # fmt: skip
    same = ReplySettings.model_validate({"url": "https://desk.example/links/{{ key }}"})
    own = ReplySettings.model_validate({"url": "https://desk.example/x", "proxy": "http://other.example:3128"})
    taken = with_source_auth(same, source)
    assert (taken.proxy, taken.proxy_username, taken.proxy_password) == (
        "http://proxy.example:3128",
        "u",
        Secret(text="p"),
    )
    kept = with_source_auth(own, source)
    assert (kept.proxy, kept.proxy_username) == ("http://other.example:3128", None)


def test_a_reply_goes_with_the_credentials_of_the_source_to_the_same_host_alone() -> None:
    source = HttpSourceSettings.model_validate(
        {
            "type": "http", "url": "https://desk.example/api", "key": "id", "fields": {"a": "a"},
            "auth": {"type": "bearer", "token": "of-the-source"},
        }
    )  # fmt: skip
    same = ReplySettings.model_validate({"url": "https://desk.example/links/{{ key }}"})
    other = ReplySettings.model_validate({"url": "https://other.example/links/{{ key }}"})
    own = ReplySettings.model_validate({"url": "https://desk.example/x", "auth": {"type": "none"}})
    assert with_source_auth(same, source).auth.type == "bearer"
    assert with_source_auth(other, source).auth.type == "none"
    assert with_source_auth(own, source).auth.type == "none"


# Files.


def directory(folder: Path, **keys: Any) -> DirectorySink:
    return DirectorySink(DirectorySinkSettings.model_validate({"type": "directory", "path": str(folder)} | keys))


def test_a_record_is_a_whole_file(tmp_path: Path) -> None:
    sink = directory(tmp_path, format="xml", name="{{ key }}.xml")
    sink.deliver(intent(sink))
    (file,) = tmp_path.iterdir()
    assert file.name == "7.xml"
    assert b"<title>a &amp; b</title>" in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0


def test_the_same_message_again_is_the_same_file(tmp_path: Path) -> None:
    sink = directory(tmp_path)
    (first, second) = (sink.deliver(intent(sink)), sink.deliver(intent(sink)))
    assert (first.learnt, second.learnt) == ("response", "lookup")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_that_is_taken_by_another_message_is_a_dead_letter_and_nothing_is_lost(tmp_path: Path) -> None:
    sink = directory(tmp_path, name="always.json")
    sink.deliver(intent(sink))
    before = (tmp_path / "always.json").read_bytes()
    with pytest.raises(PermanentError, match="there already with other bytes"):
        sink.deliver(intent(sink, record("8", title="other")))
    assert (tmp_path / "always.json").read_bytes() == before


@pytest.mark.parametrize("key", ["../../etc/x", "a/b", ".hidden", "x\x00y", "\n", "ä" * 300, "..", ""])
def test_s06_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    sink = directory(folder, name="{{ key }}")
    (prepared,) = sink.prepare([record(key)], now=NOW)
    if isinstance(prepared, Ready):
        sink.deliver(intent(sink, record(key)))
    assert list(tmp_path.iterdir()) == [folder]
    assert all(each.is_file() and not each.name.startswith(".") for each in folder.iterdir())


def test_what_a_crash_left_is_replaced(tmp_path: Path) -> None:
    sink = directory(tmp_path, name="{{ key }}.json")
    frozen = intent(sink)
    (tmp_path / f".7.json.{frozen.message_id[-16:]}.part").write_text("half of a fi")
    sink.deliver(frozen)
    assert [each.name for each in tmp_path.iterdir()] == ["7.json"]


def test_a_file_that_is_there_is_never_written_to_again(tmp_path: Path) -> None:
    sink = directory(tmp_path, name="{{ key }}.json")
    frozen = intent(sink)
    sink.deliver(frozen)
    file, hidden = tmp_path / "7.json", tmp_path / f".7.json.{frozen.message_id[-16:]}.part"
    # A crash between the two names: both are one file.
    hidden.hardlink_to(file)
    before = file.stat()
    assert sink.deliver(frozen).learnt == "lookup"
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [each.name for each in tmp_path.iterdir()] == ["7.json"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_name_that_is_taken_by_something_else_is_a_dead_letter(tmp_path: Path, kind: str) -> None:
    sink = directory(tmp_path, name="{{ key }}.json")
    taken = tmp_path / "7.json"
    if kind == "folder":
        taken.mkdir()
    elif kind == "pipe":
        os.mkfifo(taken)
    else:
        taken.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermanentError, match="there already"):
        sink.deliver(intent(sink))
    assert [each.name for each in tmp_path.iterdir()] == ["7.json"]


def test_versions_of_a_record_with_a_field_id_are_files_of_their_own(tmp_path: Path) -> None:
    sink = directory(tmp_path)
    first = record(id="42")
    second = replace(first, version="2", fields=first.fields | {"title": "new"}, message_id="t:1:7:fedcba9876543210")
    sink.deliver(intent(sink, first))
    sink.deliver(intent(sink, second))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["7-0123456789abcdef.json", "7-fedcba9876543210.json"]


def test_long_names_are_cut_and_stay_apart(tmp_path: Path) -> None:
    sink = directory(tmp_path, name="{{ key }}.json")
    for last in "ab":
        sink.deliver(intent(sink, record("ä" * 300 + last)))
    names = [each.name for each in tmp_path.iterdir()]
    assert len(names) == 2
    assert all(len(name.encode()) <= 200 and name.endswith(".json") for name in names)


def test_a_file_that_cannot_be_written_whole_leaves_nothing_and_is_written_later(tmp_path: Path) -> None:
    sink = directory(tmp_path)
    frozen = intent(sink)
    # As a full disk does, a limit on the size of files ends a write in its midst.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))
    try:
        with pytest.raises((TransientError, UnknownOutcome)):
            sink.deliver(frozen)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, was)
    assert list(tmp_path.iterdir()) == []
    sink.deliver(frozen)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_gone_stops_the_route_and_buries_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    sink = directory(folder)
    frozen = intent(sink)
    folder.rmdir()
    with pytest.raises(BlockedError):
        sink.deliver(frozen)


WRITER = """
import sys
from pathlib import Path
from poller.sinks.directory import _written
for number in range(100_000):
    _written(Path(sys.argv[1]) / f".{number}.part", Path(sys.argv[1]) / f"{number}.txt", b"x" * 50_000 + b"end")
"""


def test_kill_9_while_writing_leaves_no_half_file(tmp_path: Path) -> None:
    for life in (0.05, 0.2, 0.4):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
        until = time.monotonic() + 20
        while not list(tmp_path.glob("*.txt")) and time.monotonic() < until:
            time.sleep(0.01)
        # A random moment is what this is about.
        time.sleep(life)
        child.send_signal(signal.SIGKILL)
        child.wait()
        whole = [each for each in tmp_path.iterdir() if not each.name.startswith(".")]
        assert whole
        assert all(each.stat().st_size == 50_003 for each in whole)
        for each in tmp_path.iterdir():
            each.unlink()
