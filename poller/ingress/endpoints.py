"""The end points: their paths, methods, and what a caller must be allowed to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from poller.ingress.answers import Problem
from poller.ingress.requests import Request


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One end point."""

    name: str
    method: str
    #: As the description and the log have it, ``/routes/{route}/records``.
    template: str
    #: The scope that is needed, for the route where there is one; None: anybody may.
    act: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The template in its parts."""
        return tuple(self.template.split("/")[1:])


ENDPOINTS: Final = (
    Endpoint(name="push", method="POST", template="/routes/{route}/records", act="records:write"),
    Endpoint(name="record", method="GET", template="/routes/{route}/records/{key}", act="records:read"),
    Endpoint(name="poll", method="POST", template="/routes/{route}/poll", act="poll"),
    Endpoint(name="token", method="POST", template="/oauth/token"),
    Endpoint(name="healthz", method="GET", template="/healthz"),
    Endpoint(name="readyz", method="GET", template="/readyz"),
    Endpoint(name="metrics", method="GET", template="/metrics", act="metrics"),
    Endpoint(name="openapi", method="GET", template="/openapi.json"),
)


def find(request: Request) -> tuple[Endpoint, dict[str, str]]:
    """
    Return the end point of a request, and what stands in its path.

    Raises:
        Problem: 404 or 405.
    """
    allowed: list[str] = []
    for endpoint in ENDPOINTS:
        values = _match(endpoint.parts, request.path)
        if values is None:
            continue
        if request.method == endpoint.method or (request.method == "HEAD" and endpoint.method == "GET"):
            return endpoint, values
        allowed += ["GET", "HEAD"] if endpoint.method == "GET" else [endpoint.method]
    if allowed:
        raise Problem(405, "this end point knows other methods", headers=[("Allow", ", ".join(allowed))])
    raise Problem(404, "there is nothing here; see /openapi.json")


def _match(parts: tuple[str, ...], path: tuple[str, ...]) -> dict[str, str] | None:
    if len(parts) != len(path):
        return None
    values = {}
    for part, given in zip(parts, path, strict=True):
        if part.startswith("{"):
            if not given:
                return None
            values[part[1:-1]] = given
        elif part != given:
            return None
    return values
