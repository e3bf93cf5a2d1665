"""
What a route would send, tried on the records of its source's first page: templates, stylesheet, schema, replies.

Nothing is sent. A record that is a dead letter here would be one there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol, runtime_checkable

from poller.commands.checking.findings import Finding, fault, warning, well
from poller.errors import BlockedError, PollerError
from poller.identity import correlation_id, derived_sys_id, message_id
from poller.model import Operation, Record, SourceRecord, Undeliverable
from poller.ports import Sink
from poller.settings import Route
from poller.store.rows import dump, load
from poller.wiring import PREFIX, Gate, build_reply, build_sink

#: What a reply is tried with.
_NUMBER: Final = "INC0010001"
_SYS_ID: Final = "0123456789abcdef0123456789abcdef"
#: Records that are tried.
_MOST: Final = 50


@runtime_checkable
class Reachable(Protocol):
    """A sink that can be asked whether it would take messages, without one."""

    def reach(self) -> str:
        """
        Connect as a delivery would, and send nothing; return what was seen.

        Raises:
            TransientError, BlockedError: It would not go well.
        """
        ...


def documents(name: str, route: Route, found: Sequence[SourceRecord]) -> Iterator[Finding]:
    """Say whether the records would become documents, and whether the sink can be reached."""
    if route.sink.type != "servicenow":
        sink = build_sink(route, None, Gate())
        yield from _tried(f"documents of {name}", f"routes.{name}.sink", sink, name, found)
        yield from _reached(f"sink of {name}", f"routes.{name}.sink", sink)
    if route.reply is not None:
        yield from _tried(f"replies of {name}", f"routes.{name}.reply", build_reply(route, Gate()), name, found)


def _tried(label: str, where: str, sink: Sink, name: str, found: Sequence[SourceRecord]) -> Iterator[Finding]:
    if not found:
        yield well(label, "no record to try them with")
        return
    batch = [_record(each, name, sink.operation) for each in found[:_MOST]]
    try:
        answers = sink.prepare(batch, now=datetime.now(UTC))
    except PollerError as error:
        yield fault(label, str(error), f"see {where}")
        return
    bad = [answer.reason for answer in answers if isinstance(answer, Undeliverable)]
    tried = f"{len(batch)} record{'s' * (len(batch) != 1)} tried"
    if not bad:
        yield well(label, f"{tried}, and nothing sent")
    elif len(bad) == len(batch):
        yield fault(label, f"{tried}, none can be sent: {bad[0]}", f"see {where}")
    else:
        said = f"{tried}, {len(bad)} cannot be sent, the first because {bad[0]}"
        yield warning(label, said, f"see {where}; each becomes a dead letter")


def _record(each: SourceRecord, name: str, operation: Operation) -> Record:
    correlation = correlation_id(PREFIX, name, each.key)
    return Record(
        route=name,
        key=each.key,
        version=each.version,
        fields=load(dump(each.fields)),
        correlation_id=correlation,
        derived_sys_id=derived_sys_id(PREFIX, name, each.key),
        first_seen=datetime.now(UTC),
        operation=operation,
        sys_id=_SYS_ID,
        number=_NUMBER,
        message_id=message_id(correlation, operation, each.version),
    )


def _reached(label: str, where: str, sink: Sink) -> Iterator[Finding]:
    if not isinstance(sink, Reachable):
        yield well(label, f"{sink.remote}: known when the first message is sent; nothing is sent here")
        return
    try:
        said = sink.reach()
    except BlockedError as error:
        yield fault(label, str(error), f"see {where}: its credentials and rights")
    except PollerError as error:
        yield fault(label, str(error), f"see {where}, and that the other side runs")
    else:
        yield well(label, said)
