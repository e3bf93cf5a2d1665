"""
Every type of ``auth``, at both ends, through the real thing: TLS under a private authority, a daemon as a process.

Nothing here imports product code. That no secret shows (S38, S39) is asked at the end of each test, at debug level.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.auth_world import CLIENT_SECRET, PROXY_PASSWORD, Authority, AuthWorld, key_pair, toml
from tests.scenarios.world import free_port, wait_for

Make = Callable[..., AuthWorld]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[AuthWorld] = []

    def one(*options: str) -> AuthWorld:
        world = AuthWorld(tmp_path, list(options))
        made.append(world)
        world.start()
        return world

    yield one
    for world in made:
        world.stop()


CLIENT = {"client_id": "poller", "client_secret": "@client-secret"}
PASSWORD = {"username": "svc.poller", "password": "@password"}
#: type: what the help desk is to demand, the keys for the instance, and for the source where they differ.
TYPES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "client_credentials": ("token", CLIENT, {**CLIENT, "client_auth": "basic", "scope": "tickets"}),
    "password": ("token", {**CLIENT, **PASSWORD}, {**CLIENT, **PASSWORD}),
    "refresh": ("token", {**CLIENT, "refresh_token": "@refresh"}, {**CLIENT, "refresh_token": "@desk-refresh"}),
    "jwt_bearer": (
        "token",
        {**CLIENT, "subject": "svc.poller", "private_key": "@jwt.pem"},
        {**CLIENT, "subject": "svc.poller", "private_key": "@jwt.pem", "issuer": "us", "audience": "poller"},
    ),
    "basic": ("basic", PASSWORD, PASSWORD),
    "bearer": ("bearer", {"token": "@token"}, {"token": "@api-key"}),
    "header": (
        "header",
        {"name": "x-sn-apikey", "value": "@api-key"},
        {"name": "X-API-Key", "value": "@api-key"},
    ),
    "none": ("certificate", {}, {}),
}


def prepared(world: AuthWorld, name: str, remote: str = "") -> None:
    """Write settings for a type, and what it needs in hand."""
    demanded, ours, theirs = TYPES[name]
    if name in {"refresh", "bearer"}:
        first = world.issue(f"{world.servicenow}/oauth_token.do")
        world.secret("refresh", first["refresh_token"])
        world.secret("token", first["access_token"])
    if name == "refresh":
        world.secret("desk-refresh", world.issue(f"{world.helpdesk}/oauth/token")["refresh_token"])
    if demanded == "token":
        theirs = {**theirs, "token_url": f"{world.helpdesk}/oauth/token"}
    tls = {"ca": str(world.authority.file)}
    if name == "none":
        tls |= {"certificate": str(world.own[0]), "key": str(world.own[1])}
    world.configure(toml({"type": name, **ours}), toml({"type": name, **theirs}), tls=toml(tls), remote=remote)


@pytest.mark.parametrize("name", TYPES)
def test_each_type_of_auth_brings_incidents_at_both_ends(make: Make, name: str) -> None:
    world = make("--helpdesk-auth", TYPES[name][0])
    prepared(world, name)

    done = world.command("once")

    assert done.returncode == 0, done.stdout + done.stderr
    assert world.incidents() == sorted(world.tickets())
    assert world.get(f"{world.helpdesk}/sandbox/door")["let in"] >= 1
    assert world.leaks() == []  # S38 S39


def _other_secret(world: AuthWorld) -> None:
    world.right["client-secret"] = "canary/An0ther+s3cret&Zq"
    world.secret("client-secret", world.right["client-secret"])


def _other_password(world: AuthWorld) -> None:
    world.right["password"] = "canary:An0ther p4ss?Zq"
    world.secret("password", world.right["password"])


def _other_api_key(world: AuthWorld) -> None:
    world.right["api-key"] = "canary-An0ther-key-Zq"
    world.secret("api-key", world.right["api-key"])


def _other_key(world: AuthWorld) -> None:
    private, world.jwt_public = key_pair(world.folder / "theirs", "next")
    private.rename(world.jwt_key)


def _other_certificate(world: AuthWorld) -> None:
    world.clients = Authority(world.folder / "theirs", "next-clients")
    # One file after the other: for a moment they do not fit.
    certificate, key = world.clients.issue(world.folder / "theirs", "next-own", "poller.example")
    certificate.rename(world.own[0])
    key.rename(world.own[1])


@pytest.mark.parametrize(
    ("name", "rotate"),
    [
        ("client_credentials", _other_secret),
        ("password", _other_password),
        ("jwt_bearer", _other_key),
        ("basic", _other_password),
        ("header", _other_api_key),
        ("none", _other_certificate),
    ],
)
def test_f62_a_secret_rotated_under_a_running_daemon_costs_nothing(
    make: Make, name: str, rotate: Callable[[AuthWorld], None]
) -> None:
    # F27: tokens that die after two seconds, so that the new secret is needed.
    world = make("--helpdesk-auth", TYPES[name][0], "--token-life", "2s")
    prepared(world, name)
    daemon = world.run()
    wait_for(lambda: len(world.incidents()) == 3, "the first incidents")

    world.stop()
    rotate(world)
    world.start()
    world.add(5)

    wait_for(lambda: len(world.incidents()) >= 8, "the incidents after it", 40)
    assert world.incidents() == sorted(world.tickets())
    assert daemon.ended is None
    assert daemon.text().count('"service_started"') == 1
    assert daemon.terminate() == 0
    assert '"crashed"' not in daemon.text()
    assert world.leaks() == []  # S38 S39


def test_f62_a_secret_that_is_refused_waits_for_the_new_one_and_buries_nothing(make: Make) -> None:
    world = make()
    world.configure(toml({"type": "client_credentials", **CLIENT}), 'type = "none"')
    daemon = world.run()
    wait_for(lambda: len(world.incidents()) == 3, "the first incidents")
    world.stop()
    world.right["client-secret"] = "canary/An0ther+s3cret&Zq"
    world.start()
    world.post(f"{world.servicenow}/sandbox/switch", json={"revoke_all": True})
    world.add(2)
    wait_for(lambda: '"route_blocked"' in daemon.text(), "route_blocked")

    world.secret("client-secret", world.right["client-secret"])

    wait_for(lambda: len(world.incidents()) == 5, "the rest", 30)
    assert daemon.terminate() == 0
    assert '"record_dead"' not in daemon.text()
    assert "check client_id and client_secret" in daemon.text()
    assert world.leaks() == []


def test_f62_a_hangup_takes_other_credentials_too(make: Make) -> None:
    world = make("--token-life", "2s")
    world.configure(toml({"type": "client_credentials", **CLIENT}), 'type = "none"')
    daemon = world.run()
    wait_for(lambda: len(world.incidents()) == 3, "the first incidents")

    world.configure(toml({"type": "basic", **PASSWORD}), 'type = "none"')
    daemon.send(signal.SIGHUP)
    wait_for(lambda: '"settings_reloaded"' in daemon.text(), "settings_reloaded")
    before = sum(entry["kind"] == "token" for entry in world.ledger())
    world.add(2)

    wait_for(lambda: len(world.incidents()) == 5, "the rest")
    assert sum(entry["kind"] == "token" for entry in world.ledger()) == before
    assert daemon.terminate() == 0
    assert world.leaks() == []


def test_f27_a_short_lived_token_is_asked_for_once_each_life(make: Make) -> None:
    world = make("--token-life", "3s", "--tickets", "60", "--latency", "60ms")
    world.configure(toml({"type": "client_credentials", **CLIENT}), 'type = "none"', remote="concurrency = 8")
    text = world.settings.read_text()
    world.settings.write_text(text.replace("concurrency = 8", "", 2).replace("max_exec", "concurrency = 8\nmax_exec"))

    done = world.command("once")

    assert done.returncode == 0, done.stdout
    entries = world.ledger()
    tokens = [entry for entry in entries if entry["kind"] == "token"]
    seconds = max(entry["time"] for entry in entries) - min(entry["time"] for entry in entries)
    # The living token is handed out again with what is left of its life, so near its end it is asked for once more.
    assert len(tokens) <= 3 * (seconds / 3 + 1)
    assert len(world.incidents()) == len(set(world.incidents())) == 60
    assert [entry["status"] for entry in entries if entry["kind"] == "incident POST"].count(401) == 0


# The proxy.

PROXY = 'proxy = "{proxy}"\nproxy_username = "pro xy"\nproxy_password = {{ file = "proxy" }}'


def proxied(make: Make) -> tuple[AuthWorld, str]:
    port = free_port()
    world = make("--proxy-port", str(port), "--proxy-username", "pro xy", "--proxy-password", PROXY_PASSWORD)
    return world, f"http://127.0.0.1:{port}"


def test_s34_everything_goes_through_the_proxy_of_the_settings_and_of_no_other(make: Make) -> None:
    world, proxy = proxied(make)
    source = {**CLIENT, "token_url": f"{world.helpdesk}/oauth/token"}
    remote = PROXY.format(proxy=proxy)
    world.configure(
        toml({"type": "client_credentials", **CLIENT}), toml({"type": "client_credentials", **source}), remote=remote
    )
    dead = "http://127.0.0.1:9"

    done = world.command("once", HTTPS_PROXY=dead, https_proxy=dead, ALL_PROXY=dead, NO_PROXY="127.0.0.1", no_proxy="*")

    assert done.returncode == 0, done.stdout + done.stderr
    assert world.incidents() == sorted(world.tickets())
    calls = world.get(f"{proxy}/sandbox/proxied")["calls"]
    assert {(call["method"], call["authorised"]) for call in calls} == {("CONNECT", True)}
    assert {call["target"] for call in calls} == {f"127.0.0.1:{port}" for port in world.ports}
    assert world.leaks() == []


def test_a_proxy_that_refuses_us_blocks_and_names_itself(make: Make) -> None:
    world, proxy = proxied(make)
    world.secret("proxy", "canary/wr0ng=Zq")
    world.configure(toml({"type": "client_credentials", **CLIENT}), 'type = "none"', remote=PROXY.format(proxy=proxy))

    done = world.command("once")

    assert done.returncode == 1
    assert f"the proxy {proxy.removeprefix('http://')} asks for credentials (407); check proxy_username" in done.stdout
    assert world.incidents() == []
    assert world.leaks() == []


def test_a_proxy_that_is_down_is_named(make: Make) -> None:
    world = make()
    world.configure(
        toml({"type": "client_credentials", **CLIENT}), 'type = "none"', remote='proxy = "http://127.0.0.1:9"'
    )

    done = world.command("once")

    assert done.returncode == 1
    assert "through the proxy 127.0.0.1:9: connection refused" in done.stdout


# What is wrong from the start.


def test_s36_without_the_authority_nothing_is_asked(make: Make) -> None:
    world = make()
    other = world.clients.file
    world.configure(toml({"type": "client_credentials", **CLIENT}), 'type = "none"', tls=f'ca = "{other}"')

    done = world.command("once")

    assert done.returncode == 1
    assert "its certificate is not trusted" in done.stdout
    assert world.ledger() == []


def test_s36_a_remote_that_wants_a_certificate_is_told_apart_from_one_that_is_down(make: Make) -> None:
    world = make("--helpdesk-auth", "certificate")
    prepared(world, "none")
    world.configure('type = "none"', 'type = "none"')

    done = world.command("once")

    assert done.returncode == 1
    assert "answered 401; check auth" in done.stdout
    assert world.incidents() == []


def test_s37_secrets_are_never_on_the_command_line_and_open_files_are_told(make: Make) -> None:
    world = make()
    world.configure(toml({"type": "client_credentials", **CLIENT}), 'type = "none"')
    (world.folder / "ours" / "client-secret").chmod(0o644)

    done = world.command("check", "--offline")

    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in (done.stdout + done.stderr).splitlines() if "everybody on this machine can read" in line]
    assert len(told) == 1
    assert "servicenow.auth.client_secret" in told[0]
    assert "chmod 600" in told[0]
    help_text = world.command("run", "--help").stdout
    assert "secret" not in help_text
    assert "password" not in help_text


def test_s37_every_form_of_a_secret_works(make: Make) -> None:
    world = make()
    credentials = world.folder / "ours"
    for form in ('{ credential = "client-secret" }', '{ env = "POLLER_TEST_SECRET" }', f'"{CLIENT_SECRET}"'):
        auth = f'type = "client_credentials"\nclient_id = "poller"\nclient_secret = {form}'
        world.configure(auth, 'type = "none"')
        world.add(1)
        done = world.command(
            "once", CREDENTIALS_DIRECTORY=str(credentials), POLLER_TEST_SECRET=world.right["client-secret"]
        )
        assert done.returncode == 0, (form, done.stdout + done.stderr)
    assert world.incidents() == sorted(world.tickets())
    assert world.leaks() == []
