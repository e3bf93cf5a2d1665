"""The token endpoint and the check of credentials."""

import time
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.sandbox.conftest import Caller, Start


def test_client_credentials_give_an_access_token_only(caller: Caller) -> None:
    answer = caller.token()

    content = answer.json()
    assert answer.status_code == 200
    assert set(content) == {"access_token", "scope", "token_type", "expires_in"}
    assert content["token_type"] == "Bearer"
    assert content["expires_in"] in range(1795, 1801)


def test_the_client_may_come_by_basic(caller: Caller) -> None:
    answer = requests.post(
        caller.url + "/oauth_token.do",
        data={"grant_type": "client_credentials"},
        auth=("poller", "sandbox-secret"),
        timeout=10,
    )

    assert answer.status_code == 200


def test_the_password_grant_gives_a_refresh_token_that_works(caller: Caller) -> None:
    first = caller.token(grant_type="password", username="svc.poller", password="sandbox-password").json()

    second = caller.token(grant_type="refresh_token", refresh_token=first["refresh_token"])

    assert second.status_code == 200
    assert second.json()["refresh_token"] == first["refresh_token"]
    assert second.json()["access_token"] != first["access_token"]
    assert caller.token(grant_type="refresh_token", refresh_token="dead").status_code == 401


def test_a_living_token_is_handed_out_again(caller: Caller) -> None:
    first, second = caller.token().json(), caller.token().json()
    assert first["access_token"] == second["access_token"]

    caller.switch(token_reuse="new-each-time")
    assert caller.token().json()["access_token"] != first["access_token"]


def test_reuse_extends_the_life_only_where_the_switch_says_so(start: Start) -> None:
    caller = start()
    caller.switch(token_life="60m")
    assert caller.token().json()["expires_in"] <= 1799

    caller.switch(token_reuse="same+extended")
    assert caller.token().json()["expires_in"] > 3500


def test_what_is_wrong_gets_the_opaque_401(caller: Caller) -> None:
    opaque = {"error_description": "access_denied", "error": "server_error"}
    for wrong in (
        caller.token(client_secret="guess"),
        caller.token(grant_type="password", username="svc.poller", password="guess"),
    ):
        assert (wrong.status_code, wrong.json()) == (401, opaque)
    assert caller.token(client_id="nobody").json()["error"] == "invalid_client"
    assert caller.token(grant_type="").status_code == 400


def test_a_json_body_is_an_error(caller: Caller) -> None:
    answer = requests.post(caller.url + "/oauth_token.do", json={"grant_type": "client_credentials"}, timeout=10)

    assert answer.status_code == 400


def test_settings_of_the_application_record_show(caller: Caller) -> None:
    caller.switch(application_user=False)
    assert caller.token().json()["error"] == "unauthorized_client"
    caller.switch(client_credentials=False)
    assert caller.token().status_code == 401


def test_a_guest_token_is_issued_and_refused_on_use(caller: Caller) -> None:
    caller.switch(guest_token=True)
    caller.sign_in()

    assert caller.call("GET", "sys_user").status_code == 401


def test_expired_revoked_and_garbage_tokens_get_the_recorded_401(caller: Caller) -> None:
    caller.control("POST", "switch", {"revoke_all": True})

    answer = caller.call("GET", "sys_user")

    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == "User Not Authenticated"
    assert answer.headers["WWW-Authenticate"] == 'BASIC realm="Service-now"'
    assert "JSESSIONID" in answer.headers["Set-Cookie"]
    assert answer.headers["Connection"] == "close"

    caller.switch(wording="new")
    assert caller.call("GET", "sys_user").json()["error"]["message"] == "User is not authenticated"


def test_revoking_kills_a_token(caller: Caller) -> None:
    access = caller.sign_in()

    requests.post(caller.url + "/oauth_revoke_token.do", params={"token": access}, timeout=10)

    assert caller.call("GET", "sys_user").status_code == 401
    assert caller.sign_in() != access


def test_expires_in_may_lie(caller: Caller) -> None:
    for told in (0, -1, "soon"):
        caller.switch(expires_in=told)
        assert caller.token().json()["expires_in"] == told
    caller.switch(expires_in="absent")
    assert "expires_in" not in caller.token().json()


