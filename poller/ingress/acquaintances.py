"""
Credentials by which somebody has proven who he is before: whoever comes with them on a new connection is no newcomer.

It is a question of who is looked at first and of nothing else: they are verified all the same. Of the credentials themselves
nothing is kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import threading
from typing import Final

#: Of the latest so many.
_MOST: Final = 10_000
#: Bytes of a head that are looked at, without being taken.
_LOOK: Final = 8192
_AUTHORIZATION: Final = re.compile(rb"\r\nauthorization:([^\r\n]*)\r\n", re.IGNORECASE)


class Acquaintances:
    """
    The values of ``Authorization`` that were good lately; for any number of threads.

    Args:
        most: How many are remembered.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._digests: dict[bytes, None] = {}

    def add(self, credentials: bytes) -> None:
        """Remember what somebody has proven himself with."""
        digest = self._digest(credentials)
        with self._lock:
            self._digests.pop(digest, None)
            self._digests[digest] = None
            if len(self._digests) > self._most:
                del self._digests[next(iter(self._digests))]

    def forget(self, credentials: bytes) -> None:
        """Forget what is good no more."""
        with self._lock:
            self._digests.pop(self._digest(credentials), None)

    def knows(self, credentials: bytes) -> bool:
        """Return whether these were good before."""
        return self._digest(credentials) in self._digests

    def recognise(self, head: bytes) -> bool:
        """Return whether the beginning of a request bears credentials that were good before."""
        found = _AUTHORIZATION.search(head.partition(b"\r\n\r\n")[0] + b"\r\n")
        return found is not None and self.knows(found[1].strip(b" \t"))

    def _digest(self, credentials: bytes) -> bytes:
        return hashlib.blake2b(credentials, digest_size=16, key=self._key).digest()


def beginning(connected: socket.socket) -> bytes | None:
    """Return what has come on a connection, and leave it there; None: it has ended, and nothing will come."""
    try:
        connected.settimeout(0)
        # Not the method of TLS, which knows no peeking: what is found is what is on the wire.
        head = socket.socket.recv(connected, _LOOK, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
    except OSError:
        return None
    return head or None
