"""What those ask who watch: alive, ready, counts, and the description of the end points. Nothing of it changes anything."""

from __future__ import annotations

import functools
from typing import Final

from poller import metrics
from poller.ingress.answers import Answer, json_answer
from poller.ingress.house import House
from poller.ingress.openapi import description

#: Asked for again and again: told at debug.
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})

#: Answered without waiting for anybody; the others look into the database.
PROMPT: Final = frozenset({"healthz", "openapi"})


def answer(name: str, house: House) -> Answer:
    """Return what the end point of that name says."""
    if name == "healthz":
        return json_answer(200, {"status": "alive"})
    if name == "readyz":
        # Never a remote: a ServiceNow that is down is no reason to send pushes elsewhere.
        stuck = house.stuck()
        return json_answer(503 if stuck else 200, {"status": "stuck" if stuck else "ready", "parts": stuck})
    if name == "metrics":
        body, kind = metrics.exposition()
        return Answer(status=200, body=body, type=kind)
    return _described()


@functools.cache
def _described() -> Answer:
    return json_answer(200, description())
