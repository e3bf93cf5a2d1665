"""The token endpoint and the check of credentials."""

import requests

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
