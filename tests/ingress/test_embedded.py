"""Our own token endpoint, its tokens, and HTTP Basic: secrets checked slowly, tokens kept as hashes."""

from __future__ import annotations

import base64
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from sqlalchemy import func, select

from poller.errors import DatabaseUnusable
from poller.ingress.auth_settings import AuthSettings, ClientSettings
from poller.ingress.principal import Refused, Undecided
from poller.ingress.scrypt import ScryptHash
from poller.ingress.tokens import Throttled, open_proofs
from poller.ingress.tokens.basic import Basic, Certificates
from poller.ingress.tokens.embedded import TokenAnswer, TokenEndpoint
from poller.ingress.tokens.guessing import ClientSecrets
from poller.ingress.tokens.opaque import OpaqueVerifier
from poller.model import StoredToken
from poller.store import Store, open_store
from poller.store.tokens import Tokens
from poller.tables import tokens
from tests.ingress.tokens_house import Ticks, client

SECRET = "c4n4ry-secret+with/odd=signs %41"
HASH = ScryptHash.of(SECRET).text()
FORM = "application/x-www-form-urlencoded"
ASK = {"grant_type": "client_credentials"}
PEER = "192.0.2.1"


class Memory:
    """A token store that can be away."""

    def __init__(self) -> None:
        self.kept: dict[str, StoredToken] = {}
        self.away = False
        self.asked = 0

    def keep(self, token: StoredToken, *, now: datetime) -> None:
        if self.away:
            raise DatabaseUnusable("away")
        self.kept[token.digest] = token

    def find(self, digest: str) -> StoredToken | None:
        self.asked += 1
        if self.away:
            raise DatabaseUnusable("away")
        return self.kept.get(digest)


class House:
    """The endpoint, the verifier and Basic over one set of clients; clocks stand still."""

    def __init__(self, store: Any = None, **more: ClientSettings) -> None:
        self.clients = {"sn": client(client_secret=HASH, scopes=["records:write:a", "poll"], routes=["a"]), **more}
        self.ticks = Ticks()
        self.time = datetime(2026, 1, 2, tzinfo=UTC)
        self.store = store or Memory()
        self.secrets = ClientSecrets(self.clients, clock=self.ticks)
        self.endpoint = TokenEndpoint(self.clients, self.secrets, self.store, now=lambda: self.time)
        self.verifier = OpaqueVerifier(self.clients, self.secrets, self.store, now=lambda: self.time, clock=self.ticks)
        self.basic = Basic(self.clients, self.secrets)

    def ask(
        self, form: Any = None, *, pair: tuple[str, str] | None = ("sn", SECRET), kind: str = FORM, peer: str = PEER
    ) -> TokenAnswer:
        header = None if pair is None else "Basic " + encoded(quote_plus(pair[0]), quote_plus(pair[1]))
        body = form if isinstance(form, bytes) else urlencode(ASK if form is None else form).encode()
        return self.endpoint.answer(body, kind, header, peer)

    def token(self) -> str:
        given = self.ask()
        assert given.status == 200
        return str(given.body["access_token"])


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def error(given: TokenAnswer) -> tuple[int, object]:
    return given.status, given.body["error"]


@pytest.fixture
def place() -> House:
    return House()


def test_a_client_gets_a_token_that_says_who_it_is(place: House) -> None:
    given = place.ask()

    assert given.status == 200
    assert given.body["token_type"] == "Bearer"
    assert given.body["expires_in"] == 1800
    assert given.body["scope"] == "poll records:write:a"
    assert ("Cache-Control", "no-store") in given.headers
    found = place.verifier.verify(str(given.body["access_token"]))
    assert found.client == "sn"
    assert found.scopes == {"records:write:a", "poll"}
    assert found.routes == frozenset({"a"})


def test_the_secret_may_stand_in_the_form(place: House) -> None:
    assert place.ask(ASK | {"client_id": "sn", "client_secret": SECRET}, pair=None).status == 200
    assert place.ask(ASK | {"client_id": "sn"}).status == 200


