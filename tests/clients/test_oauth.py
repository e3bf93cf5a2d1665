from __future__ import annotations

import base64
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from poller.clients.auth import AuthSettings
from poller.clients.http import HttpRemote, RemoteSettings
from poller.clients.oauth import Credentials, TokenSource, credentials
from poller.errors import BlockedError, PollerError, TransientError
from tests.clients.fake import Act, Arrived, Fake, answer, serving

SECRET = "s3cr&t e+%ü"


def auth(**more: Any) -> AuthSettings:
    given = {"type": "client_credentials", "client_id": "po:ller", "client_secret": SECRET} | more
    one: AuthSettings = TypeAdapter(AuthSettings).validate_python(given)
    return one


def source(fake: Fake, clock: Callable[[], float] = time.monotonic, **more: Any) -> TokenSource:
    settings = auth(**more)
    assert settings.type in {"client_credentials", "password"}
    return TokenSource(settings, HttpRemote(RemoteSettings()), token_url=fake.url + "/oauth_token.do", clock=clock)


def token(text: str = "t1", **more: Any) -> Act:
    body = {"access_token": text, "scope": "useraccount", "token_type": "Bearer", "expires_in": 1799} | more
    return Act(answer(json.dumps(body).encode(), kind="application/json;charset=UTF-8"))


def numbered(**more: Any) -> Callable[[Arrived], Act]:
    count = iter(range(1, 10_000))
    return lambda _: token(f"t{next(count)}", **more)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_secret_goes_into_the_body_or_form_encoded_into_basic() -> None:
    with serving(numbered()) as fake:
        assert source(fake, scope="a b").authorization() == "Bearer t1"
        source(fake, client_auth="basic").authorization()

        body = fake.arrived[0].body.decode()
        assert "grant_type=client_credentials" in body
        assert "client_id=po%3Aller" in body
        assert "client_secret=s3cr%26t+e%2B%25%C3%BC" in body
        assert "scope=a+b" in body
        assert "authorization" not in fake.arrived[0].headers
        assert fake.arrived[0].headers["accept"] == "application/json"
        given = base64.b64decode(fake.arrived[1].headers["authorization"].removeprefix("Basic ")).decode()
        assert given == "po%3Aller:s3cr%26t+e%2B%25%C3%BC"
        assert b"secret" not in fake.arrived[1].body


def test_the_password_grant_is_spoken_too() -> None:
    with serving(numbered()) as fake:
        one = source(fake, type="password", username="svc", password="p w")
        one.authorization()
        assert b"grant_type=password" in fake.arrived[0].body
        assert b"username=svc&password=p+w" in fake.arrived[0].body
        assert one.identity == "svc"


def test_a_token_is_renewed_a_minute_before_its_end_and_not_sooner() -> None:
    clock = Clock()
    with serving(numbered()) as fake:
        one = source(fake, clock)
        assert one.authorization() == "Bearer t1"
        clock.now += 1738
        assert one.authorization() == "Bearer t1"
        clock.now += 2
        assert one.authorization() == "Bearer t2"
        assert len(fake.arrived) == 2


