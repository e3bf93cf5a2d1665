"""
Times and numbers in the writings that sources use, as nanoseconds since 1970 and back.

Pure. What is not understood raises a ValueError of one line that does not repeat the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache

SECOND = 1_000_000_000
_EPOCH = date(1970, 1, 1).toordinal()
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:(?P<sep>[Tt ])(?P<time>\d\d:\d\d)(?P<sec>:\d\d)?(?P<frac>[.,]\d{1,12})?(?P<zone> ?(?:[Zz]|[+-]\d\d(?::?\d\d)?))?)?"
)
NUMBER = re.compile(r"-?\d{1,40}(?:\.\d{1,20})?")
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


def number(text: str) -> Mark:
    """Return a number; it is a time too where its size says so."""
    try:
        number = Decimal(text)
        if not number.is_finite():
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError("not a number") from None
    size = abs(number)
    timely = _SECONDS[0] <= size < _SECONDS[1] or _MILLISECONDS[0] <= size < _MILLISECONDS[1]
    return Mark(text=text, kind="number", order=number, instant=_of_epoch(number) if timely else None)


def epoch(text: str) -> Mark:
    """Return a time in seconds, milli-, micro- or nanoseconds since 1970, told apart by size."""
    try:
        number = Decimal(text)
        if not number.is_finite() or abs(number) > 10**20:
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError("not seconds or milliseconds since 1970") from None
    return instant(text, _of_epoch(number))


def _of_epoch(number: Decimal) -> int:
    return int(number * SECOND / _unit(number))


def _unit(number: Decimal) -> int:
    """Return how many of it make a second: seconds, milli-, micro- or nanoseconds, by size alone."""
    size = abs(number)
    return 1 if size < 10**11 else 10**3 if size < 10**14 else 10**6 if size < 10**17 else 10**9


def _digits(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def number_less(mark: Mark, overlap: timedelta) -> str:
    """Return a number that is a time less *overlap*, with as many digits; rounded down."""
    if not overlap or mark.instant is None:
        return mark.text
    stored = Decimal(mark.text)
    less = stored - Decimal(overlap // timedelta(microseconds=1)) / 1_000_000 * _unit(stored)
    return format(less.quantize(Decimal(1).scaleb(-_digits(stored)), "ROUND_FLOOR"), "f")


def iso(text: str, zone: tzinfo, *, zone_needed: bool) -> Mark:
    """Return an ISO 8601 time, in *zone* where it has none of its own."""
    found = _ISO.fullmatch(text)
    if not found or (zone_needed and not (found["zone"] and found["sec"])):
        raise ValueError("none of integer, epoch, RFC 3339" if zone_needed else "not an ISO 8601 time")
    nanoseconds = _local(found) - _offset(found["zone"]) * SECOND
    if not found["zone"] and zone is not UTC:
        nanoseconds -= (naive(text).replace(tzinfo=zone).utcoffset() or timedelta(0)) // timedelta(seconds=1) * SECOND
    return instant(text, nanoseconds)


def naive(text: str) -> datetime:
    """Return the clock time of an ISO text to the minute; aware where the text has a zone."""
    found = _ISO.fullmatch(text)
    if not found:
        raise ValueError("not an ISO 8601 time")
    moment = datetime.fromisoformat(f"{found['date']}T{found['time'] or '00:00'}")
    return moment.replace(tzinfo=UTC) if found["zone"] else moment


def _local(found: re.Match[str]) -> int:
    days = date.fromisoformat(found["date"]).toordinal() - _EPOCH
    hours, minutes = map(int, (found["time"] or "00:00").split(":"))
    seconds = int((found["sec"] or ":00")[1:])
    if hours > 23 or minutes > 59 or seconds > 60:
        raise ValueError("not a time of day")
    fraction = int((found["frac"] or ".0")[1:][:9].ljust(9, "0"))
    return ((days * 24 + hours) * 3600 + minutes * 60 + seconds) * SECOND + fraction


def _offset(zone: str | None) -> int:
    digits = re.sub(r"\D", "", zone or "")
    if not digits:
        return 0
    return (int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60) * (-1 if "-" in (zone or "") else 1)


def iso_less(text: str, overlap: timedelta) -> str:
    """Return the time *text* less *overlap* in its own writing: same zone, same digits, rounded down."""
    found = _ISO.fullmatch(text)
    if not found:
        raise ValueError("not an ISO 8601 time")
    less = _local(found) - overlap // timedelta(microseconds=1) * 1000
    seconds, fraction = divmod(less, SECOND)
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
def parsed(text: str, pattern: str) -> datetime:
    """Return what strptime makes of *text*; naive where *pattern* has no zone."""
    try:
        return datetime.strptime(text, pattern)  # noqa: DTZ007  a missing zone is that of the settings
    except ValueError:
        raise ValueError("not in the pattern of checkpoint_format") from None


def zoned(moment: datetime, zone: tzinfo) -> datetime:
    """Return *moment* in *zone*, unless it has one of its own."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def nanoseconds(moment: datetime) -> int:
    """Return *moment*, which is aware, as nanoseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def instant(text: str, nanoseconds: int) -> Mark:
    """Return the mark of a time."""
    return Mark(text=text, kind="instant", order=Decimal(nanoseconds), instant=nanoseconds)
