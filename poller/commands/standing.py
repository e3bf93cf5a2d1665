"""``status``: how everything stands, and with ``--check`` whether a person is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from pydantic import TypeAdapter
from sqlalchemy import Connection

from poller import guard
from poller.clients.servicenow import ServiceNowClient
from poller.commands.opening import read_settings, reading
from poller.commands.overdue import overdue, words
from poller.commands.showing import as_json, brief, clean, say, span
from poller.model import State
from poller.settings import Route, Settings
from poller.store import reading as store_reading, standing
from poller.store.reading import RouteLine, snapshot
from poller.values import Duration
from poller.wiring import Gate, build_sink, reply_name

#: What stands for the source of a route that has none.
PUSHED = "push"
_BY_HAND = "; then: poller release ROUTE"
#: What lifts a hold, by its reason.
REMEDIES = {
    "canary": "the instance drops our condition: let the integration user read correlation_id; poller asks again by itself",
    "clock": "set the clocks right (NTP on this machine); poller asks again by itself",
    "flood": "nothing, or raise max_new_per_hour: the rest goes on as the hour allows",
    "lookup_blind": "let the integration user read the incidents it creates, and their correlation_id" + _BY_HAND,
    "correlation_altered": "stop the business rule that changes correlation_id on the instance" + _BY_HAND,
    "database_lost": "it ends by itself; on an unfinished baseline decide as docs/operations.md says" + _BY_HAND,
    "collision": "give each installation a correlation_prefix of its own" + _BY_HAND,
}
_OTHERWISE = "see the error"
_BLOCKED = "correct what the error names; poller tries again by itself"


def status(option: str | None, *, machine: bool, check: bool, max_age: str) -> int:
    """Show how everything stands."""
    oldest = _duration(max_age)
    _, settings = read_settings(option)
    now = datetime.now(UTC)
    with reading(settings) as store, snapshot(store) as connection:
        found = _Found(
            routes={line.name: line for line in store_reading.route_lines(connection)},
            counts=store_reading.counts(connection),
            waiting=store_reading.oldest_waiting(connection),
            dead_replies=store_reading.dead_replies(connection),
            guards=_guards(settings, connection),
            flooded=_flooded(settings, connection, now),
            oldest=oldest,
        )
        remotes = standing.remote_standing(connection)
    routes = [_route(name, settings.routes.get(name), found, now) for name in found.names(settings)]
    paused = [{"name": name, **asdict(each)} for name, each in sorted(remotes.items()) if each.failures]
    problems = list(_problems(routes, oldest)) if check else []
    answer: dict[str, Any] = {"at": now, "routes": routes, "remotes": paused}
    if check:
        answer["check"] = {"ok": not problems, "problems": problems}
    if machine:
        say(as_json(answer, indent=2))
    else:
        for line in _lines(answer, now):
            say(clean(line))
    return 1 if problems else 0


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the database says, all of one moment."""

    routes: dict[str, RouteLine]
    counts: dict[str, dict[str, int]]
    waiting: dict[str, datetime]
    dead_replies: dict[str, int]
    guards: dict[str, guard.InForce]
    #: Routes whose hour is used up.
    flooded: frozenset[str]
    #: How old work may be, and how late a poll.
    oldest: timedelta

    def names(self, settings: Settings) -> list[str]:
        """Return the routes in the order of the settings, then those that are in the database alone."""
        # How the replies of a route stand is told with it.
        return list(dict.fromkeys([*settings.routes, *(name for name in self.routes if "/" not in name)]))


def _duration(text: str) -> timedelta:
    try:
        return TypeAdapter(Duration).validate_python(text)
    except ValueError:
        raise click.UsageError(f'--max-age {text!r} is no duration such as "30s", "15m" or "2h"') from None


def _guards(settings: Settings, connection: Connection) -> dict[str, guard.InForce]:
    if settings.servicenow is None:
        return {}
    client = ServiceNowClient(settings.servicenow)
    found = {}
    for name, route in settings.routes.items():
        sink = build_sink(route, client, Gate())
        if sink.guarded:
            proof = standing.proof(connection, sink.guard_key())
            found[name] = guard.in_force(settings.servicenow.duplicate_guard, proof)
    client.close()
    return found


def _flooded(settings: Settings, connection: Connection, now: datetime) -> frozenset[str]:
    """Return the routes whose flood guard lets nothing more through now; no row of theirs says so."""
    return frozenset(
        line.name
        for line in store_reading.route_lines(connection)
        if (route := settings.routes.get(line.name))
        and route.most_new_per_hour
        and standing.admitted_since(connection, line.id, now - timedelta(hours=1)) >= route.most_new_per_hour
    )


def _route(name: str, route: Route | None, found: _Found, now: datetime) -> dict[str, Any]:
    line = found.routes.get(name)
    since = found.waiting.get(name)
    return {
        "name": name,
        "enabled": route is not None and route.enabled,
        "in_settings": route is not None,
        "source": (route.source.type if route.source else PUSHED) if route else None,
        "sink": route.sink.type if route else None,
        "schedule": _schedule(route) if route else None,
        "checkpoint": _checkpoint(line),
        "guard": _guard(found.guards.get(name)),
        "counts": found.counts.get(name, {}),
        "oldest_waiting": None if since is None else {"first_seen": since, "age_seconds": now - since},
        "held": _held(line) or _flood(route, flooded=name in found.flooded and since is not None),
        "blocked": _blocked(line),
        "reply": _reply(name, route, found),
        "overdue": overdue(route, line, now=now, most=found.oldest),
    }


