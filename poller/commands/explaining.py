"""``explain``: the whole life of one record, but for its contents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime

from poller.commands.opening import read_settings, reading
from poller.commands.showing import as_json, brief, clean, say, timestamp, warn
from poller.model import FINISHED, State
from poller.store.lives import AttemptLine, DeliveryLine, Life, life
from poller.store.reading import route_lines, snapshot

#: What each state means to a person.
_MEANING = {
    State.PENDING: "to be looked up",
    State.READY: "to be sent",
    State.SENDING: "an attempt is under way",
    State.UNKNOWN: "the outcome of the last attempt is not known; it is looked up before any new one",
    State.WAITING: "surely refused, due again later",
    State.DEAD: "given up, until an operator says otherwise",
    State.DELIVERED: "done",
    State.SKIPPED: "nothing is owed",
}
#: How a field came about; a note is one line for each, ``caller_id: exact``.
_NOTES = {
    "exact": "found",
    "folded": "found in other spelling",
    "omitted": "unknown, left out",
    "default": "unknown, the default in its place",
    "mapped": "mapped",
    "malformed": "could not be read",
}


def explain(option: str | None, route: str, key: str, *, machine: bool) -> int:
    """Tell all that is known of one record; 1 where there is none."""
    _, settings = read_settings(option)
    with reading(settings) as store, snapshot(store) as connection:
        known = {line.name for line in route_lines(connection)} | settings.routes.keys()
        if route not in known:
            warn(clean(f"poller explain: there is no route {route}; there are: {', '.join(sorted(known))}"))
            return 1
        # Bytes that are no text in any encoding cannot be a key.
        found = life(connection, route, key) if _is_text(key) else None
    if found is None:
        warn(clean(f"poller explain: route {route} has no record {key}; poller records {route} lists them"))
        return 1
    if machine:
        say(as_json({**asdict(found.record), **{k: v for k, v in asdict(found).items() if k != "record"}}, indent=2))
    else:
        for line in _lines(found, datetime.now(UTC)):
            say(clean(line))
    return 0


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def _lines(found: Life, now: datetime) -> Iterator[str]:
    record = found.record
    yield f"{record.route} / {record.key}: {record.state}"
    yield f"  first seen      {timestamp(record.first_seen)}, version {record.version}"
    if found.seen_version != record.version:
        yield f"  seen since      version {found.seen_version}"
    yield f"  correlation_id  {record.correlation_id}"
    if record.number or record.sys_id:
        created = f", created {found.created_at} UTC" if found.created_at else ""
        yield f"  incident        {record.number or '?'}, sys_id {record.sys_id or '?'}{created}"
    if record.settled_at:
        yield f"  settled         {timestamp(record.settled_at)}"
    if record.reason:
        yield f"  reason          {record.reason}"
    if found.raw is not None:
        yield f"  its text        {found.raw}"
    for each in found.deliveries:
        yield from _delivery(each, now)
    for act in found.acts:
        what = f"{act.act} of the route" if act.whole_route else act.act
        yield f"operator {act.who}: {what} at {timestamp(act.at)}: {act.reason or 'no reason given'}"


def _delivery(each: DeliveryLine, now: datetime) -> Iterator[str]:
    yield f"{each.operation}, version {each.version}: {each.state}, {_MEANING.get(State(each.state), '')}"
    for note in each.note.splitlines() if each.note else ():
        field, colon, how = note.rpartition(": ")
        yield f"  look-up         {field}{colon}{_NOTES.get(how, how)}"
    if each.guard:
        yield f"  guard           {each.guard}, our sys_id {'sent along' if each.with_sys_id else 'not sent'}"
    for attempt in each.tried:
        yield from _attempt(attempt)
    if State(each.state) not in FINISHED | {State.DEAD, State.SENDING}:
        due = "now" if each.not_before <= now else f"not before {timestamp(each.not_before)}"
        yield f"  due             {due}"
        if each.safe_after is not None and each.safe_after > now:
            yield f"  no copy alive   after {timestamp(each.safe_after)}; until then not sent again unless proven safe"
    if each.reason:
        yield f"  reason          {each.reason}"


def _attempt(attempt: AttemptLine) -> Iterator[str]:
    took = ""
    if attempt.started_at is not None:
        took = f", {(attempt.ended_at - attempt.started_at).total_seconds():.3f} s"
    said = f", HTTP {attempt.status}" if attempt.status is not None else ""
    transaction = f", transaction {attempt.transaction_id}" if attempt.transaction_id else ""
    at = brief(attempt.started_at or attempt.ended_at)
    yield f"  attempt {attempt.number:<7} {at}{took}: {attempt.outcome}{said}{transaction}"
    if attempt.excerpt:
        yield f"                  {attempt.excerpt}"
