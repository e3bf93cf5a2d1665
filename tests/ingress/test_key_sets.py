"""Which keys are used, where they are looked for, and a provider that does none of it as it should (S23, S34, S36)."""

from __future__ import annotations

import gzip
import json
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from poller.clients.http import HttpRemote
from poller.ingress.auth_settings import AuthSettings
from poller.ingress.principal import Undecided
from poller.ingress.tokens import open_proofs
from poller.ingress.tokens.jwks import KeySource, NoKeys, metadata_urls, usable
from tests.clients.fake import Act, Arrived, Fake, answer, serving
from tests.ingress.tokens_house import EC, RSA, SMALL, claims, jwk, token

KEYS = json.dumps({"keys": [jwk(RSA["one"], "one")]}).encode()


def source(fake: Fake, **given: Any) -> KeySource:
    issuer = given.pop("issuer", fake.url)
    settings = AuthSettings.model_validate(
        {"issuer": issuer, "audience": "poller", **given}, context={"base": given.pop("base", None)}
    )
    return KeySource(settings, HttpRemote(settings, connections=1))


def keys_at(fake: Fake, **given: Any) -> KeySource:
    return source(fake, jwks_url=f"{fake.url}/keys", **given)


@contextmanager
def provider(answers: Callable[[Arrived], bytes]) -> Iterator[Fake]:
    with serving(lambda request: Act(answers(request))) as fake:
        yield fake


def why(given: KeySource) -> str:
    with pytest.raises(NoKeys) as caught:
        given.fetch()
    return str(caught.value)


def metadata(fake: Fake, **changed: Any) -> bytes:
    return json.dumps({"issuer": fake.url, "jwks_uri": f"{fake.url}/keys"} | changed).encode()


def test_keys_are_found_by_the_issuers_metadata() -> None:
    with provider(lambda r: answer(KEYS if " /keys " in r.line else metadata(fake))) as fake:
        found = source(fake).fetch()

    assert [kid for kid, _ in found] == ["one"]
    assert [r.line for r in fake.arrived] == ["GET /.well-known/openid-configuration HTTP/1.1", "GET /keys HTTP/1.1"]


def test_the_metadata_of_plain_oauth_serve_where_openid_has_none() -> None:
    def answers(request: Arrived) -> bytes:
        if "openid" in request.line:
            return answer(b"no", status="404 Not Found")
        if "oauth-authorization-server" in request.line:
            return answer(metadata(fake, issuer=f"{fake.url}/t1"))
        return answer(KEYS)

    with provider(answers) as fake:
        assert source(fake, issuer=f"{fake.url}/t1").fetch()
        assert fake.arrived[1].line == "GET /.well-known/oauth-authorization-server/t1 HTTP/1.1"


def test_where_the_metadata_are() -> None:
    assert metadata_urls("https://id.example/realms/a/") == (
        "https://id.example/realms/a/.well-known/openid-configuration",
        "https://id.example/.well-known/oauth-authorization-server/realms/a",
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"issuer": "https://other.example"}, "names another issuer"), ({"issuer": None}, "names another issuer"),
        ({"jwks_uri": None}, "names no jwks_uri"), ({"jwks_uri": "https://169.254.169.254/latest"}, "at another address"),
        ({"jwks_uri": "file:///etc/passwd"}, "at another address"), ({"jwks_uri": "http://127.0.0.1:1/keys"}, "at another address"),
        ({"jwks_uri": "gopher://x"}, "at another address"), ({"jwks_uri": "http://[::1"}, "at another address"),
    ],
)  # fmt: skip
def test_s34_metadata_lead_nowhere_but_to_the_issuer_itself(changed: dict[str, Any], said: str) -> None:
    with provider(lambda _: answer(metadata(fake, **changed))) as fake:
        assert said in why(source(fake))


def test_s23_redirects_are_not_followed() -> None:
    def answers(request: Arrived) -> bytes:
        moved = {"Location": f"{fake.url}/elsewhere"}
        return answer(b"", status="302 Found", headers=moved) if " /keys " in request.line else answer(KEYS)

    with provider(answers) as fake:
        assert why(keys_at(fake)).endswith("answers 302")
        assert len(fake.arrived) == 1