def _reply(name: str, route: Route | None, found: _Found) -> dict[str, Any] | None:
    if (route is None or route.reply is None) and reply_name(name) not in found.routes:
        return None
    return {"dead": found.dead_replies.get(name, 0), "blocked": _blocked(found.routes.get(reply_name(name)))}


def _schedule(route: Route) -> str:
    if route.source is None:
        return "pushed"
    if route.cron is not None:
        return f"cron {route.cron} {route.timezone}"
    return f"every {span(route.every or timedelta(minutes=1))}"


def _checkpoint(line: RouteLine | None) -> dict[str, Any]:
    names = ("moved_at", "polled_at", "finished_at", "not_before", "failures", "error")
    values = {name: getattr(line, name, None) for name in names}
    return {"value": line.checkpoint if line else None, **values, "failures": line.failures if line else 0}


def _guard(found: guard.InForce | None) -> dict[str, Any] | None:
    return None if found is None else {"in_force": found.guard, "proving": found.proving, "why": found.why}


def _held(line: RouteLine | None) -> dict[str, Any] | None:
    if line is None or line.held_reason is None:
        return None
    return {
        "reason": line.held_reason,
        "error": line.held_error,
        "since": line.held_at,
        "until": line.held_until,
        "remedy": REMEDIES.get(line.held_reason, _OTHERWISE),
    }


def _flood(route: Route | None, *, flooded: bool) -> dict[str, Any] | None:
    if route is None or not flooded:
        return None
    error = f"more than {route.most_new_per_hour} new records within an hour; the rest waits"
    return {"reason": "flood", "error": error, "since": None, "until": None, "remedy": REMEDIES["flood"]}


def _blocked(line: RouteLine | None) -> dict[str, Any] | None:
    if line is None or line.blocked_until is None:
        return None
    return {
        "error": line.blocked_error,
        "failures": line.blocked_failures,
        "until": line.blocked_until,
        "remedy": _BLOCKED,
    }


def _problems(routes: list[dict[str, Any]], oldest: timedelta) -> Iterator[str]:
    """Yield what a person has to look at."""
    for route in routes:
        name = route["name"]
        if held := route["held"]:
            yield f"{name}: held ({held['reason']}): {held['remedy']}"
        if dead := route["counts"].get(State.DEAD, 0):
            yield f"{name}: {dead} dead: poller records {name} --state dead"
        if (reply := route["reply"]) and reply["dead"]:
            yield f"{name}: {reply['dead']} replies dead: poller records {name} --state replying"
        waiting = route["oldest_waiting"]
        if waiting and waiting["age_seconds"] > oldest:
            yield f"{name}: the oldest record waits for {span(waiting['age_seconds'])}: poller records {name}"
        if late := route["overdue"]:
            yield f"{name}: {words(late)}; {late['remedy']}"


# For people.


def _lines(answer: dict[str, Any], now: datetime) -> Iterator[str]:
    for route in answer["routes"]:
        yield from _route_lines(route, now)
        yield ""
    for each in answer["remotes"]:
        until = each["paused_until"]
        yield f"remote {each['name']}: paused until {brief(until)} after {each['failures']} failures: {each['error']}"
    if "check" in answer:
        yield from (f"check: {problem}" for problem in answer["check"]["problems"])
        if answer["check"]["ok"]:
            yield "check: ok"


def _route_lines(route: dict[str, Any], now: datetime) -> Iterator[str]:
    if route["in_settings"]:
        off = "" if route["enabled"] else "  (not enabled)"
        yield f"{route['name']}: {route['source']} -> {route['sink']}, {route['schedule']}{off}"
    else:
        yield f"{route['name']}: not in the settings any more"
    counts = ", ".join(f"{count} {state}" for state, count in route["counts"].items()) or "none"
    yield f"  records     {counts}"
    if waiting := route["oldest_waiting"]:
        yield f"  oldest      waits for {span(waiting['age_seconds'])}, since {brief(waiting['first_seen'])}"
    if route["source"] != PUSHED or route["checkpoint"]["polled_at"]:
        yield from _poll_lines(route["checkpoint"], now)
    if late := route["overdue"]:
        yield f"  OVERDUE     {words(late)}"
        yield f"              what to do: {late['remedy']}"
    if found := route["guard"]:
        proving = ", proving: one create at a time" if found["proving"] else ""
        yield f"  guard       {found['in_force']}{proving}: {found['why']}"
    if held := route["held"]:
        until = f", asks again {brief(held['until'])}" if held["until"] else ""
        since = f" since {brief(held['since'])}" if held["since"] else ""
        yield f"  HELD        {held['reason']}{since}{until}: {held['error']}"
        yield f"              what to do: {held['remedy']}"
    if blocked := route["blocked"]:
        yield f"  BLOCKED     until {brief(blocked['until'])}, {blocked['failures']} times: {blocked['error']}"
        yield f"              what to do: {blocked['remedy']}"
    if (reply := route["reply"]) and (reply["dead"] or reply["blocked"]):
        why = f", BLOCKED: {reply['blocked']['error']}" if reply["blocked"] else ""
        yield f"  replies     {reply['dead']} dead{why}"


def _poll_lines(checkpoint: dict[str, Any], now: datetime) -> Iterator[str]:
    polled = checkpoint["polled_at"]
    yield f"  last poll   {f'{brief(polled)}, {span(now - polled)} ago' if polled else 'none yet'}"
    if checkpoint["failures"]:
        again = f", again {brief(checkpoint['not_before'])}" if checkpoint["not_before"] else ""
        yield f"  POLL FAILED {checkpoint['failures']} times in a row{again}: {checkpoint['error']}"
    if checkpoint["value"] is not None:
        yield f"  checkpoint  {checkpoint['value']} (moved {brief(checkpoint['moved_at'])})"
