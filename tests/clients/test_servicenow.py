from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from poller.clients.query import Query
from poller.clients.servicenow import ServiceNowClient, ServiceNowSettings
from poller.errors import (
    BlockedError,
    NotSentError,
    PermanentError,
    PollerError,
    RefusedError,
    TransientError,
    UnknownOutcome,
)
from tests.clients.fake import Act, Arrived, Fake, answer, serving

SYS_ID = "0123456789abcdef" * 2
ROW = {"sys_id": SYS_ID, "number": "INC0010001", "correlation_id": "p:1:2"}
BASIC = {"type": "basic", "username": "svc", "password": "t0p-secret"}
TOKEN = {"type": "client_credentials", "client_id": "c", "client_secret": "t0p-secret"}


@contextmanager
def instance(say: Callable[[Arrived], Act], auth: dict[str, Any] = BASIC) -> Iterator[tuple[Fake, ServiceNowClient]]:
    count = iter(range(1, 1000))

    def route(request: Arrived) -> Act:
        if "/oauth_token.do" in request.line:
            body = {"access_token": f"tok{next(count)}", "token_type": "Bearer", "expires_in": 1799}
            return Act(answer(json.dumps(body).encode()))
        return say(request)

    with serving(route) as fake:
        client = ServiceNowClient(settings(fake.url, auth))
        yield fake, client
        client.close()


def settings(url: str, auth: dict[str, Any] = BASIC, **more: Any) -> ServiceNowSettings:
    return ServiceNowSettings.model_validate({"instance": url, "correlation_prefix": "p", "auth": auth} | more)


def said(status: str, body: object, kind: str = "application/json;charset=UTF-8", **headers: str) -> Act:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Act(answer(data, status=status, kind=kind, headers=headers))


def error(message: str, detail: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "detail": detail}, "status": "failure"}


def test_a_created_incident() -> None:
    with instance(lambda _: said("201 Created", {"result": ROW}, **{"X-Transaction-ID": "abc"})) as (fake, client):
        made = client.create("incident", b'{"a":"b"}', fields=("correlation_id",))

        assert (made.sys_id, made.number, made.row, made.evidence.transaction_id) == (SYS_ID, "INC0010001", ROW, "abc")
        assert made.evidence.excerpt is None
        request = fake.arrived[0]
        assert request.line.startswith(
            "POST /api/now/table/incident?sysparm_exclude_reference_link=true&sysparm_fields="
        )
        assert request.headers["content-type"] == request.headers["accept"] == "application/json"
        assert request.headers["authorization"].startswith("Basic ")
        assert request.body == b'{"a":"b"}'


UNKNOWN = [
    said("201 C", b""),
    said("201 C", {"result": ROW}, kind="text/html"),
    said("200 OK", b"<html>login</html>", kind="text/html"),
    said("201 C", {"result": ROW, "error": {"message": "x"}}),
    said("201 C", {"result": [ROW]}),
    said("201 C", {"result": ROW | {"sys_id": "short"}}),
    said("201 C", {"result": ROW | {"sys_id": SYS_ID.upper()}}),
    said("201 C", {"result": ROW | {"number": ""}}),
    said("201 C", {"result": ROW | {"number": 7}}),
    said("201 C", {"result": {"sys_id": SYS_ID}}),
    said("201 C", json.dumps({"result": ROW}).encode()[:-1]),
    said("201 C", b'{"result":{"sys_id":"%b","sys_id":"%b","number":"I"}}' % (SYS_ID.encode(), SYS_ID.encode())),
    said("201 C", b'{"result":{"sys_id":"%b","number":"I","x":NaN}}' % SYS_ID.encode()),
    said("201 C", b'{"result":{"sys_id":"%b","number":"I","x":%b}}' % (SYS_ID.encode(), b"9" * 5000)),
    said("201 C", b'{"result":{"sys_id":"%b","number":"I\xff"}}' % SYS_ID.encode()),
    said("201 C", b"[" * 200_000),
    said("202 A", {}),
    said("202 A", {"result": ROW}),
    said("204 N", b""),
    said("302 F", b"", Location="/login.do"),
    said("408 T", error("x")),
    said("499 C", error("x")),
    said("500 I", error("Transaction cancelled: maximum execution time exceeded")),
    said("502 B", b"<html>", kind="text/html"),
    said("503 S", error("x"), **{"Retry-After": "3"}),
    said("504 G", b""),
    said("400 B", b"<html>too long</html>", kind="text/html"),
    said("403 F", b"<html>waf</html>", kind="text/html"),
    said("403 F", {"result": ROW} | error("x")),
    said("404 N", {"error": "x"}),
    said("418 T", error("x")),
]