def test_s23_plain_http_is_for_this_machine_alone() -> None:
    for name in ("issuer", "jwks_url", "introspection_url"):
        with pytest.raises(ValueError, match="plain http"):
            AuthSettings.model_validate({"issuer": "https://id.example", "audience": "a", name: "http://id.example"})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "no JSON"), (b"[]", "no JSON object"), (b"[" * 90_000, "no JSON"), (b"{}", "no list of keys"),
        (b'{"keys": {}}', "no list of keys"), (b'{"keys": []}', "no key that is fit"), (b'{"keys": [7, null, []]}', "no key that is fit"),
        (b"", "no JSON"),
    ],
)  # fmt: skip
def test_s23_what_is_no_key_set_is_refused(body: bytes, said: str) -> None:
    with provider(lambda _: answer(body)) as fake:
        assert said in why(keys_at(fake))


def test_s23_a_huge_key_set_is_cut_off() -> None:
    with provider(lambda _: answer(b'{"keys": [' + b" " * 3_000_000 + b"]}")) as fake:
        assert why(keys_at(fake))


@pytest.mark.parametrize("act", [Act(answer(KEYS), drip=0.05), Act(b"", then="hang"), Act(b"", then="reset")])
def test_s23_a_slow_provider_is_given_up(act: Act) -> None:
    with serving(lambda _: act) as fake:
        assert why(keys_at(fake, deadline="300ms"))


def test_s23_compressed_keys_are_bounded_as_they_unfold() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    with provider(lambda _: answer(bomb, headers={"Content-Encoding": "gzip"})) as fake:
        assert why(keys_at(fake))


def test_s36_only_a_certificate_that_holds_is_taken(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for made, host, right in (
        (authority, "127.0.0.1", True),
        (authority, "elsewhere.example", False),
        (other, "127.0.0.1", False),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.issue_cert(host).configure_cert(context)
        with serving(lambda _: Act(answer(KEYS)), tls=context) as fake:
            url = f"https://127.0.0.1:{fake.port}"
            given = source(fake, issuer=url, jwks_url=f"{url}/keys", tls={"ca": str(tmp_path / "ca.pem")})
            if right:
                assert given.fetch()
            else:
                assert why(given)


@pytest.mark.parametrize(
    "key",
    [
        jwk(SMALL, "one"), jwk(RSA["one"], "one", use="enc"), jwk(RSA["one"], "one", alg="RS384"), jwk(EC, "one"),
        jwk(RSA["one"], "one", key_ops=["encrypt"]), jwk(RSA["one"], "one", key_ops="verify"), jwk(RSA["one"], "one", d="AQAB"),
        jwk(RSA["one"], "one", kty="oct", k="c2VjcmV0"), jwk(RSA["one"], "one", n="!!"), jwk(RSA["one"], "one", n=7),
        jwk(RSA["one"], "one", e="AQ"), jwk(RSA["one"], "one", n="_" * 4000), jwk(RSA["one"], "x" * 300),
        {"kty": "RSA", "kid": "one"}, {"kid": "one"},
    ],
)  # fmt: skip
def test_s23_keys_that_are_unfit_are_left_out(key: dict[str, Any]) -> None:
    assert usable({"keys": [key]}, "RS256") == []
    assert len(usable({"keys": [key, jwk(RSA["two"], "two", use="sig", alg="RS256")]}, "RS256")) == 1


def test_s34_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with provider(lambda _: answer(KEYS)) as fake:
        assert keys_at(fake).fetch()


def test_s22_many_threads_at_the_start_cost_one_fetch() -> None:
    shown = json.dumps({"keys": [jwk(RSA["one"], "one"), jwk(RSA["two"], "two")]}).encode()
    with provider(lambda _: answer(shown)) as fake:
        settings = AuthSettings.model_validate(
            {"issuer": fake.url, "jwks_url": f"{fake.url}/keys", "audience": "poller"}
        )
        judge = open_proofs(settings, {}).verifier
        assert judge is not None
        texts = [token(claims(iss=fake.url), key=RSA[name], kid=name) for name in ("one", "two")]

        def ask(number: int) -> str:
            try:
                return judge.verify(texts[number % 2]).client
            except Undecided:  # four wait for the keys, the others are told to come again
                return ""

        with ThreadPoolExecutor(8) as pool:
            assert "pusher" in set(pool.map(ask, range(400))) <= {"pusher", ""}
        judge.close()

    assert len(fake.arrived) == 1
