"""The proxy of the settings: credentials for it alone, and words that name it."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from poller.clients.http import HttpRemote, RemoteSettings
from poller.errors import BlockedError, TransientError
from poller.sandbox.proxy import ForwardProxy
from tests.clients.fake import Act, answer, serving

WHOLE = answer(b"{}", headers={"Connection": "close"})


def remote(proxy: str, **more: Any) -> HttpRemote:
    return HttpRemote(RemoteSettings.model_validate({"proxy": proxy, **more}))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_credentials_go_to_the_proxy_and_not_to_the_origin(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("ä:b")
    given = {"proxy_username": "us er", "proxy_password": {"file": str(file)}}
    proxy = ForwardProxy("127.0.0.1", 0, username="us er", password="ä:b")
    proxy.start()
    with serving(lambda _: Act(WHOLE, "close")) as fake:
        http = remote(proxy.url, **given)
        assert http.request("GET", fake.url + "/a?b=c", headers={"Authorization": "Bearer t"}).status == 200
        assert fake.arrived[0].line == "GET /a?b=c HTTP/1.1"
        assert "proxy-authorization" not in fake.arrived[0].headers
        assert fake.arrived[0].headers["authorization"] == "Bearer t"

        # F62: rotated under way.
        proxy.credentials("us er", "new")
        with pytest.raises(BlockedError, match=r"the proxy 127.0.0.1:\d+ asks for credentials \(407\)"):
            http.request("GET", fake.url)
        file.write_text("new")
        assert http.request("GET", fake.url).status == 200
    proxy.stop()


def test_a_tunnel_is_asked_for_with_credentials_and_nothing_else_of_ours() -> None:
    refused = Act(b"HTTP/1.1 407 Who are you\r\n\r\n", "close")
    with serving(lambda _: refused) as proxy:
        http = remote(proxy.url, proxy_username="u", proxy_password="p")
        with pytest.raises(BlockedError, match="check proxy_username and proxy_password"):
            http.request("POST", "https://far.example/secret", headers={"Authorization": "Bearer t"}, body=b"x")

        assert proxy.arrived[0].line.startswith("CONNECT far.example:443 ")
        assert proxy.arrived[0].headers == {
            "host": "far.example:443",
            "proxy-authorization": basic("u", "p"),
        }
        assert len(proxy.arrived) == 1


def test_a_407_of_the_origin_itself_is_an_answer() -> None:
    with serving(lambda _: Act(answer(status="407 X"))) as fake:
        assert HttpRemote(RemoteSettings()).request("GET", fake.url).status == 407


def test_a_proxy_that_is_down_or_broken_is_named_and_its_own_words_are_not_repeated() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError, match=f"through the proxy 127.0.0.1:{port}: connection refused") as caught:
        remote(f"http://127.0.0.1:{port}").request("POST", "https://far.example/", body=b"x")
    assert caught.value.remote
    with serving(lambda _: Act(b"HTTP/1.1 502 canary\x1b[0m\r\n\r\n", "close")) as proxy:
        with pytest.raises(TransientError, match=r"Tunnel connection failed: 502$") as caught:
            remote(proxy.url).request("POST", "https://far.example/", body=b"x")
        assert "canary" not in str(caught.value)


def test_s34_what_the_environment_says_of_proxies_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with serving(lambda _: Act(WHOLE)) as other, serving(lambda _: Act(WHOLE)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", other.url)
        monkeypatch.setenv("http_proxy", other.url)
        remote(proxy.url).request("GET", "http://127.0.0.1:9/")
        assert (other.connections, proxy.connections) == (0, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"proxy": "http://user:canary@proxy:3128"}, "use proxy_username and proxy_password"),
        ({"proxy": "https://proxy:3128"}, "spoken to in plain"),
        ({"proxy": "socks5://proxy:1080"}, "socks and others are not supported"),
        ({"proxy": "proxy:3128"}, "a proxy is written"),
        ({"proxy": "http://proxy:3128", "proxy_username": "u"}, "go together"),
        ({"proxy_username": "u", "proxy_password": "canary"}, "proxy is not given"),
        ({"proxy": "http://proxy:1", "proxy_username": "a:b", "proxy_password": "canary"}, "holds a colon"),
    ],
)
def test_proxies_that_are_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        RemoteSettings.model_validate(given)
    assert "canary" not in str(caught.value)
