"""
Texts that fit their columns.

ServiceNow cuts a text that is too long without a word. So it is cut here, with a mark that everybody sees, and the whole
is kept elsewhere in the same row as far as there is room: in the description, else as a work note. A record never fails
for being long.

Length is counted in UTF-16 units, as Java does: an emoji counts two, so that a text never proves too long on whatever
an instance counts. What a person sees as one character is never taken apart.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from poller.clients.dictionary import Column

#: The end of a text that was cut.
MARK: Final = " … [cut]"
#: Where the whole of a text is kept, in turn.
PLACES: Final = ("description", "work_notes")
#: Kinds of columns that hold text; others are the instance's to judge.
_TEXTS: Final = frozenset(
    {
        "string", "translated_field", "translated_text", "html", "translated_html", "url", "email", "multi_two_lines",
        "multi_small", "wide_text", "string_full_utf8", "ph_number", "journal", "journal_input",
    }
)  # fmt: skip
_JOINER: Final = "\u200d"
#: As far as a cut steps back to spare one sign; longer rows of marks are nobody's language.
_FARTHEST: Final = 64


def units(text: str) -> int:
    """Return the length of *text* in UTF-16 units."""
    return len(text) if text.isascii() else len(text) + sum(character > "\uffff" for character in text)


def limit(column: Column | None) -> int | None:
    """Return how many units *column* takes, None where that is not known or it holds no text."""
    return column.length if column is not None and column.kind in _TEXTS and column.length else None


def cut(text: str, most: int) -> str:
    """Return *text* if it has at most *most* units, else its beginning and `MARK`, together no more than that."""
    if units(text) <= most:
        return text
    mark = MARK if most >= 2 * len(MARK) else ""
    return text[: _whole(text, _fitting(text, most - len(mark)))] + mark


def _fitting(text: str, most: int) -> int:
    """Return how many characters of *text* have at most *most* units together."""
    if text.isascii():
        return most
    room = most
    for index, character in enumerate(text):
        room -= 1 + (character > "\uffff")
        if room < 0:
            return index
    return len(text)


def _whole(text: str, end: int) -> int:
    """Return the nearest place at or before *end* that stands between two signs."""
    for place in range(end, max(0, end - _FARTHEST), -1):
        if not _within(text, place):
            return place
    return end


def _within(text: str, place: int) -> bool:
    """Return whether *place* lies within what a person sees as one sign."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if _JOINER in {before, after} or (before, after) == ("\r", "\n"):
        return True
    if unicodedata.category(after).startswith("M") or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    flags = place
    while flags and "\U0001f1e6" <= text[flags - 1] <= "\U0001f1ff":
        flags -= 1
    return "\U0001f1e6" <= after <= "\U0001f1ff" and (place - flags) % 2 == 1


def fit(
    body: Mapping[str, str], columns: Mapping[str, Column], addable: Collection[str] = PLACES
) -> tuple[dict[str, str], dict[str, str]]:
    """
    Return *body* with every text as long as its column takes, and what was done, by column.

    Args:
        columns: What is known of the table; a text of an unknown column goes as it is.

        addable: Those of `PLACES` that may come into *body* although they are not in it.
    """
    long = {name: most for name, text in body.items() if (most := limit(columns.get(name))) and units(text) > most}
    fitted = {name: cut(text, long[name]) if name in long else text for name, text in body.items()}
    usable = [name for name in PLACES if name in body or name in addable]
    places = [name for name in usable if name not in long and limit(columns.get(name))]
    notes = {}
    for name, most in long.items():
        notes[name] = (
            f"cut to {most} of {units(body[name])} characters; {_kept(fitted, columns, places, name, body[name])}"
        )
    return fitted, notes


def _kept(fitted: dict[str, str], columns: Mapping[str, Column], places: Sequence[str], name: str, text: str) -> str:
    """Keep the whole *text*, or what was cut off of it, in one of *places*; say in words where."""
    for place in places:
        if _keep(fitted, columns, place, name, text):
            return f"the whole is in {place}"
    if places and _keep_rest(fitted, columns, places[-1], name, text):
        return f"more of it is in {places[-1]}"
    return "the rest is not kept"


def _keep(fitted: dict[str, str], columns: Mapping[str, Column], place: str, name: str, text: str) -> bool:
    """Add the whole *text* to *place*, if there is room."""
    longer = _joined(fitted.get(place, ""), f"[{name}] {text}")
    room = limit(columns.get(place)) or 0
    if units(longer) > room:
        return False
    fitted[place] = longer
    return True


def _keep_rest(fitted: dict[str, str], columns: Mapping[str, Column], place: str, name: str, text: str) -> bool:
    """Add to *place* what was cut off, as far as there is room, if that is worth while."""
    rest = text[len(fitted[name].removesuffix(MARK)) :]
    there = fitted.get(place, "")
    longer = cut(_joined(there, f"[{name}, continued] {rest}"), limit(columns.get(place)) or 0)
    if units(longer) < units(there) + 4 * len(MARK):
        return False
    fitted[place] = longer
    return True


def _joined(before: str, after: str) -> str:
    return f"{before}\n\n{after}" if before else after
