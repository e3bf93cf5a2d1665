"""What may stand in ``[server.auth]`` and ``[server.clients.NAME]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from poller.ingress.auth_settings import AuthSettings, ClientSettings, hash_of
from poller.ingress.scrypt import ScryptHash

ISSUED = {"issuer": "https://id.example", "audience": "poller"}
ASKED = {"introspection_url": "https://id.example/i", "client_id": "a", "client_secret": "b"}
#: Of "a secret of somebody"; written out, since workers of pytest-xdist must find the same tests.
HASH = "$scrypt$ln=14,r=8,p=1$rdzSYVKzGXemWPoRR8inNA$OClWr6fPQNTtpnX6OEOlAK9+DsNObf+S0BTW2hnLt5A"


@pytest.mark.parametrize(
    "given",
    [
        {}, {"basic": True}, ISSUED, ISSUED | {"audience": ["a", "b"]}, ISSUED | {"jwks_url": "https://keys.example/"}, ASKED,
        ASKED | {"audience": "a", "issuer": "https://id.example"}, {"issuer": "http://127.0.0.1:1", "audience": "a"},
        ISSUED | {"leeway": "60s", "stale": "1d", "algorithm": "EdDSA", "proxy": "http://proxy.example:3128"},
    ],
)  # fmt: skip
def test_right_settings_are_taken(given: dict[str, Any]) -> None:
    assert AuthSettings.model_validate(given).algorithm


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"issuer": "https://id.example"}, "audience is required"), ({"audience": "a"}, "issuer is required"),
        ({"jwks_url": "https://id.example"}, "issuer is required"), (ISSUED | {"client_id": "a"}, "for introspection_url"),
        (ISSUED | {"audience": []}, "an audience is"), (ISSUED | {"audience": ["a", ""]}, "an audience is"),
        (ASKED | {"jwks_url": "https://id.example"}, "not both"), ({"introspection_url": "https://a.example"}, "are required"),
        (ISSUED | {"leeway": "2m"}, "at most"), (ISSUED | {"stale": "0s"}, "longer than nothing"),
        (ISSUED | {"algorithm": "HS256"}, "RS256"), (ISSUED | {"verify": False}, "Extra inputs"),
        ({"issuer": "http://id.example", "audience": "a"}, "plain http"), ({"issuer": "https://u:p@id.example"}, "no user"),
        (ISSUED | {"deadline": "0s"}, "longer than nothing"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AuthSettings.model_validate(given)


@pytest.mark.parametrize(
    "secret",
    [
        "c4n4ry-plain-secret", "", HASH + "x", HASH[:-1], HASH.replace("ln=14", "ln=25"), HASH.replace("ln=14", "ln=1"),
        HASH.replace("r=8", "r=64"), HASH.replace("p=1", "p=99"), "$2b$12$" + "a" * 53,
    ],
)  # fmt: skip
def test_s37_a_plain_secret_of_a_client_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ValidationError, match="poller client add") as caught:
        ClientSettings.model_validate({"client_secret": secret, "scopes": ["poll"]})

    assert secret == "" or secret not in str(caught.value)


def test_a_hash_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "sn").write_text(HASH + "\n")
    found = ClientSettings.model_validate(
        {"client_secret": {"file": "sn"}, "scopes": ["poll"]}, context={"base": tmp_path}
    )

    assert found.client_secret is not None
    assert hash_of(found.client_secret).matches("a secret of somebody")


@pytest.mark.parametrize(
    "given",
    [
        {"scopes": ["admin"]}, {"scopes": []}, {"scopes": ["poll:UPPER"]}, {"certificate": "sha256:ab", "scopes": ["poll"]},
        {"certificate": "sha256:" + "a" * 64}, {"client_secret": HASH}, {"requests_per_minute": 0}, {"routes": []},
    ],
)  # fmt: skip
def test_wrong_clients_are_told(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClientSettings.model_validate(given)


def test_a_hash_matches_its_secret_alone() -> None:
    made = ScryptHash.parse(HASH)

    assert made.text() == HASH
    assert made.matches("a secret of somebody")
    assert not made.matches("a secret of somebodY")
    assert not made.of_nothing().matches("a secret of somebody")
    assert ScryptHash.of("x").text() != ScryptHash.of("x").text()
    assert "salt" not in repr(made)
