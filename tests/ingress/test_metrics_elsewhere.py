"""S47: where others reach the ingress, counts are for those with the scope for them. Nothing listens here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from poller.ingress.app import App
from poller.ingress.house import House
from poller.ingress.principal import Principal, Refused
from poller.ingress.settings import ServerSettings
from poller.ingress.tokens import Proofs
from tests.ingress.wire import Line


class Verifier:
    """Takes a token for the scope that it names."""

    def verify(self, token: str) -> Principal:
        if token == "forged":
            raise Refused("forged")
        return Principal(client="watcher", scopes=frozenset({token.replace("_", ":")}))

    def close(self) -> None:
        pass


def asked(listen: str, peer: str, token: str | None, *, host: str = "poller.example") -> int:
    settings = ServerSettings.model_validate({"listen": listen, "allow_plaintext": True, "clients": {}})
    proofs = cast("Proofs", SimpleNamespace(verifier=Verifier(), basic=None, certificates=None, endpoint=None))
    app = App(settings, cast("House", SimpleNamespace()), proofs)
    said: list[str] = []
    environ: dict[str, Any] = {
        "REQUEST_URI": "/metrics", "REQUEST_METHOD": "GET", "REMOTE_ADDR": peer, "HTTP_HOST": host,
        "poller.connection": Line(),
    }  # fmt: skip
    if token is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    app(environ, lambda status, _: said.append(status))
    return int(said[0][:3])


@pytest.mark.parametrize(
    ("listen", "peer", "token", "status"),
    [
        ("127.0.0.1:8080", "127.0.0.1", None, 200),
        ("0.0.0.0:8080", "192.0.2.7", None, 401),
        ("0.0.0.0:8080", "127.0.0.1", None, 401),
        ("0.0.0.0:8080", "192.0.2.7", "forged", 401),
        ("0.0.0.0:8080", "192.0.2.7", "records_read", 403),
        ("0.0.0.0:8080", "192.0.2.7", "metrics", 200),
    ],
)
def test_s47_counts_need_their_scope_where_others_reach_them(
    listen: str, peer: str, token: str | None, status: int
) -> None:
    host = "localhost" if listen.startswith("127") else "poller.example"

    assert asked(listen, peer, token, host=host) == status