def test_eight_threads_on_an_expired_token_ask_once_and_never_go_without() -> None:
    gate = threading.Event()

    def slowly(_: Arrived) -> Act:
        gate.wait(0.3)
        return token()

    with serving(slowly) as fake:
        one, got = source(fake), []
        threads = [threading.Thread(target=lambda: got.append(one.authorization())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == ["Bearer t1"] * 8
        assert len(fake.arrived) == 1


def test_others_go_on_with_the_living_token_while_one_renews_it() -> None:
    clock, renewing, release = Clock(), threading.Event(), threading.Event()

    def second_waits(_: Arrived) -> Act:
        if len(fake.arrived) == 2:
            renewing.set()
            release.wait(5)
        return token(f"t{len(fake.arrived)}")

    with serving(second_waits) as fake:
        one = source(fake, clock)
        one.authorization()
        clock.now += 1750
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.append(one.authorization()))
        thread.start()
        assert renewing.wait(5)
        assert one.authorization() == "Bearer t1"
        release.set()
        thread.join()
        assert got == ["Bearer t2"]


@pytest.mark.parametrize("expires_in", [0, -1, "", "soon", "1e999", None, True, [], 0.01, 1])
def test_an_odd_life_never_makes_it_spin(expires_in: object) -> None:
    clock = Clock()
    with serving(lambda _: token(expires_in=expires_in)) as fake:
        one = source(fake, clock)
        for _ in range(50):
            assert one.authorization() == "Bearer t1"
        assert len(fake.arrived) == 1
        clock.now += 100_000
        assert one.authorization() == "Bearer t1"
        assert len(fake.arrived) == 2


def test_the_living_token_handed_out_again_is_asked_for_a_few_times_only() -> None:
    clock, ends = Clock(), 1000.0 + 1800

    def what_is_left(_: Arrived) -> Act:
        left = ends - clock.now
        return token("t1", expires_in=int(left)) if left > 0 else token("t2", expires_in=1800)

    with serving(what_is_left) as fake:
        one = source(fake, clock)
        while one.authorization() == "Bearer t1":
            clock.now += 0.25
        assert len(fake.arrived) < 15
        assert clock.now < ends + 3


def test_the_same_dead_token_after_a_401_counts_as_never_proved() -> None:
    with serving(lambda _: token("dead")) as fake:
        one = source(fake)
        first = one.grant()
        first.proved = True
        one.drop(first)
        second = one.grant()
        assert (second.headers["Authorization"], second.proved) == ("Bearer dead", False)
        one.drop(first)
        assert one.grant() is second
        one.invalidate("Bearer dead")
        assert one.grant() is not second
        assert len(fake.arrived) == 3


def test_a_failed_early_renewal_leaves_the_living_token_in_use() -> None:
    clock = Clock()
    with serving(lambda _: token() if len(fake.arrived) == 1 else Act(answer(status="503 No"))) as fake:
        one = source(fake, clock)
        one.authorization()
        clock.now += 1750
        for _ in range(10):
            assert one.authorization() == "Bearer t1"
        assert len(fake.arrived) == 2
        clock.now += 60
        with pytest.raises(TransientError):
            one.authorization()


def said(status: str, body: object, **headers: str) -> Act:
    return Act(answer(json.dumps(body).encode(), status=status, headers=headers))


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (
            said("401 U", {"error_description": "access_denied", "error": "server_error"}),
            BlockedError,
            "check client_id",
        ),
        (said("401 U", {"error": "invalid_client"}), BlockedError, "invalid_client"),
        (said("400 B", {"error": "unauthorized_client"}), BlockedError, "application user"),
        (Act(answer(b"<html>", status="401 U", kind="text/html")), BlockedError, "401"),
        (Act(answer(b"<html>Instance Hibernating page", kind="text/html")), TransientError, "200"),
        (Act(answer(b"<html>", status="503 S", kind="text/html")), TransientError, "503"),
        (said("429 T", {}, **{"Retry-After": "17"}), TransientError, "429"),
        (said("500 I", {"error": "server_error"}), TransientError, "500"),
        (said("200 OK", {}), TransientError, "a token was expected"),
        (said("200 OK", {"access_token": ""}), TransientError, "a token was expected"),
        (said("200 OK", {"access_token": "a\nb"}), TransientError, "a token was expected"),
        (said("200 OK", {"access_token": "a", "token_type": "mac"}), TransientError, "a token was expected"),
        (said("200 OK", ["access_token"]), TransientError, "a token was expected"),
        (said("302 F", {}, Location="/login.do"), TransientError, "302"),
        (Act(b"HTTP/1.1 200 OK\r\nContent-Len", "close"), TransientError, "cut"),
        (Act(then="reset"), TransientError, "token endpoint"),
    ],
)
def test_errors_of_the_token_endpoint(act: Act, kind: type[PollerError], words: str) -> None:
    with serving(lambda _: act) as fake:
        with pytest.raises(kind, match=words) as caught:
            source(fake).authorization()
        assert "\n" not in str(caught.value)
        if isinstance(caught.value, TransientError):
            assert caught.value.remote
        if "429" in words:
            assert isinstance(caught.value, TransientError)
            assert caught.value.retry_after is not None
            assert caught.value.retry_after.total_seconds() == 17
        assert len(fake.arrived) == 1


def test_another_scope_and_extra_keys_do_not_matter() -> None:
    with serving(lambda _: token(scope="other", refresh_token="r", expires_in="1799")) as fake:
        assert source(fake, scope="asked").authorization() == "Bearer t1"


def test_neither_secret_nor_token_shows_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = said("401 U", {"error": SECRET, "error_description": f"bad secret {SECRET}"})
    with serving(lambda _: token("t0psecret")) as good, serving(lambda _: echo) as bad:
        one = source(good)
        grant = one.grant()
        with pytest.raises(BlockedError) as caught:
            source(bad).grant()
        shown = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(grant) + repr(one) + str(auth())
    assert "t0psecret" not in shown
    assert SECRET not in shown
    assert "s3cr" not in shown


def test_plain_http_to_another_machine_is_refused_for_tokens() -> None:
    with pytest.raises(ValueError, match="this machine only"):
        auth(token_url="http://far.example/token")


@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ({"type": "none"}, {}),
        ({"type": "basic", "username": "ü", "password": "p:w"}, {"Authorization": "Basic w7w6cDp3"}),
        ({"type": "bearer", "token": "abc"}, {"Authorization": "Bearer abc"}),
        ({"type": "header", "name": "x-sn-apikey", "value": "k"}, {"x-sn-apikey": "k"}),
    ],
)
def test_credentials_that_need_no_asking(given: dict[str, Any], headers: dict[str, str]) -> None:
    one: Credentials = credentials(TypeAdapter(AuthSettings).validate_python(given), HttpRemote(RemoteSettings()))
    assert one.grant().headers == headers
    assert not one.grant().renewable


def test_a_rotated_secret_is_used_and_a_lost_one_blocks(tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text("one\n")
    given = TypeAdapter(AuthSettings).validate_python({"type": "bearer", "token": {"file": str(file)}})
    one = credentials(given, HttpRemote(RemoteSettings()))
    assert one.grant().headers == {"Authorization": "Bearer one"}
    file.write_text("two\n")
    assert one.grant().headers == {"Authorization": "Bearer two"}
    file.unlink()
    with pytest.raises(BlockedError, match="cannot be read"):
        one.grant()
