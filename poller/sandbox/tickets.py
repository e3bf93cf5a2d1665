"""The stand-in help desk's tickets: how they are made, kept and found."""

import json
import random
import threading
import time
from datetime import UTC, datetime

from poller.sandbox.options import Json
from poller.sandbox.store import Fields, Store

# subject, body, priority, login of the requester
FIRST = (
    (
        "Printer on the 3rd floor prints blank pages",
        "Since this morning all jobs come out white.",
        "normal",
        "abel.tuter",
    ),
    (
        "VPN drops every ten minutes",
        "Home office, wired connection, client 5.2. Reconnecting helps for a while.",
        "high",
        "beth.anglin",
    ),
    (
        "Mailbox full, cannot send",
        "The limit warning came on Friday; archiving does not free any space.",
        "normal",
        "joe.employee",
    ),
    (
        "Nightly backup of the file server failed",
        'Job BK-07 ended with "device not ready" at 02:14.',
        "high",
        "ops^night",
    ),
    (
        "New starter needs an account by Monday",
        "Finance, same rights as the rest of the team.\nManager agrees.",
        "low",
        "wendy.wu",
    ),
    (
        "Meeting room display shows the wrong input",
        "Room Ångström: it stays on HDMI 2 whatever one selects.",
        "low",
        "zoë.ångström",
    ),
)
_THINGS = (
    "Laptop",
    "Phone",
    "Printer",
    "VPN",
    "Intranet page",
    "Shared drive",
    "Badge reader",
    "Build server",
    "Scanner",
)
_TROUBLES = (
    "does not start",
    "is very slow",
    "asks for a password again and again",
    "shows an error 0x80070035",
    "lost its settings",
)
_PEOPLE = (
    "abel.tuter",
    "beth.anglin",
    "charlie.whitherspoon",
    "david.loo",
    "fred.luddy",
    "joe.employee",
    "luke.wilson",
    "wendy.wu",
)
_PRIORITIES = ("low", "normal", "normal", "high")


