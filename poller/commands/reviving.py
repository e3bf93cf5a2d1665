"""``retry`` and ``skip``: what an operator wants of single records, or of all in one state, while the daemon goes on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import click

from poller.acts import RETRIED, SKIPPED, Answer
from poller.commands.opening import read_settings, reading
from poller.commands.operating import moment
from poller.commands.showing import as_json, clean, say, warn
from poller.model import State
from poller.settings import Settings
from poller.store import Store, reviving
from poller.store.reviving import Told, Wish
from poller.store.standing import routes_standing

_STATES = {"retry": RETRIED, "skip": SKIPPED}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line of ``retry`` or ``skip``."""

    act: str
    route: str
    keys: tuple[str, ...]
    state: str | None
    reason: str
    dry_run: bool
    yes: bool
    machine: bool


def act(settings_option: str | None, asked: Asked) -> int:
    """Act on records; 1 where one of them could not be acted on as asked."""
    _understood(asked)
    _, settings = read_settings(settings_option)
    with reading(settings) as store:
        with store.read() as connection:
            route = routes_standing(connection).get(asked.route)
            if route is None:
                warn(clean(f"poller {asked.act}: route {asked.route} is not known; poller status lists the routes"))
                return 1
            ids = _meant(store, asked, route.id)
        if asked.state is not None and not _sure(asked, len(ids)):
            warn("nothing was changed")
            return 1
        state = None if asked.state is None else State(asked.state)
        wish = Wish(act=asked.act, route_id=route.id, reason=clean(asked.reason.strip()), state=state)
        code = _tell(asked, _answers(store, asked, wish, ids))
    _remind(settings, asked)
    return code


def _understood(asked: Asked) -> None:
    if bool(asked.keys) == (asked.state is not None):
        raise click.UsageError("name either KEYs or --state STATE")
    allowed = [str(state) for state in _STATES[asked.act]]
    if asked.state is not None and asked.state not in allowed:
        raise click.UsageError(f"--state {asked.state}: {asked.act} takes one of {', '.join(allowed)}")
    if not asked.reason.strip():
        raise click.UsageError("--reason: say why; it is kept with the act")


def _meant(store: Store, asked: Asked, route_id: int) -> list[int]:
    with store.read() as connection:
        if asked.state is not None:
            return reviving.in_state(connection, route_id, State(asked.state))
        return list(reviving.with_keys(connection, route_id, _keys(asked)).values())


def _keys(asked: Asked) -> list[str]:
    """Return the keys once each; bytes that are no text in any encoding cannot be a key."""
    return [key for key in dict.fromkeys(asked.keys) if key.isascii() or _is_text(key)]


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sure(asked: Asked, count: int) -> bool:
    """Ask before many are acted on; only somebody who can answer is asked."""
    if asked.yes or asked.dry_run or not count or not sys.stdin.isatty():
        return True
    records = "1 record" if count == 1 else f"{count} records"
    question = f"{asked.act} {records} of route {asked.route} in state {asked.state}?"
    return click.confirm(clean(question), default=False, err=True)


def _answers(store: Store, asked: Asked, wish: Wish, ids: Sequence[int]) -> Iterator[Told]:
    if asked.dry_run:
        with store.read() as connection:
            yield from reviving.foresee(connection, wish, ids)
    else:
        yield from reviving.carry_out(store, wish, ids, lambda: moment(store))
    if asked.keys:
        with store.read() as connection:
            known = reviving.with_keys(connection, wish.route_id, _keys(asked))
        for key in dict.fromkeys(asked.keys):
            if key not in known:
                said = f"there is no such record; poller records {asked.route} lists them"
                yield Told(key=key, was=None, now=None, answer=Answer.REFUSED, said=said)


def _tell(asked: Asked, answers: Iterator[Told]) -> int:
    counts: Counter[Answer] = Counter()
    records = []
    for each in answers:
        counts[each.answer] += 1
        if asked.machine:
            records.append(asdict(each))
        elif asked.keys or asked.dry_run or each.answer is not Answer.DONE:
            say(clean(_line(asked, each)))
    if asked.machine:
        numbers = {str(answer): counts[answer] for answer in Answer}
        say(as_json({"act": asked.act, "route": asked.route, "dry_run": asked.dry_run, **numbers, "records": records}))
    elif asked.state is not None:
        say(_summary(asked, counts))
    return 1 if counts[Answer.REFUSED] else 0


def _line(asked: Asked, each: Told) -> str:
    states = "" if each.was is None else f"{each.was}, " if each.was == each.now else f"{each.was} -> {each.now}, "
    would = "would be: " if asked.dry_run and each.answer is Answer.DONE else ""
    kind = "" if each.answer is Answer.DONE else f"{each.answer}: "
    return f"{asked.route}/{each.key}: {kind}{would}{states}{each.said}"


def _summary(asked: Asked, counts: Counter[Answer]) -> str:
    would = "would be " if asked.dry_run else ""
    past = {"retry": "retried", "skip": "skipped"}[asked.act]
    others = "".join(f", {counts[each]} {each}" for each in (Answer.KEPT, Answer.REFUSED) if counts[each])
    return f"{counts[Answer.DONE]} {would}{past}{others}"


def _remind(settings: Settings, asked: Asked) -> None:
    """Say so where nobody will deliver what was just revived."""
    if asked.act == "retry" and (asked.route not in settings.routes or not settings.routes[asked.route].enabled):
        warn(clean(f"route {asked.route} is not in the settings, or not enabled: nothing of it is delivered"))
