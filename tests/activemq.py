"""
A real ActiveMQ (Debian's) for tests: a broker of its own in a temporary folder, with STOMP on loopback only.

It can be killed with -9 and started again on the same journal. Two users: ``poller`` may do everything, ``reader`` nothing with
queues but ``/queue/open.…``.

Source: dependencies.md section 5, tried with ActiveMQ 5.17.2.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.clients.stomp_stub import Frame, read_frame
from tests.support import require_or_skip

JAR = Path("/usr/share/activemq/bin/activemq.jar")
USER = "poller"
PASSWORD = "broker-password-1"
#: What the broker takes in one frame.
MAX_FRAME = 1_000_000
_START_SECONDS = 90

_LOGGING = """\
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %-5p %c %m%n
"""

_CONFIGURATION = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
  http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" useJmx="false" brokerName="test" dataDirectory="{data}"
      persistent="true" schedulerSupport="false">
    <destinationPolicy><policyMap><policyEntries>
      <policyEntry queue="full.&gt;" producerFlowControl="true" memoryLimit="64kb"><pendingQueuePolicy><vmQueueCursor/>
      </pendingQueuePolicy></policyEntry>
      <policyEntry queue="&gt;"><deadLetterStrategy>
        <individualDeadLetterStrategy queuePrefix="DLQ." useQueueForQueueMessages="true"/></deadLetterStrategy></policyEntry>
    </policyEntries></policyMap></destinationPolicy>
    <persistenceAdapter><kahaDB directory="{data}/kahadb" journalMaxFileLength="16mb"/></persistenceAdapter>
    <plugins>
      <simpleAuthenticationPlugin anonymousAccessAllowed="false"><users>
        <authenticationUser username="poller" password="{password}" groups="pollers,admins"/>
        <authenticationUser username="reader" password="{password}" groups="readers"/>
      </users></simpleAuthenticationPlugin>
      <authorizationPlugin><map><authorizationMap><authorizationEntries>
        <authorizationEntry queue="&gt;" read="pollers" write="pollers" admin="pollers"/>
        <authorizationEntry topic="&gt;" read="pollers,readers" write="pollers,readers" admin="pollers,readers"/>
        <authorizationEntry queue="open.&gt;" read="readers" write="readers" admin="readers"/>
      </authorizationEntries></authorizationMap></map></authorizationPlugin>
    </plugins>
    <systemUsage><systemUsage><memoryUsage><memoryUsage limit="64 mb"/></memoryUsage>
      <storeUsage><storeUsage limit="512 mb"/></storeUsage><tempUsage><tempUsage limit="128 mb"/></tempUsage>
    </systemUsage></systemUsage>
    {tls}
    <transportConnectors>{connectors}</transportConnectors>
  </broker>
</beans>
"""


def require() -> None:
    """Go on where broker and Java are installed."""
    present = JAR.is_file() and shutil.which("java") is not None
    require_or_skip(present, "ActiveMQ is missing: apt-get install --no-install-recommends activemq")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Broker:
    """
    One broker, which keeps its port and its journal over restarts.

    Args:
        certificate: PEM files of a certificate and its key, for ``stomp+ssl`` beside ``stomp``.
    """

    def __init__(self, folder: Path, *, certificate: tuple[Path, Path] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.openwire_port = free_port()
        self.tls_port = free_port() if certificate else 0
        self._process: subprocess.Popen[bytes] | None = None
        self._queues = 0
        for name in ("conf", "data"):
            (folder / name).mkdir()
        (folder / "conf" / "log4j.properties").write_text(_LOGGING, "utf-8")
        (folder / "conf" / "activemq.xml").write_text(self._configuration(certificate), "utf-8")
        self._identity = _identity(folder)

    @property
    def url(self) -> str:
        return f"stomp://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def start(self) -> None:
        """Start, or start again, and wait until it listens."""
        java = shutil.which("java")
        assert java
        base = self.folder
        options = {
            "java.awt.headless": "true",
            "java.io.tmpdir": base / "data",
            "activemq.home": "/usr/share/activemq",
            "activemq.base": base,
            "activemq.conf": base / "conf",
            "activemq.data": base / "data",
            "activemq.classpath": base / "conf",
            "log4j.configuration": f"file:{base}/conf/log4j.properties",
        }
        defined = [f"-D{name}={value}" for name, value in options.items()]
        heap = ["-Xms32m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        with (base / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [java, *heap, *defined, "-jar", JAR, "start", f"xbean:file:{base}/conf/activemq.xml"],
                stdout=output, stderr=output, cwd=base, start_new_session=True, **self._identity,
            )  # fmt: skip
        self._wait()

    def kill(self) -> None:
        """Kill with -9."""
        self._signal(signal.SIGKILL)
        assert self._process
        self._process.wait()

    def freeze(self) -> None:
        """Stop it as a debugger would: connections stand, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def queue(self) -> str:
        """Return the destination of a queue that nobody has used."""
        self._queues += 1
        return f"/queue/q{self._queues}"

    def stop(self) -> None:
        """End it, however it stands."""
        if self._process is None or self._process.poll() is not None:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _wait(self) -> None:
        assert self._process
        deadline = time.monotonic() + _START_SECONDS
        for port in (self.port, self.tls_port or self.port):
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"ActiveMQ did not start:\n{self.log}")
                time.sleep(0.05)

    def _configuration(self, certificate: tuple[Path, Path] | None) -> str:
        wire = f"wireFormat.maxFrameSize={MAX_FRAME}&amp;transport.hbGracePeriodMultiplier=1.5"
        # Java's own protocol, to see messages as programs in Java do.
        openwire = f'<transportConnector name="openwire" uri="tcp://127.0.0.1:{self.openwire_port}"/>'
        connectors = openwire + f'<transportConnector name="stomp" uri="stomp://127.0.0.1:{self.port}?{wire}"/>'
        tls = ""
        if certificate:
            store = _key_store(self.folder / "conf" / "broker.p12", *certificate)
            tls = f'<sslContext><sslContext keyStore="file:{store}" keyStorePassword="changeit" keyStoreType="PKCS12"/></sslContext>'
            connectors += (
                f'<transportConnector name="tls" uri="stomp+ssl://127.0.0.1:{self.tls_port}?{wire}&amp;'
                'transport.enabledProtocols=TLSv1.2,TLSv1.3"/>'
            )
        data = self.folder / "data"
        return _CONFIGURATION.format(data=data, password=PASSWORD, tls=tls, connectors=connectors)


def _key_store(path: Path, certificate: Path, key: Path) -> Path:
    openssl: list[str | Path] = ["openssl", "pkcs12", "-export", "-in", certificate, "-inkey", key, "-name", "broker"]
    subprocess.run([*openssl, "-passout", "pass:changeit", "-out", path], check=True, capture_output=True)
    return path


def _identity(folder: Path) -> dict[str, Any]:
    """Return as whom it runs: Debian's own user where we are root, who owns the folder then."""
    if os.geteuid() != 0:
        return {}
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, "activemq", "activemq")
    owner = folder.stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


