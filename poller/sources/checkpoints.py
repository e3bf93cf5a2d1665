"""
Checkpoints: which of two is later, whether one may move at all, and how one is handed back to its source.

A checkpoint is stored as the source's own text. Here it is compared: integers as integers, times as instants, however
their zones differ. A time without a zone is in the zone of the settings, else UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from poller.formats import to_text
from poller.sources.instants import (
    NUMBER,
    SECOND,
    Mark,
    epoch,
    instant,
    iso,
    iso_less,
    naive,
    nanoseconds,
    number,
    number_less,
    parsed,
    zoned,
)

__all__ = ["CheckpointFormat", "Mark", "Seen", "check_format", "newer", "version_order"]


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """
    How the checkpoints of one source are read and written.

    Args:
        name: ``iso``, ``epoch``, ``number`` (ids, also those large enough to pass for seconds since 1970), a strptime pattern,
            or None: integers, epoch and RFC 3339 are recognised.

        overlap: Taken off when a time is handed to the source, so that what was stamped early and shown late is read.

        zone: What a time without a zone of its own is written in.
    """

    name: str | None
    overlap: timedelta
    zone: tzinfo = UTC

    def read(self, value: object) -> Mark:
        """
        Return *value* as a mark.

        Raises:
            ValueError: It is no checkpoint in this format.
        """
        if isinstance(value, (bool, list, dict)):
            raise ValueError("neither text nor a number")  # noqa: TRY004  the one fault of a value that came
        # XML is often written with room around its texts.
        text = to_text(value).strip()
        if len(text) > 200:
            raise ValueError("too long")
        if self.name == "epoch":
            return epoch(text)
        if self.name == "number":
            return replace(number(text), instant=None)
        if self.name == "iso":
            return iso(text, self.zone, zone_needed=False)
        if self.name is not None:
            return instant(text, nanoseconds(zoned(parsed(text, self.name), self.zone)))
        if NUMBER.fullmatch(text) or not isinstance(value, str):
            return number(text)
        return iso(text, self.zone, zone_needed=True)

    def handed(self, stored: str) -> str:
        """
        Return what the source is given for *stored*: the same, less the overlap where it is a time, in the same writing.

        Raises:
            ValueError: *stored* is no checkpoint in this format.
        """
        mark = self.read(stored)
        if self.name == "number":
            return mark.text
        if self.name == "epoch" or (self.name is None and NUMBER.fullmatch(mark.text)):
            return number_less(mark, self.overlap)
        if self.name in (None, "iso"):
            return iso_less(mark.text, self.overlap + self._twice(naive(mark.text)))
        moment = parsed(mark.text, self.name or "")
        try:
            return (moment - self.overlap - self._twice(moment)).strftime(self.name or "")
        except OverflowError:
            return mark.text

    def _twice(self, moment: datetime) -> timedelta:
        """Return by how much a time without a zone may be earlier than it looks: in the hour that comes twice in autumn."""
        if moment.tzinfo is not None:
            return timedelta(0)
        first, second = (moment.replace(tzinfo=self.zone, fold=fold).utcoffset() for fold in (0, 1))
        return max(timedelta(0), (first or timedelta(0)) - (second or timedelta(0)))


#: Versions beyond this are compared for equality only.
_LARGEST: Final = 10**30
_RECOGNISED = CheckpointFormat(name=None, overlap=timedelta(0))


def check_format(name: str) -> str:
    """
    Return *name* if checkpoints can be told apart by it.

    Raises:
        ValueError: It is neither ``iso``, ``epoch`` nor ``number``, nor a pattern that holds a whole date.
    """
    if name in ("iso", "epoch", "number"):
        return name
    if "%" not in name:
        raise ValueError('is "iso", "epoch", "number" or a pattern such as "%d.%m.%Y %H:%M:%S"; left out: recognised')
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


def version_order(version: str) -> str | None:
    """
    Return a text that sorts as *version* does among versions of its kind; None where it cannot be compared.

    Texts of two kinds begin with different letters.
    """
    try:
        mark = _RECOGNISED.read(version)
    except ValueError:
        return None
    whole, digits = divmod(mark.order, 1)
    if mark.order < 0 or whole >= _LARGEST:
        return None
    return f"{mark.kind[0]}{int(whole):030d}{f'{digits:.12f}'[1:]}"


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
        latest = (int(answered.timestamp()) + 1) * SECOND
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
