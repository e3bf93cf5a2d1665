"""
What is wrong between values of the settings that may each be right.

It works on the file as written, so that one wrong value does not hide another.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Set as AbstractSet
from typing import Any

from pydantic import BaseModel

from poller.settings import shape
from poller.settings.models import Route
from poller.settings.positions import Path
from poller.settings.problems import Problem, key
from poller.sinks.servicenow_settings import ServiceNowSinkSettings, UnknownUser
from poller.translate import compile_template

#: What the templates of a sink see besides the names under ``fields``.
_ALWAYS = frozenset({"key", "version"})
#: The forms of a sink's field, told by one key, and the key whose text is a template.
_TEMPLATED = {"user": "user", "lookup": "value", "from": "from"}
#: What the templates of a reply see besides.
_REPLY = frozenset({"number", "sys_id"})
#: Keys of a sink that is not ServiceNow whose texts are templates.
_TEMPLATES = ("fields", "url", "name")
#: Keys of a route that no document of another system is likely to have.
_OF_ROUTES = frozenset({"every", "cron", "first_run", "on_change", "enabled", "max_new_per_hour", "previously"})
#: Variables of the sink's fields where none are given.
_DEFAULT_NAMES = ("username", "title", "description")


def between(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong between values that may each be right."""
    routes = {name: route for name, route in _table(raw, "routes").items() if isinstance(route, dict)}
    for name, route in routes.items():
        path = ("routes", name)
        yield from _ends(raw, route, path)
        yield from _names_seen(route, path)
        yield from _trapped(raw, path)
        for end in ("sink", "source"):
            if _table(route, end).get("type") == "servicenow" and "servicenow" not in raw:
                text = f"is required, because routes.{key(name)}.{end} is of type servicenow"
                yield Problem(path=("servicenow",), text=text, at=(*path, end))
                break
        yield from _not_from(route, path, routes)
    yield from _renamed(routes)
    yield from _clients(raw, routes)


def _clients(raw: Mapping[str, Any], routes: Mapping[str, Any]) -> Iterator[Problem]:
    """Clients are for routes that there are."""
    server = _table(raw, "server")
    clients = _table(server, "clients")
    for name, client in clients.items():
        if not isinstance(client, dict):
            continue
        for part, spoken in (("routes", lambda text: text), ("scopes", _route_of_scope)):
            given = client.get(part)
            for index, text in enumerate(given if isinstance(given, list) else ()):
                route = spoken(text) if isinstance(text, str) else None
                if route is not None and route not in routes:
                    place = ("server", "clients", name, part, index)
                    yield Problem(path=place, text=f"{route[:80]} is no route; routes: {', '.join(routes)}")


def _route_of_scope(scope: str) -> str | None:
    for act in ("records:write:", "records:read:", "poll:"):
        if scope.startswith(act):
            return scope.removeprefix(act)
    return None


def _not_from(route: Mapping[str, Any], path: Path, routes: Mapping[str, Any]) -> Iterator[Problem]:
    """What a source leaves out was made by a route that there is."""
    names = _table(route, "source").get("not_from")
    for index, name in enumerate(names if isinstance(names, list) else ()):
        if isinstance(name, str) and name not in routes:
            close = difflib.get_close_matches(name, routes, n=1)
            hint = f"did you mean {close[0]}?" if close else f"routes: {', '.join(routes)}"
            yield Problem(path=(*path, "source", "not_from", index), text=f"{name[:80]} is no route; {hint}")


def _table(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, dict) else {}