def iso(moment: float) -> str:
    """Return *moment* as ``2026-01-02T03:04:05Z``."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _second_after(moment: str) -> str:
    """Return the second after *moment*; empty where that is none of ours."""
    try:
        return iso(datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp() + 1)
    except ValueError:
        return ""


class Tickets:
    """All tickets by id, oldest first, each ready to be sent."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._tickets: dict[int, Fields] = {}
        self._encoded: dict[int, bytes] = {}
        self._random = random.Random(seed)
        self.version = 0  # grows with every change
        self._authors: dict[str, int] = {}
        self.links: list[Fields] = []
        store.reads("ticket", self._put)
        store.reads("ticket gone", self._drop)
        self._by_key: dict[tuple[int, str], Fields] = {}  # ticket and Idempotency-Key: link
        store.reads("link", self._link)
        store.reads("link repeated", self._repeat)

    def _put(self, ticket: Fields) -> None:
        self._tickets[ticket["id"]] = ticket
        self._encoded[ticket["id"]] = json.dumps(ticket, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "backslashreplace"
        )
        self.version += 1

    def _drop(self, number: int) -> None:
        self._tickets.pop(number, None)
        self._encoded.pop(number, None)
        self.version += 1

    def keep(self, ticket: Fields) -> Fields:
        """Add *ticket*, or replace the one with its id; what it lacks is filled in."""
        with self._lock:
            whole = {
                "id": max(self._tickets, default=1000) + 1,
                "subject": "No subject",
                "body": "",
                "priority": "normal",
                "status": "open",
                "requester": {"login": "abel.tuter"},
                "created_at": iso(time.time()),
                "updated_at": iso(time.time()),
                **ticket,
            }
            if not isinstance(whole["id"], int):
                message = f"a ticket's id is a whole number, got {whole['id']!r}"
                raise ValueError(message)  # noqa: TRY004 - the control endpoint answers 400 to it
            self._store.write("ticket", whole)
            self._put(whole)
        return whole

    def seed(self, count: int) -> None:
        """Make the first *count* tickets, the newest just now."""
        now = time.time()
        spacing = min(420.0, 86400.0 / max(1, count))
        for position in range(count):
            moment = iso(now - spacing * (count - position - 1))
            self.grow(created_at=moment, updated_at=moment)

    def grow(self, **given: Json) -> Fields:
        """Add one more ticket, made up; *given* columns are taken as they are."""
        position = len(self._tickets)
        if position < len(FIRST):
            subject, body, priority, login = FIRST[position]
        else:
            subject = f"{self._random.choice(_THINGS)} {self._random.choice(_TROUBLES)}"
            body = f"Reported by phone, call {self._random.randrange(100000, 999999)}. It worked yesterday."
            priority, login = self._random.choice(_PRIORITIES), self._random.choice(_PEOPLE)
        return self.keep(
            {"subject": subject, "body": body, "priority": priority, "requester": {"login": login}, **given}
        )

    def remove(self, number: int | None = None) -> int:
        """Remove one ticket, or all; return how many went."""
        with self._lock:
            gone = [one for one in list(self._tickets) if number in {None, one}]
            for one in gone:
                self._store.write("ticket gone", one)
                self._drop(one)
        return len(gone)

    def get(self, number: int) -> Fields | None:
        """Return one ticket."""
        return self._tickets.get(number)

    def author_id(self, login: str) -> int:
        """Return the number of a requester, the same for the life of this process."""
        with self._lock:
            return self._authors.setdefault(login, 5001 + len(self._authors))

    def author(self, number: int) -> Fields | None:
        """Return the requester of that number."""
        with self._lock:
            logins = [login for login, known in self._authors.items() if known == number]
        return {"id": number, "login": logins[0], "name": logins[0].replace(".", " ").title()} if logins else None

    def change(self, number: int, given: Fields) -> Fields:
        """
        Change columns of a ticket; its ``updated_at`` becomes another even within the same second, unless it is given.

        Raises:
            ValueError: There is no such ticket, or its id would change.
        """
        ticket = self._tickets.get(number)
        if ticket is None or given.get("id", number) != number:
            message = f"id: ticket {number} keeps its number"
            raise ValueError(message)
        now = iso(time.time())
        return self.keep({**ticket, "updated_at": max(now, _second_after(str(ticket["updated_at"])) or now), **given})

    def linked(self, number: int) -> list[Json]:
        """Return what was linked to a ticket."""
        with self._lock:
            return [link["content"] for link in self.links if link["ticket"] == number]

    def link(self, number: int, content: Json, headers: dict[str, str]) -> tuple[Fields, bool]:
        """Record that something was linked to a ticket; return the record, and whether its key was known already."""
        key = headers.get("idempotency-key", "")
        link = {"ticket": number, "time": round(time.time(), 6), "key": key, "content": content, "repeats": 0}
        with self._lock:
            if (known := self._by_key.get((number, key))) is not None:
                self._store.write("link repeated", [number, key])
                self._repeat([number, key])
                return known, True
            self._store.write("link", link)
            self._link(link)
        return link, False

    def _link(self, link: Fields) -> None:
        self.links.append(link)
        if link["key"]:
            self._by_key.setdefault((link["ticket"], link["key"]), link)

    def _repeat(self, which: Json) -> None:
        link = self._by_key[which[0], which[1]]
        link["repeats"] = link.get("repeats", 0) + 1

    def numbers(self, since: str = "") -> list[int]:
        """Return the ids of the tickets updated at *since* (``2026-01-02T03:04:05Z``) or later, in order."""
        with self._lock:
            if not since:
                return sorted(self._tickets)
            return sorted(number for number, ticket in self._tickets.items() if str(ticket["updated_at"]) >= since)

    def encoded(self, numbers: list[int]) -> bytes:
        """Return the JSON of some tickets, joined by commas."""
        return b",".join(ticket for number in numbers if (ticket := self._encoded.get(number)) is not None)

    def all(self) -> list[Fields]:
        """Return every ticket."""
        with self._lock:
            return [self._tickets[number] for number in sorted(self._tickets)]
