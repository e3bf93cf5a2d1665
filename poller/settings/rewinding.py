"""What an operator may set a route's checkpoint to: only what its source will understand, and never a way past records."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from poller.settings.models import Route
from poller.sources.checkpoints import CheckpointFormat, Mark

#: Longer than any checkpoint that a source gives.
_LONGEST = 2000


def checkpoint(route: Route, value: str, *, stored: str | None, now: datetime) -> str:
    """
    Return *value* as it is stored.

    Args:
        stored: The present checkpoint, None where there is none.

        now: By our clock; what lies after it has not happened.

    Raises:
        ValueError: It cannot be this route's checkpoint; says why.
    """
    source = route.source
    if not value.isprintable() or len(value) > _LONGEST:
        raise ValueError("it holds characters that no checkpoint has, or is too long")
    if getattr(getattr(source, "paging", None), "resumes", False):
        return value  # a cursor is whatever the source says
    if getattr(source, "checkpoint", None) is None:
        raise ValueError("its source has no checkpoint: each poll reads everything, so there is nothing to rewind")
    form = _form(source)
    mark = _read(form, value)
    if mark.instant is not None and mark.instant > Decimal(int(now.timestamp() * 1e9)):
        raise ValueError("it lies in the future: records up to then would never be seen")
    if stored is not None and _ahead(form, mark, stored):
        raise ValueError(f"it lies after the present one, {stored}: records between the two would never be seen")
    return mark.text


def _form(source: Any) -> CheckpointFormat:  # noqa: ANN401  the settings of any source that has checkpoints
    """Return how the source itself compares its checkpoints: sources of columns know more than those of documents."""
    form: CheckpointFormat = source.checkpoint_reading()
    return form


def _read(form: CheckpointFormat, value: str) -> Mark:
    try:
        return form.read(value)
    except ValueError as error:
        said = f'it is not understood by checkpoint_format = "{form.name}"' if form.name else "it is not understood"
        raise ValueError(f"{said}: {error}") from None


def _ahead(form: CheckpointFormat, mark: Mark, stored: str) -> bool:
    try:
        present = form.read(stored)
    except ValueError:
        return False  # what stands there is of no use: this is the way to mend it
    return present.kind == mark.kind and mark.order > present.order
