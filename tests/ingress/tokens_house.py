"""Keys, tokens and settings for tests of proofs; and a provider that can misbehave."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from poller.ingress.auth_settings import AuthSettings, ClientSettings
from poller.ingress.tokens.jwks import usable
from poller.ingress.tokens.jwt import JwtVerifier
from poller.ingress.tokens.keys import Found, Keys

ISSUER = "https://id.example/realm"
AUDIENCE = "poller"

#: Made once: RSA keys are dear.
RSA = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("one", "two")}
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    algorithm: Any = jwt.algorithms.RSAAlgorithm
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = jwt.algorithms.ECAlgorithm
    if isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = jwt.algorithms.OKPAlgorithm
    made = json.loads(algorithm.to_jwk(key.public_key()))
    made.pop("key_ops", None)
    return {**made, **({} if kid is None else {"kid": kid}), **more}


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def claims(**changed: Any) -> dict[str, Any]:
    """Claims that are right but for what is changed; None takes one out."""
    now = time.time()
    right = {
        "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "nbf": now - 1, "iat": now - 1,
        "client_id": "pusher", "sub": "pusher", "scope": "records:write openid",
    }  # fmt: skip
    return {name: value for name, value in (right | changed).items() if value is not None}


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(
    given: Mapping[str, Any] | None = None,
    *,
    key: Any = None,
    kid: str | None = "one",
    algorithm: str = "RS256",
    **header: Any,
) -> str:
    headers = {name: value for name, value in ({"kid": kid} | header).items() if value is not None}
    return signed({"alg": algorithm, "typ": "JWT", **headers}, claims() if given is None else given, key or RSA["one"])


def signed(header: Any, payload: Any, key: Any, algorithm: str | None = None) -> str:
    """Sign whatever it is, past every check of a library."""
    name = algorithm or header["alg"]
    made = jwt.get_algorithm_by_name(name)
    head = f"{part(header)}.{part(payload)}"
    return f"{head}.{part(made.sign(head.encode(), made.prepare_key(key)))}"


class FakeSource:
    """Hands out the keys that a test gives it, and counts."""

    def __init__(self, *keys: dict[str, Any], algorithm: str = "RS256") -> None:
        self.keys = list(keys)
        self.algorithm = algorithm
        self.fetches = 0
        self.error: Exception | None = None

    def fetch(self) -> Found:
        self.fetches += 1
        if self.error is not None:
            raise self.error
        return usable({"keys": self.keys}, self.algorithm)

    def close(self) -> None:
        pass


class Ticks:
    """A monotonic clock that moves as it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def auth(**given: Any) -> AuthSettings:
    return AuthSettings.model_validate({"issuer": ISSUER, "audience": AUDIENCE, **given})


def client(**given: Any) -> ClientSettings:
    return ClientSettings.model_validate(given)


def verifier(
    source: FakeSource | None = None,
    clients: Mapping[str, ClientSettings] | None = None,
    *,
    ticks: Ticks | None = None,
    **settings: Any,
) -> JwtVerifier:
    given = auth(**settings)
    source = source or FakeSource(jwk(RSA["one"], "one"), algorithm=given.algorithm)
    return JwtVerifier(given, Keys(source, stale=given.stale, clock=ticks or Ticks()), clients or {})
