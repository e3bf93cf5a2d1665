"""How a preview is shown: a block a record for people, one JSON object for machines. Known secrets never show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from poller.commands.previewing.gathering import Seen, Shown
from poller.commands.showing import as_json, clean, columns_of, cut, width
from poller.logs import redact

#: What each outcome means to a person; ``{}`` is the number.
_MEANING: Final = {
    "create": "would be posted",
    "known": "known, not posted again",
    "there": "already at ServiceNow as {}, would only be bound",
    "baseline": "would be skipped",
    "waits": "would wait",
    "undeliverable": "cannot be delivered",
    "malformed": "cannot be read",
}
#: So much is shown of what a record gives for a look-up or a map.
_GIVEN: Final = 40
_MARKS: Final = {"changed": "~", "new": "+", "gone": "-"}


def as_object(
    name: str, before: Seen, shown: list[Shown], fault: str | None, saved: str | None, file: str | None
) -> Iterator[str]:
    """Yield one JSON object."""
    counts = Counter(each.outcome for each in shown)
    yield redact(
        as_json(
            {
                "route": name,
                "checkpoint": before.checkpoint,
                "records": [{**asdict(each), "differing": each.differing} for each in shown],
                "counts": counts,
                "error": fault,
                "saved": file if saved == "" else None,
                "next": _next(name, shown, fault, saved, file),
            },
            indent=2,
        )
    )


def lines(
    name: str, before: Seen, shown: list[Shown], fault: str | None, saved: str | None, file: str | None
) -> Iterator[str]:
    """Yield blocks of lines, and how it ends."""
    for each in shown:
        for line in _block(name, each):
            yield redact(line)
    if fault:
        yield redact(f"failed: {fault}")
    yield redact(_counted(before, shown))
    if file is not None:
        yield redact(_saved(saved, file))
    yield f"Next: {_next(name, shown, fault, saved, file)}"


def _block(name: str, each: Shown) -> Iterator[str]:
    said = _MEANING[each.outcome].format(each.number or "an incident without a number")
    if each.outcome == "known":
        said = f"known, {each.state}{f' as {each.number}' if each.number else ''}; not posted again"
    version = f", version {cut(each.version, 30)}" if each.version else ""
    yield f"{name} / {each.key or '(no key)'}{version}: {said}{_why(each)}"
    if each.body is not None:
        yield from _fields(each)
    yield ""


def _why(each: Shown) -> str:
    if not each.reason:
        return ""
    # A reason begins with its column and never holds what the record says: that is shown here alone.
    given = each.given.get(each.reason.partition(":")[0])
    return f": {each.reason}" + (f'; it gives "{cut(clean(given), _GIVEN)}"' if given is not None else "")


def _value(each: Shown, name: str) -> str:
    """Return what is sent in a column, behind what the record gave for it."""
    value = str((each.body or {}).get(name, "(not sent any more)"))
    given = each.given.get(name, "").strip()
    return value if not given or given == value else f"{cut(clean(given), _GIVEN)} -> {value}"


def _fields(each: Shown) -> Iterator[str]:
    body, before, differing = each.body or {}, each.before or {}, each.differing
    notes = dict(note.partition(": ")[::2] for note in each.notes)
    names = list(dict.fromkeys((*body, *before)))
    size = max(columns_of(name) for name in names)
    room = max(20, width() - size - 6)
    for name in names:
        note = f"  ({notes[name]})" if name in notes else ""
        mark = _MARKS.get(differing.get(name, ""), " ")
        value = _value(each, name)
        if "document" in body and "\n" in value:
            # A document is looked at as it is; a column is a text among others.
            yield f"  {mark} {name}"
            yield from (f"      {clean(line)}" for line in value.splitlines())
            continue
        yield f"  {mark} {name:<{size}}  {cut(clean(value), room - len(note))}{note}"
        if differing.get(name) in {"changed", "gone"}:
            yield f"    {'was':>{size}}  {cut(clean(before[name]), room)}"
    if each.before is not None and not differing:
        yield f"    {'':<{size}}  the same as was posted"


def _counted(before: Seen, shown: list[Shown]) -> str:
    counts = Counter(each.outcome for each in shown)
    since = f" since checkpoint {before.checkpoint}" if before.checkpoint is not None else ""
    if not shown:
        return f"No records{since}. Nothing was written."
    words = {"there": "already at ServiceNow", "known": "known"}
    told = ", ".join(f"{counts[each]} {words.get(each, _MEANING[each])}" for each in _MEANING if counts[each])
    return f"{told}. Nothing was written."


def _saved(saved: str | None, file: str) -> str:
    if saved is None:
        return f"Not saved to {file}: there is no record"
    return f"Saved to {file}" if saved == "" else f"Not saved to {file}: {saved}"


def _next(name: str, shown: list[Shown], fault: str | None, saved: str | None, file: str | None) -> str:
    if fault:
        return "poller check, which says what is wrong and what to do"
    if any(each.outcome in {"undeliverable", "malformed"} for each in shown):
        return f"see the reasons above; mend the record or routes.{name}, then: poller preview {name}"
    if file is not None and saved == "":
        return f"poller check --offline --tests {file.rpartition('/')[0] or '.'}"
    if not shown:
        return f"poller preview {name} --key KEY shows one that was seen before"
    return f"poller once {name}, or poller run"