def test_basic_and_the_api_key_work_too(caller: Caller) -> None:
    url = caller.url + "/api/now/table/sys_user?sysparm_limit=1"

    assert requests.get(url, auth=("svc.poller", "sandbox-password"), timeout=10).status_code == 200
    assert requests.get(url, auth=("svc.poller", "guess"), timeout=10).status_code == 401
    assert requests.get(url, headers={"x-sn-apikey": "sandbox-key"}, timeout=10).status_code == 200
    assert requests.get(url, headers={"x-sn-apikey": "guess"}, timeout=10).status_code == 401
    caller.switch(basic=False)
    assert requests.get(url, auth=("svc.poller", "sandbox-password"), timeout=10).status_code == 401


# Signed assertions, and what stands before the help desk.

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def assertion(key: Any = KEY, algorithm: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    given = {"iss": "us", "sub": "svc.poller", "aud": "poller", "iat": now, "exp": now + 300, "jti": uuid.uuid4().hex}
    return jwt.encode({name: value for name, value in (given | claims).items() if value}, key, algorithm=algorithm)


def signed_in(caller: Caller, text: str) -> int:
    return caller.token(grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer", assertion=text).status_code


@pytest.fixture
def judging(start: Start, tmp_path: Path) -> Caller:
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "jwt.pub").write_bytes(public)
    return start(jwt_key=str(tmp_path / "jwt.pub"))


def test_an_assertion_is_good_once(judging: Caller) -> None:
    one = assertion()

    assert [signed_in(judging, one), signed_in(judging, one), signed_in(judging, assertion())] == [200, 401, 200]


def test_clocks_may_be_five_minutes_apart(judging: Caller) -> None:
    now = int(time.time())

    for moved, status in ((290, 200), (-590, 200), (320, 401), (-620, 401)):
        assert signed_in(judging, assertion(iat=now + moved, exp=now + moved + 300)) == status


def test_assertions_that_are_not_in_order_are_refused(judging: Caller) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    head, body, signature = assertion().split(".")
    for wrong in (
        assertion(other),
        assertion("an HMAC key of thirty-two bytes or more", "HS256"),
        f"{head}.{body}.",
        f"{head}.{assertion(sub='admin').split('.')[1]}.{signature}",
        assertion(aud="somebody else"),
        assertion(sub="abel.tuter"),
        assertion(jti=None),
        assertion(exp=None),
        assertion(exp=int(time.time()) + 3600),
        "not.a.jwt",
        "",
    ):
        assert signed_in(judging, wrong) == 401


def test_without_a_key_the_grant_is_not_known(caller: Caller) -> None:
    assert signed_in(caller, assertion()) == 400


@pytest.mark.parametrize("way", ["basic", "bearer", "header", "token"])
def test_the_help_desk_lets_in_whom_it_is_told_to(start: Start, way: str) -> None:
    caller = start(helpdesk_auth=way)
    url = caller.sandbox.helpdesk_url
    form = {"grant_type": "client_credentials", "client_id": "poller", "client_secret": "sandbox-secret"}
    token = requests.post(f"{url}/oauth/token", data=form, timeout=10).json()["access_token"]
    right: dict[str, dict[str, Any]] = {
        "basic": {"auth": ("svc.poller", "sandbox-password")},
        "bearer": {"headers": {"Authorization": "Bearer sandbox-key"}},
        "header": {"headers": {"X-Api-Key": "sandbox-key"}},
        "token": {"headers": {"Authorization": f"Bearer {token}"}},
    }

    let_in = {
        name
        for name, given in right.items()
        if requests.get(f"{url}/api/tickets", timeout=10, **given).status_code == 200
    }

    assert let_in == {way}
    foreign: dict[str, Any] = {"headers": {"Authorization": f"Bearer {caller.sign_in()}"}}
    assert requests.get(f"{url}/api/tickets", timeout=10, **foreign).status_code == 401
    assert requests.get(f"{url}/sandbox/tickets", timeout=10).status_code == 200
