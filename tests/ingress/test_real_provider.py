"""Tokens of a real identity provider, npm oidc-provider: what it hands out is taken, and what else comes is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest

from poller.clients.http import HttpRemote
from poller.ingress.auth_settings import AuthSettings
from poller.ingress.principal import Refused, Undecided
from poller.ingress.tokens import open_proofs
from poller.ingress.tokens.introspection import IntrospectionVerifier
from poller.ingress.tokens.jwks import KeySource
from poller.ingress.tokens.jwt import JwtVerifier
from poller.ingress.tokens.keys import Found, Keys
from tests.ingress.oidc import AUDIENCES, RESOURCE_SERVER, IdentityProvider, identity_provider
from tests.ingress.tokens_house import Ticks

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.xdist_group("oidc")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    with identity_provider(tmp_path_factory.mktemp("oidc")) as made:
        yield made


@pytest.fixture
def idp(running: IdentityProvider) -> IdentityProvider:
    """The provider, up whatever the test before did."""
    running.stop()
    running.start()
    return running


class Counting(KeySource):
    """The real source, counted."""

    fetches = 0

    def fetch(self) -> Found:
        self.fetches += 1
        return super().fetch()


def jwt_settings(idp: IdentityProvider, **given: Any) -> AuthSettings:
    return AuthSettings.model_validate(
        {"issuer": idp.issuer, "audience": AUDIENCES["jwt"], "require_typ": True, **given}
    )


def judge(idp: IdentityProvider, ticks: Callable[[], float], **given: Any) -> tuple[JwtVerifier, Counting]:
    settings = jwt_settings(idp, **given)
    source = Counting(settings, HttpRemote(settings, connections=1))
    return JwtVerifier(settings, Keys(source, stale=settings.stale, clock=ticks), {}), source


def asking(idp: IdentityProvider, ticks: Callable[[], float], **given: Any) -> IntrospectionVerifier:
    client_id, secret = RESOURCE_SERVER
    settings = AuthSettings.model_validate(
        {"introspection_url": idp.introspection_url, "client_id": client_id, "client_secret": secret, **given}
    )
    return IntrospectionVerifier(settings, HttpRemote(settings), {}, clock=ticks)


def test_a_jwt_is_taken_by_discovery_alone(idp: IdentityProvider) -> None:
    proofs = open_proofs(jwt_settings(idp), {})
    assert proofs.verifier

    found = proofs.verifier.verify(idp.token("records:write poll"))
    proofs.close()

    assert found.client == "pusher"
    assert found.scopes == {"records:write", "poll"}


def test_s24_a_jwt_for_another_resource_is_refused(idp: IdentityProvider) -> None:
    verifier, _ = judge(idp, Ticks())

    with pytest.raises(Refused, match="aud"):
        verifier.verify(idp.token(resource="urn:other"))
    with pytest.raises(Refused, match="not a JWT"):
        verifier.verify(idp.token(format="opaque"))


def test_an_opaque_token_is_taken_by_introspection(idp: IdentityProvider) -> None:
    ticks = Ticks()
    verifier = asking(idp, ticks, audience=AUDIENCES["opaque"], issuer=idp.issuer, require_typ=True)
    text = idp.token("records:read", format="opaque")

    found = verifier.verify(text)
    assert (found.client, found.scopes) == ("pusher", frozenset({"records:read"}))
    idp.revoke(text)
    assert verifier.verify(text).client == "pusher"  # believed for a minute
    ticks.now += 60
    with pytest.raises(Refused, match="not active"):
        verifier.verify(text)
    with pytest.raises(Refused, match="not active"):
        verifier.verify("made-up")


def test_s23_a_wrong_secret_of_ours_decides_nothing(idp: IdentityProvider) -> None:
    text = idp.token(format="opaque")

    with pytest.raises(Undecided):
        asking(idp, Ticks(), client_secret="wrong").verify(text)


def test_s22_keys_are_rotated_under_load_and_valid_tokens_are_served_throughout(idp: IdentityProvider) -> None:
    """Eight threads keep coming with the old token while the provider gets a new key; then the new token is taken too."""
    ticks = Ticks()
    verifier, source = judge(idp, ticks)
    old, ended = idp.token(), threading.Event()
    verifier.verify(old)
    wrong: list[Exception] = []
    served = [0] * 8

    def come(number: int) -> None:
        while not ended.is_set():
            try:
                verifier.verify(old)
                served[number] += 1
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    threads = [threading.Thread(target=come, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    try:
        idp.rotate()
        new = idp.token()
        assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
        with pytest.raises(Refused):  # the one fetch of this minute was made
            verifier.verify(new)
        ticks.now += 60
        assert verifier.verify(new).client == "pusher"
    finally:
        ended.set()
        for each in threads:
            each.join()

    assert not wrong
    assert min(served) > 0
    assert source.fetches == 2


def test_s23_the_provider_is_down_for_five_minutes_and_known_keys_serve(idp: IdentityProvider) -> None:
    ticks = Ticks()
    verifier, source = judge(idp, ticks, stale="10m")
    text = idp.token()
    verifier.verify(text)
    idp.stop()

    for _ in range(5):
        ticks.now += 60
        assert verifier.verify(text).client == "pusher"
    idp.start()
    ticks.now += 60
    assert verifier.verify(text).client == "pusher"
    assert source.fetches <= 7


def test_s23_down_for_longer_than_stale_nobody_comes_in_until_it_is_back(idp: IdentityProvider) -> None:
    ticks = Ticks()
    verifier, _ = judge(idp, ticks, stale="5m")
    text = idp.token()
    verifier.verify(text)
    idp.stop()
    ticks.now += timedelta(minutes=5).total_seconds()

    with pytest.raises(Undecided):
        verifier.verify(text)
    idp.start()
    ticks.now += 60
    assert verifier.verify(text).client == "pusher"


def test_s23_while_the_provider_is_down_only_answers_already_given_are_believed(idp: IdentityProvider) -> None:
    ticks = Ticks()
    verifier = asking(idp, ticks)
    known, other = idp.token(format="opaque"), idp.token(format="opaque")
    verifier.verify(known)
    idp.stop()

    assert verifier.verify(known).client == "pusher"
    with pytest.raises(Undecided):
        verifier.verify(other)
    ticks.now += 60
    with pytest.raises(Undecided):
        verifier.verify(known)