def test_a_client_may_ask_for_less(place: House) -> None:
    assert place.ask(ASK | {"scope": "poll:a"}).body["scope"] == "poll:a"
    assert place.ask(ASK | {"scope": ""}).body["scope"] == "poll records:write:a"


@pytest.mark.parametrize("scope", ["records:write", "records:read", "poll admin", "poll\tx", "*", "poll:", "ä"])
def test_s25_a_client_never_gets_more(place: House, scope: str) -> None:
    assert error(place.ask(ASK | {"scope": scope})) == (400, "invalid_scope")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({}, "invalid_request"), ({"grant_type": ""}, "invalid_request"), ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type"), (b"grant_type=client_credentials&a=b&a=c", "invalid_request"),
        (b"grant_type", "invalid_request"), (b"\xff\xfe", "invalid_request"), (b"grant_type=%ff", "invalid_request"),
        (b"a=b&" * 30 + b"c=d", "invalid_request"), (b"a=" + b"x" * 9000, "invalid_request"), (b"", "invalid_request"),
        (ASK | {"client_secret": SECRET}, "invalid_request"), (ASK | {"client_id": "other"}, "invalid_request"),
    ],
)  # fmt: skip
def test_what_is_no_proper_request_is_told_so(place: House, form: Any, said: str) -> None:
    assert error(place.ask(form)) == (400, said)


@pytest.mark.parametrize("kind", ["", "application/json", "text/plain", "multipart/form-data"])
def test_only_a_form_is_taken(place: House, kind: str) -> None:
    assert error(place.ask(kind=kind)) == (400, "invalid_request")
    assert place.ask(kind=f"{FORM.upper()}; charset=utf-8").status == 200


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Basic", "Basic ", "Basic !!!", "Bearer x", "Basic " + encoded("sn", "wrong"), "Basic " + encoded("no", SECRET),
        "Basic " + base64.b64encode(b"sn").decode(), "Basic " + base64.b64encode(b"\xff:\xff").decode(), "Basic " + "A" * 9000,
        "Basic " + encoded("sn", "%ff"), "Basic " + encoded("sn", SECRET),
    ],
)  # fmt: skip
def test_s29_whoever_is_not_known_learns_nothing(place: House, header: str | None) -> None:
    given = place.endpoint.answer(urlencode(ASK).encode(), FORM, header, PEER)

    assert error(given) == (401, "invalid_client")
    assert given.body["error_description"] == "unknown client or wrong secret"
    assert dict(given.headers)["WWW-Authenticate"].startswith("Basic ")


def test_s29_an_unknown_client_costs_what_a_wrong_secret_costs() -> None:
    place = House()
    taken: dict[str, list[float]] = {"sn": [], "nobody": []}
    for number in range(7):
        for name, times in taken.items():
            began = time.process_time()
            with pytest.raises(Refused):
                place.secrets.check(name, "wrong", f"peer{number}")
            times.append(time.process_time() - began)

    one, other = (statistics.median(times) for times in taken.values())
    assert 0.4 < one / other < 2.5


def test_s29_after_twenty_failures_nobody_is_asked_any_more_for_a_minute(place: House) -> None:
    for _ in range(20):
        assert place.ask(pair=("sn", "wrong")).status == 401
    given = place.ask()

    assert error(given) == (429, "slow_down")
    assert dict(given.headers)["Retry-After"] == "60"
    assert error(place.ask(peer="192.0.2.9")) == (429, "slow_down")  # for this client, wherever it is
    assert error(place.ask(pair=("other", "wrong"))) == (429, "slow_down")  # for this peer, whoever it is
    place.ticks.now += 60
    assert place.ask().status == 200


