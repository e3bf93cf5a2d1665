"""
The content enricher: what a record names, as ServiceNow's own ids.

A name is data from outside, so nothing is taken on trust: it is asked for in a way that cannot be read otherwise, and
each row that comes back is compared here with what was asked. Not found, two found, cannot be asked: unknown. What
becomes of an unknown user is the sink's business.

Source: guarantee.md 2.3 (2); servicenow.md section 3.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from poller.clients.answers import is_sys_id
from poller.clients.query import Query, check_value, chunks, encoded_length
from poller.model import Fields

HIT_SECONDS: Final = 3600.0
MISS_SECONDS: Final = 300.0
#: Names in one question, and characters of an address that they may take.
_MOST: Final = 50
_CHARACTERS: Final = 6000
#: Rows that a single question may bring; so many are a page that may not be the last.
_PAGE: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What became of one name."""

    #: None: unknown.
    sys_id: str | None
    #: ``exact``, ``folded`` (other case or composition), ``ambiguous``, ``unknown``.
    how: str


UNKNOWN: Final = Found(sys_id=None, how="unknown")
AMBIGUOUS: Final = Found(sys_id=None, how="ambiguous")


class Reader(Protocol):
    """What the enricher needs of a ServiceNow client."""

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        """Return up to *limit* rows; see `poller.clients.servicenow`."""
        ...


class Users:
    """
    Finds users by a column of ``sys_user``, and remembers them for a while.

    Args:
        reader: The client.

        clock: Monotonic.

        size: Names kept; the one not used for longest goes first.
    """

    def __init__(self, reader: Reader, *, clock: Callable[[], float] = time.monotonic, size: int = 20_000) -> None:
        self._reader = reader
        self._clock = clock
        self._size = size
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], tuple[float, Found]] = OrderedDict()

    def find(
        self, names: Iterable[str], *, by: Sequence[str] = ("user_name",), fresh: bool = False
    ) -> dict[str, Found]:
        """
        Return what each of *names* is.

        Args:
            by: Columns, tried in turn for what is still unknown. An ambiguous name stays ambiguous.

            fresh: Ask anew, whatever is remembered.

        Returns:
            One entry for each name, under the name as given.

        Raises:
            TransientError, BlockedError: Some question got no proper answer; nothing is known of any.
        """
        asked = {name: clean(name) for name in names}
        found = dict.fromkeys(asked.values(), UNKNOWN)
        for column in by:
            open_ = [name for name, known in found.items() if known.how == "unknown" and name]
            found |= self._in_column(column, open_, fresh=fresh)
        return {given: found[name] for given, name in asked.items()}

    def forget(self) -> None:
        """Drop everything remembered: the instance may have been cloned over."""
        with self._lock:
            self._known.clear()

    def _in_column(self, column: str, names: list[str], *, fresh: bool) -> dict[str, Found]:
        found: dict[str, Found] = {} if fresh else self._remembered(column, names)
        open_ = [name for name in names if name not in found]
        asked = self._ask(column, open_)
        self._remember(column, asked)
        return found | asked

    def _ask(self, column: str, names: list[str]) -> dict[str, Found]:
        """Ask for *names* in as few questions as are safe; a page that may not be the last is no answer."""
        listed, single, parted = _sorted(names)
        rows: list[Fields] = []
        owner = {form: name for name in listed for form in _forms(name)}
        for some in chunks(owner, most=_MOST, characters=_CHARACTERS):
            limit = 2 * len(some) + 10
            page = self._rows(column, Query().in_(column, some), limit)
            if len(page) < limit:
                rows += page
            else:
                # Who is on the next page? Each for itself.
                single += [name for name in dict.fromkeys(owner[form] for form in some) if name not in single]
        found = dict.fromkeys(names, UNKNOWN)
        found |= {name: match(name, rows, column) for name in listed}
        for name in single:
            found[name] = self._alone(name, column, [Query().equals(column, form) for form in _forms(name)])
        for name in parted:
            found[name] = self._alone(name, column, [_ends(column, form) for form in _forms(name)])
        return found

    def _alone(self, name: str, column: str, queries: Iterable[Query]) -> Found:
        rows: list[Fields] = []
        for query in queries:
            page = self._rows(column, query, _PAGE)
            if len(page) >= _PAGE:
                return UNKNOWN
            rows += page
        return match(name, rows, column)

    def _rows(self, column: str, query: Query, limit: int) -> list[Fields]:
        fields = dict.fromkeys(("sys_id", column, "active"))
        return self._reader.table_get("sys_user", query.order_by("sys_id"), list(fields), limit)

    def _remembered(self, column: str, names: Iterable[str]) -> dict[str, Found]:
        now, found = self._clock(), {}
        with self._lock:
            for name in names:
                kept = self._known.get((column, name))
                if kept is not None and now < kept[0]:
                    self._known.move_to_end((column, name))
                    found[name] = kept[1]
        return found

    def _remember(self, column: str, found: dict[str, Found]) -> None:
        now = self._clock()
        with self._lock:
            for name, one in found.items():
                self._known[column, name] = (now + (HIT_SECONDS if one.sys_id else MISS_SECONDS), one)
                self._known.move_to_end((column, name))
            while len(self._known) > self._size:
                self._known.popitem(last=False)


def clean(name: str) -> str:
    """Return *name* without white space around it, in composed form."""
    return unicodedata.normalize("NFC", name).strip()


def folded(name: str) -> str:
    """Return *name* so that those of other case or composition are equal."""
    return unicodedata.normalize("NFC", clean(name).casefold())


def match(name: str, rows: Iterable[Fields], column: str) -> Found:
    """Return which of *rows* is *name*: an exact one before those of other case; two left are ambiguous."""
    exact: set[str] = set()
    other: set[str] = set()
    wanted, alike = clean(name), folded(name)
    for row in rows:
        sys_id, value = row.get("sys_id"), row.get(column)
        if not isinstance(value, str) or not is_sys_id(sys_id):
            continue
        if clean(value) == wanted:
            exact.add(str(sys_id))
        elif folded(value) == alike:
            other.add(str(sys_id))
    for how, ids in (("exact", exact), ("folded", other)):
        if len(ids) == 1:
            return Found(sys_id=ids.pop(), how=how)
        if ids:
            return AMBIGUOUS
    return UNKNOWN


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
        elif str(_ends("user_name", name)):
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
