"""Answers of a server, read from the bytes that it sent."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Got:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def answers(data: bytes) -> Iterator[Got]:
    """Read the answers in *data*; interim ones are left out."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        version, status, *_ = line.split(" ")
        assert version == "HTTP/1.1", line
        headers: dict[str, str] = {}
        for name, _, value in (field.partition(":") for field in fields):
            before = headers.get(name.lower())
            headers[name.lower()] = value.strip() if before is None else f"{before}, {value.strip()}"
        if status == "100":
            continue
        length = int(headers.get("content-length", 0))
        yield Got(status=int(status), headers=headers, body=data[:length])
        data = data[length:]


def several(act: Callable[[], Any], count: int) -> list[Any]:
    """Do the same in so many threads at once; return what came, errors of the connection as None."""

    def one(_: int) -> Any:
        with contextlib.suppress(OSError, AssertionError, http.client.HTTPException):
            return act()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class Line:
    """What the application sees of a connection, where none is needed."""

    proven = False
    certificate = None

    def refuse(self, _reason: str) -> bool:
        return True

    def end_turn(self, *, vain: bool = False) -> None:
        pass

    def acquaint(self) -> None:
        pass

    def estrange(self) -> None:
        pass

    def prove(self) -> None:
        self.proven = True
