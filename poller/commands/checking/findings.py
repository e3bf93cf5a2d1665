"""
What a check came to, one finding a line, and how findings are told: as they come for people, whole for machines.

A finding never holds a secret or a record's text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from poller.commands.showing import as_json, clean, say


class Status(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    #: Works, and is worth a look.
    WARNING = "warning"
    #: Does not work; the exit code is 1.
    FAULT = "fault"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check came to."""

    name: str
    status: Status
    said: str
    #: What to do; only where it is not well.
    remedy: str = ""
    #: Further lines, such as each field that differs.
    details: tuple[str, ...] = ()


def well(name: str, said: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(name=name, status=Status.OK, said=said)


def warning(name: str, said: str, remedy: str) -> Finding:
    """Return a finding that is worth a look."""
    return Finding(name=name, status=Status.WARNING, said=said, remedy=remedy)


def fault(name: str, said: str, remedy: str, details: Iterable[str] = ()) -> Finding:
    """Return a finding that is to be mended."""
    return Finding(name=name, status=Status.FAULT, said=said, remedy=remedy, details=tuple(details))


_MARKS = {Status.OK: ("✓", "ok:  "), Status.WARNING: ("!", "WARN:"), Status.FAULT: ("✗", "FAIL:")}


@dataclass(kw_only=True)
class Report:
    """
    All that was found, told as it comes.

    Args:
        machine: Nothing is told before `end`, and then as one JSON object.
    """

    machine: bool
    found: list[Finding] = field(default_factory=list)

    def tell(self, finding: Finding) -> Finding:
        """Take one finding, and show it."""
        self.found.append(finding)
        if not self.machine:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            say(clean(f"{_mark(finding.status)} {finding.name}: {finding.said}{remedy}"))
            for line in finding.details:
                say("    " + clean(line))
            sys.stdout.flush()
        return finding

    def tell_all(self, findings: Iterable[Finding]) -> int:
        """Take each of *findings* as it comes; return how many are faults."""
        return sum(self.tell(finding).status is Status.FAULT for finding in findings)

    def count(self, status: Status) -> int:
        """Return how many findings are of *status*."""
        return sum(finding.status is status for finding in self.found)

    def end(self, ahead: str) -> int:
        """Tell how it ends, and what to do next where all is well; return the exit code."""
        faults, warnings = self.count(Status.FAULT), self.count(Status.WARNING)
        step = "mend the first fault first, then: poller check" if faults else ahead
        if self.machine:
            say(as_json({"ok": not faults, "findings": self.found, "next": step}, indent=2))
        else:
            say(clean(f"{_summary(faults, warnings)} Next: {step}"))
        return 1 if faults else 0


def _summary(faults: int, warnings: int) -> str:
    if faults:
        return f"{faults} fault{'s' * (faults > 1)}."
    return f"All well but for {warnings} warning{'s' * (warnings > 1)}." if warnings else "All well."


def _mark(status: Status) -> str:
    mark, plain = _MARKS[status]
    try:
        _MARKS[Status.OK][0].encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return plain
    return mark
