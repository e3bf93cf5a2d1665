"""One source: its first page is read, as a poll would, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from poller.clients.servicenow import ServiceNowClient
from poller.commands.checking.documents import documents
from poller.commands.checking.findings import Finding, fault, warning, well
from poller.errors import BlockedError, PollerError, TransientError
from poller.model import Page
from poller.ports import Source
from poller.settings import Route
from poller.wiring import build_source, look

#: So many names are told, and the rest counted.
_MOST: Final = 5


def source(
    name: str, route: Route, checkpoint: str | None, client: ServiceNowClient | None = None
) -> Iterator[Finding]:
    """Check the source of one route, from the checkpoint that the next poll would use, and what would be sent of it."""
    label = f"source of {name}"
    if route.source is None:
        yield well(label, "none: its records are pushed, so there is nothing to ask")
        yield from documents(name, route, ())
        return
    made = build_source(route, client)
    try:
        pages = look(route, made, checkpoint)
        page = next(iter(pages), Page(last=True))
    except PollerError as error:
        yield fault(label, *_refused(name, error))
        yield from documents(name, route, ())
        return
    yield from _first(name, label, page, checkpoint, _list(name, route))
    if not page.last:
        yield from _second(name, label, page, pages)
    _close(made)
    yield from documents(name, route, page.records)


def _refused(name: str, error: PollerError) -> tuple[str, str]:
    said = str(error)
    if "not trusted" in said:
        return said.partition("; see tls.ca")[0], f"put the PEM of its CA into routes.{name}.source.tls.ca"
    if error.evidence.status in {401, 403}:
        return said.partition("; check auth")[0], f"check routes.{name}.source.auth, and what that account may read"
    if "checkpoint" in said and isinstance(error, BlockedError):
        return said, f"see routes.{name}.source.checkpoint and checkpoint_format"
    if isinstance(error, TransientError) and error.evidence.status == 200:
        return said, f"see routes.{name}.source: url, format, records"
    return said, f"see routes.{name}.source"


def _list(name: str, route: Route) -> str:
    """Return the setting that says where the records are: of CSV and of rows, there is none."""
    has = hasattr(route.source, "records") and getattr(route.source, "format", None) != "csv"
    return f"routes.{name}.source{'.records' if has else ''}"


def _first(name: str, label: str, page: Page, checkpoint: str | None, where: str) -> Iterator[Finding]:
    count, bad = len(page.records), page.malformed
    since = "" if checkpoint is None else f" since checkpoint {checkpoint}"
    more = "" if page.last else "; more pages follow"
    told = f"{count} record{'s' * (count != 1)} on the first page{since}{more}"
    if page.checkpoint is not None:
        told += f"; the checkpoint is understood, {page.checkpoint} is the largest"
    if bad:
        said = f"{told}, and {len(bad)} that cannot be read, the first because {bad[0].reason}"
        remedy = f"mend them at the source, or see routes.{name}.source.key and fields; each becomes a dead letter"
        # Where none can be read, the settings are wrong and not the records.
        yield (warning if count else fault)(label, said, remedy)
    elif not count and checkpoint is None:
        # An expression that fits nothing looks like a system that has nothing.
        yield warning(label, told, f"if there should be some, see {where}")
    else:
        yield well(label, told)
    if page.refused:
        said = f"{len(page.refused)} checkpoint values lie in the future, such as {page.refused[0]}"
        yield warning(label, said, "their records are taken; see the clock of that system")
    yield from _empty(name, label, page)


def _empty(name: str, label: str, page: Page) -> Iterator[Finding]:
    if not page.records:
        return
    names = [field for field in page.records[0].fields if not any(each.fields.get(field) for each in page.records)]
    for field in names[:_MOST]:
        count = len(page.records)
        among = f"all {count} records" if count > 1 else "the one record"
        yield warning(
            label, f"field {field}: empty in {among}", f"see the expression routes.{name}.source.fields.{field}"
        )
    if len(names) > _MOST:
        yield warning(label, f"{len(names) - _MOST} more fields are empty in every record", "see their expressions too")


def _second(name: str, label: str, first: Page, pages: Iterator[Page]) -> Iterator[Finding]:
    remedy = f"see routes.{name}.source.paging"
    try:
        page = next(pages, None)
    except PollerError as error:
        yield fault(label, f"the second page: {error}", remedy)
        return
    if page is None:
        return
    keys = {record.key for record in first.records}
    if page.records and all(record.key in keys for record in page.records):
        yield warning(label, "the second page holds nothing but records of the first", remedy)
    elif not page.records and not page.malformed:
        yield well(label, "the second page is empty, so paging ends there")
    else:
        yield well(label, f"paging works: {len(page.records)} records on the second page")


def _close(made: Source) -> None:
    close: Callable[[], None] | None = getattr(made, "close", None)
    if close is not None:
        close()