def _parts(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = raw.get(key)
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


def _ends(raw: Mapping[str, Any], route: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """A route polls, or is pushed to, or both; what concerns polls alone is not for one that is only pushed to."""
    if "push" in route and "server" not in raw:
        text = "needs [server], which is left out: nothing listens, and nobody could push"
        yield Problem(path=(*path, "push"), text=text)
    if "source" in route:
        yield from _when(route, path)
        if "first_run" not in route:
            yield Problem(path=(*path, "first_run"), text='is required: "all" or "baseline"', at=path)
        return
    if "push" not in route:
        yield Problem(path=(*path, "source"), text="is required, or else push", at=path)
        return
    for name in ("every", "cron", "timezone", "first_run"):
        if name in route:
            yield Problem(path=(*path, name), text="has a meaning only beside a source; leave it out")


def _when(route: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    if "every" in route and "cron" in route:
        yield Problem(path=(*path, "cron"), text="give either every or cron, not both")
    elif "every" not in route and "cron" not in route:
        yield Problem(
            path=(*path, "every"), text='is required, such as "30s"; or else cron, such as "*/5 * * * mon-fri"'
        )
    if "timezone" in route and "cron" not in route:
        yield Problem(path=(*path, "timezone"), text="has a meaning only beside cron; leave it out")


def _names_seen(route: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """Templates of the sink and of the reply may only use what the source gives, and what is pushed."""
    for end in ("source", "push"):
        fields = _table(route, end).get("fields")
        if end == "push" and not isinstance(fields, dict) and _parts(_table(route, "source"), "detail"):
            # Nothing is asked for what is pushed: details have to be in it.
            fields = _table(route, "source").get("fields")
        if isinstance(fields, dict) and end in route:
            yield from _names_of(route, path, end, fields)


def _names_of(route: Mapping[str, Any], path: Path, end: str, fields: Mapping[str, Any]) -> Iterator[Problem]:
    """Hold the templates against the names that one end of the route gives."""
    sink = _table(route, "sink")
    parts = _parts(_table(route, end), "detail")
    followed = [part["fields"] for part in parts if isinstance(part.get("fields"), dict)]
    known = {*fields, *(name for each in followed for name in each), *_ALWAYS}
    servicenow = sink.get("type") == "servicenow"
    if "fields" not in sink and servicenow and sink.get("table", "incident") == "incident":
        for name in _DEFAULT_NAMES:
            if name not in known:
                text = f"is required, because sink.fields is left out and uses {{{{ {name} }}}} by default"
                yield Problem(path=(*path, end, "fields", name), text=text, at=(*path, end, "fields"))
    for part in _TEMPLATES if not servicenow else ("fields", "update_fields"):
        # The name of a file may hold a part of the message's own id.
        besides = frozenset({"id"}) if part == "name" else frozenset()
        yield from _unknown(sink.get(part), (*path, "sink", part), known | besides)
    for part in ("url", "body"):
        yield from _unknown(_table(route, "reply").get(part), (*path, "reply", part), known | _REPLY)


def _unknown(value: object, path: Path, known: AbstractSet[str]) -> Iterator[Problem]:
    """Yield each name that templates in *value* use and nobody gives."""
    for where, text in _texts(value, path):
        try:
            names = compile_template(text).names if "{" in text else frozenset()
        except ValueError as error:
            yield Problem(path=where, text=str(error))
            continue
        for name in sorted(names - known):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
            yield Problem(path=where, text=f"unknown template variable {name[:80]}; {hint}")


def _trapped(raw: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """A key of the route that was typed below ``[….sink.fields]`` would become a column, or an element."""
    fields = shape.at((*path, "sink", "fields"), raw)
    # From the models, not from their schema, which takes a quarter of a second to make.
    keys: AbstractSet[str] = _keys(Route) | _keys(ServiceNowSinkSettings) | _keys(UnknownUser)
    if shape.at((*path, "sink", "type"), raw) != "servicenow":
        # Documents of other systems have elements of any name, "type" and "url" among them.
        keys = _OF_ROUTES
    for name in fields if isinstance(fields, dict) else ():
        if name in keys:
            text = "is a key of the route or its sink, not a column; put it above [….sink.fields]"
            yield Problem(path=(*path, "sink", "fields", name), text=text)


def _keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _texts(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        form = next((_TEMPLATED[name] for name in _TEMPLATED if name in value), None)
        for key, part in value.items():
            if form in (None, key):
                yield from _texts(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _texts(part, (*path, index))


def _renamed(routes: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, route in routes.items():
        before = route.get("previously")
        if not isinstance(before, str):
            continue
        if before in routes:
            yield Problem(path=("routes", name, "previously"), text="is the name of a route that still exists")
        elif before in seen:
            yield Problem(path=("routes", name, "previously"), text=f"routes.{key(seen[before])} claims the same name")
        seen[before] = name
