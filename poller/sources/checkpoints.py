"""
Checkpoints: which of two is later, whether one may move at all, and how one is handed back to its source.

A checkpoint is stored as the source's own text. Here it is compared: integers as integers, times as instants, however
their zones differ. A time without a zone is taken for UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from poller.formats import to_text

_SECOND = 1_000_000_000
_EPOCH = date(1970, 1, 1).toordinal()
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:(?P<sep>[Tt ])(?P<time>\d\d:\d\d)(?P<sec>:\d\d)?(?P<frac>[.,]\d{1,12})?(?P<zone> ?(?:[Zz]|[+-]\d\d(?::?\d\d)?))?)?"
)
_NUMBER = re.compile(r"-?\d{1,40}(?:\.\d{1,20})?")
#: A number without a stated format may be a time where it lies in 2001 to 2286, in seconds or milliseconds.
_SECONDS = (10**9, 10**10)
_MILLISECONDS = (10**12, 10**13)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One checkpoint value that was understood."""

    #: As the source wrote it, and as it is stored.
    text: str
    #: ``number`` or ``instant``; those of different kinds cannot be compared.
    kind: str
    order: Decimal
    #: Nanoseconds since 1970 where it is a time, None where it is a plain number.
    instant: int | None


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """
    How the checkpoints of one source are read and written.

    Args:
        name: ``iso``, ``epoch``, a strptime pattern, or None: integers, epoch and RFC 3339 are recognised.

        overlap: Taken off when a time is handed to the source, so that what was stamped early and shown late is read.
    """

    name: str | None
    overlap: timedelta

    def read(self, value: object) -> Mark:
        """
        Return *value* as a mark.

        Raises:
            ValueError: It is no checkpoint in this format.
        """
        if isinstance(value, (bool, list, dict)):
            raise ValueError("neither text nor a number")  # noqa: TRY004  the one fault of a value that came
        text = to_text(value)
        if len(text) > 200:
            raise ValueError("too long")
        if self.name == "epoch":
            return _epoch(text)
        if self.name == "iso":
            return _iso(text, zone_needed=False)
        if self.name is not None:
            return _instant(text, _nanoseconds(_parsed(text, self.name)))
        return _number(text) if _NUMBER.fullmatch(text) or not isinstance(value, str) else _iso(text, zone_needed=True)

    def handed(self, stored: str) -> str:
        """
        Return what the source is given for *stored*: the same, less the overlap where it is a time, in the same writing.

        Raises:
            ValueError: *stored* is no checkpoint in this format.
        """
        mark = self.read(stored)
        if not self.overlap or mark.instant is None:
            return mark.text
        if self.name not in (None, "epoch", "iso"):
            try:
                return (_parsed(stored, self.name or "") - self.overlap).strftime(self.name or "")
            except OverflowError:
                return mark.text
        if _NUMBER.fullmatch(stored):
            units = Decimal(self.overlap // timedelta(microseconds=1)) / 1_000_000 * _unit(Decimal(stored))
            less = Decimal(stored) - units
            return format(less.quantize(Decimal(1).scaleb(-_digits(stored)), "ROUND_FLOOR"), "f")
        return _iso_less(stored, self.overlap)


_RECOGNISED = CheckpointFormat(name=None, overlap=timedelta(0))


def check_format(name: str) -> str:
    """
    Return *name* if checkpoints can be told apart by it.

    Raises:
        ValueError: It is neither ``iso`` nor ``epoch`` nor a pattern that holds a whole date.
    """
    if name in ("iso", "epoch"):
        return name
    if "%" not in name:
        raise ValueError('is "iso", "epoch" or a pattern such as "%d.%m.%Y %H:%M:%S"; left out: recognised')
    if "%Z" in name:
        raise ValueError("%Z is a name that only some machines know; use %z")
    sample = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    try:
        back = datetime.strptime(sample.strftime(name), name)  # noqa: DTZ007  only its date is looked at
    except (ValueError, re.error):
        raise ValueError("is no pattern that can be read back; see strptime in Python's manual") from None
    if back.date() != sample.date():
        raise ValueError("the pattern does not hold year, month and day")
    return name


def newer(version: str, other: str) -> bool:
    """Return whether *version* replaces *other*: it differs, and where both can be compared it is the larger one."""
    if version == other:
        return False
    try:
        one, two = _RECOGNISED.read(version), _RECOGNISED.read(other)
    except ValueError:
        return True
    return one.kind != two.kind or one.order >= two.order


class Seen:
    """
    The largest checkpoint of one poll.

    Args:
        stored: Where the last whole poll ended; a re-read window must not take the checkpoint back.

    Raises:
        ValueError: *stored* is no checkpoint in this format.
    """

    def __init__(self, format: CheckpointFormat, stored: str | None) -> None:
        self._format = format
        self._largest = None if stored is None else format.read(stored)
        self._understood = stored is not None

    @property
    def largest(self) -> str | None:
        """The text of the largest so far, None where there was none."""
        return None if self._largest is None else self._largest.text

    def page(self, values: list[object], answered: datetime) -> tuple[str, ...]:
        """
        Take in the values of one page and return those that may not move the checkpoint.

        These are times later than *answered* (whole seconds: a Date has no finer grain), and what is not understood.

        Raises:
            ValueError: Nothing at all is understood so far: the format must be stated.
        """
        refused: list[str] = []
        problem = ""
        latest = (int(answered.timestamp()) + 1) * _SECOND
        for value in values:
            if value is None or value == "":
                continue
            try:
                mark = self._format.read(value)
            except ValueError as error:
                problem = str(error)
                refused.append(to_text(value)[:100])
                continue
            self._understood = True
            if (mark.instant is not None and mark.instant >= latest) or not self._comparable(mark):
                refused.append(mark.text)
            elif self._largest is None or mark.order > self._largest.order:
                self._largest = mark
        if problem and not self._understood:
            raise ValueError(problem)
        return tuple(refused)

    def _comparable(self, mark: Mark) -> bool:
        return self._largest is None or self._largest.kind == mark.kind


def _number(text: str) -> Mark:
    try:
        number = Decimal(text)
        if not number.is_finite():
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError("not a number") from None
    size = abs(number)
    timely = _SECONDS[0] <= size < _SECONDS[1] or _MILLISECONDS[0] <= size < _MILLISECONDS[1]
    return Mark(text=text, kind="number", order=number, instant=_of_epoch(number) if timely else None)


def _epoch(text: str) -> Mark:
    try:
        number = Decimal(text)
        if not number.is_finite() or abs(number) > 10**20:
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError("not seconds or milliseconds since 1970") from None
    return _instant(text, _of_epoch(number))


def _of_epoch(number: Decimal) -> int:
    return int(number * _SECOND / _unit(number))


def _unit(number: Decimal) -> int:
    """Return how many of it make a second: seconds, milli-, micro- or nanoseconds, by size alone."""
    size = abs(number)
    return 1 if size < 10**11 else 10**3 if size < 10**14 else 10**6 if size < 10**17 else 10**9


def _digits(text: str) -> int:
    return len(text.partition(".")[2])


def _iso(text: str, *, zone_needed: bool) -> Mark:
    found = _ISO.fullmatch(text)
    if not found or (zone_needed and not (found["zone"] and found["sec"])):
        raise ValueError("none of integer, epoch, RFC 3339" if zone_needed else "not an ISO 8601 time")
    return _instant(text, _local(found) - _offset(found["zone"]) * _SECOND)


def _local(found: re.Match[str]) -> int:
    days = date.fromisoformat(found["date"]).toordinal() - _EPOCH
    hours, minutes = map(int, (found["time"] or "00:00").split(":"))
    seconds = int((found["sec"] or ":00")[1:])
    if hours > 23 or minutes > 59 or seconds > 60:
        raise ValueError("not a time of day")
    fraction = int((found["frac"] or ".0")[1:][:9].ljust(9, "0"))
    return ((days * 24 + hours) * 3600 + minutes * 60 + seconds) * _SECOND + fraction


def _offset(zone: str | None) -> int:
    digits = re.sub(r"\D", "", zone or "")
    if not digits:
        return 0
    return (int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60) * (-1 if "-" in (zone or "") else 1)


def _iso_less(text: str, overlap: timedelta) -> str:
    """Return the time *text* less *overlap* in its own writing: same zone, same digits, rounded down."""
    found = _ISO.fullmatch(text)
    if not found:
        raise ValueError("not an ISO 8601 time")
    less = _local(found) - overlap // timedelta(microseconds=1) * 1000
    seconds, fraction = divmod(less, _SECOND)
    days, seconds = divmod(seconds, 86_400)
    if days + _EPOCH < 1:
        return text
    written = date.fromordinal(days + _EPOCH).isoformat()
    if found["time"] is None:
        return written
    written += f"{found['sep']}{seconds // 3600:02}:{seconds // 60 % 60:02}"
    if found["sec"]:
        written += f":{seconds % 60:02}"
    if found["frac"]:
        digits = len(found["frac"]) - 1
        written += found["frac"][0] + f"{fraction:09}".ljust(digits, "0")[:digits]
    return written + (found["zone"] or "")


@lru_cache(maxsize=4096)
def _parsed(text: str, pattern: str) -> datetime:
    try:
        found = datetime.strptime(text, pattern)  # noqa: DTZ007  a missing zone is UTC
    except ValueError:
        raise ValueError("not in the pattern of checkpoint_format") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _nanoseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def _instant(text: str, nanoseconds: int) -> Mark:
    return Mark(text=text, kind="instant", order=Decimal(nanoseconds), instant=nanoseconds)
