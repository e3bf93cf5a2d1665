"""
The assertion of the JWT bearer grant: short-lived, used once, signed with the admin's own key.

Pure: key and claims in, text out. The cryptography is PyJWT's and cryptography's; both are imported only where a key is in
use.

Source: RFC 7523; servicenow.md 1.1 (RS/ES 256-512, ``aud`` = client id, ``jti`` used once, clock skew 300 s).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    Key = RSAPrivateKey | EllipticCurvePrivateKey

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]

#: An assertion's whole life in seconds; some endpoints refuse more than five minutes.
LIFE: Final = 300
#: Seconds that it is dated back, for an endpoint whose clock is behind ours.
_BACK: Final = 60
_LEAST_BITS: Final = 2048
_CURVES: Final[dict[str, Algorithm]] = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_OTHERS: Final = {
    "-----BEGIN CERTIFICATE": "a certificate",
    "-----BEGIN PUBLIC KEY": "a public key",
    "-----BEGIN RSA PUBLIC KEY": "a public key",
    "-----BEGIN OPENSSH": "a key in OpenSSH's own form",
    "ssh-": "a key in OpenSSH's own form",
}


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Who says what to whom."""

    issuer: str
    subject: str
    audience: str
    #: The ``kid`` header; None leaves it out.
    key_id: str | None = None


def load_key(pem: str, passphrase: str | None) -> Key:
    """
    Return the private key in *pem*.

    Raises:
        ValueError: There is none that can be used; the text begins with the settings key that is at fault.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if "PRIVATE KEY-----" not in pem or "OPENSSH" in pem:
        raise ValueError(f'private_key is {_other(pem)}, not a private key in PEM ("-----BEGIN PRIVATE KEY-----")')
    if "ENCRYPTED" in pem and passphrase is None:
        raise ValueError("private_key is protected by a pass phrase; give it as passphrase")
    try:
        key = load_pem_private_key(pem.encode(), passphrase.encode() if passphrase else None)
    except TypeError:
        raise ValueError("passphrase is given, but private_key is not protected by one; leave it out") from None
    except (ValueError, UnsupportedAlgorithm):
        if "ENCRYPTED" in pem:
            raise ValueError("passphrase does not open private_key") from None
        raise ValueError("private_key is cut or damaged; write the PEM file anew") from None
    if isinstance(key, RSAPrivateKey):
        if key.key_size < _LEAST_BITS:
            raise ValueError(f"private_key is an RSA key of {key.key_size} bits; at least {_LEAST_BITS} are needed")
        return key
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    raise ValueError("private_key is of a kind that is not known; RSA and the curves P-256, P-384, P-521 are")


def _other(pem: str) -> str:
    return next((name for mark, name in _OTHERS.items() if mark in pem), "something else")


def algorithm_for(key: Key, wanted: Algorithm | None) -> Algorithm:
    """
    Return what *key* signs by; without a wish RS256, or the one of its curve.

    Raises:
        ValueError: *wanted* is not for this key.
    """
    curve = getattr(key, "curve", None)
    natural: Algorithm = "RS256" if curve is None else _CURVES[curve.name]
    if wanted is None:
        return natural
    if (wanted in {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}) if curve is None else wanted == natural:
        return wanted
    kind = "an RSA key, which signs by RS or PS" if curve is None else f"a key for {natural}"
    raise ValueError(f"algorithm is {wanted}, but private_key is {kind}; leave algorithm out")


def signed(key: Key, algorithm: Algorithm, claims: Claims, *, now: float) -> str:
    """
    Return a new assertion.

    Args:
        now: Seconds since 1970 by the clock of whoever will judge it, as far as that is known.
    """
    import jwt

    issued = int(now) - _BACK
    return jwt.encode(
        {
            "iss": claims.issuer,
            "sub": claims.subject,
            "aud": claims.audience,
            "iat": issued,
            "exp": issued + LIFE,
            "jti": uuid.uuid4().hex,
        },
        key,
        algorithm=algorithm,
        headers={"kid": claims.key_id} if claims.key_id else None,
    )
