"""
The description of the end points, OpenAPI 3.1: what ``/openapi.json`` shows.

It names no route and no client: whoever may not know them learns nothing here.
"""

from __future__ import annotations

from typing import Any, Final

from poller import __version__
from poller.ingress.endpoints import ENDPOINTS, Endpoint

_STATES: Final = (
    "pending", "ready", "sending", "unknown", "waiting", "dead", "replying", "delivered", "skipped",
)  # fmt: skip
_NULLABLE: Final = {"type": ["string", "null"]}
_BRIEF: Final[dict[str, Any]] = {
    "key": {"type": "string"},
    "state": {"enum": list(_STATES)},
    "number": _NULLABLE | {"description": "of the incident, once it is known"},
    "sys_id": _NULLABLE,
    "reason": _NULLABLE | {"description": "why it is dead, waits or was skipped"},
}
_SCHEMAS: Final[dict[str, Any]] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    },
    "Brief": {"type": "object", "required": ["key", "state"], "properties": _BRIEF},
    "Pushed": {
        "type": "object",
        "required": ["route", "records"],
        "properties": {
            "route": {"type": "string"},
            "records": {"type": "array", "items": {"$ref": "#/components/schemas/Brief"}},
        },
    },
    "Record": {
        "type": "object",
        "required": ["route", "key", "state", "version", "correlation_id", "first_seen"],
        "properties": {"route": {"type": "string"}}
        | _BRIEF
        | {
            "version": {"type": "string"},
            "correlation_id": {"type": "string"},
            "first_seen": {"type": "string", "format": "date-time"},
            "settled_at": _NULLABLE,
        },
    },
    "Ring": {
        "type": "object",
        "required": ["route", "poll"],
        "properties": {"route": {"type": "string"}, "poll": {"const": "soon"}},
    },
    "Alive": {"type": "object", "required": ["status"], "properties": {"status": {"const": "alive"}}},
    "Ready": {
        "type": "object",
        "required": ["status", "parts"],
        "properties": {
            "status": {"enum": ["ready", "stuck"]},
            "parts": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Token": {
        "type": "object",
        "required": ["access_token", "token_type", "expires_in"],
        "properties": {
            "access_token": {"type": "string"},
            "token_type": {"const": "Bearer"},
            "expires_in": {"type": "integer"},
            "scope": {"type": "string"},
        },
    },
    "TokenError": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
    },
}
_ANY_DOCUMENT: Final = {"type": ["object", "array"]}
_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "push": ("Send one record or many", "Answered once they are committed; the same key again gives the same answer."),
    "record": ("Ask how a record stands", "Its state, and the incident's number and sys_id once they are known."),
    "poll": ("Ring the doorbell", "The route is polled soon. Nothing of the body is used."),
    "token": (
        "Fetch a token",
        "Client credentials alone (RFC 6749 section 4.4). 404 where tokens come from elsewhere.",
    ),
    "healthz": ("Alive", "The process answers."),
    "readyz": ("Ready", "Database, dispatcher and scheduler move; never a remote."),
    "metrics": ("Counts", "Prometheus text. Open to this machine where the ingress listens there alone."),
    "openapi": ("This description", "OpenAPI 3.1."),
}
#: Status -> (schema, media type).
_DONE: Final[dict[str, tuple[int, str | None, str]]] = {
    "push": (202, "Pushed", "application/json"),
    "record": (200, "Record", "application/json"),
    "poll": (202, "Ring", "application/json"),
    "token": (200, "Token", "application/json"),
    "healthz": (200, "Alive", "application/json"),
    "readyz": (200, "Ready", "application/json"),
    "metrics": (200, None, "text/plain"),
    "openapi": (200, None, "application/json"),
}
_ALWAYS: Final = (400, 408, 414, 421, 431, 500)
_KNOWN: Final = (401, 403, 429, 503)
_BODY: Final = (413, 415)


def description() -> dict[str, Any]:
    """Return the whole document."""
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.template, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Incident Poller", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "client": {"type": "http", "scheme": "basic"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    summary, text = _TEXTS[endpoint.name]
    found: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": summary,
        "description": text + (f" Scope: {endpoint.act}." if endpoint.act else ""),
        "responses": _responses(endpoint),
    }
    if names := [part[1:-1] for part in endpoint.parts if part.startswith("{")]:
        found["parameters"] = [_parameter(name) for name in names]
    if endpoint.act is not None:
        found["security"] = [{"token": []}, {"certificate": []}]
    if endpoint.name == "token":
        # Or in the form.
        found["security"] = [{"client": []}, {}]
    if endpoint.name == "metrics":
        # From this machine, where the ingress listens there alone.
        found["security"].append({})
    if body := _body(endpoint.name):
        found["requestBody"] = body
    return found


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _body(name: str) -> dict[str, Any] | None:
    if name == "push":
        return {"required": True, "content": {"application/json": {"schema": _ANY_DOCUMENT}}}
    if name == "token":
        form = {
            "type": "object",
            "required": ["grant_type"],
            "properties": {
                "grant_type": {"const": "client_credentials"},
                "client_id": {"type": "string"},
                "client_secret": {"type": "string"},
                "scope": {"type": "string"},
            },
            # What nobody knows is ignored, as RFC 6749 wants it; nothing may come twice, which a list would.
            "additionalProperties": {"type": "string"},
            "maxProperties": 20,
        }
        return {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}}
    return None


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    status, schema, kind = _DONE[endpoint.name]
    shown = {"schema": {"$ref": f"#/components/schemas/{schema}"}} if schema else {}
    found: dict[str, Any] = {str(status): {"description": "done", "content": {kind: shown}}}
    others = {*_ALWAYS, *(_KNOWN if endpoint.act else ()), *(_BODY if endpoint.method == "POST" else ())}
    if endpoint.parts[0] == "routes" or endpoint.name == "token":
        others.add(404)
    for each in sorted(others):
        found[str(each)] = _problem("Problem", "application/problem+json")
    if endpoint.name == "token":
        for each in (400, 401, 429):
            found[str(each)] = _problem("TokenError", "application/json")
    if endpoint.name == "readyz":
        found["503"] = {"description": "stuck", "content": {kind: shown}}
    return found


def _problem(schema: str, kind: str) -> dict[str, Any]:
    return {"description": "not done", "content": {kind: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
