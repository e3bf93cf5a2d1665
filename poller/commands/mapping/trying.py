"""Run mapping tests: the sample through the route's own source and sink, held against what is expected, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from poller.commands.checking.findings import Finding, fault, well
from poller.commands.mapping.given import Known
from poller.commands.mapping.shape import Broken, MappingTest, read_test
from poller.commands.showing import cut
from poller.errors import PollerError
from poller.identity import correlation_id, derived_sys_id
from poller.model import NotYet, Ready, Record, SourceRecord, Undeliverable
from poller.settings import Settings
from poller.wiring import Gate, build_sink, read_sample, sample_format

#: What the sink adds to each body.
OURS = frozenset({"correlation_id", "correlation_display"})
#: Of a text that differs, so much is shown.
_SHOWN = 200


def findings(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Run each ``*.toml`` in *folder*; yield a finding for each."""
    if not folder.is_dir():
        yield fault("tests", f"{folder} is no folder", "name the one that holds your mapping tests: --tests DIR")
        return
    files = sorted(folder.glob("*.toml"))
    if not files:
        yield fault(
            "tests", f"{folder} holds no *.toml", f"poller preview ROUTE --save {folder}/one.toml makes the first"
        )
    for path in files:
        yield tried(settings, path)


def tried(settings: Settings, path: Path) -> Finding:
    """Run one file."""
    name = f"test {path.name}"
    try:
        test = read_test(path, list(settings.routes))
        different = differences(settings, test)
    except Broken as error:
        problems = [str(each) for each in error.args]
        return fault(name, problems[0], "see docs/recipes/mapping-tests.md", problems[1:])
    except (PollerError, ValueError) as error:
        return fault(name, f"{path.name}: {error}", "see its sample and its look-ups")
    if different:
        count = len(different)
        said = f"{count} difference{'s' * (count > 1)} from what is expected"
        return fault(name, said, f"mend routes.{test.route}, or the file where the new way is right", different)
    return well(name, "the sample becomes what is expected")


def differences(settings: Settings, test: MappingTest) -> list[str]:
    """
    Return what is otherwise than expected, a line each.

    Raises:
        ValueError: The sample is not one record of the route's format.

        PollerError: The look-ups of the file do not do.
    """
    route = settings.routes[test.route]
    page = read_sample(route, test.sample.text, test.sample.format or sample_format(route))
    if page.malformed:
        return _reason(test, f"it cannot be read: {page.malformed[0].reason}")
    (found,) = page.records
    different = []
    if test.expect.key not in {None, found.key}:
        different.append(_differs("key", test.expect.key, found.key))
    body, reason = _prepared(settings, test, found)
    if body is None:
        return different + _reason(test, reason)
    if test.expect.fields is None:
        return [*different, f"expected: not to be delivered ({test.expect.reason}); it would be posted"]
    return different + list(_fields(test.expect.fields, body))


def _prepared(settings: Settings, test: MappingTest, found: SourceRecord) -> tuple[dict[str, str] | None, str]:
    """Return the body, or None and why there is none."""
    client = None
    if settings.servicenow is not None:
        client = Known(settings.servicenow, rows=test.rows(), lengths=test.lengths)
    prefix = settings.servicenow.correlation_prefix if settings.servicenow else ""
    now = datetime.now(UTC)
    record = Record(
        route=test.route,
        key=found.key,
        version=found.version,
        fields={**found.fields, **test.sample.fields},
        correlation_id=correlation_id(prefix, test.route, found.key),
        derived_sys_id=derived_sys_id(prefix, test.route, found.key),
        first_seen=now,
    )
    (answer,) = build_sink(settings.routes[test.route], client, Gate()).prepare([record], now=now)
    if isinstance(answer, Undeliverable | NotYet):
        return None, answer.reason
    assert isinstance(answer, Ready)  # noqa: S101  nothing is there already where nobody is asked
    body: dict[str, str] = json.loads(answer.body)
    return {name: value for name, value in body.items() if name not in OURS}, ""


def _reason(test: MappingTest, reason: str) -> list[str]:
    if test.expect.reason is None:
        return [f"expected to be posted; it cannot be: {reason}"]
    if test.expect.reason in reason:
        return []
    return [_differs("reason", test.expect.reason, reason)]


def _fields(expected: Mapping[str, str], came: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys((*expected, *came)):
        if name not in came:
            yield f"{name}: expected {_text(expected[name])}, is not sent"
        elif name not in expected:
            yield f"{name}: not expected, came {_text(came[name])}"
        elif expected[name] != came[name]:
            yield _differs(name, expected[name], came[name])


def _differs(name: str, expected: str | None, came: str) -> str:
    return f"{name}: expected {_text(expected or '')}, came {_text(came)}"


def _text(value: str) -> str:
    return json.dumps(cut(value, _SHOWN), ensure_ascii=False)
