"""
Checkpoints that are values of a database's column: how they are compared, and bound again.

A checkpoint is kept as text. What it was can be told by its form: ``4711`` a number, ``2026-01-02T03:04:05`` a time. Times
in databases mostly have no zone, which elsewhere must be stated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from poller.sources.checkpoints import CheckpointFormat, Mark

_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?\d{1,30}\.\d{1,20}")
#: As Python writes a datetime. A text in a column mostly has a space there, and is then bound as the text that it is.
_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, kw_only=True)
class ColumnCheckpoints(CheckpointFormat):
    """
    How the checkpoints of one column are read and handed back.

    Args:
        overlap_ids: Taken off whole numbers that are no times.
    """

    overlap_ids: int = 0

    def read(self, value: object) -> Mark:
        """
        Return *value* as a mark.

        Raises:
            ValueError: It is no checkpoint in this format.
        """
        try:
            return super().read(value)
        except ValueError:
            if self.name is not None:
                raise
        return CheckpointFormat(name="iso", overlap=self.overlap, zone=self.zone).read(value)

    def handed(self, stored: str) -> str:
        """
        Return what :checkpoint is bound to: *stored* less the overlap, in the same writing.

        Raises:
            ValueError: *stored* is no checkpoint in this format.
        """
        if _INTEGER.fullmatch(stored) and self.read(stored).instant is None:
            return str(int(stored) - self.overlap_ids)
        return super().handed(stored)


def bound(text: str, dialect: str) -> object:
    """
    Return *text* as the value that is bound, in its column's own type as far as the text tells it.

    Args:
        dialect: ``postgresql`` finds the type by itself, and ``sqlite`` keeps times as the texts that it gave.
    """
    if dialect == "postgresql":
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text) if dialect == "sqlite" else Decimal(text)
    if dialect == "sqlite":
        return text
    try:
        if _DATETIME.fullmatch(text):
            return datetime.fromisoformat(text)
        return date.fromisoformat(text) if _DATE.fullmatch(text) else text
    except ValueError:
        return text