@pytest.mark.parametrize("act", UNKNOWN)
def test_what_says_neither_yes_nor_no_is_unknown(act: Act) -> None:
    with instance(lambda _: act) as (fake, client):
        with pytest.raises(UnknownOutcome):
            client.create("incident", b"{}")
        assert len(fake.arrived) == 1


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (said("429 T", b"busy", kind="text/plain"), TransientError),
        (said("413 L", b"<html>", kind="text/html"), PermanentError),
        (said("414 L", b""), PermanentError),
        (said("407 P", b""), BlockedError),
        (said("401 U", error("User Not Authenticated")), BlockedError),
        (said("400 B", error("Invalid table incidnt")), BlockedError),
        (said("404 N", error("Requested URI does not represent any resource")), BlockedError),
        (said("403 F", error("Insufficient rights to query records")), BlockedError),
        (said("403 F", error("User Not Authorized", "Failed API level ACL Validation")), BlockedError),
        (
            said("403 F", error("Operation Failed", "ACL Exception Insert Failed due to security constraints")),
            BlockedError,
        ),
        (
            said("403 F", error("Operation Failed", "Data Policy Exception: The following fields are mandatory: X")),
            PermanentError,
        ),
        (
            said(
                "403 F",
                error("Operation Failed", "Operation against file 'incident' was aborted by Business Rule 'x^1'"),
            ),
            PermanentError,
        ),
        (said("403 F", error("Operation Failed", "words of tomorrow")), RefusedError),
        (said("404 N", error("No Record found")), RefusedError),
        (said("415 U", error("Unsupported")), RefusedError),
        (said("400 B", error("Exception while reading request")), PermanentError),
        (said("422 U", error("x")), PermanentError),
    ],
)
def test_what_is_surely_not_done(act: Act, kind: type[PollerError]) -> None:
    with instance(lambda _: act) as (fake, client):
        with pytest.raises(PollerError) as caught:
            client.create("incident", b"{}")
        assert type(caught.value) is kind
        assert len(fake.arrived) == 1
        assert caught.value.evidence.status == int(act.data[9:12])
        assert not isinstance(caught.value, PermanentError) or not caught.value.insert_refused


def test_a_refused_insert_is_marked() -> None:
    act = said("403 F", error("Operation Failed", "Error during insert of incident (INC1)"))
    with instance(lambda _: act) as (_, client), pytest.raises(PermanentError) as caught:
        client.create("incident", b"{}")
    assert caught.value.insert_refused


def test_a_record_text_in_an_unknown_refusal_is_not_in_the_message() -> None:
    act = said("403 F", error("Operation Failed", "jdoe's secret text t0p-secret"))
    with instance(lambda _: act) as (_, client), pytest.raises(RefusedError) as caught:
        client.create("incident", b"{}")
    assert "jdoe" not in str(caught.value)
    assert "t0p-secret" not in repr(caught.value.evidence)


def test_429_waits_as_long_as_asked() -> None:
    act = said("429 T", error("Rate limit exceeded"), **{"Retry-After": "1800"})
    with instance(lambda _: act) as (_, client), pytest.raises(TransientError) as caught:
        client.create("incident", b"{}")
    assert caught.value.remote
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 1800


def expiring(request: Arrived) -> Act:
    """tok1 works once; then only a later one does."""
    expiring.calls += 1  # type: ignore[attr-defined]
    if request.headers["authorization"] == "Bearer tok1" and expiring.calls > 1:  # type: ignore[attr-defined]
        return said("401 U", error("User Not Authenticated"))
    return said("201 C", {"result": ROW}) if request.line.startswith("POST") else said("200 OK", {"result": []})


def test_a_write_answered_401_is_not_repeated_and_the_next_has_a_new_token() -> None:
    expiring.calls = 0  # type: ignore[attr-defined]
    with instance(expiring, TOKEN) as (fake, client):
        client.create("incident", b"{}")
        with pytest.raises(TransientError) as caught:
            client.create("incident", b"{}")
        assert caught.value.retry_after is not None
        assert (caught.value.retry_after.total_seconds(), caught.value.remote) == (0, False)
        client.create("incident", b"{}")

        posts = [one.headers["authorization"] for one in fake.arrived if "/table/" in one.line]
        assert posts == ["Bearer tok1", "Bearer tok1", "Bearer tok2"]


def test_a_read_answered_401_is_asked_once_more_with_a_new_token() -> None:
    expiring.calls = 0  # type: ignore[attr-defined]
    with instance(expiring, TOKEN) as (fake, client):
        client.table_get("incident", Query().equals("number", "x"), ["sys_id"], 1)
        client.table_get("incident", Query().equals("number", "x"), ["sys_id"], 1)
        gets = [one.headers["authorization"] for one in fake.arrived if "/table/" in one.line]
        assert gets == ["Bearer tok1", "Bearer tok1", "Bearer tok2"]