@contextmanager
def broker(*, certificate: tuple[Path, Path] | None = None) -> Iterator[Broker]:
    """Run a broker, or skip the test. Its folder is not below pytest's own, which is closed to other users."""
    require()
    folder = Path(tempfile.mkdtemp(prefix="poller-amq-"))
    try:
        made = Broker(folder, certificate=certificate)
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Reader:
    """
    A reader of one queue that shares no code with poller's.

    Args:
        ack: ``auto`` takes what it is given; ``client-individual`` holds it until `end`.
    """

    def __init__(self, broker: Broker, destination: str, *, ack: str = "auto") -> None:
        self._data = b""
        self._socket = socket.create_connection(("127.0.0.1", broker.port), timeout=20)
        login = f"CONNECT\naccept-version:1.2\nhost:test\nlogin:{USER}\npasscode:{PASSWORD}\nheart-beat:0,0\n\n\0"
        self._socket.sendall(login.encode())
        assert self._frame(20).command == "CONNECTED"
        self._socket.sendall(f"SUBSCRIBE\nid:1\ndestination:{destination}\nack:{ack}\nreceipt:s\n\n\0".encode())
        self._early: list[Frame] = []
        while (frame := self._frame(20)).command != "RECEIPT":
            self._early.append(frame)

    def messages(self, *, quiet: float = 1.0) -> list[Frame]:
        """Return what comes until nothing has come for *quiet* seconds."""
        found, self._early = self._early, []
        with suppress(TimeoutError):
            while True:
                found.append(self._frame(quiet))
        return found

    def end(self) -> None:
        self._socket.close()

    def _frame(self, seconds: float) -> Frame:
        self._socket.settimeout(seconds)
        while (found := read_frame(self._data)) is None:
            more = self._socket.recv(65536)
            assert more, "the broker has closed the connection"
            self._data += more
        frame, self._data = found
        return frame


def taken(broker: Broker, destination: str, *, quiet: float = 1.0) -> list[Frame]:
    """Take all that is in a queue."""
    reader = Reader(broker, destination)
    try:
        return reader.messages(quiet=quiet)
    finally:
        reader.end()


def put(broker: Broker, destination: str, *bodies: bytes, **headers: str) -> None:
    """Put messages into a queue, as another program does."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=20) as connection:
        login = f"CONNECT\naccept-version:1.2\nhost:test\nlogin:{USER}\npasscode:{PASSWORD}\n\n\0"
        lines = "".join(f"{name.replace('_', '-')}:{value}\n" for name, value in headers.items())
        sent = login.encode()
        for body in bodies:
            head = f"SEND\ndestination:{destination}\npersistent:true\ncontent-length:{len(body)}\n{lines}\n"
            sent += head.encode() + body + b"\0"
        connection.sendall(sent + b"DISCONNECT\nreceipt:bye\n\n\0")
        answer = b""
        while b"receipt-id:bye" not in answer:
            more = connection.recv(65536)
            assert more, answer
            answer += more
