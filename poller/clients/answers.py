"""
What a ServiceNow answer means.

Pure: an answer in, rows or one of `poller.errors` out. The classes are those of guarantee.md 2.3 (6): created, surely
not, unknown; when in doubt, unknown. Texts that decide are compared in lower case and were seen on real instances
(servicenow.md 2.3); a status alone decides nothing about a 400, 403 or 404 that is not in ServiceNow's own form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from poller.clients.http import Answer
from poller.clients.retry_after import retry_after
from poller.errors import (
    BlockedError,
    Evidence,
    PermanentError,
    PollerError,
    RefusedError,
    TransientError,
    UnknownOutcome,
)
from poller.model import Fields

_SYS_ID: Final = re.compile(r"[0-9a-f]{32}")
#: Surely not done, whatever the body says.
_SURELY_NOT: Final = frozenset({401, 407, 413, 414, 429})
#: Surely not done, where the body is in ServiceNow's own form.
_SURELY_NOT_IN_FORM: Final = frozenset({400, 403, 404, 405, 406, 415, 422})
_ROUTE: Final = (
    "invalid table",
    "does not represent any resource",
    "insufficient rights",
    "api level acl",
    "acl exception insert failed",
    "acl exception update failed",
)
_RECORD: Final = ("data policy exception", "aborted by business rule")
_INSERT: Final = ("error during insert", "unique key")
_DIGITS: Final = 20


class _Odd(ValueError):
    """JSON that parsers read differently."""


@dataclass(frozen=True, kw_only=True)
class Created:
    """An incident that this very request has made."""

    sys_id: str
    number: str
    row: Fields
    evidence: Evidence


def is_sys_id(value: object) -> bool:
    """Return whether *value* is 32 hexadecimal digits, in lower case as ServiceNow writes them."""
    return isinstance(value, str) and _SYS_ID.fullmatch(value) is not None


def evidence(answer: Answer, secrets: tuple[str, ...] = ()) -> Evidence:
    """
    Return what may be kept of *answer*.

    Only an error in ServiceNow's form or something that is no JSON is quoted: a row holds the texts of a record.
    """
    found = None if answer.status in {200, 201} and answer.is_json else answer.text_excerpt(secrets)
    return Evidence(
        status=answer.status, transaction_id=(answer.headers.get("x-transaction-id") or "")[:64] or None, excerpt=found
    )


def created(answer: Answer, secrets: tuple[str, ...] = ()) -> Created:
    """
    Return the incident that *answer* reports.

    Raises:
        UnknownOutcome: It does not report one for certain.

        PollerError: Its status is another than 200 and 201; see `refusal`.
    """
    if answer.status not in {200, 201}:
        raise refusal(answer, secrets)
    proof = evidence(answer, secrets)
    row = _object(answer)
    row = row.get("result") if row is not None and "error" not in row else None
    if not isinstance(row, dict) or not is_sys_id(row.get("sys_id")):
        raise UnknownOutcome(f"create: {answer.status} without an incident's sys_id came", evidence=proof)
    number = row.get("number")
    if not isinstance(number, str) or not number.strip():
        raise UnknownOutcome(f"create: {answer.status} without an incident's number came", evidence=proof)
    return Created(sys_id=row["sys_id"], number=number, row=row, evidence=proof)


def refusal(answer: Answer, secrets: tuple[str, ...] = ()) -> PollerError:
    """
    Return the error that an answer to a write is, its status being neither 200 nor 201.

    401 is the caller's: it knows which token was used.
    """
    status, proof = answer.status, evidence(answer, secrets)
    if status == 429:
        return TransientError("429: too many requests", evidence=proof, retry_after=retry_after(answer), remote=True)
    if status in {413, 414}:
        return PermanentError(f"{status}: the record is too large for the instance", evidence=proof)
    if status == 407:
        return BlockedError("407: the proxy asks for credentials", evidence=proof)
    if status == 401:
        return BlockedError("401: not authenticated", evidence=proof)
    words = _error_words(answer)
    if status not in _SURELY_NOT_IN_FORM or words is None:
        return UnknownOutcome(f"{status} came, which says neither yes nor no", evidence=proof)
    return _in_form(status, words, proof)


def _in_form(status: int, words: str, proof: Evidence) -> PollerError:
    hint = f"{status}: {_hint(words)}"
    if any(text in words for text in _INSERT):
        return PermanentError(f"{hint}", evidence=proof, insert_refused=True)
    if any(text in words for text in _ROUTE):
        return BlockedError(f"{hint}; check the table and the rights of the integration user", evidence=proof)
    if any(text in words for text in _RECORD) or status in {400, 422}:
        return PermanentError(hint, evidence=proof)
    return RefusedError(hint, evidence=proof)


def _hint(words: str) -> str:
    """Name the known text; an unknown one may quote the record and stands in the evidence only."""
    for text in (*_INSERT, *_ROUTE, *_RECORD):
        if text in words:
            return text
    return "refused in words that are not known"


def rows(answer: Answer, secrets: tuple[str, ...] = ()) -> list[Fields]:
    """
    Return the rows of a list.

    Raises:
        TransientError: No whole and proper list came; nothing of it counts.

        BlockedError: We may not read it, or there is no such table.
    """
    if answer.status != 200:
        raise no_rows(answer, secrets)
    proof = evidence(answer, secrets)
    found = _object(answer)
    if found is None:
        # HTML here is a login, a maintenance or a hibernation page: nobody else will do better just now.
        raise TransientError("200 without whole JSON came", evidence=proof, remote=not answer.is_json)
    result = found.get("result")
    if "error" in found or not isinstance(result, list) or not all(isinstance(row, dict) for row in result):
        raise TransientError("200 with an error or without rows came", evidence=proof)
    return result


def no_rows(answer: Answer, secrets: tuple[str, ...] = ()) -> PollerError:
    """Return the error that an answer to a read is, its status being another than 200."""
    status, proof = answer.status, evidence(answer, secrets)
    if status == 407:
        return BlockedError("407: the proxy asks for credentials", evidence=proof)
    if status == 401:
        return BlockedError("401: not authenticated", evidence=proof)
    if status == 403:
        return BlockedError("403: the integration user may not read this", evidence=proof)
    if status in {400, 404, 405, 406, 415} and (words := _error_words(answer)) is not None:
        return BlockedError(f"{status}: {_hint(words)}; check the table's name", evidence=proof)
    whole = status == 429 or status >= 500 or 300 <= status < 400
    return TransientError(
        f"{status} came instead of rows",
        evidence=proof,
        retry_after=retry_after(answer) if status in {429, 503} else None,
        remote=whole,
    )


def _error_words(answer: Answer) -> str | None:
    """Return message and detail in lower case; None: the body is not in ServiceNow's error form."""
    found = _object(answer)
    error = found.get("error") if found is not None and "result" not in found else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    detail = error.get("detail")
    return f"{error['message']} {detail if isinstance(detail, str) else ''}".lower()


def _object(answer: Answer) -> Fields | None:
    """Return the body as a JSON object; None: it is not wholly and unmistakably one."""
    if not answer.is_json:
        return None
    try:
        found = _DECODER.decode(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _once(pairs: Iterable[tuple[str, Any]]) -> Fields:
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Odd("a name stands twice")
    return found


def _small(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise _Odd("a number is too long")
    return int(digits)


def _constant(name: str) -> float:
    raise _Odd(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once, parse_int=_small, parse_constant=_constant)
