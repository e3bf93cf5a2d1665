"""
What really happened, in the order it ended: the truth that tests hold a client against.

Append-only. One entry a call, plus one a commit that came after its call was gone. ``committed`` is true in
exactly one entry for every incident that was made.
"""

import json
import threading
import time
from typing import Any, TextIO

from poller.sandbox.store import Fields, Store


class Ledger:
    """Entries in memory, also in the state's journal and in a file when there are such."""

    def __init__(self, store: Store, path: str | None) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._entries: list[Fields] = []
        self._file: TextIO | None = open(path, "a", encoding="utf-8", buffering=1) if path else None  # noqa: SIM115, PTH123
        self._counts: dict[str, int] = {}
        self._active = 0
        self._most = 0
        store.reads("ledger", self._entries.append)

    def add(self, entry: Fields) -> None:
        """Append *entry*, which gets its number ``n`` here."""
        with self._lock:
            entry["n"] = len(self._entries) + 1
            self._entries.append(entry)
            self._store.write("ledger", entry)
            if self._file is not None:
                self._file.write(json.dumps(entry) + "\n")

    def entries(self, after: int = 0) -> list[Fields]:
        """Return the entries numbered above *after*."""
        with self._lock:
            return self._entries[after:]

    def enter(self, kind: str) -> int:
        """Count a call of *kind* that begins; return how many are being served now, this one included."""
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._active += 1
            self._most = max(self._most, self._active)
            return self._active

    def leave(self) -> None:
        """Count a call that ended."""
        with self._lock:
            self._active -= 1

    def counts(self) -> dict[str, Any]:
        """Return the calls by kind since the start, the total and the most at one time."""
        with self._lock:
            return {**self._counts, "total": sum(self._counts.values()), "most_at_once": self._most}

    def forget_counts(self) -> None:
        """Start the counts anew; the entries stay."""
        with self._lock:
            self._counts.clear()
            self._most = self._active

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def moment() -> float:
    """Return the time as the ledger writes it: real, never skewed."""
    return round(time.time(), 6)
