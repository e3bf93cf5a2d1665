"""``POST /api/now/v1/batch``: several calls in one, carried out one after the other, 30 s for all."""

import base64
import binascii
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from poller.sandbox.faults import error
from poller.sandbox.store import Fields
from poller.sandbox.wire import Request, Response

BUDGET = 30.0
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Batch:
    """Carries out batches with the function that carries out single calls."""

    def __init__(self, call: Callable[[Request], Response]) -> None:
        self._call = call

    def call(self, request: Request) -> Response:
        """Carry out a batch; 200 whatever becomes of its items."""
        try:
            content = json.loads(request.body)
            items = list(content["rest_requests"])
        except (ValueError, KeyError, TypeError) as problem:
            return error(400, "Exception while reading request", str(problem))
        until = time.monotonic() + BUDGET
        serviced: list[Fields] = []
        unserviced: list[str] = []
        for item in items:
            if time.monotonic() > until:
                unserviced.append(str(item.get("id", "")))
            else:
                serviced.append(self._item(item, request))
        answer: dict[str, Any] = {
            "batch_request_id": str(content.get("batch_request_id", "")),
            "serviced_requests": serviced,
            "unserviced_requests": unserviced,
        }
        return Response(200, json.dumps(answer).encode())

    def _item(self, item: Fields, outer: Request) -> Fields:
        started = time.monotonic()
        headers = {str(one["name"]).lower(): str(one["value"]) for one in item.get("headers", [])}
        path, _, query = str(item.get("url", "")).partition("?")
        try:
            body = base64.b64decode(item.get("body", "") or "")
        except binascii.Error:
            body = b""
        method = str(item.get("method", "GET")).upper()
        inner = Request(method, str(item.get("url", "")), headers, body, outer.arrived, path=unquote(path), query=query)
        inner.identity = outer.identity
        response = self._call(inner)
        shown = (
            []
            if item.get("exclude_response_headers")
            else [{"name": name, "value": value} for name, value in response.headers]
        )
        return {
            "id": str(item.get("id", "")),
            "status_code": response.status,
            "status_text": _PHRASES.get(response.status, ""),
            "headers": shown,
            "body": base64.b64encode(response.body).decode(),
            "execution_time": int((time.monotonic() - started) * 1000),
        }
