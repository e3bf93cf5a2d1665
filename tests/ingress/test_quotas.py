"""How much is taken of a client, of a route, of all together; and that nobody uses up what is another's. Nothing listens here."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poller.ingress import limits
from poller.ingress.app import App
from poller.ingress.house import House
from poller.ingress.limits import Buckets
from poller.ingress.principal import Principal
from poller.ingress.settings import ServerSettings
from poller.ingress.tokens import Proofs
from poller.model import Page
from tests.ingress.wire import Line


class Verifier:
    """Takes ``CLIENT.ROUTE`` as a token of that client for that route."""

    def verify(self, token: str) -> Principal:
        client, _, route = token.partition(".")
        return Principal(client=client, scopes=frozenset({f"records:write:{route}"}))

    def close(self) -> None:
        pass


class Hall:
    """Two routes that take everything; one of them five requests a minute."""

    def pushed(self, route: str) -> Any:
        most = {"narrow": 5, "wide": 0}[route]
        return SimpleNamespace(format="json", requests_per_minute=most, read=lambda *_: Page())

    def push(self, route: str, page: Page) -> list[Any]:
        return []


def app(**keys: Any) -> App:
    settings = ServerSettings.model_validate({"clients": {}} | keys)
    proofs = cast("Proofs", SimpleNamespace(verifier=Verifier(), basic=None, certificates=None, endpoint=None))
    return App(settings, cast("House", Hall()), proofs)


def push(to: App, token: str, route: str) -> tuple[int, dict[str, str]]:
    said: list[Any] = []
    environ = {
        "REQUEST_URI": f"/routes/{route}/records", "REQUEST_METHOD": "POST", "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost", "HTTP_AUTHORIZATION": f"Bearer {token}", "wsgi.input": io.BytesIO(b"[]"),
        "poller.connection": Line(),
    }  # fmt: skip
    to(environ, lambda status, headers: said.extend((int(status[:3]), dict(headers))))
    return said[0], said[1]


def test_a_route_takes_so_many_from_all_clients_together() -> None:
    one = app()

    told = [push(one, f"client{number}.narrow", "narrow") for number in range(7)]

    assert [status for status, _ in told] == [202] * 5 + [429] * 2
    assert told[0][1]["RateLimit-Remaining"] == "4"
    assert int(told[-1][1]["Retry-After"]) >= 1
    assert push(one, "client0.wide", "wide")[0] == 202


def test_all_clients_together_have_a_limit_too() -> None:
    one = app(requests_per_minute=3)

    assert [push(one, f"client{number}.wide", "wide")[0] for number in range(5)] == [202, 202, 202, 429, 429]


def test_who_may_not_speak_of_a_route_uses_up_nothing_of_it() -> None:
    one = app()

    assert {push(one, "stranger.wide", "narrow")[0] for _ in range(10)} == {403}
    assert push(one, "owner.narrow", "narrow")[0] == 202


def test_a_client_that_is_limited_costs_the_others_nothing() -> None:
    one = app(clients={"greedy": {"requests_per_minute": 2}}, requests_per_minute=10)

    assert [push(one, "greedy.wide", "wide")[0] for _ in range(20)] == [202] * 2 + [429] * 18
    assert push(one, "modest.wide", "wide")[0] == 202


def test_what_was_used_up_comes_back_with_time() -> None:
    now = [0.0]
    buckets = Buckets(lambda: now[0])
    for _ in range(60):
        assert buckets.take({"one": 60})

    quota = buckets.take({"one": 60})
    assert quota is not None
    assert quota.wait == 1
    now[0] += 1.0

    again = buckets.take({"one": 60})
    assert again is not None
    assert (again.wait, again.remaining) == (0, 0)


def test_clients_that_a_provider_names_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_BUCKETS", 100)
    now = [0.0]
    buckets = Buckets(lambda: now[0])

    for number in range(1000):
        buckets.take({f"client {number}": 60})
        now[0] += 1.0

    assert len(buckets._buckets) <= 101
