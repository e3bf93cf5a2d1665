"""What a demo shows."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lxml import etree

from poller.commands.showing import clean, cut, table
from poller.demo.happening import GROUP, PERSON, ROUTE, Seen, Story
from poller.demo.shipping import SCHEMA
from poller.model import Fields
from poller.sandbox import Sandbox

_HEAD = ("INCIDENT", "CALLER", "TITLE", "ORIGIN")
_WIDEST_TITLE = 52
_WIDEST = 98


def told(sandbox: Sandbox, directory: str, story: Story) -> Iterator[str]:
    """Yield the lines, at most a hundred columns wide before those that can be pasted."""
    yield f"Stand-in help desk   {sandbox.helpdesk_url}, with a vendor's inbox"
    yield f"Stand-in ServiceNow  {sandbox.servicenow_url}"
    yield ""
    yield from _tickets(story.before, story.after)
    yield ""
    yield from _vendor(story)
    for outcome in story.outcomes:
        if not outcome.all_delivered:
            yield f"Not all went well: {', '.join(outcome.polls_failed) or outcome.unfinished} unfinished; see {directory}/demo.log"
    yield ""
    yield from _what_next(directory, story)


def _tickets(before: Seen, after: Seen) -> Iterator[str]:
    rows = (
        (row["number"], row["caller_id.user_name"], _title(row), row["correlation_display"]) for row in after.incidents
    )
    yield from table(_HEAD, rows, most=_WIDEST_TITLE)
    yield ""
    known = {row["number"] for row in before.incidents}
    created = sum(row["number"] not in known for row in after.incidents)
    yield f"{_count(created, 'incident')} created, {len(after.incidents) - created} already there"
    replied = len(after.links) - len(before.links)
    yield f"{_count(replied, 'ticket')} told of the incident, {len(before.links)} already told"


def _vendor(story: Story) -> Iterator[str]:
    if story.chosen is None:
        return
    number, sent = story.chosen["number"], len(story.after.messages) - len(story.before.messages)
    if story.just_now:
        yield f"Then {PERSON} assigns {number} to the group {GROUP}, and the vendor gets:"
    else:
        yield f"The group {GROUP} has {number} since an earlier run; what the vendor got:"
    if story.after.messages:
        yield from _document(story.after.messages[-1]["body"])
    valid = f"NOT valid against {SCHEMA}: {clean(story.problem)}" if story.problem else f"valid against {SCHEMA}"
    yield f"{_count(sent, 'message')} sent, {len(story.before.messages)} already there; {valid}"


def _document(message: str) -> Iterator[str]:
    """Yield a message in lines that a terminal can show, each element on its own."""
    try:
        root = etree.fromstring(message.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError:
        yield cut(clean(message), _WIDEST)
        return
    etree.indent(root)
    for line in etree.tostring(root, encoding="unicode").splitlines():
        yield cut(clean(f"  {line}"), _WIDEST)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _title(row: Fields) -> str:
    return cut(clean(row["short_description"]), _WIDEST_TITLE)


def _what_next(directory: str, story: Story) -> Iterator[str]:
    poller, settings = _invoked(), f"--settings {directory}/settings.toml"
    again = poller + " demo" + ("" if directory == ".demo" else f" --directory {directory}")
    lines = [
        ("the same again; nothing is created or sent twice", again),
        ("what is remembered of each record", f"{poller} records {settings}"),
        ("the life of a ticket", f"{poller} explain helpdesk 1001 {settings}"),
        ("what was logged", f"{directory}/demo.log"),
        ("your own systems", "settings.toml says how; then: poller check, poller once, poller run"),
    ]
    if story.chosen is not None:
        key = story.chosen["sys_id"]
        lines.insert(3, ("the life of the message", f"{poller} explain {ROUTE} {key} {settings}"))
    yield "What next"
    size = max(len(what) for what, _ in lines)
    for what, how in lines:
        yield f"  {what:<{size}}  {how}"


def _invoked() -> str:
    """Return how poller was called, so that a line can be pasted."""
    name = Path(sys.argv[0])
    if name.name != "poller":
        return f"{Path(sys.executable).name} -m poller"
    return "poller" if shutil.which("poller") else sys.argv[0]
