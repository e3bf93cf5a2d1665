"""The sink ``activemq`` against a real broker, killed, frozen and full."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from poller.errors import BlockedError, NotSentError, PermanentError, PollerError, TransientError, UnknownOutcome
from poller.model import Intent, Operation, Ready, Record, Undeliverable
from poller.sinks.activemq import ActivemqSink, ActivemqSinkSettings
from tests import activemq
from tests.activemq import Broker, taken
from tests.sinks.house import NOW

pytestmark = pytest.mark.activemq


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with activemq.broker() as one:
        yield one


def sink_of(broker: Broker, destination: str, folder: Path | None = None, **keys: Any) -> ActivemqSink:
    given = {
        "type": "activemq", "url": broker.url, "destination": destination,
        "username": activemq.USER, "password": activemq.PASSWORD, "receipt_timeout": "10s",
    }  # fmt: skip
    return ActivemqSink(ActivemqSinkSettings.model_validate(given | keys, context={"base": folder or Path()}))


def record(key: str = "7", version: str = "1", **fields: str) -> Record:
    return Record(
        route="r", key=key, version=version, fields={"title": "a & b"} | fields, correlation_id=f"t:1:{key}",
        derived_sys_id="0" * 32, first_seen=NOW, operation=Operation.SEND, message_id=f"t:1:{key}:{version}",
    )  # fmt: skip


def intent(sink: ActivemqSink, one: Record | None = None) -> Intent:
    one = one or record()
    (prepared,) = sink.prepare([one], now=NOW)
    assert isinstance(prepared, Ready), prepared
    return Intent(
        route=one.route, key=one.key, version=one.version, operation=one.operation, body=prepared.body,
        correlation_id=one.correlation_id, derived_sys_id=one.derived_sys_id, attempt=1, message_id=one.message_id,
    )  # fmt: skip


def refused(sink: ActivemqSink, one: Record | None = None) -> PollerError:
    try:
        with pytest.raises(PollerError) as caught:
            sink.deliver(intent(sink, one))
    finally:
        sink.close()
    return caught.value


# What arrives.


def test_a_record_is_one_message_with_ids_that_each_copy_bears(broker: Broker) -> None:
    queue = broker.queue()
    sink = sink_of(broker, queue, format="xml", root="Incident", fields={"Title": "{{ title }}"})
    for _ in range(2):
        assert sink.deliver(intent(sink)).learnt == "response"
    sink.close()
    first, second = taken(broker, queue)
    assert b"<Incident><Title>a &amp; b</Title></Incident>" in first.body
    assert first.body == second.body
    wanted = {
        "x-message-id": "t:1:7:1",
        "correlation-id": "t:1:7",
        "poller-key": "7",
        "poller-version": "1",
        "persistent": "true",
        "content-type": "application/xml; charset=utf-8",
    }
    for message in (first, second):
        assert wanted.items() <= message.headers.items()


HOSTILE = ["a:b", "a\\nb", "line\nreceipt:stolen", "x\r\n\r\ny", "ä€\u2028", "{{ 7 * 7 }}", "\\", "'\"<&>"]


@pytest.mark.parametrize("key", HOSTILE)
def test_s07_any_key_arrives_as_it_is_and_makes_one_message(broker: Broker, key: str) -> None:
    queue = broker.queue()
    sink = sink_of(broker, queue)
    sink.deliver(intent(sink, record(key, version=key)))
    sink.close()
    (message,) = taken(broker, queue, quiet=0.3)
    assert (message.headers["poller-key"], message.headers["poller-version"]) == (key, key)


def test_s07_a_key_with_a_nul_is_a_dead_letter_and_harms_no_other(broker: Broker) -> None:
    sink = sink_of(broker, broker.queue())
    answers = sink.prepare([record("a\0b"), record("c")], now=NOW)
    sink.close()
    assert [type(each) for each in answers] == [Undeliverable, Ready]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("form", ["text", "json", "xml"])
def test_s08_a_text_that_looks_like_frames_arrives_as_it_is_and_is_one_message(
    broker: Broker, form: str, text: bool
) -> None:
    queue, other = broker.queue(), broker.queue()
    evil = f"a\0\nSEND\ndestination:{other}\n\nevil\0\0\n\nRECEIPT\nreceipt-id:1\n\n\0b\\n:\r\n"
    sink = sink_of(broker, queue, format=form, text=text)
    frozen = intent(sink, record(title=evil))
    sink.deliver(frozen)
    sink.close()
    (message,) = taken(broker, queue, quiet=0.3)
    assert message.body == frozen.body.encode()
    assert taken(broker, other, quiet=0.3) == []


JAVA = """
import javax.jms.*;
import org.apache.activemq.ActiveMQConnectionFactory;
public class Read {
  public static void main(String[] given) throws Exception {
    Connection connection = new ActiveMQConnectionFactory(given[0]).createConnection(given[1], given[2]);
    connection.start();
    Session session = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
    MessageConsumer reader = session.createConsumer(session.createQueue(given[3]));
    for (Message one; (one = reader.receive(3000)) != null;) {
      String kind = one instanceof TextMessage ? "text" : one instanceof BytesMessage ? "bytes" : "other";
      System.out.println(kind + " " + (kind == "text" ? ((TextMessage) one).getText() : ""));
    }
    connection.close();
  }
}
"""


def test_java_programs_see_a_text_message_unless_told_otherwise(broker: Broker, tmp_path: Path) -> None:
    queue = broker.queue()
    for text in (True, False):
        sink = sink_of(broker, queue, text=text)
        sink.deliver(intent(sink, record(title="Müller €")))
        sink.close()
    (tmp_path / "Read.java").write_text(JAVA, "utf-8")
    java = shutil.which("java")
    assert java
    where = [f"tcp://127.0.0.1:{broker.openwire_port}", activemq.USER, activemq.PASSWORD, queue.removeprefix("/queue/")]
    path = "/usr/share/activemq/lib/*:/usr/share/activemq/lib/optional/*"
    command: list[str | Path] = [java, "-Dfile.encoding=UTF-8", "-cp", path, tmp_path / "Read.java", *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "compiler" in done.stderr and done.returncode:
        pytest.skip("this Java cannot run a program from its source: apt-get install openjdk-17-jdk-headless")
    assert done.stdout.splitlines() == ['text {"title": "Müller €"}', "bytes "], done.stderr


# What is refused.


def test_a_wrong_password_blocks_the_route(broker: Broker) -> None:
    error = refused(sink_of(broker, broker.queue(), password="not-this-one"))
    assert isinstance(error, BlockedError)
    assert "not-this-one" not in str(error)


def test_a_user_without_rights_blocks_the_route(broker: Broker) -> None:
    assert isinstance(refused(sink_of(broker, broker.queue(), username="reader")), BlockedError)


@pytest.mark.parametrize("size", [activemq.MAX_FRAME + 1, 9_000_000])
def test_a_message_that_is_too_large_is_a_dead_letter_and_none_of_it_is_taken_for_a_command(
    broker: Broker, size: int
) -> None:
    queue, other = broker.queue(), broker.queue()
    sink = sink_of(broker, queue, format="text")
    evil = f"\n\nSEND\ndestination:{other}\n\nevil\0\nSEND\ndestination:{other}\n\nevil\0\n"
    error: PollerError | None = None
    try:
        sink.deliver(intent(sink, record(title=evil + "x" * size + evil)))
    except PollerError as raised:
        error = raised
    assert isinstance(error, PermanentError), error
    sink.deliver(intent(sink, record("8")))
    sink.close()
    assert [message.headers["poller-key"] for message in taken(broker, queue)] == ["8"]
    assert taken(broker, other, quiet=0.3) == []


def test_what_may_not_be_sent_any_more_is_not(broker: Broker) -> None:
    queue = broker.queue()
    sink = sink_of(broker, queue)
    sink.may_send = lambda _intent: False
    with pytest.raises(NotSentError):
        sink.deliver(intent(sink))
    sink.close()
    assert taken(broker, queue, quiet=0.3) == []


def test_the_broker_is_reached_without_sending(broker: Broker) -> None:
    unwelcome = sink_of(broker, broker.queue(), username="reader")
    with pytest.raises(BlockedError, match="rights on the destination"):
        unwelcome.reach()
    queue = broker.queue()
    sink = sink_of(broker, queue)
    assert f"takes messages to {queue}" in sink.reach()
    sink.close()
    assert taken(broker, queue, quiet=0.3) == []


# Killed, frozen, full.


class Sender:
    """Sends versions of one record in order, each until it is sure, as the dispatcher does."""

    def __init__(self, sink: ActivemqSink, key: str, versions: int) -> None:
        self.sink = sink
        self.key = key
        self.versions = versions
        self.sure = 0
        self.outcomes: set[type[PollerError]] = set()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        for version in range(1, self.versions + 1):
            frozen = intent(self.sink, record(self.key, f"{version:05d}"))
            while not self.once(frozen):
                time.sleep(0.05)
            self.sure = version

    def once(self, frozen: Intent) -> bool:
        try:
            self.sink.deliver(frozen)
        except PollerError as error:
            self.outcomes.add(type(error))
            return False
        return True


def test_f67_a_broker_killed_again_and_again_loses_nothing_and_keeps_the_order(broker: Broker) -> None:
    queue = broker.queue()
    sink = sink_of(broker, queue, receipt_timeout="5s")
    senders = [Sender(sink, f"k{number}", 300) for number in range(4)]
    for sender in senders:
        sender.thread.start()
    for mark in (60, 180):
        until = time.monotonic() + 60
        while min(sender.sure for sender in senders) < mark and time.monotonic() < until:
            time.sleep(0.005)
        broker.kill()
        broker.start()
    for sender in senders:
        sender.thread.join(120)
        assert sender.sure == sender.versions
    sink.close()
    assert {kind for sender in senders for kind in sender.outcomes} <= {TransientError, UnknownOutcome}
    assert any(sender.outcomes for sender in senders), "the broker was killed while nothing was sent"
    messages = taken(broker, queue, quiet=3)
    for sender in senders:
        versions = [one.headers["poller-version"] for one in messages if one.headers["poller-key"] == sender.key]
        firsts = list(dict.fromkeys(versions))
        assert firsts == [f"{number:05d}" for number in range(1, 301)]
    ids = {one.headers["x-message-id"]: one.body for one in messages}
    assert len(ids) == 4 * 300


def test_f67_a_broker_that_is_down_is_waited_for_and_buries_nothing(broker: Broker) -> None:
    queue = broker.queue()
    sink = sink_of(broker, queue)
    sink.deliver(intent(sink, record("1")))
    broker.kill()
    outcomes = []
    for _ in range(3):
        with pytest.raises(PollerError) as caught:
            sink.deliver(intent(sink, record("2")))
        outcomes.append(caught.value)
    broker.start()
    sink.deliver(intent(sink, record("2")))
    sink.close()
    assert all(isinstance(error, TransientError | UnknownOutcome) for error in outcomes)
    assert isinstance(outcomes[-1], TransientError)
    assert outcomes[-1].remote
    assert [message.headers["poller-key"] for message in taken(broker, queue)] == ["1", "2"]


def test_f68_a_frozen_broker_is_noticed_by_its_heart_and_has_the_message_once_it_thaws(broker: Broker) -> None:
    queue = broker.queue()
    sink = sink_of(broker, queue, heartbeat="1s", receipt_timeout="60s")
    sink.deliver(intent(sink, record("1")))
    broker.freeze()
    try:
        before = time.monotonic()
        with pytest.raises(UnknownOutcome):
            sink.deliver(intent(sink, record("2")))
        assert time.monotonic() - before < 30
    finally:
        broker.thaw()
    sink.deliver(intent(sink, record("2")))
    sink.close()
    ids = [message.headers["x-message-id"] for message in taken(broker, queue, quiet=2)]
    # A repeat bears the id of the first.
    assert list(dict.fromkeys(ids)) == ["t:1:1:1", "t:1:2:1"]


def test_f69_a_full_queue_holds_the_sender_for_so_long_and_loses_nothing(broker: Broker) -> None:
    queue = f"/queue/full.{broker.queue().removeprefix('/queue/')}"
    sink = sink_of(broker, queue, format="text", receipt_timeout="2s")
    sure: list[str] = []
    held: Intent | None = None
    for number in range(100):
        frozen = intent(sink, record(str(number), title="x" * 20_000))
        before = time.monotonic()
        try:
            sink.deliver(frozen)
        except (UnknownOutcome, TransientError):
            assert time.monotonic() - before < 15
            held = frozen
            break
        sure.append(frozen.message_id)
    assert held is not None, "the queue never was full"
    reader = activemq.Reader(broker, queue)
    messages = reader.messages(quiet=2)
    sink.deliver(held)
    messages += reader.messages(quiet=2)
    reader.end()
    sink.close()
    assert list(dict.fromkeys(message.headers["x-message-id"] for message in messages)) == [*sure, held.message_id]


def test_s36_a_real_broker_over_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = ca.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    with (tmp_path / "cert.pem").open("wb") as file:
        file.write(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    with activemq.broker(certificate=(tmp_path / "cert.pem", tmp_path / "key.pem")) as broker:
        url = f"stomp+ssl://localhost:{broker.tls_port}"
        queue = broker.queue()
        sink = sink_of(broker, queue, tmp_path, url=url, tls={"ca": "ca.pem"}, format="text", concurrency=4)
        for number in range(20):
            sink.deliver(intent(sink, record(str(number), title="x" * 40_000)))
        sink.close()
        assert [message.headers["poller-key"] for message in taken(broker, queue)] == [str(n) for n in range(20)]
        error = refused(sink_of(broker, queue, url=url))
    assert isinstance(error, TransientError)
    assert "not trusted" in str(error)
