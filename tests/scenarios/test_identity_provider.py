"""
The whole daemon and a real identity provider that nobody here wrote, npm oidc-provider.

JWTs by discovery and keys, opaque tokens by introspection; keys are rotated while somebody pushes, and the provider goes away for
longer than its keys may be used.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.ingress.oidc import AUDIENCES, RESOURCE_SERVER, IdentityProvider, identity_provider
from tests.scenarios.push_world import Pushed, pushed_world
from tests.scenarios.world import wait_for

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.xdist_group("oidc")]

#: Seconds that the provider is away; ``POLLER_TEST_LONG=1``: five minutes.
AWAY = 300.0 if os.environ.get("POLLER_TEST_LONG") else 15.0
#: Between two fetches of keys, as docs/recipes/identity-provider.md says.
COOLDOWN = 60.0


def jwt(provider: IdentityProvider, more: str = "") -> str:
    return f'[server.auth]\nissuer = "{provider.issuer}"\naudience = "{AUDIENCES["jwt"]}"\nrequire_typ = true\n{more}\n'


def opaque(provider: IdentityProvider, folder: Path) -> str:
    client_id, secret = RESOURCE_SERVER
    (folder / "introspection-secret").write_text(secret)
    (folder / "introspection-secret").chmod(0o600)
    return (
        f'[server.auth]\nintrospection_url = "{provider.introspection_url}"\naudience = "{AUDIENCES["opaque"]}"\n'
        f'client_id = "{client_id}"\nclient_secret = {{ file = "{folder}/introspection-secret" }}\n'
    )


class Pusher:
    """Pushes one record after the other."""

    def __init__(self, world: Pushed) -> None:
        self._url = f"{world.url}/routes/push/records"
        self._session = requests.Session()
        self.count = 0

    def push(self, token: str) -> int:
        self.count += 1
        row = {"sys_id": f"{self.count:032x}", "number": f"INC{self.count:07}", "short_description": "v 0"}
        headers = {"Authorization": f"Bearer {token}"}
        answer = self._session.post(self._url, json=row | {"sys_mod_count": "0"}, headers=headers, timeout=30)
        return answer.status_code


@contextmanager
def served(folder: Path, auth: Callable[[IdentityProvider], str]) -> Iterator[tuple[Pushed, IdentityProvider]]:
    place = folder / "provider"
    place.mkdir()
    with identity_provider(place) as provider, pushed_world(folder) as world:
        world.configure(auth(provider))
        world.here.start()
        yield world, provider


def test_jwts_of_the_provider_are_taken_for_what_they_allow(tmp_path: Path) -> None:
    with served(tmp_path, jwt) as (world, provider):
        pusher = Pusher(world)
        statuses = {
            "right": pusher.push(provider.token()),
            "another scope": pusher.push(provider.token("poll")),
            "for others": pusher.push(provider.token(resource="urn:other")),
            "opaque": pusher.push(provider.token(format="opaque")),
        }
        wait_for(lambda: len(world.messages("push")) == 1, "the record at the vendor")

        assert statuses == {"right": 202, "another scope": 403, "for others": 401, "opaque": 401}
        assert len(world.messages("push")) == 1


def test_opaque_tokens_are_asked_about_and_an_absent_provider_is_503_and_never_401(tmp_path: Path) -> None:
    with served(tmp_path, lambda provider: opaque(provider, tmp_path)) as (world, provider):
        pusher = Pusher(world)
        known, other = provider.token(format="opaque"), provider.token(format="opaque")
        here = [pusher.push(known), pusher.push("made-up"), pusher.push(provider.token("poll", format="opaque"))]
        provider.stop()
        away = [pusher.push(known), pusher.push(other)]
        provider.start()
        # Its memory is empty now: what it does not know is refused, at once.
        back = [pusher.push(known), pusher.push(other), pusher.push(provider.token(format="opaque"))]

        assert here == [202, 401, 403]
        assert away == [202, 503]  # what was answered is believed for a minute
        assert back == [202, 401, 202]


@pytest.mark.timeout(300)
def test_keys_are_rotated_under_load_and_no_valid_push_is_refused_for_longer_than_the_cooldown(tmp_path: Path) -> None:
    with served(tmp_path, jwt) as (world, provider):
        old, ended, answers = provider.token(), threading.Event(), Counter[int]()
        assert Pusher(world).push(old) == 202  # the keys are fetched now: the worst moment to rotate them

        def come() -> None:
            pusher = Pusher(world)
            while not ended.is_set():
                answers[pusher.push(old)] += 1

        threads = [threading.Thread(target=come) for _ in range(2)]
        for each in threads:
            each.start()
        try:
            provider.rotate()
            new, begun, refused = provider.token(), time.monotonic(), 0
            pusher = Pusher(world)
            while (status := pusher.push(new)) != 202:
                refused += 1
                assert status in {401, 503}
                assert time.monotonic() < begun + COOLDOWN + 10
                # A caller that keeps coming, as the load does.
                time.sleep(0.5)
            seconds = time.monotonic() - begun
            after = [pusher.push(new) for _ in range(20)]
        finally:
            ended.set()
            for each in threads:
                each.join()
        print(f"\nnew key: refused {refused} times, {seconds:.0f} s; old one meanwhile: {dict(answers)}")

        assert seconds <= COOLDOWN + 1
        assert after == [202] * 20
        assert answers.keys() == {202}
        assert sum(answers.values()) > 20


@pytest.mark.timeout(600)
def test_the_provider_is_away_for_a_while_and_nobody_who_has_a_token_notices(tmp_path: Path) -> None:
    """With the settings as they are when nothing is said: keys are good for an hour."""
    with served(tmp_path, jwt) as (world, provider):
        pusher, token, seen = Pusher(world), provider.token(), Counter[int]()
        assert pusher.push(token) == 202
        provider.stop()
        until = time.monotonic() + AWAY
        while time.monotonic() < until:
            seen[pusher.push(token)] += 1
            time.sleep(0.2)
        provider.start()
        seen[pusher.push(provider.token())] += 1
        print(f"\n{dict(seen)} while it was away for {AWAY:g} s, and after it")

        assert set(seen) == {202}


@pytest.mark.timeout(300)
def test_the_provider_is_away_cached_keys_serve_until_stale_then_503_and_never_401(tmp_path: Path) -> None:
    stale = 15.0
    with served(tmp_path, lambda provider: jwt(provider, f'stale = "{stale:g}s"')) as (world, provider):
        pusher, token, seen = Pusher(world), provider.token(), list[tuple[float, int]]()
        before = time.monotonic()
        assert pusher.push(token) == 202
        fetched = time.monotonic()
        provider.stop()
        while time.monotonic() < fetched + stale + 6:
            asked = time.monotonic()
            seen.append((asked, pusher.push(token)))
            time.sleep(0.2)
        provider.start()
        wait_for(lambda: pusher.push(token) == 202, "the provider to be asked again", COOLDOWN)
        within = {status for at, status in seen if at < before + stale - 1}
        beyond = {status for at, status in seen if at > fetched + stale}
        print(f"\n{dict(Counter(status for _, status in seen))}; 202 until {stale:g} s after the keys were fetched")

        assert within == {202}
        assert beyond == {503}
        assert {line["event"] for line in world.here.events("keys_failed")} == {"keys_failed"}
