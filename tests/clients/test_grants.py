"""Every grant, beside what test_oauth.py holds for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import TypeAdapter, ValidationError

from poller.clients.auth import AuthSettings, JwtBearerAuth
from poller.clients.http import HttpRemote, RemoteSettings
from poller.clients.oauth import Credentials, TokenSource, credentials
from poller.errors import BlockedError
from tests.clients.fake import Act, Arrived, Fake, answer, serving
from tests.clients.test_http import _always
from tests.clients.test_oauth import Clock, said, token

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
DENIED = said("401 U", {"error_description": "access_denied", "error": "server_error"})


def pem(key: Any = RSA, protected: str = "") -> str:
    seal: KeySerializationEncryption = BestAvailableEncryption(protected.encode()) if protected else NoEncryption()
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, seal).decode())


def settings(**given: Any) -> AuthSettings:
    one: AuthSettings = TypeAdapter(AuthSettings).validate_python(given)
    return one


def source(fake: Fake, **given: Any) -> TokenSource:
    given = {"client_id": "po:ller", "client_secret": "s3cret", "token_url": fake.url + "/token"} | given
    found = credentials(settings(**given), HttpRemote(RemoteSettings()))
    assert isinstance(found, TokenSource)
    return found


def form(arrived: Arrived) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(arrived.body.decode()).items()}


def grants(fake: Fake) -> list[str]:
    return [form(one)["grant_type"] for one in fake.arrived]


def by_grant(**acts: Act) -> Callable[[Arrived], Act]:
    return lambda arrived: acts[form(arrived)["grant_type"]]


# The password grant, and its refresh token.

PASSWORD: dict[str, Any] = {"type": "password", "username": "svc", "password": "p w"}


def test_a_refresh_token_takes_the_place_of_the_password_when_the_access_token_ends() -> None:
    clock = Clock()
    acts = by_grant(password=token("t1", refresh_token="r1"), refresh_token=token("t2", refresh_token="r2"))
    with serving(acts) as fake:
        one = source(fake, **PASSWORD)
        one._clock = clock
        one.grant()
        clock.now += 1800
        assert one.authorization() == "Bearer t2"
        clock.now += 1800
        one.grant()

    assert grants(fake) == ["password", "refresh_token", "refresh_token"]
    assert [form(each).get("refresh_token") for each in fake.arrived] == [None, "r1", "r2"]
    assert "password" not in form(fake.arrived[1])


def test_a_dead_refresh_token_is_replaced_by_the_password_at_once() -> None:
    clock = Clock()
    with serving(by_grant(password=token("t1", refresh_token="dead"), refresh_token=DENIED)) as fake:
        one = source(fake, **PASSWORD)
        one._clock = clock
        one.grant()
        clock.now += 1800
        assert one.authorization() == "Bearer t1"

    assert grants(fake) == ["password", "refresh_token", "password"]


def test_a_refresh_token_that_brings_dead_tokens_is_given_up() -> None:
    acts = by_grant(password=token("t1", refresh_token="r"), refresh_token=token("dead", refresh_token="r"))
    with serving(acts) as fake:
        one = source(fake, **PASSWORD)
        first = one.grant()
        first.proved = True
        one.drop(first)
        second = one.grant()
        one.drop(second)
        assert one.authorization() == "Bearer t1"

    assert grants(fake) == ["password", "refresh_token", "password"]


def test_whoever_has_a_refresh_token_alone_needs_no_password(tmp_path: Path) -> None:
    file = tmp_path / "refresh"
    file.write_text("r1")
    refused: list[str] = ["r1"]

    def acts(arrived: Arrived) -> Act:
        return DENIED if form(arrived)["refresh_token"] in refused else token()

    with serving(acts) as fake:
        one = source(fake, type="refresh", refresh_token={"file": str(file)})
        with pytest.raises(BlockedError, match="hand in a new one"):
            one.grant()
        file.write_text("r2")

        assert one.authorization() == "Bearer t1"
    assert grants(fake) == ["refresh_token"] * 2


def test_refresh_with_user_name_and_password_is_the_password_grant() -> None:
    with serving(by_grant(password=token(refresh_token="r"))) as fake:
        one = source(fake, type="refresh", username="svc", password="p")
        assert one.identity == "svc"
        one.grant()
    assert grants(fake) == ["password"]


# Signed assertions.

JWT: dict[str, Any] = {"type": "jwt_bearer", "subject": "svc", "private_key": pem()}


def claims(arrived: Arrived, key: Any = RSA, algorithm: str = "RS256", audience: str = "po:ller") -> dict[str, Any]:
    given = form(arrived)
    assert given["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    found: dict[str, Any] = jwt.decode(given["assertion"], public, algorithms=[algorithm], audience=audience)
    return found


def test_an_assertion_is_short_lived_and_never_used_twice() -> None:
    with serving(lambda _: token()) as fake:
        for _ in range(2):
            source(fake, **JWT, key_id="k1").grant()

        first, second = (claims(each) for each in fake.arrived)
    assert (first["iss"], first["sub"], first["aud"]) == ("po:ller", "svc", "po:ller")
    assert first["exp"] - first["iat"] <= 300
    assert first["iat"] <= time.time() < first["exp"]
    assert first["jti"] != second["jti"]
    assert jwt.get_unverified_header(form(fake.arrived[0])["assertion"])["kid"] == "k1"
    assert form(fake.arrived[0])["client_secret"] == "s3cret"


def test_without_a_client_the_audience_is_the_token_address() -> None:
    with serving(lambda _: token()) as fake:
        given = {**JWT, "issuer": "us", "client_id": None, "client_secret": None}
        source(fake, **given).grant()

        assert claims(fake.arrived[0], audience=fake.url + "/token")["iss"] == "us"
        assert "client_id" not in form(fake.arrived[0])
        assert "authorization" not in fake.arrived[0].headers


@pytest.mark.parametrize(
    ("key", "wanted", "used"),
    [
        (RSA, None, "RS256"),
        (RSA, "RS512", "RS512"),
        (RSA, "PS384", "PS384"),
        (ec.generate_private_key(ec.SECP256R1()), None, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), None, "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512", "ES512"),
    ],
    ids=["RS256", "RS512", "PS384", "ES256", "ES384", "ES512"],
)
def test_the_algorithm_goes_with_the_key(key: Any, wanted: str | None, used: str) -> None:
    with serving(lambda _: token()) as fake:
        source(fake, **{**JWT, "private_key": pem(key), "algorithm": wanted}).grant()
        assert claims(fake.arrived[0], key, used)["sub"] == "svc"


def test_a_protected_key_is_opened_by_its_pass_phrase() -> None:
    with serving(lambda _: token()) as fake:
        source(fake, **{**JWT, "private_key": pem(protected="open sesame"), "passphrase": "open sesame"}).grant()
        assert claims(fake.arrived[0])["sub"] == "svc"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"private_key": "secret-stuff"}, "private_key is something else, not a private key in PEM"),
        ({"private_key": "-----BEGIN CERTIFICATE-----\nx"}, "is a certificate, not a private key"),
        ({"private_key": "-----BEGIN PUBLIC KEY-----\nx"}, "is a public key"),
        ({"private_key": pem()[:400] + "\n-----END PRIVATE KEY-----"}, "cut or damaged"),
        ({"private_key": pem(protected="p4ss")}, "protected by a pass phrase; give it as passphrase"),
        ({"private_key": pem(protected="p4ss"), "passphrase": "wrong"}, "passphrase does not open private_key"),
        ({"passphrase": "p4ss"}, "leave it out"),
        ({"private_key": pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))}, "1024 bits"),
        ({"private_key": pem(ec.generate_private_key(ec.SECP256K1()))}, "of a kind that is not known"),
        ({"algorithm": "ES256"}, "private_key is an RSA key"),
        ({"algorithm": "HS256"}, "RS256"),
        ({"algorithm": "none"}, "RS256"),
        ({"client_id": None, "client_secret": None}, "issuer is required"),
    ],
)
def test_wrong_key_material_is_found_when_the_settings_are_read(given: dict[str, Any], words: str) -> None:
    whole = {"client_id": "c", "client_secret": "s3cret", **JWT, **given}
    with pytest.raises(ValidationError, match=words) as caught:
        JwtBearerAuth.model_validate(whole)

    assert "secret-stuff" not in str(caught.value)
    assert "MII" not in str(caught.value)


@pytest.mark.parametrize("apart", [-290, 290, -4000, 4000])
def test_an_endpoint_whose_clock_is_another_gets_an_assertion_dated_by_its_own(apart: float) -> None:
    def judge(arrived: Arrived) -> Act:
        theirs = time.time() + apart
        found = jwt.decode(form(arrived)["assertion"], options={"verify_signature": False})
        headers = {"Date": formatdate(theirs, usegmt=True)}
        if found["iat"] <= theirs < found["exp"]:  # without any tolerance
            return token()
        return said("400 B", {"error": "invalid_grant"}, **headers)

    with serving(judge) as fake:
        one = source(fake, **JWT)
        assert one.authorization() == "Bearer t1"
        one.drop(one.grant())
        one.grant()
        assert len(fake.arrived) == 3


def test_a_refused_assertion_is_not_repeated_where_the_clocks_agree() -> None:
    with serving(lambda _: said("400 B", {"error": "invalid_grant"}, Date=formatdate(usegmt=True))) as fake:
        with pytest.raises(BlockedError, match="refused jwt_bearer: 400 invalid_grant; check that private_key"):
            source(fake, **JWT).grant()
        assert len(fake.arrived) == 1


def test_a_rotated_key_is_used_and_a_broken_one_is_named(tmp_path: Path) -> None:
    file, other = tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1())
    file.write_text(pem())
    with serving(lambda _: token(expires_in=0)) as fake:
        one = source(fake, **{**JWT, "private_key": {"file": str(file)}})
        one.drop(one.grant())
        file.write_text(pem(other))
        one.drop(one.grant())
        assert claims(fake.arrived[1], other, "ES256")["sub"] == "svc"
        file.write_text(pem(other)[:60])
        with pytest.raises(BlockedError, match="private_key is cut or damaged"):
            one.grant()


# Fixed credentials.


def fixed(**given: Any) -> Credentials:
    return credentials(settings(**given), HttpRemote(RemoteSettings()))


def test_f62_a_401_is_worth_asking_again_only_when_the_secret_has_just_been_rotated(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    one = fixed(type="basic", username="svc", password={"file": str(file)})
    grant = one.grant()
    grant.proved = True
    assert one.grant() is grant
    assert not grant.renewable

    file.write_text("new")

    assert grant.renewable
    assert one.grant().headers != grant.headers
    assert not one.grant().proved


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\nb"])
def test_f62_a_secret_that_is_being_written_is_not_sent(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("whole")
    one = fixed(type="bearer", token={"file": str(file)})
    one.grant()
    file.write_bytes(content)

    with pytest.raises(BlockedError) as caught:
        one.grant()
    assert "\n" not in str(caught.value)
    assert one.secrets() == () or content == b"a\nb"


@pytest.mark.parametrize(
    "given",
    [
        {"type": "basic", "username": "a:b", "password": "p"},
        {"type": "basic", "username": "a", "password": ""},
        {"type": "bearer", "token": ""},
        {"type": "bearer", "token": "a\nb"},
        {"type": "header", "name": "X-Key", "value": "k\r\nX: y"},
        {"type": "header", "name": "Host", "value": "k"},
        {"type": "refresh", "client_id": "c", "client_secret": "s"},
        {"type": "refresh", "client_id": "c", "client_secret": "s", "username": "u"},
        {"type": "client_credentials", "client_id": "c", "client_secret": ""},
    ],
)
def test_credentials_that_could_never_work_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**given)


def test_f33_a_redirect_of_the_token_endpoint_is_not_followed() -> None:
    with serving(lambda _: token()) as second:
        for status in ("301 M", "302 F", "303 S", "307 T", "308 P"):
            moved = Act(answer(status=status, headers={"Location": second.url + "/token"}))
            with serving(_always(moved)) as first, pytest.raises(Exception, match=status[:3]):
                source(first, type="client_credentials").grant()
        assert second.connections == 0
