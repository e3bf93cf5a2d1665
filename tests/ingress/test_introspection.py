"""Opaque tokens, asked about; nobody comes in on a guess."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import pytest

from poller.clients.http import HttpRemote
from poller.ingress.auth_settings import AuthSettings
from poller.ingress.principal import Refused, Undecided
from poller.ingress.tokens import introspection
from poller.ingress.tokens.introspection import IntrospectionVerifier
from tests.clients.fake import Act, Arrived, Fake, answer, serving
from tests.ingress.tokens_house import Ticks, client

RIGHT = {"active": True, "client_id": "pusher", "scope": "records:write", "aud": "poller", "iss": "https://id.example"}


def judge(fake: Fake, ticks: Callable[[], float] | None = None, **given: Any) -> IntrospectionVerifier:
    settings = AuthSettings.model_validate(
        {"introspection_url": f"{fake.url}/look", "client_id": "me:", "client_secret": "s p+ä", **given}
    )
    clients = {"known": client(scopes=["poll"])}
    return IntrospectionVerifier(settings, HttpRemote(settings), clients, clock=ticks or Ticks())


def saying(value: Any) -> Callable[[Arrived], Act]:
    return lambda _: Act(answer(value if isinstance(value, bytes) else json.dumps(value).encode()))


@contextmanager
def provider(value: Any) -> Iterator[Fake]:
    with serving(value if callable(value) else saying(value)) as fake:
        yield fake


def test_a_token_is_asked_about_once_and_the_answer_is_remembered() -> None:
    ticks = Ticks()
    with provider(RIGHT) as fake:
        asked = judge(fake, ticks)
        for _ in range(5):
            assert asked.verify("opaque~token").client == "pusher"
        assert len(fake.arrived) == 1
        ticks.now += 60
        asked.verify("opaque~token")

    assert len(fake.arrived) == 2
    form = parse_qs(fake.arrived[0].body.decode())
    assert form == {"token": ["opaque~token"], "token_type_hint": ["access_token"]}
    pair = base64.b64decode(fake.arrived[0].headers["authorization"].removeprefix("Basic ")).decode()
    assert pair == "me%3A:s+p%2B%C3%A4"


def test_the_secret_goes_into_the_form_where_the_settings_say_so() -> None:
    with provider(RIGHT) as fake:
        judge(fake, client_auth="post").verify("t")

    assert parse_qs(fake.arrived[0].body.decode())["client_secret"] == ["s p+ä"]
    assert "authorization" not in fake.arrived[0].headers


def test_an_answer_is_believed_no_longer_than_the_token_lives() -> None:
    ticks = Ticks()
    with provider({**RIGHT, "exp": time.time() + 20}) as fake:
        asked = judge(fake, ticks)
        asked.verify("t")
        ticks.now += 21
        asked.verify("t")

    assert len(fake.arrived) == 2


def test_a_bad_answer_is_remembered_for_some_seconds() -> None:
    ticks = Ticks()
    with provider({"active": False}) as fake:
        asked = judge(fake, ticks)
        for _ in range(5):
            with pytest.raises(Refused):
                asked.verify("t")
        assert len(fake.arrived) == 1
        ticks.now += 10
        with pytest.raises(Refused):
            asked.verify("t")

    assert len(fake.arrived) == 2


@pytest.mark.parametrize(
    "value",
    [
        {}, {"active": "true"}, {"active": 1}, {"active": None}, [], b"", b"<html>", b"[" * 50_000, {"Active": True},
    ],
)  # fmt: skip
def test_s23_an_odd_answer_decides_nothing(value: Any) -> None:
    with provider(value) as fake, pytest.raises(Undecided):
        judge(fake).verify("t")


@pytest.mark.parametrize(
    "status", ["302 Found", "400 Bad", "401 No", "403 No", "404 No", "429 Later", "500 Oops", "503 Later"]
)
def test_s23_a_provider_in_trouble_decides_nothing_and_is_asked_again(status: str) -> None:
    with provider(lambda _: Act(answer(json.dumps(RIGHT).encode(), status=status))) as fake:
        asked = judge(fake)
        for _ in range(2):
            with pytest.raises(Undecided):
                asked.verify("t")

    assert len(fake.arrived) == 2


@pytest.mark.parametrize(
    "act", [Act(b"", then="hang"), Act(b"", then="reset"), Act(answer(b'{"active": true}'), drip=0.05)]
)
def test_s23_a_provider_that_hangs_decides_nothing(act: Act) -> None:
    with provider(lambda _: act) as fake, pytest.raises(Undecided):
        judge(fake, time.monotonic, deadline="300ms").verify("t")

    assert len(fake.arrived) <= 2


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "other"}, {"aud": None}, {"iss": "https://other.example"}, {"exp": time.time() - 60}, {"exp": "later"},
        {"nbf": time.time() + 900}, {"token_type": "N_A"}, {"token_type": "refresh_token"}, {"token_use": "refresh_token"},
        {"typ": "Refresh"}, {"nonce": "n"}, {"client_id": None}, {"client_id": ["a"]}, {"scope": 7}, {"cnf": {}},
    ],
)  # fmt: skip
def test_s24_s26_what_the_provider_says_must_hold(changed: dict[str, Any]) -> None:
    with provider({**RIGHT, **changed}) as fake, pytest.raises(Refused):
        judge(fake, audience=["poller"], issuer="https://id.example").verify("t")


def test_s26_where_the_type_is_demanded_the_answer_must_name_it() -> None:
    with provider(RIGHT) as fake, pytest.raises(Refused):
        judge(fake, require_typ=True).verify("t")
    with provider({**RIGHT, "token_type": "bearer"}) as fake:
        assert judge(fake, require_typ=True).verify("t").client == "pusher"


def test_s25_a_client_has_no_more_than_the_settings_leave_it() -> None:
    with provider({**RIGHT, "client_id": "known", "scope": "records:write poll"}) as fake:
        assert judge(fake).verify("t").scopes == {"poll"}


@pytest.mark.parametrize("text", ["", "a b", "ä", "x" * 20_000, "a\nb", '"', "\ud800"])
def test_what_is_no_token_is_not_asked_about(text: str) -> None:
    with provider(RIGHT) as fake, pytest.raises(Refused):
        judge(fake).verify(text)

    assert not fake.arrived


def test_one_token_is_asked_about_once_by_many_and_at_most_four_at_once() -> None:
    release, most, now, lock = threading.Event(), [0], [0], threading.Lock()

    def slow(_: Arrived) -> Act:
        with lock:
            now[0] += 1
            most[0] = max(most)
            most.append(now[0])
        release.wait(20)
        with lock:
            now[0] -= 1
        return Act(answer(json.dumps(RIGHT).encode()))

    with provider(slow) as fake:
        asked = judge(fake)

        def one(number: int) -> str:
            try:
                return asked.verify(f"t{number % 8}").client
            except Undecided:
                return "undecided"

        with ThreadPoolExecutor(16) as pool:
            outcomes = [pool.submit(one, number) for number in range(16)]
            while sum(each.done() for each in outcomes) < 8:
                time.sleep(0.01)  # four tokens find no turn: 8 calls return at once
            release.set()
            said = sorted(each.result() for each in outcomes)

    assert said.count("undecided") == 8
    assert said.count("pusher") == 8
    assert max(most) <= 4
    assert len(fake.arrived) == 4


def test_a_provider_that_closes_idle_connections_is_asked_again() -> None:
    """Servers close what was idle without a word; the next question goes over a new connection."""
    with provider(lambda _: Act(answer(json.dumps(RIGHT).encode()), then="close")) as fake:
        asked = judge(fake)
        for number in range(5):
            assert asked.verify(f"t{number}").client == "pusher"

    assert fake.connections >= 5


def test_a_provider_that_is_away_fills_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(introspection.log, "warning", lambda event, **keys: told.append({"event": event, **keys}))
    ticks, counted = Ticks(), list[str]()
    with provider({}) as fake:
        asked = judge(fake, ticks)
        monkeypatch.setattr(asked, "_count", counted.append)
        for number in range(30):
            if number == 29:
                ticks.now += 60
            with pytest.raises(Undecided):
                asked.verify(f"t{number}")

    assert [line["calls"] for line in told] == [1, 29]
    assert counted == ["introspection_failed"] * 30