def test_a_token_that_never_worked_blocks() -> None:
    with instance(lambda _: said("401 U", error("User Not Authenticated")), TOKEN) as (fake, client):
        with pytest.raises(BlockedError, match="401 with fresh credentials"):
            client.create("incident", b"{}")
        with pytest.raises(BlockedError):
            client.table_get("incident", Query().equals("number", "x"), ["sys_id"], 1)
        assert len([one for one in fake.arrived if "/table/" in one.line]) == 3


def test_a_check_before_the_first_byte_comes_after_the_token() -> None:
    def no() -> None:
        seen.extend(one.line.split()[1] for one in fake.arrived)
        raise NotSentError("late")

    seen: list[str] = []
    with instance(lambda _: said("201 C", {"result": ROW}), TOKEN) as (fake, client):
        with pytest.raises(NotSentError):
            client.create("incident", b"{}", no)
        assert seen == ["/oauth_token.do"]
        assert len(fake.arrived) == 1


@pytest.mark.parametrize(
    ("act", "kind", "remote"),
    [
        (said("200 OK", b"<html>Hibernating", kind="text/html"), TransientError, True),
        (
            said("200 OK", b'{"result":[{"sys_id":"a"},{"sys_id":"b"],"error":{"message":"cancelled"}}'),
            TransientError,
            False,
        ),
        (said("200 OK", {"result": [], "error": {"message": "x"}}), TransientError, False),
        (said("200 OK", {"result": {}}), TransientError, False),
        (said("200 OK", {"result": ["x"]}), TransientError, False),
        (said("200 OK", {}), TransientError, False),
        (said("202 A", {"result": []}), TransientError, False),
        (said("204 N", b""), TransientError, False),
        (said("302 F", b"", Location="/login.do"), TransientError, True),
        (said("429 T", b""), TransientError, True),
        (said("500 I", error("x")), TransientError, True),
        (said("502 B", b"<html>", kind="text/html"), TransientError, True),
        (said("403 F", error("Insufficient rights to query records")), BlockedError, None),
        (said("400 B", error("Invalid table x")), BlockedError, None),
        (said("400 B", b"<html>", kind="text/html"), TransientError, False),
        (Act(then="reset"), TransientError, True),
    ],
)
def test_what_is_no_proper_list(act: Act, kind: type[PollerError], remote: bool | None) -> None:
    with instance(lambda _: act) as (_, client), pytest.raises(kind) as caught:
        client.table_get("incident", Query().equals("number", "x"), ["sys_id"], 1)
    assert getattr(caught.value, "remote", None) is remote


def test_a_cut_at_every_byte_of_a_created_answer_is_unknown() -> None:
    whole = said("201 Created", {"result": ROW}).data
    at = 0
    with instance(lambda _: Act(whole[:at], "close")) as (_, client):
        for at in range(len(whole)):  # noqa: B007  the lambda reads it
            with pytest.raises(UnknownOutcome):
                client.create("incident", b"{}")


def test_clocks_are_compared_by_each_answer() -> None:
    old = said("200 OK", {"result": []}, Date="Mon, 23 Nov 2020 19:00:00 GMT")
    with instance(lambda _: old) as (_, client):
        client.table_get("incident", Query().equals("number", "x"), ["sys_id"], 1)
        assert client.skew_seconds > 1_000_000


def test_identity_names_instance_and_user() -> None:
    assert ServiceNowClient(settings("https://acme.service-now.com/")).identity() == "https://acme.service-now.com svc"
    assert ServiceNowClient(settings("https://acme.service-now.com", TOKEN)).identity().endswith(" c")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"instance": "http://acme.service-now.com"}, "this machine only"),
        ({"instance": "https://acme.service-now.com/nav_to.do"}, "bare address"),
        ({"correlation_prefix": "Has_Caps"}, "pattern"),
        ({"correlation_prefix": ""}, "pattern"),
        ({"correlation_prefix": "a" * 41}, "pattern"),
        ({"duplicate_guard": "fence"}, "not built yet"),
        ({"max_execution": "0s"}, "longer than nothing"),
        ({"concurrency": 0}, "greater than or equal"),
        ({"proxy": "socks5://x:1"}, "a proxy is written"),
        ({"auth": {"type": "magic"}}, "client_credentials"),
        ({"auth": None}, "auth"),
        ({"allow_plaintext": True}, "Extra inputs"),
        ({"tls": {"verify": False}}, "Extra inputs"),
        ({"tls": {"ca": "/nonexistent"}}, "does not exist"),
        ({"tls": {"ca": "/etc/hostname"}}, "holds no certificate in PEM"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], words: str) -> None:
    base: dict[str, Any] = {"instance": "https://acme.service-now.com", "correlation_prefix": "p", "auth": BASIC}
    with pytest.raises(ValidationError, match=words) as caught:
        ServiceNowSettings.model_validate(base | given)
    assert "t0p-secret" not in str(caught.value)
