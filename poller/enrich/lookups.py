"""
Rows by what names them, many in one question, remembered for a while.

Users, groups, configuration items: all the same. A name goes into a list, stands alone (it holds a comma), or is asked
for by its head and tail (it holds ``^``); what cannot be asked without being read otherwise is not asked at all.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from poller.clients.query import Query, check_value, chunks, encoded_length
from poller.enrich.matching import UNKNOWN, Found, Question, clean, folded, match, text
from poller.enrich.trust import Reader, Trust, conditions
from poller.model import Fields

HIT_SECONDS: Final = 3600.0
MISS_SECONDS: Final = 300.0
#: Names in one question, and characters of an address that they may take.
_MOST: Final = 50
_CHARACTERS: Final = 6000
#: Rows that a single question may bring; so many are a page that may not be the last.
_PAGE: Final = 50


class Lookups:
    """
    Finds rows by one of their columns, and remembers them.

    Args:
        reader: The client.

        clock: Monotonic.

        size: Names kept; the one not used for longest goes first.

        misses: For how many seconds a name counts as unknown without being asked for again.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        clock: Callable[[], float] = time.monotonic,
        size: int = 20_000,
        misses: float = MISS_SECONDS,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._size = size
        self._misses = misses
        self._trust = Trust(reader, clock)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[Question, str, str], tuple[float, Found]] = OrderedDict()

    def find(self, question: Question, names: Iterable[str], *, fresh: bool = False) -> dict[str, Found]:
        """
        Return what each of *names* is.

        Columns are tried in turn for what is still unknown; what is ambiguous or inactive by one of them stays so.

        Args:
            fresh: Ask anew, whatever is remembered.

        Returns:
            One entry for each name, under the name as given.

        Raises:
            TransientError: Some question got no proper answer; nothing is known of any.

            BlockedError: The same, or the table cannot be asked as the settings have it.
        """
        asked = {name: clean(name) for name in names}
        found = dict.fromkeys(asked.values(), UNKNOWN)
        answers: dict[str, dict[str, Found]] = {}
        for column in question.by:
            open_ = [name for name, known in found.items() if known.how == "unknown" and name]
            remembered = {} if fresh else self._remembered(question, column, open_)
            missing = [name for name in open_ if name not in remembered]
            answers[column] = self._ask(question, column, missing)
            found |= remembered | answers[column]
        if any(answers.values()) and any(name and known.how == "unknown" for name, known in found.items()):
            # Before any of it is remembered: where nobody can be seen, nobody is unknown.
            self._trust.readable(question)
        for column, learnt in answers.items():
            self._remember(question, column, learnt)
        return {given: found[name] for given, name in asked.items()}

    def forget(self) -> None:
        """Drop everything remembered: the instance may have been cloned over."""
        self._trust.forget()
        with self._lock:
            self._known.clear()

    def _ask(self, question: Question, column: str, names: list[str]) -> dict[str, Found]:
        """Ask for *names* in as few questions as are safe; a page that may not be the last is no answer."""
        listed, single, parted = _sorted(names)
        rows: list[Fields] = []
        owner = {form: name for name in listed for form in _forms(name)}
        for some in chunks(owner, most=_MOST, characters=_CHARACTERS):
            limit = 2 * len(some) + 10
            page = self._rows(question, column, Query().in_(column, some), limit)
            self._doubt(question, column, page, some, limit)
            if len(page) < limit:
                rows += page
            else:
                # Who is on the next page? Each for itself.
                single += [name for name in dict.fromkeys(owner[form] for form in some) if name not in single]
        found = dict.fromkeys(names, UNKNOWN)
        found |= _matches(listed, rows, column, question)
        for name in single:
            found[name] = self._alone(question, column, name, [Query().equals(column, form) for form in _forms(name)])
        for name in parted:
            found[name] = self._alone(question, column, name, [_ends(column, form) for form in _forms(name)])
        return found

    def _alone(self, question: Question, column: str, name: str, queries: Iterable[Query]) -> Found:
        rows: list[Fields] = []
        for query in queries:
            page = self._rows(question, column, query, _PAGE)
            # By head and tail others are found as well.
            self._doubt(question, column, page, None if "^" in name else [name], _PAGE)
            if len(page) >= _PAGE:
                return UNKNOWN
            rows += page
        return match(name, rows, column, question)

    def _rows(self, question: Question, column: str, query: Query, limit: int) -> list[Fields]:
        query = conditions(query, question).order_by("sys_id")
        return self._reader.table_get(question.table, query, question.columns(column), limit)

    def _doubt(self, question: Question, column: str, page: list[Fields], names: list[str] | None, limit: int) -> None:
        """Look closer where rows came that nobody asked for, or without what they were asked for by."""
        values = [folded(text(row, column)) for row in page]
        wanted = None if names is None else {folded(name) for name in names}
        if len(page) >= limit or (wanted is not None and any(value and value not in wanted for value in values)):
            self._trust.heeded(question.table, column)
        if not all(values):
            self._trust.heeded(question.table, column)
            self._trust.readable(question)
        if any(value and (wanted is None or value in wanted) for value in values):
            self._trust.seen(question)
        if question.active and page and not any(text(row, "active") for row in page):
            self._trust.hidden_active(question.table)

    def _remembered(self, question: Question, column: str, names: Iterable[str]) -> dict[str, Found]:
        now, found = self._clock(), {}
        with self._lock:
            for name in names:
                kept = self._known.get((question, column, name))
                if kept is not None and now < kept[0]:
                    self._known.move_to_end((question, column, name))
                    found[name] = kept[1]
        return found

    def _remember(self, question: Question, column: str, found: dict[str, Found]) -> None:
        now = self._clock()
        with self._lock:
            for name, one in found.items():
                life = HIT_SECONDS if one.sys_id else self._misses
                self._known[question, column, name] = (now + life, one)
                self._known.move_to_end((question, column, name))
            while len(self._known) > self._size:
                self._known.popitem(last=False)


def _matches(names: list[str], rows: list[Fields], column: str, question: Question) -> dict[str, Found]:
    """Match many names and many rows, each row looked at for those alone that it can be."""
    alike: dict[str, list[Fields]] = {}
    for row in rows:
        alike.setdefault(folded(text(row, column)), []).append(row)
    return {name: match(name, alike.get(folded(name), ()), column, question) for name in names}


def _forms(name: str) -> list[str]:
    """Return *name* in the forms that an instance may hold it in: not every database takes them for equal."""
    return list(dict.fromkeys((name, unicodedata.normalize("NFD", name))))


def _sorted(names: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """Sort *names* by how they can be asked for: in a list, alone, by head and tail. The rest cannot be."""
    listed: list[str] = []
    single: list[str] = []
    parted: list[str] = []
    for name in names:
        if max(map(encoded_length, _forms(name))) > _CHARACTERS or name.lower().startswith("javascript:"):
            continue
        if "^" not in name:
            if _askable(name):
                (single if "," in name else listed).append(name)
        elif str(_ends("sys_id", name)):
            parted.append(name)
    return listed, single, parted


def _ends(column: str, name: str) -> Query:
    """Return the question for a name with ``^``: by what stands before the first and after the last one."""
    pieces = name.split("^")
    query = Query()
    if _askable(pieces[0]):
        query = query.starts_with(column, pieces[0])
    return query.ends_with(column, pieces[-1]) if _askable(pieces[-1]) else query


def _askable(value: str) -> bool:
    try:
        check_value(value)
    except ValueError:
        return False
    return True
