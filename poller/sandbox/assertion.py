"""
The JWT bearer grant's assertion, verified by hand: RS256 alone, with nothing but the standard library.

An instance knows the sender's public key; here it is a PEM file with ``BEGIN PUBLIC KEY``. Its claims are judged as
ServiceNow does: the audience is the client's id, a ``jti`` is taken once, clocks may be 300 s apart.

Source: RFC 7515, RFC 7519, RFC 8017 8.2.2 (RSASSA-PKCS1-v1_5), RFC 5280 4.1 (SubjectPublicKeyInfo).
"""

import base64
import binascii
import hashlib
import hmac
import json
import threading
import time

from poller.sandbox.options import Json

SKEW = 300.0
#: DER of what stands before a SHA-256 digest in a signature (RFC 8017 9.2, note 1).
_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
_SEQUENCE, _INTEGER, _BITS = 0x30, 0x02, 0x03


class Refused(ValueError):
    """The assertion is not good; says why, which a real instance does not."""


def _value(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the DER value that *data* begins with, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        message = "no RSA public key in PEM"
        raise ValueError(message)
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return data[start : start + length], data[start + length :]


def read_key(pem: str) -> tuple[int, int]:
    """
    Return modulus and exponent of the RSA public key in *pem*.

    Raises:
        ValueError: There is none.
    """
    lines = [line for line in pem.splitlines() if line and not line.startswith("-----")]
    if "BEGIN PUBLIC KEY" not in pem:
        message = "no RSA public key in PEM (BEGIN PUBLIC KEY)"
        raise ValueError(message)
    whole, _ = _value(base64.b64decode("".join(lines)), _SEQUENCE)
    _, rest = _value(whole, _SEQUENCE)  # which algorithm
    bits, _ = _value(rest, _BITS)
    numbers, _ = _value(bits[1:], _SEQUENCE)  # after the count of unused bits
    modulus, rest = _value(numbers, _INTEGER)
    exponent, _ = _value(rest, _INTEGER)
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def _part(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _signed_by(key: tuple[int, int], signature: bytes, data: bytes) -> bool:
    modulus, exponent = key
    size = (modulus.bit_length() + 7) // 8
    digest = _SHA256 + hashlib.sha256(data).digest()
    wanted = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
    found = pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(size, "big")
    return len(signature) == size and hmac.compare_digest(found, wanted)


class Judge:
    """Says who an assertion speaks for."""

    def __init__(self, pem: str, *, client_id: str) -> None:
        self._key = read_key(pem)
        self._client_id = client_id
        self._lock = threading.Lock()
        self._seen: set[str] = set()

    def subject(self, assertion: str, now: float | None = None) -> str:
        """
        Return the subject of *assertion*.

        Raises:
            Refused: It is forged, for somebody else, too old, too young, or was here before.
        """
        try:
            head, body, signature = assertion.split(".")
            header, claims = json.loads(_part(head)), json.loads(_part(body))
            sealed = _signed_by(self._key, _part(signature), f"{head}.{body}".encode())
        except (ValueError, binascii.Error) as error:
            message = "no signed JWT"
            raise Refused(message) from error
        if not isinstance(header, dict) or header.get("alg") != "RS256" or not sealed:
            message = "not signed by the key that is registered"
            raise Refused(message)
        self._judge(claims, time.time() if now is None else now)
        return str(claims["sub"])

    def _judge(self, claims: Json, now: float) -> None:
        numbers = [claims.get("iat"), claims.get("exp")]
        if not all(isinstance(number, int) for number in numbers) or not claims.get("iss") or not claims.get("sub"):
            message = "iss, sub, iat and exp are required"
            raise Refused(message)
        if claims.get("aud") != self._client_id:
            message = "aud is not the client's id"
            raise Refused(message)
        if numbers[1] + SKEW < now or numbers[0] - SKEW > now or numbers[1] - numbers[0] > 300:
            message = "expired, not yet valid, or valid for more than five minutes"
            raise Refused(message)
        with self._lock:
            if not claims.get("jti") or claims["jti"] in self._seen:
                message = "jti is missing, or was used before"
                raise Refused(message)
            self._seen.add(claims["jti"])
