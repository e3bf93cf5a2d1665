"""S45, and settings that change under the ingress: SIGHUP, SIGTERM, addresses and sockets that are not to be had."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ingress.daemon import CLIENTS, Ingress, files, running
from tests.scenarios.world import free_port, wait_for

pytestmark = pytest.mark.xdist_group("ingress_reloading")

ROUTES = files("push", "other")


@pytest.fixture
def ingress(tmp_path: Path) -> Iterator[Ingress]:
    with running(tmp_path) as made:
        yield made


def changed(ingress: Ingress, server: str = "", *, without: str = "", more: str = "") -> str:
    """Write other settings and have them read; return what came of it."""
    clients = {name: text for name, text in CLIENTS.items() if name != without}
    ingress.write(server=server, routes=ROUTES, more=more, clients=clients)
    line = ingress.reload()
    return "" if line["event"] == "settings_reloaded" else json.dumps(line["problems"])


# SIGHUP.


def test_another_address_is_taken_and_the_former_one_is_given_back(ingress: Ingress) -> None:
    former = ingress.listen
    ingress.serves()
    token = ingress.token()
    with ingress.connect() as kept:
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while b"alive" not in data:
            data += kept.recv(65536)
        ingress.listen = f"127.0.0.1:{free_port()}"
        assert changed(ingress) == ""
        ingress.serves()
        ingress.listen, new = former, ingress.listen
        with pytest.raises(ConnectionRefusedError):
            ingress.ask("GET", "/healthz")
        with contextlib.suppress(ConnectionError):
            assert kept.recv(65536) == b""
        ingress.listen = new
    # Tokens are in the database.
    assert ingress.token() == token
    assert changed(ingress, 'head_timeout = "1s"\nconnections = 10') == ""
    ingress.serves()
    assert ingress.ask("GET", "/readyz").json["status"] == "ready"


@pytest.mark.parametrize("kind", ["port", "socket"])
def test_nobody_is_turned_away_while_the_server_is_exchanged_at_its_address(tmp_path: Path, kind: str) -> None:
    """What belongs to the server below changes again and again, and somebody connects all the time."""
    end, turned, served = threading.Event(), list[str](), 0
    with running(tmp_path, listen=f"unix:{tmp_path}/http.sock" if kind == "socket" else None) as ingress:

        def knocking() -> None:
            nonlocal served
            while not end.is_set():
                try:
                    with ingress.connect() as connection:
                        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        served += bool(connection.recv(65536))
                except ConnectionRefusedError as error:
                    turned.append(str(error))
                except OSError:
                    pass  # it was accepted by the former server in its last moment

        with ThreadPoolExecutor(1) as pool:
            pool.submit(knocking)
            try:
                for number in range(6):
                    before = served
                    assert changed(ingress, f"connections = {50 + number}") == ""
                    wait_for(lambda: served > before + 5, "it to be served")  # noqa: B023
            finally:
                end.set()

    assert turned == []


def test_settings_that_cannot_be_used_leave_the_former_server_as_it_is(ingress: Ingress) -> None:
    former = ingress.listen
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for listen, says in (
            (f"127.0.0.1:{taken.getsockname()[1]}", "in use"),
            ("192.0.2.1:8080", "listen"),
            ("0.0.0.0:0", "plain HTTP"),
            ("nowhere", "host:port"),
            ("unix:/no/such/folder/socket", "listen"),
            (f"unix:{'x' * 200}", "longer"),
        ):
            ingress.listen = listen
            problems = changed(ingress)
            assert says in problems, problems
            ingress.listen = former
            ingress.serves()
    assert "hosts" in changed(ingress, 'hosts = ["http://a"]')
    # A route that is wrong leaves the ingress as it was, too.
    assert changed(ingress, "max_body = 10", more="[routes.wrong]\nevery = 'soon'\n") != ""
    ingress.serves()
    assert changed(ingress, "max_body = 10") == ""
    assert ingress.push({"id": "too large"}).status == 413


def test_a_client_that_is_removed_has_no_token_any_more_at_once(ingress: Ingress) -> None:
    record = {"id": "one", "version": "1"}
    assert ingress.push(record, client="writer").status == 202
    assert changed(ingress, without="writer") == ""
    assert ingress.push(record, client="writer").status == 401
    assert ingress.fetch("writer").status == 401
    ingress.serves()
    assert changed(ingress) == ""
    # Its token comes back with it; a new secret would end it.
    assert ingress.push(record, client="writer").status == 202
    wider = {**CLIENTS, "writer": CLIENTS["writer"].replace("records:write:push", "records:read:push")}
    ingress.write(server="", routes=ROUTES, more="", clients=wider)
    ingress.reload()

    assert ingress.push(record, client="writer").status == 403


def test_the_ingress_is_taken_away_and_added(ingress: Ingress) -> None:
    ingress.serves()
    with_server = ingress.settings.read_text()
    ingress.settings.write_text(
        with_server.partition("[server]")[0].replace("[routes.other.push]", "[routes.other.push]")
    )
    told = ingress.reload()
    if told["event"] == "settings_reloaded":
        with pytest.raises(OSError, match="refused"):
            ingress.ask("GET", "/healthz")
    else:
        # A route that is pushed to needs somebody who listens.
        assert "server" in json.dumps(told["problems"])
        ingress.serves()
    ingress.settings.write_text(with_server)
    assert ingress.reload()["event"] == "settings_reloaded"
    ingress.serves()


# SIGTERM.


@pytest.mark.parametrize("round_", range(2))
def test_pushes_under_way_at_sigterm_are_answered_or_not_taken(ingress: Ingress, round_: int) -> None:
    ingress.token()
    accepted: list[str] = []
    end = threading.Event()

    def client(number: int) -> None:
        while not end.is_set():
            number += 100
            with contextlib.suppress(OSError, AssertionError, ValueError):
                if ingress.push({"id": number, "version": "1"}).status == 202:
                    accepted.append(str(number))

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(client, number)
        wait_for(lambda: len(accepted) > 20, "twenty pushes")
        assert ingress.daemon.terminate() == 0
        end.set()

    assert set(accepted) <= set(ingress.stored())
    # What is committed has been answered.
    assert len(set(ingress.stored()) - set(accepted)) == 0
    assert ingress.said("service_stopped")


def test_a_client_that_dawdles_does_not_hold_up_the_end(ingress: Ingress) -> None:
    with ingress.connect() as silent, ingress.connect() as slow:
        slow.sendall(ingress.head("/routes/push/records", "Content-Length: 50") + b"\r\n{")
        silent.sendall(b"GET /hea")
        wait_for(lambda: ingress.ask("GET", "/healthz").status == 200, "it")
        began = time.monotonic()
        assert ingress.daemon.terminate() == 0

    assert time.monotonic() - began < 20


# What cannot start.


def test_an_address_in_use_is_one_line_and_exit_69(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        made = Ingress(tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        daemon = made.spawn()
        code = daemon.wait(60)

    (line,) = (daemon.errors() + daemon.text()).splitlines()
    assert code == 69
    assert json.loads(line).items() >= {"event": "server_failed", "level": "error"}.items()
    assert "in use" in line
    assert made.listen in line


# S45: a socket in the file system.


def test_s45_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with running(tmp_path, listen=f"unix:{path}") as ingress:
        ingress.serves()
        assert stat.S_ISSOCK(path.lstat().st_mode)
        # Behind a proxy: its Host is one of ours where the settings say so, and everybody comes from here.
        assert ingress.ask("GET", "/healthz", headers={"Host": "evil.example"}).status == 421
        assert ingress.said("request_answered", peer="unix")
        ingress.daemon.kill()
        assert path.exists()
        ingress.start()
        ingress.serves()
        assert ingress.daemon.terminate() == 0
        assert not path.exists()
        # Another's in the same place stays.
        ingress.start()
        path.unlink()
        path.write_text("another's")
        assert ingress.daemon.terminate() == 0
        assert path.read_text() == "another's"


def cannot(folder: Path, path: Path) -> str:
    made = Ingress(folder, listen=f"unix:{path}")
    daemon = made.spawn()
    assert daemon.wait(60) == 69
    # Those before have written there too.
    return daemon.text().splitlines()[-1]


def test_s45_what_is_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    target, place = tmp_path / "precious", tmp_path / "http.sock"
    target.write_text("precious")
    target.chmod(0o600)
    place.symlink_to(target)
    assert "listen" in cannot(tmp_path, place)
    place.unlink()
    place.symlink_to(tmp_path / "nowhere")
    assert "listen" in cannot(tmp_path, place)
    place.unlink()
    place.write_text("a file")
    assert "listen" in cannot(tmp_path, place)
    place.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place))
        other.listen()
        assert "another process" in cannot(tmp_path, place)

    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("precious", 0o600)
    assert not (tmp_path / "nowhere").exists()


def test_s45_a_folder_in_which_others_may_exchange_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    assert "others may exchange" in cannot(tmp_path, folder / "http.sock")
    assert list(folder.iterdir()) == []
