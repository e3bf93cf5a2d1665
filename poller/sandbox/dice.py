"""Which call gets which fault: by header, by order, or by throw of the dice."""

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from poller.sandbox.options import Json
from poller.sandbox.wire import Request


def probabilities(wanted: Mapping[str, Json], known: Mapping[str, frozenset[str]]) -> dict[str, float]:
    """
    Check a table of fault names, perhaps each with its kind of call before a colon, and probabilities.

    Raises:
        ValueError: A fault nobody knows, or a probability outside 0..1.
    """
    for qualified, chance in wanted.items():
        only, _, name = qualified.rpartition(":")
        if name not in known or only not in {"", *known[name]}:
            message = f"unknown fault {qualified!r}; there are: {', '.join(sorted(known))}"
            raise ValueError(message)
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
            message = f"fault {name}: expected a probability between 0 and 1, got {chance!r}"
            raise ValueError(message)
    return dict(wanted)


@dataclass(kw_only=True)
class Ordered:
    """A fault ordered for the next calls that match."""

    fault: str
    method: str = ""
    path: str = ""  # beginning of the path
    contains: str = ""  # somewhere in the target or the body; a fault by content cannot be a HEAD fault
    count: int = 1
    skip: int = 0  # so many matching calls go well first


class Dice:
    """Decides which call gets which fault."""

    def __init__(self, seed: int, chances: Mapping[str, float], *, kinds: Mapping[str, frozenset[str]]) -> None:
        """*kinds* says to which kinds of call each fault can happen."""
        self._kinds = kinds
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._ordered: list[Ordered] = []
        self.chances = probabilities(chances, kinds)

    def replace(self, chances: Mapping[str, Json]) -> None:
        """Take new probabilities; those not named are 0."""
        self.chances = probabilities(chances, self._kinds)

    def order(self, ordered: Ordered) -> None:
        """Let the next matching calls have a fault."""
        probabilities({ordered.fault: 1.0}, self._kinds)
        with self._lock:
            self._ordered.append(ordered)

    def forget(self) -> None:
        """Drop all that was ordered and every probability."""
        with self._lock:
            self._ordered.clear()
            self.chances = {}

    def ordered(self, request: Request) -> str:
        """Return the fault ordered for *request*, or ""; it is used up by that."""
        if not self._ordered:
            return ""
        with self._lock:
            for one in self._ordered:
                if (
                    one.count > 0
                    and one.method in {"", request.method}
                    and request.path.startswith(one.path)
                    and (one.contains in request.target or one.contains.encode() in request.body)
                ):
                    if one.skip > 0:
                        one.skip -= 1
                        continue
                    one.count -= 1
                    self._ordered = [left for left in self._ordered if left.count > 0]
                    return one.fault
        return ""

    def thrown(self, kind: str) -> str:
        """Throw the dice for a call of *kind*; return a fault or ""."""
        if not self.chances:
            return ""
        with self._lock:
            point = self._random.random()
        for qualified, chance in self.chances.items():
            only, _, name = qualified.rpartition(":")
            if kind in self._kinds[name] and only in {"", kind}:
                point -= chance
                if point < 0:
                    return name
        return ""
