"""
What is asked for one page: address, params and body, with the checkpoint and the place in the list put in.

A param, or a key of a body, whose template needs what is not there yet (the checkpoint of the first poll, the cursor of
the first page) is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from poller.clients.revealing import reveal
from poller.errors import BlockedError
from poller.sources.pagers import Request
from poller.sources.paging import PagingSettings
from poller.translate import Template, TemplateFault, compile_template
from poller.values import Secret

#: What JSON may be in a body; texts are templates.
Body = dict[str, Any] | list[Any] | str

#: A text that is only a place in the list, or is made an integer at its end, becomes a number in a JSON body.
_NUMBER = re.compile(r"\s*\{\{\s*(?:page|offset|[^{}]*\|\s*int(?:\([^{}]*\))?)\s*\}\}\s*")
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Query:
    """One request, ready to be sent but for its headers."""

    url: str
    method: str = "GET"
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


class Queries:
    """Makes the queries of one source."""

    def __init__(
        self,
        *,
        method: str,
        params: Mapping[str, str | Secret],
        body: Body | None,
        paging: PagingSettings,
    ) -> None:
        self._method = method
        self._params = {
            name: value if isinstance(value, Secret) else compile_template(value) for name, value in params.items()
        }
        self._body = body
        self._place = paging.place
        self._param = getattr(paging, "param", None)
        # Whoever puts the place into a template of his own puts the size there too.
        self._own_place = self._place is not None and self._place in names_used(params, body)

    def query(self, request: Request, checkpoint: str | None) -> Query:
        """
        Return what to send for *request*.

        Args:
            checkpoint: As it is handed to the source; None: there is none yet.

        Raises:
            BlockedError: A template cannot be rendered, or a secret cannot be had.
        """
        variables = {} if checkpoint is None else {"checkpoint": checkpoint}
        if self._place is not None and request.place is not None:
            variables[self._place] = request.place
        params: dict[str, str] = {}
        if not request.link:
            params = self._rendered_params(variables)
            if not self._own_place:
                params |= request.sizes
                if self._param and request.place is not None:
                    params[self._param] = request.place
        body = None if self._body is None else _rendered_body(self._body, variables)
        return Query(url=request.url, method=self._method, params=params, body=body)

    def _rendered_params(self, variables: Mapping[str, str]) -> dict[str, str]:
        params: dict[str, str] = {}
        for name, value in self._params.items():
            if isinstance(value, Secret):
                params[name] = reveal(value)
            elif value.names <= variables.keys():
                params[name] = _rendered(value, variables, f"params.{name}")
        return params


def names_used(params: Mapping[str, str | Secret], body: Body | None) -> frozenset[str]:
    """Return the variables that the templates of *params* and *body* use."""
    texts = [value for value in params.values() if isinstance(value, str)]
    texts += [text for _, text in body_texts(body)]
    return frozenset().union(*(compile_template(text).names for text in texts))


def body_texts(body: object, where: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the place and the text of each template in a body."""
    if isinstance(body, str):
        yield where, body
    elif isinstance(body, dict):
        for key, value in body.items():
            yield from body_texts(value, (*where, key))
    elif isinstance(body, list):
        for index, value in enumerate(body):
            yield from body_texts(value, (*where, index))


def _rendered_body(body: Body, variables: Mapping[str, str]) -> bytes:
    if isinstance(body, str):
        return _rendered(compile_template(body), variables, "body").encode()
    return json.dumps(_filled(body, variables), ensure_ascii=False).encode()


def _filled(value: object, variables: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        filled = {key: _filled(part, variables) for key, part in value.items()}
        return {key: part for key, part in filled.items() if part is not _ABSENT}
    if isinstance(value, list):
        return [part for part in (_filled(each, variables) for each in value) if part is not _ABSENT]
    if not isinstance(value, str) or "{" not in value:
        return value
    template = compile_template(value)
    if not template.names <= variables.keys():
        return _ABSENT
    text = _rendered(template, variables, "body")
    return int(text) if _NUMBER.fullmatch(value) and re.fullmatch(r"-?\d{1,40}", text) else text


def _rendered(template: Template, variables: Mapping[str, str], where: str) -> str:
    try:
        return template.render(variables)
    except TemplateFault as error:
        raise BlockedError(f"{where}: {error}") from None