def test_s29_strangers_do_not_lock_out_a_client_that_has_been_here(place: House) -> None:
    place.token()
    place.ticks.now += 400  # its secret is no longer remembered
    for number in range(20):
        assert place.ask(pair=("sn", "wrong"), peer=f"198.51.100.{number}").status == 401

    assert error(place.ask(peer="198.51.100.77")) == (429, "slow_down")
    assert place.ask().status == 200


def test_s29_two_secrets_are_checked_at_once_and_waiting_is_bounded() -> None:
    place, release = House(), threading.Event()

    def slow(self: ScryptHash, secret: str) -> bool:
        release.wait(20)
        return False

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(12) as pool:
        patch.setattr(ScryptHash, "matches", slow)
        asked = [pool.submit(place.ask, None, pair=("sn", "w"), peer=str(number)) for number in range(12)]
        said = [each.result(timeout=30).status for each in asked if not _holds(each)]
        release.set()
        said += [each.result(timeout=30).status for each in asked if _holds(each)]

    assert said.count(503) >= 2
    assert place.ask(pair=("sn", "w")).status == 401


def _holds(asked: Any) -> bool:
    """Whether it is one of the two that hold a turn until they are released: the others end by themselves."""
    try:
        asked.result(timeout=4)
    except TimeoutError:
        return True
    return False


def test_a_token_ends_after_half_an_hour(place: House) -> None:
    text = place.token()
    place.time += timedelta(minutes=29, seconds=59)
    place.ticks.now += 1799
    assert place.verifier.verify(text).client == "sn"
    place.time += timedelta(seconds=1)
    place.ticks.now += 1

    with pytest.raises(Refused, match="expired"):
        place.verifier.verify(text)


def test_another_secret_or_none_makes_tokens_void(place: House) -> None:
    text = place.token()
    place.clients["sn"] = client(client_secret=ScryptHash.of("another secret").text(), scopes=["poll"])
    with pytest.raises(Refused):
        place.verifier.verify(text)
    del place.clients["sn"]
    with pytest.raises(Refused):
        place.verifier.verify(text)


def test_a_token_is_worth_what_its_client_is_worth_now(place: House) -> None:
    text = place.token()
    place.clients["sn"] = client(client_secret=HASH, scopes=["poll"])

    assert place.verifier.verify(text).scopes == {"poll"}


def test_tokens_are_looked_up_once_in_a_while_and_what_cannot_be_one_never(place: House) -> None:
    text = place.token()
    for _ in range(10):
        place.verifier.verify(text)
    for other in ("", "x", text + "A", "a.b.c", "ä" * 43, "\ud800" * 43):
        with pytest.raises(Refused):
            place.verifier.verify(other)

    assert place.store.asked == 1


def test_without_the_database_nothing_is_decided(place: House) -> None:
    text = place.token()
    place.store.away = True

    assert error(place.ask()) == (503, "temporarily_unavailable")
    with pytest.raises(Undecided):
        place.verifier.verify(text)


def test_s39_tokens_outlast_a_restart_and_are_kept_as_hashes_alone(store: Store) -> None:
    place = House(Tokens(store))
    text = place.token()

    assert House(Tokens(store)).verifier.verify(text).client == "sn"
    with store.read() as connection:
        rows = [tuple(row) for row in connection.execute(select(tokens))]
    assert len(rows) == 1
    assert text not in str(rows)
    assert HASH not in str(rows)


def test_expired_tokens_go_when_the_next_one_comes(store: Store) -> None:
    place = House(Tokens(store))
    place.token()
    place.time += timedelta(hours=1)
    place.token()

    with store.read() as connection:
        assert connection.scalar(select(func.count()).select_from(tokens)) == 1


def test_s39_the_files_of_the_database_hold_no_token(tmp_path: Path) -> None:
    from poller.migrate import upgrade

    opened = open_store(f"sqlite:///{tmp_path}/a.db")
    upgrade(opened.engine)
    texts = [House(Tokens(opened)).token() for _ in range(5)]
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    opened.close()

    assert written
    for text in texts:
        assert text.encode() not in written
        assert base64.urlsafe_b64decode(text + "=") not in written


