"""
The nouns: what a source gives, what is owed for it, and what became of it.

Plain frozen data, no behaviour and no imports from the rest of the package. Times are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from poller.errors import Evidence

T = TypeVar("T")


def altered(plain: T, **changes: object) -> T:
    """
    Return a copy of plain data that nothing is derived from, with other values for some of its fields.

    `dataclasses.replace` makes it anew, field by field: with four copies a delivery, a tenth of the dispatcher's time.
    """
    made = object.__new__(type(plain))
    made.__dict__.update(plain.__dict__, **changes)
    return made


#: A JSON object. The one place where ``Any`` is allowed.
Fields = dict[str, Any]


class State(StrEnum):
    """The states of a delivery (guarantee 2.3). A record shows that of its first unfinished delivery."""

    PENDING = "pending"  #: stored, nothing looked up yet
    READY = "ready"  #: looked up, body frozen
    SENDING = "sending"  #: an attempt may be on the wire
    UNKNOWN = "unknown"  #: an attempt's outcome is not known
    WAITING = "waiting"  #: surely refused, due later
    DELIVERED = "delivered"
    DEAD = "dead"
    SKIPPED = "skipped"


#: Nothing more is owed for a delivery in one of these.
FINISHED = frozenset({State.DELIVERED, State.SKIPPED})


class Operation(StrEnum):
    """What a delivery does at the sink."""

    CREATE = "create"
    UPDATE = "update"
    SEND = "send"
    REPLY = "reply"


class Guard(StrEnum):
    """What keeps an unknown outcome from becoming a second incident (guarantee 2.3, 7)."""

    SYS_ID = "sys_id"
    SETTLE = "settle"


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One record as a source gave it."""

    #: Text; integers in decimal. Unique within the route.
    key: str
    #: The source's own version, or the SHA-256 of the fields.
    version: str
    #: The names under ``fields`` in the settings, as templates see them.
    fields: Fields
    #: A text that sorts as the versions do, where they can be compared: one that is lower than what was seen is ignored.
    #: None: whatever was observed last is the newest.
    order: str | None = None


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """One record that could not be read. It becomes a dead letter with its raw text."""

    reason: str
    raw: str
    #: The record's own key where at least that could be read.
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a poll; its records are committed together."""

    records: tuple[SourceRecord, ...] = ()
    malformed: tuple[Malformed, ...] = ()
    #: The largest checkpoint seen since the poll began, None where there was none. Committed with the last page.
    checkpoint: str | None = None
    #: True on the last page of a poll that went well. Exactly one page of such a poll has it, if only an empty one.
    last: bool = False
    #: True where the checkpoint may move with this very page (cursor paging with ``resume = true``).
    resume: bool = False
    #: Checkpoint values later than the answer's ``Date``; they never move the checkpoint.
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A stored record, as a sink sees it when it prepares a delivery."""

    route: str
    key: str
    version: str
    fields: Fields
    #: ``<prefix>:<8 hex>:<32 hex>`` (guarantee 2.2).
    correlation_id: str
    #: The 32 hex of the correlation_id: the sys_id that we choose for the row.
    derived_sys_id: str
    #: When it was first seen; what a ``wait`` policy counts from.
    first_seen: datetime
    #: What is prepared for it.
    operation: Operation = Operation.CREATE
    #: Of the row at ServiceNow, once it is known: what updates and replies speak of.
    sys_id: str | None = None
    number: str | None = None
    #: The same for each copy of this delivery, and for no other: what receivers drop repeats by.
    message_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A stored record as whoever pushed it may see it."""

    key: str
    version: str
    #: As listings show it: of its first unfinished delivery, ``replying``, ``delivered`` or ``skipped``.
    state: str
    correlation_id: str
    number: str | None
    sys_id: str | None
    first_seen: datetime
    settled_at: datetime | None
    #: Why it is dead, waits or was skipped.
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One attempt that is committed: it may be on the wire from now on."""

    route: str
    key: str
    version: str
    operation: Operation
    #: The frozen body: JSON text for ServiceNow, the very bytes as text for other sinks.
    body: str
    correlation_id: str
    derived_sys_id: str
    #: 1 for the first attempt at this delivery.
    attempt: int
    #: Send the derived sys_id along with the body.
    with_sys_id: bool = False
    #: After a create, read it back by correlation_id, as proof of look-up and of the sys_id.
    read_back: bool = False
    #: Of the intent, ascending over all that this database ever had.
    number: int = 0
    #: As `Record.message_id`: each attempt at this delivery bears it.
    message_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field that came back otherwise than it was sent. Texts are never kept, only what happened to them."""

    field: str
    #: ``cut``, ``changed``, ``missing``.
    kind: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The delivery is done."""

    #: ``response`` | ``lookup`` | ``sweep``.
    learnt: str
    sys_id: str | None = None
    number: str | None = None
    #: ``sys_created_on`` as ServiceNow gave it, UTC.
    created_at: str | None = None
    #: None: no read-back was asked or it got no answer; True: found by correlation_id; False: not found, look-ups are blind.
    read_back: bool | None = None
    #: The correlation_id that came back, where it is not ours; "" where it is missing.
    altered: str | None = None
    differences: tuple[Difference, ...] = ()
    #: Further rows with the same correlation_id, oldest first, without the one bound.
    duplicates: tuple[str, ...] = ()
    #: The sys_id was sent by us and is the one that came back. None: it was not sent.
    sys_id_honoured: bool | None = None
    #: Why nothing was sent after all, such as an update of an incident that is closed; the delivery is skipped then.
    unneeded: str | None = None
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, kw_only=True)
class Owned:
    """One row at the sink that carries a correlation_id of this installation."""

    sys_id: str
    correlation_id: str
    number: str | None = None
    created_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How one route stands in the database, for metrics."""

    route: str
    #: Deliveries by state; those that are unfinished are all there, with 0 too.
    states: Mapping[str, int]
    #: When the oldest version was first seen that is neither finished nor dead; None: nothing waits.
    oldest_at: datetime | None
    #: The route's first start.
    created_at: datetime
    whole_poll_at: datetime | None
    #: When the checkpoint last moved; None: it has none.
    checkpoint_at: datetime | None
    #: Polls that failed in a row.
    poll_failures: int
    #: Why it is held, one word; None: it is not.
    held: str | None
    blocked: bool


# What `Sink.prepare` answers for one record.


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Look-ups done; *body* is frozen."""

    body: str
    #: How fields came about, for ``explain``: a line each, such as ``caller_id: exact``, ``folded``, ``omitted``, ``default``,
    #: ``mapped``, ``cut to 160 of 300 characters; …``. Never a text of the record.
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class AlreadyThere:
    """The pre-check found it at the sink."""

    receipt: Receipt


@dataclass(frozen=True, kw_only=True)
class Undeliverable:
    """This record never: a dead letter."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class NotYet:
    """This record later: a look-up found nothing yet and the policy is to wait."""

    reason: str
    until: datetime


Prepared = Ready | AlreadyThere | Undeliverable | NotYet


@dataclass(frozen=True, kw_only=True)
class StoredToken:
    """A token of our own endpoint, as far as it is kept: the token itself is not in it."""

    #: SHA-256 of the token, in hex.
    digest: str
    #: Whose it is: a name of ``[server.clients]``.
    client: str
    scopes: frozenset[str]
    #: SHA-256 of the hash that the client's secret had then, in hex; another secret makes the token void.
    fingerprint: str
    expires_at: datetime
