"""S25, S28, S29, S47 and the quotas: who may what, and how much of it, against the real daemon."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from itertools import product

import pytest

from tests.ingress.daemon import CLIENTS, SECRET, Ingress, hashed, running
from tests.ingress.wire import Got, several
from tests.scenarios.world import wait_for

pytestmark = pytest.mark.xdist_group("ingress_access")

RECORD = {"id": "one", "version": "1", "title": "t"}
POLLED = """
[routes.polled]
every = "1h"
first_run = "all"
[routes.polled.source]
type = "http"
url = "http://127.0.0.1:9/"
key = "id"
[routes.polled.source.fields]
title = "title"
[routes.polled.sink]
type = "directory"
path = "out"
"""


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    clients = {**CLIENTS, "fetcher": CLIENTS["seldom"]}
    folder = tmp_path_factory.mktemp("access")
    with running(folder, more=POLLED, server="[server.auth]\nbasic = true", clients=clients) as made:
        yield made


def same(one: Got, other: Got) -> None:
    """Hold that two answers tell nobody which is which."""
    told = [{**got.headers, "date": "", "ratelimit-remaining": "", "ratelimit-reset": ""} for got in (one, other)]
    assert (one.status, one.body, told[0]) == (other.status, other.body, told[1])


# S25: what a token may.


@pytest.mark.parametrize(
    ("client", "method", "path", "status"),
    [
        ("writer", "POST", "/routes/push/records", 202),
        ("writer", "POST", "/routes/other/records", 403),
        ("writer", "POST", "/routes/nowhere/records", 403),
        ("writer", "GET", "/routes/push/records/one", 403),
        ("writer", "POST", "/routes/polled/poll", 403),
        ("writer", "GET", "/metrics", 200),  # from this machine, where it listens here alone
        ("reader", "POST", "/routes/push/records", 403),
        ("reader", "GET", "/routes/push/records/none", 404),
        ("reader", "GET", "/routes/other/records/none", 403),
        ("elsewhere", "POST", "/routes/push/records", 403),
        ("elsewhere", "GET", "/routes/push/records/one", 403),
        ("elsewhere", "POST", "/routes/polled/poll", 403),
        ("elsewhere", "POST", "/routes/nowhere/records", 403),
        ("all", "POST", "/routes/polled/poll", 202),
        ("all", "POST", "/routes/push/poll", 404),
        ("all", "POST", "/routes/polled/records", 404),
        ("all", "POST", "/routes/nowhere/records", 404),
        ("all", "POST", "/routes/PUSH/records", 404),
        ("all", "POST", "/routes/push%2f/records", 404),
        ("all", "POST", "/routes/%70ush/records", 202),
        ("all", "POST", "/routes/../routes/push/records", 404),
    ],
)
def test_s25_a_token_opens_what_it_is_for(ingress: Ingress, client: str, method: str, path: str, status: int) -> None:
    before = ingress.stored("push") + ingress.stored("other")
    body = json.dumps({**RECORD, "id": f"{client}{status}"}).encode() if method == "POST" else None
    got = ingress.ask(method, path, body, token=ingress.token(client))

    assert got.status == status, got
    if status == 403:
        assert 'error="insufficient_scope"' in got.headers["www-authenticate"]
    if status != 202:
        assert ingress.stored("push") + ingress.stored("other") == before


def test_s25_without_a_token_nobody_learns_which_routes_there_are(ingress: Ingress) -> None:
    body = json.dumps(RECORD).encode()
    for token, path in product((None, "A" * 43), ("/routes/{}/records", "/routes/{}/poll")):
        same(*(ingress.ask("POST", path.format(name), body, token=token) for name in ("push", "none")))
    for token in (None, "A" * 43):
        same(*(ingress.ask("GET", f"/routes/{name}/records/one", token=token) for name in ("push", "none")))
    assert "push" not in ingress.ask("GET", "/openapi.json").body.decode().replace('"push"', "").replace("pushe", "")
    assert ingress.ask("PUT", "/routes/push/records").status == 405


def test_s25_a_client_learns_nothing_of_routes_that_are_not_its_own(ingress: Ingress) -> None:
    for client, act in product(
        ("writer", "elsewhere", "reader"), ("POST /routes/{}/records", "GET /routes/{}/records/k")
    ):
        method, _, path = act.partition(" ")
        one, other = (
            ingress.ask(method, path.format(name), b"{}", token=ingress.token(client)) for name in ("polled", "no")
        )
        assert one.status == other.status == 403
        assert one.body.replace(b"polled", b"no") == other.body


# S28: where a token counts.


def tries(ingress: Ingress) -> dict[str, tuple[bytes, int]]:
    """Return requests for a record that is not there, and their statuses; 404 means: let in."""
    token, path = ingress.token(), "/routes/push/records/none"
    pair = base64.b64encode(f"all:{SECRET}".encode()).decode()

    def with_lines(*lines: str, path: str = path) -> bytes:
        return ingress.head(path, *lines, method="GET", proven=False) + b"Connection: close\r\n\r\n"

    return {
        "proper": (with_lines(f"Authorization: Bearer {token}"), 404),
        "lower case": (with_lines(f"authorization: bearer {token}"), 404),
        "upper case": (with_lines(f"AUTHORIZATION: BEARER {token}"), 404),
        "several spaces": (with_lines(f"Authorization:   Bearer    {token}  "), 404),
        "tab around": (with_lines(f"Authorization:\tBearer {token}\t"), 404),
        "basic": (with_lines(f"Authorization: bAsIc {pair}"), 404),
        "in the address": (with_lines(path=f"{path}?access_token={token}"), 401),
        "in the path": (with_lines(path=f"/routes/push/records/{token}"), 401),
        "in a cookie": (with_lines(f"Cookie: access_token={token}; Authorization=Bearer {token}"), 401),
        "in another header": (
            with_lines(f"X-Authorization: Bearer {token}", f"Proxy-Authorization: Bearer {token}"),
            401,
        ),
        "underscored": (with_lines(f"HTTP_Authorization: Bearer {token}"), 401),
        "two": (with_lines(f"Authorization: Bearer {token}", f"Authorization: Bearer {token}"), 400),
        "two kinds": (with_lines(f"Authorization: Bearer {token}", f"Authorization: Basic {pair}"), 400),
        "two in one": (with_lines(f"Authorization: Bearer {token}, Bearer {token}"), 401),
        "tab within": (with_lines(f"Authorization: Bearer\t{token}"), 401),
        "no space": (with_lines(f"Authorization: Bearer{token}"), 401),
        "no scheme": (with_lines(f"Authorization: {token}"), 401),
        "no token": (with_lines("Authorization: Bearer"), 401),
        "nothing": (with_lines("Authorization:"), 401),
        "quoted": (with_lines(f'Authorization: Bearer "{token}"'), 401),
        "something behind": (with_lines(f"Authorization: Bearer {token} x"), 401),
        "cut": (with_lines(f"Authorization: Bearer {token[:-1]}"), 401),
        "longer": (with_lines(f"Authorization: Bearer {token}="), 401),
        "other case": (with_lines(f"Authorization: Bearer {token.swapcase()}"), 401),
        "token as Basic": (with_lines(f"Authorization: Basic {token}"), 401),
        "bytes": (with_lines(f"Authorization: Bearer {token}\xff"), 401),
        "huge": (with_lines("Authorization: Bearer " + "A" * 15_000), 401),
        "Basic without a colon": (with_lines("Authorization: Basic " + base64.b64encode(b"all").decode()), 401),
        "Basic of bytes": (with_lines("Authorization: Basic " + base64.b64encode(b"\xff:\xfe").decode()), 401),
    }


def test_s28_a_token_counts_in_one_header_alone(ingress: Ingress) -> None:
    for name, (message, status) in tries(ingress).items():
        (got,) = ingress.raw(message)
        assert got.status == status, name
        assert ingress.token() not in got.body.decode()
        if status == 401:
            assert got.headers["www-authenticate"].startswith("Bearer")
    text = ingress.daemon.text()
    assert ingress.token() not in text
    assert "A" * 100 not in text


def test_s28_a_token_in_the_body_of_a_push_is_nobodys(ingress: Ingress) -> None:
    body = f"access_token={ingress.token()}".encode()
    got = ingress.ask(
        "POST", "/routes/push/records", body, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )

    assert got.status == 401


# S47: those who watch.


def test_s47_gets_change_nothing_and_show_no_secret(ingress: Ingress) -> None:
    ingress.push(RECORD)
    stored = ingress.stored()
    for path, method in product(("/healthz", "/readyz", "/metrics", "/openapi.json"), ("GET", "HEAD")):
        got = ingress.ask(method, path)
        assert got.status == 200, path
        assert got.headers["cache-control"] == "no-store"
        assert got.headers["x-content-type-options"] == "nosniff"
        text = got.body.decode()
        assert not [each for each in (SECRET, hashed(), ingress.token(), str(ingress.folder)) if each in text]
    for path, method in product(
        ("/healthz", "/metrics", "/readyz"), ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
    ):
        got = ingress.ask(method, path, b"{}", token=ingress.token())
        assert got.status == 405
        assert got.headers["allow"] == "GET, HEAD"
    for path in ("/routes/push/records", "/routes/polled/poll", "/oauth/token"):
        assert ingress.ask("GET", path, token=ingress.token()).headers["allow"] == "POST"

    assert ingress.stored() == stored
    assert ingress.ask("HEAD", "/routes/push/records/one", token=ingress.token()).body == b""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1234", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("", 200),
        ("evil.example", 421), ("evil.example:8080", 421), ("localhost.evil.example", 421), ("127.0.0.1.nip.example", 421),
        ("localhost@evil.example", 421), ("evil.example@localhost", 421), ("localhost, evil.example", 421), ("[evil]", 421),
        ("2130706433", 421), ("localhost/evil", 421),
    ],
)  # fmt: skip
def test_s47_a_page_under_another_name_reaches_nothing(ingress: Ingress, host: str, status: int) -> None:
    for path in ("/healthz", "/metrics"):
        (got,) = ingress.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert got.status == status
    if status != 200:
        assert ingress.ask("POST", "/oauth/token", b"", headers={"Host": host}).status == 421


# How much.


def test_a_client_that_asks_more_than_its_share_is_told_when_to_come_again(ingress: Ingress) -> None:
    got = [ingress.push({**RECORD, "id": f"seldom {number}"}, client="seldom") for number in range(8)]

    assert [each.status for each in got] == [202] * 5 + [429] * 3
    assert [each.headers["ratelimit-remaining"] for each in got] == ["4", "3", "2", "1", "0", "0", "0", "0"]
    assert {each.headers["ratelimit-limit"] for each in got} == {"5"}
    assert 0 < int(got[-1].headers["retry-after"]) <= 12
    assert got[-1].headers["content-type"] == "application/problem+json"
    assert not {"seldom 5", "seldom 6", "seldom 7"} & set(ingress.stored())
    # What it may not do counts as well; others are not concerned.
    assert ingress.push(RECORD, "other", client="seldom").status == 429
    assert ingress.push(RECORD, client="writer").status == 202


def test_a_client_that_fetches_token_after_token_is_told_so_and_has_its_other_requests_still(ingress: Ingress) -> None:
    got = [ingress.fetch("fetcher") for _ in range(7)]

    assert [each.status for each in got] == [200] * 5 + [429] * 2
    assert 0 < int(got[-1].headers["retry-after"]) <= 12
    record = f"Bearer {got[0].json['access_token']}"
    assert ingress.ask("GET", "/routes/push/records/none", headers={"Authorization": record}).status == 404
    line = ingress.said("request_answered", endpoint="/oauth/token", status=429)[-1]
    assert line["client"] == "fetcher"


def test_every_answer_is_one_access_line_that_names_the_client(ingress: Ingress) -> None:
    ingress.push({**RECORD, "id": "told"}, client="writer")
    wait_for(lambda: ingress.said("request_answered", client="writer", status=202), "its line")
    line = ingress.said("request_answered", client="writer", status=202)[-1]

    assert line.items() >= {"route": "push", "method": "POST", "endpoint": "/routes/{route}/records"}.items()
    assert re.fullmatch(r"127\.0\.0\.1", line["peer"])


def test_forged_tokens_wait_while_a_proper_one_is_served(ingress: Ingress) -> None:
    several(lambda: ingress.ask("POST", "/routes/push/records", b"{}", token="B" * 43).status, 100)
    began = time.monotonic()
    statuses = several(lambda: ingress.ask("GET", "/routes/push/records/x", token="C" * 43).status, 200)

    assert set(statuses) <= {401, None}
    ingress.serves(time.monotonic() - began + 5)


# S29: guessing.


def test_s29_wrong_secrets_and_unknown_clients_look_alike_and_are_slowed_down(ingress: Ingress) -> None:
    assert ingress.fetch("all").status == 200
    same(ingress.fetch("writer", "wrong"), ingress.fetch("nobody", "wrong"))
    statuses = [ingress.fetch("nobody", f"guess {number}").status for number in range(25)]
    throttled = ingress.fetch("nobody", "one more")

    assert statuses[0] == 401
    assert statuses[-1] == throttled.status == 429
    assert int(throttled.headers["retry-after"]) > 0
    # Whoever came from here with the right secret before is not locked out by that.
    assert ingress.fetch("all").status == 200
    assert SECRET not in ingress.daemon.text()