def test_a_database_without_the_table_is_no_traceback(tmp_path: Path) -> None:
    opened = open_store(f"sqlite:///{tmp_path}/a.db")
    place = House(Tokens(opened))

    assert error(place.ask()) == (503, "temporarily_unavailable")
    with pytest.raises(Undecided):
        place.verifier.verify("A" * 43)
    opened.close()


# HTTP Basic on each request, and certificates.


def test_basic_is_checked_once_and_remembered_for_five_minutes(place: House, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    whole = ScryptHash.matches

    def matches(self: ScryptHash, secret: str) -> bool:
        counted.append(secret)
        return whole(self, secret)

    monkeypatch.setattr(ScryptHash, "matches", matches)
    for _ in range(20):
        assert place.basic.verify(encoded("sn", SECRET), PEER).may("poll", "a")
    assert len(counted) == 1
    place.ticks.now += 300
    place.basic.verify(encoded("sn", SECRET), PEER)
    assert len(counted) == 2
    with pytest.raises(Refused):
        place.basic.verify(encoded("sn", SECRET + "x"), PEER)


def test_s38_no_secret_is_kept_in_memory_by_the_check(place: House) -> None:
    place.basic.verify(encoded("sn", SECRET), PEER)

    assert SECRET not in repr(vars(place.secrets))
    assert SECRET.encode() not in repr(place.secrets._right._entries).encode()


@pytest.mark.parametrize("given", ["", "!", encoded("sn", "wrong"), encoded("", SECRET), encoded("sn", "")])
def test_s29_basic_that_does_not_hold_is_refused(place: House, given: str) -> None:
    with pytest.raises(Refused):
        place.basic.verify(given, PEER)


def test_s29_basic_is_throttled_like_the_endpoint(place: House) -> None:
    for _ in range(20):
        with pytest.raises(Refused):
            place.basic.verify(encoded("sn", "wrong"), PEER)
    with pytest.raises(Throttled):
        place.basic.verify(encoded("sn", SECRET), PEER)


def test_a_certificate_says_who_calls_by_its_fingerprint() -> None:
    known = Certificates({"sn": client(certificate="sha256:" + "aB" * 32, scopes=["poll"])})

    assert known.verify("AB" * 32).client == "sn"
    with pytest.raises(Refused):
        known.verify("ac" * 32)
    assert not Certificates({})


# What the settings offer.


def test_parts_are_offered_as_the_settings_say() -> None:
    clients = {"sn": client(client_secret=HASH, scopes=["poll"])}

    off = open_proofs(None, {}, Memory())
    assert (off.verifier, off.endpoint, off.basic, off.certificates) == (None, None, None, None)
    embedded = open_proofs(None, clients, Memory())
    assert embedded.endpoint
    assert embedded.verifier
    assert embedded.basic is None
    provider = AuthSettings.model_validate({"issuer": "https://id.example", "audience": "a", "basic": True})
    external = open_proofs(provider, clients, Memory())
    assert external.endpoint is None
    assert external.basic
    external.close()


def test_s38_refusals_are_logged_without_what_was_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from poller import logs

    logs.setup("debug", "json")
    counted: list[str] = []
    proofs = open_proofs(None, {"sn": client(client_secret=HASH, scopes=["poll"])}, Memory(), count=counted.append)
    assert proofs.verifier
    assert proofs.endpoint
    with pytest.raises(Refused):
        proofs.verifier.verify("c4n4ry.token")
    header = "Basic " + encoded("c4n4ry-client", "c4n4ry-wrong")
    proofs.endpoint.answer(urlencode(ASK).encode(), FORM, header, PEER)
    logs.flush()
    said = capsys.readouterr().out

    assert "c4n4ry" not in said
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["token_refused", "client_refused"]
    assert counted == ["token_refused"]


@pytest.fixture(autouse=True)
def _flushed() -> Iterator[None]:
    yield
    from poller import logs

    logs.flush()
