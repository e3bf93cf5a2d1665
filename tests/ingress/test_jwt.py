"""What a JWT must be; whatever it is not is Refused, and nothing else ever comes out."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from poller.ingress.principal import Refused, Undecided
from poller.ingress.tokens.jwks import NoKeys
from poller.ingress.tokens.jwt import JwtVerifier
from poller.ingress.tokens.keys import Found, Keys
from tests.ingress.tokens_house import (
    EC,
    ED,
    ISSUER,
    RSA,
    FakeSource,
    Ticks,
    auth,
    claims,
    client,
    jwk,
    part,
    pem,
    signed,
    token,
    verifier,
)  # fmt: skip


def refused(text: str, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        verifier(**more).verify(text)
    return caught.value.why


def test_a_right_token_says_who_calls_and_what_it_may() -> None:
    found = verifier().verify(token())

    assert found.client == "pusher"
    assert found.scopes == {"records:write"}
    assert found.may("records:write", "helpdesk")


@pytest.mark.parametrize(("key", "algorithm"), [(EC, "ES256"), (ED, "EdDSA"), (RSA["one"], "PS384")])
def test_other_asymmetric_algorithms_are_taken_where_the_settings_say_so(key: Any, algorithm: str) -> None:
    source = FakeSource(jwk(key, "one"), algorithm=algorithm)

    assert verifier(source, algorithm=algorithm).verify(token(key=key, algorithm=algorithm)).client == "pusher"
    assert refused(token(), source=source, algorithm=algorithm) == "alg is another than the settings'"


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, 0, ["none"]])
def test_s19_alg_none_is_refused(name: Any) -> None:
    unsigned = f"{part({'alg': name, 'kid': 'one'})}.{part(claims())}"

    for text in (f"{unsigned}.", f"{unsigned}.AA", unsigned):
        assert refused(text)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "PS256", "RS384", "ES256", "rs256", "RS256 "])
def test_s20_another_algorithm_than_that_of_the_settings_is_refused(algorithm: str) -> None:
    secret = pem(RSA["one"])
    head = f"{part({'alg': algorithm, 'kid': 'one'})}.{part(claims())}"
    for key in (secret, json.dumps(jwk(RSA["one"], "one")).encode(), b""):
        forged = part(hmac.new(key, head.encode(), hashlib.sha256).digest())
        assert refused(f"{head}.{forged}") == "alg is another than the settings'"


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_s20_a_symmetric_algorithm_cannot_even_be_set(algorithm: str) -> None:
    with pytest.raises(ValueError, match="RS256"):
        auth(algorithm=algorithm)


@pytest.mark.parametrize(
    "kid",
    ["../../../../etc/passwd", "' OR 1=1 --", "x" * 5000, "https://evil.example/key", "", 0, None, ["one"], {"a": 1}, "one\x00"],
)  # fmt: skip
def test_s21_a_hostile_kid_is_compared_and_nothing_else(kid: Any) -> None:
    source = FakeSource(jwk(RSA["one"], "one"), jwk(RSA["two"], "two"))

    assert refused(signed({"alg": "RS256", "kid": kid}, claims(), RSA["one"]), source=source)
    assert source.fetches <= 1


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
def test_s21_what_a_header_points_at_is_not_looked_at(name: str) -> None:
    evil: Any = {"jwk": jwk(RSA["two"], "one"), "x5c": ["MIIB"]}.get(name, "https://127.0.0.1:1/evil")

    assert refused(token(key=RSA["two"], **{name: evil})) == "its signature does not hold"
    assert verifier().verify(token(**{name: evil})).client == "pusher"


def test_s22_10000_hostile_tokens_cost_one_fetch_a_minute_and_valid_ones_are_served_meanwhile() -> None:
    """The provider hangs; hostile tokens keep coming from 8 threads; a valid one never waits."""
    ticks, hanging = Ticks(), threading.Event()
    source = _Hanging(hanging)
    judge = JwtVerifier(auth(), Keys(source, stale=auth().stale, clock=ticks), {})
    right = token()
    assert judge.verify(right).client == "pusher"
    hanging.clear()
    ticks.now += 61
    slowest = 0.0

    def hostile(number: int) -> str:
        kid = secrets.token_hex(8)
        texts = (
            f"{part({'alg': 'RS256', 'kid': kid})}.{part(claims())}.{part(secrets.token_bytes(256))}",
            f"{part({'alg': 'none', 'kid': kid})}.{part(claims())}.AA",
            f"{part({'alg': 'RS256', 'kid': 'one'})}.{part(claims())}.{part(secrets.token_bytes(256))}",
            secrets.token_urlsafe(60),
        )
        try:
            judge.verify(texts[number % 4])
        except (Refused, Undecided) as error:
            return type(error).__name__
        return "accepted"

    with ThreadPoolExecutor(8) as pool:
        outcomes = pool.map(hostile, range(10_000))
        for _ in range(200):
            before = time.perf_counter()
            assert judge.verify(right).client == "pusher"
            slowest = max(slowest, time.perf_counter() - before)
        hanging.set()
        seen = list(outcomes)

    assert len(seen) == 10_000
    assert "accepted" not in seen
    assert source.fetches == 2
    assert slowest < 5


class _Hanging(FakeSource):
    """A provider that answers only while it is told to."""

    def __init__(self, answers: threading.Event) -> None:
        super().__init__(jwk(RSA["one"], "one"))
        self.answers = answers
        answers.set()

    def fetch(self) -> Found:
        found = super().fetch()
        self.answers.wait(60)
        return found


def test_s22_a_new_key_is_picked_up_and_a_withdrawn_one_goes() -> None:
    ticks, source = Ticks(), FakeSource(jwk(RSA["one"], "one"))
    judge = verifier(source, ticks=ticks)
    judge.verify(token())
    source.keys = [jwk(RSA["two"], "two")]
    new = token(key=RSA["two"], kid="two")

    with pytest.raises(Refused):  # a fetch was made a moment ago
        judge.verify(new)
    ticks.now += 60
    assert judge.verify(new).client == "pusher"
    with pytest.raises(Refused):
        judge.verify(token())
    assert source.fetches == 2


def test_s23_while_the_provider_is_away_the_last_keys_serve_until_stale_and_then_nobody_comes_in() -> None:
    ticks, source = Ticks(), FakeSource(jwk(RSA["one"], "one"))
    judge = verifier(source, ticks=ticks, stale="10m")
    judge.verify(token())
    source.error = NoKeys("away")

    for _ in range(9):
        ticks.now += 60
        assert judge.verify(token()).client == "pusher"
    ticks.now += 60
    with pytest.raises(Undecided):
        judge.verify(token())
    source.error = None
    ticks.now += 60
    assert judge.verify(token()).client == "pusher"


def test_s23_without_any_key_pauses_between_fetches_grow() -> None:
    ticks, source = Ticks(), FakeSource()
    judge = verifier(source, ticks=ticks)
    for _ in range(300):
        with pytest.raises(Undecided):
            judge.verify(token())
        ticks.now += 1

    assert source.fetches <= 9


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"aud": None}, "aud is missing or no text"), ({"aud": "other"}, "aud is somebody else"),
        ({"aud": ["other"]}, "aud is somebody else"), ({"aud": [1]}, "aud is missing or no text"),
        ({"aud": {"poller": 1}}, "aud is missing or no text"), ({"aud": "POLLER"}, "aud is somebody else"),
        ({"iss": None}, "iss is not the issuer"), ({"iss": ISSUER + "/"}, "iss is not the issuer"),
        ({"iss": [ISSUER]}, "iss is not the issuer"),
        ({"exp": None}, "exp is missing"), ({"exp": "4000000000"}, "exp is no number"), ({"exp": True}, "exp is no number"),
        ({"exp": 1e308}, "exp is no date"), ({"exp": 10**400}, "exp is no date"), ({"exp": -1}, "exp is no date"),
        ({"exp": [1]}, "exp is no number"), ({"exp": time.time() - 60}, "expired"),
        ({"nbf": time.time() + 900}, "not valid yet"), ({"nbf": "soon"}, "nbf is no number"),
        ({"iat": time.time() + 900}, "issued in the future"), ({"iat": False}, "iat is no number"),
        ({"client_id": 7}, "the client's id is no plain text"), ({"client_id": "a\nb"}, "the client's id is no plain text"),
        ({"client_id": None, "sub": None}, "it names no client"),
        ({"scope": 7}, "its scopes are neither text nor a list of texts"),
        ({"cnf": {"jkt": "x"}}, "bound to a key (cnf), which is not supported"),
    ],
)  # fmt: skip
def test_s24_claims_that_do_not_hold_are_refused(changed: dict[str, Any], why: str) -> None:
    if changed.get("exp") == 10**400:
        # Beyond what a number of JSON may be for some readers: any refusal will do.
        assert refused(token(claims(**changed)))
        return

    assert refused(token(claims(**changed))) == why


@pytest.mark.parametrize(("seconds", "held"), [(-25, True), (-35, False), (0.0, True)])
def test_s24_the_clocks_may_differ_by_the_leeway_and_no_more(seconds: float, *, held: bool) -> None:
    text = token(claims(exp=time.time() + seconds))
    if held:
        assert verifier().verify(text).client == "pusher"
    else:
        assert refused(text) == "expired"


def test_s24_a_float_is_a_number_and_the_leeway_is_at_most_a_minute() -> None:
    assert verifier().verify(token(claims(exp=time.time() + 1.5))).client == "pusher"
    with pytest.raises(ValueError, match="at most"):
        auth(leeway="61s")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"crit": None, "b64": False}, {"b64": True}])
def test_s24_a_header_that_asks_for_more_is_refused(header: dict[str, Any]) -> None:
    made = {"alg": "RS256", "kid": "one", **{name: value for name, value in header.items() if value is not None}}

    assert refused(signed(made, claims(), RSA["one"])) == "its header asks for more than is understood"


def test_s25_scopes_and_routes_bound_what_a_caller_may() -> None:
    clients = {"pusher": client(scopes=["records:write:helpdesk", "poll"], routes=["helpdesk"])}
    found = verifier(clients=clients).verify(token(claims(scope=None, scp=["records:write", "poll:vendor"])))

    assert found.scopes == {"records:write:helpdesk", "poll:vendor"}
    assert found.may("records:write", "helpdesk")
    assert not found.may("records:write", "vendor")
    assert not found.may("poll", "vendor")
    assert not found.may("records:read", "helpdesk")


def test_s25_scopes_are_found_where_the_settings_say() -> None:
    text = token(claims(scope="records:read", realm_access={"roles": ["poll"]}, azp="x"))

    assert verifier(scope_claim="realm_access.roles").verify(text).scopes == {"poll"}
    assert verifier(scope_claim="nowhere.to.be").verify(text).scopes == frozenset()
    assert verifier(client_claim="azp").verify(text).client == "x"


@pytest.mark.parametrize(
    "changed",
    [
        {"typ": "ID"}, {"typ": "Refresh"}, {"typ": "Offline"}, {"nonce": "n"}, {"at_hash": "h"}, {"c_hash": "h"},
        {"events": {}}, {"token_use": "id"}, {"token_use": "refresh_token"}, {"token_use": 1},
    ],
)  # fmt: skip
def test_s26_an_id_token_or_a_refresh_token_is_no_access_token(changed: dict[str, Any]) -> None:
    assert refused(token(claims(**changed))).endswith("not an access token's")


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "id_token", "", 7])
def test_s26_a_header_of_another_type_is_refused(typ: Any) -> None:
    assert refused(token(typ=typ)).startswith("typ is")


def test_s26_where_the_type_is_demanded_it_must_be_there() -> None:
    assert refused(token(), require_typ=True) == "typ is not an access token's"
    assert refused(token(typ=None), require_typ=True) == "typ is not an access token's"
    assert verifier(require_typ=True).verify(token(typ="AT+JWT")).client == "pusher"


def test_a_token_without_a_kid_is_tried_against_the_only_key_or_refused() -> None:
    several = FakeSource(jwk(RSA["one"], "one"), jwk(RSA["two"], "two"))

    assert verifier(FakeSource(jwk(RSA["one"], None))).verify(token(kid=None)).client == "pusher"
    assert refused(token(kid=None), source=several) in {
        "it names no key, and there are several",
        "no key of the issuer has its kid",
    }


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "x" * 20_000, "ä.b.c", "a b.c.d", "a.b.c=", "\x00", "\ud800",
        f"{part(b'[' * 3000)}.{part(claims())}.AA", f"{part(b'[]')}.{part(claims())}.AA", f"{part(b'null')}.AA.AA",
        f"{part(b'{' * 10)}.AA.AA", f"{part(bytes(range(256)))}.AA.AA",
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "payload", [b"[" * 9000, b'{"a":' * 1500 + b"1" + b"}" * 1500, b"[]", b"7", b"\xff", b"", b"{"]
)
def test_a_signed_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    assert refused(signed({"alg": "RS256", "kid": "one"}, payload, RSA["one"]))


JUDGE = verifier()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["iss", "aud", "exp", "nbf", "iat", "scope", "scp", "roles", "client_id", "azp", "sub", "typ", "cnf"]
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64"]) | st.text(max_size=5), VALUES),
    st.binary(max_size=300),
)
def test_fuzzed_headers_are_refused_and_nothing_else(header: dict[str, Any], rest: bytes) -> None:
    for text in (f"{part(header)}.{part(rest)}.AA", rest.decode("latin-1"), part(rest)):
        with pytest.raises(Refused):
            JUDGE.verify(text)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_fuzzed_claims_under_a_right_signature_are_refused_or_right(changed: dict[str, Any]) -> None:
    try:
        text = signed({"alg": "RS256", "kid": "one"}, claims() | changed, RSA["one"])
    except UnicodeEncodeError:
        return
    try:
        found = JUDGE.verify(text)
    except Refused:
        return
    assert found.client
