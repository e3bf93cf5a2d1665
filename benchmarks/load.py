"""
A cheap load of HTTP requests, for `push.py` and the flood scenario: one thread, sockets kept alive, nothing parsed but status and length.

Reads a job as JSON from stdin, does it, and prints what came of it as one JSON object:

    {"port": 8080, "connections": 16, "seconds": 5, "requests": [{"name": "push", "head": "POST … ", "body": "{…}"}]}

In head and body, ``@KEY@`` is replaced by a key that is used once; the length of the body is added to the head. Connections take the
requests in turn; one that is closed is opened anew. A job may also have:

- ``rate``: requests a second, of all connections together, each at its time: latency counts from then, so that a server that stalls
  is not spared the requests it has kept away. Left out: each connection asks as soon as it was answered.
- ``grace``: seconds that answers may take beyond the end.
- ``retry``: a request is sent again, with its key, until it is answered 2xx.
- ``answered``: a file that gets a line for each key that was answered 2xx, at once.
- ``after``: seconds of silence before the first request, so that the start of this process disturbs nothing that is measured.
- ``stop``: a file; once it is there, nothing new is asked.
- ``filler``: bytes of blanks that follow each body, for bodies that are large.
- ``nice``: of the process, for a load that would come from other machines: its own work must not slow what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

#: Seconds before a connection that was refused is tried again.
PAUSE = 0.05


class Load:
    """One job."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.rate: float | None = job.get("rate")
        self.retry: bool = job.get("retry", False)
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.count = 0
        self.begun = 0.0
        self.until = 0.0
        self.stop = Path(job["stop"]) if "stop" in job else None
        self.answered: IO[str] | None = None
        self.kinds = [
            (one["name"], one["head"].encode(), one["body"].encode(), b" " * job.get("filler", 0))
            for one in job["requests"]
        ]

    def key(self) -> str:
        """Return a key that nobody has used."""
        self.count += 1
        return f"{self.job.get('prefix', 'k')}{self.count}"

    def over(self, at: float) -> bool:
        """Return whether nothing new is asked any more."""
        return self.until <= at or (self.stop is not None and self.stop.exists())

    async def run(self) -> dict[str, Any]:
        """Do it."""
        if name := self.job.get("answered"):
            self.answered = await asyncio.to_thread(Path(name).open, "a", buffering=1, encoding="ascii")
        await asyncio.sleep(self.job.get("after", 0))
        self.begun = time.monotonic()
        self.until = self.begun + self.job["seconds"]
        many = self.job["connections"]
        tasks = [asyncio.ensure_future(self.converse(number, many)) for number in range(many)]
        _, late = await asyncio.wait(tasks, timeout=self.job["seconds"] + self.job.get("grace", 5))
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        found = sorted(self.latencies)
        return {
            "statuses": dict(self.statuses),
            "seconds": time.monotonic() - self.begun,
            "good": len(found),
            "unanswered": len(late),
            "p50": found[len(found) // 2] if found else None,
            "p99": found[min(len(found) - 1, len(found) * 99 // 100)] if found else None,
        }

    async def converse(self, number: int, many: int) -> None:
        """Ask on one connection, and its successors, until the time is over."""
        wire: Wire | None = None
        turn, again = number, None
        while True:
            at = time.monotonic()
            if self.rate is not None and again is None:
                at = self.begun + turn / self.rate
                await asyncio.sleep(at - time.monotonic())
            if self.over(at) if again is None else (again[2] + self.job["seconds"] + 60 <= at):
                break
            kind = self.kinds[turn % len(self.kinds)]
            key, first = (self.key(), at) if again is None else again[1:]
            again = None
            if wire is None or wire.closed:
                wire = await self.connect()
            status = await wire.ask(*self.content(kind, key)) if wire is not None else "refused"
            self.statuses[f"{kind[0]} {status}"] += 1
            if status.startswith("2"):
                self.latencies.append(time.monotonic() - first)
                if self.answered is not None:
                    self.answered.write(key + "\n")
            elif self.retry:
                again = (kind, key, first)
                await asyncio.sleep(PAUSE)
                continue
            elif status == "refused":
                await asyncio.sleep(PAUSE)
            turn += many
        if wire is not None:
            wire.end()

    async def connect(self) -> Wire | None:
        """Return a new connection, None where there is none to be had."""
        with contextlib.suppress(OSError):
            loop = asyncio.get_running_loop()
            _, wire = await loop.create_connection(Wire, "127.0.0.1", self.job["port"])
            return wire
        return None

    @staticmethod
    def content(kind: tuple[str, bytes, bytes, bytes], key: str) -> tuple[bytes, bytes]:
        """Return a request, and what follows it."""
        _, head, body, filler = kind
        body = body.replace(b"@KEY@", key.encode())
        length = b"Content-Length: %d\r\n\r\n" % (len(body) + len(filler)) if body else b"\r\n"
        return head.replace(b"@KEY@", key.encode()) + length + body, filler


class Wire(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: Any = None
        self._bytes = b""
        self._rest = memoryview(b"")
        self._takes = True
        self._waiting: asyncio.Future[str] | None = None

    async def ask(self, data: bytes, filler: bytes) -> str:
        """Return the status of the answer, or ``silent`` where the connection ended without one."""
        self._waiting = asyncio.get_running_loop().create_future()
        if self.closed:
            return "silent"
        self._transport.write(data)
        self._rest = memoryview(filler)
        self._feed()
        return await self._waiting

    def _feed(self) -> None:
        # A large body in one piece would be copied again and again by asyncio.
        while self._rest and self._takes and not self.closed and not self._transport.is_closing():
            self._transport.write(self._rest[:65536])
            self._rest = self._rest[65536:]

    def pause_writing(self) -> None:
        """Send no more for now."""
        self._takes = False

    def resume_writing(self) -> None:
        """Send on."""
        self._takes = True
        self._feed()

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401  asyncio's transports share no useful type
        """Take it."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Look whether an answer is whole."""
        self._bytes += data
        head, end, body = self._bytes.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        if len(body) < length:
            return
        self._bytes = body[length:]
        if b"\r\nconnection: close" in lower:
            self.end()
        self._tell(head[9:12].decode("latin-1"))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        self.closed = True
        self._tell("silent")

    def end(self) -> None:
        """Let go of it."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _tell(self, status: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(status)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    os.nice(asked.get("nice", 0))
    print(json.dumps(asyncio.run(Load(asked).run())))
