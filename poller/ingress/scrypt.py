"""
How a client's secret is kept: as a scrypt hash, in one line of text, ``$scrypt$ln=14,r=8,p=1$SALT$HASH``.

Salt and hash are base64 without padding. The form is that of the password hashing competition, which passlib writes too. A
check costs about 50 ms and 16 MiB: who calls it bounds how many there are at once (`poller.ingress.tokens.guessing`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field, replace
from typing import Final, Self

#: From the cheapest that is safe today to what one check may take of this machine: 128 MiB.
_LN: Final = range(14, 18)
_R: Final = 8
_P: Final = range(1, 5)
_FORM: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{43})"
)
_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True)
class ScryptHash:
    """One hash. The secret that it is of is not in it."""

    ln: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read the one form.

        Raises:
            ValueError: It is another, or costs too little or too much. The text itself is not in the message.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError("is no scrypt hash such as $scrypt$ln=14,r=8,p=1$...$...")
        ln, r, p = int(found[1]), int(found[2]), int(found[3])
        if ln not in _LN or r != _R or p not in _P:
            raise ValueError("asks for ln from 14 to 17, r=8 and p from 1 to 4")
        try:
            salt, digest = _decoded(found[4]), _decoded(found[5])
        except binascii.Error:
            raise ValueError("holds a salt or a hash that is no base64") from None
        return cls(ln=ln, r=r, p=p, salt=salt, digest=digest)

    @classmethod
    def of(cls, secret: str) -> Self:
        """Return a new hash of *secret*, with a salt of its own."""
        bare = cls(ln=14, r=_R, p=1, salt=secrets.token_bytes(16), digest=b"")
        return replace(bare, digest=bare._derived(secret))

    def of_nothing(self) -> Self:
        """Return one that costs as much as this, and that nothing matches but by a chance of one in 2^256."""
        return replace(self, salt=secrets.token_bytes(16), digest=secrets.token_bytes(_BYTES))

    def text(self) -> str:
        """Return it as it stands in the settings."""
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_encoded(self.salt)}${_encoded(self.digest)}"

    def matches(self, secret: str) -> bool:
        """Return whether it is the hash of *secret*; takes as long either way."""
        return hmac.compare_digest(self._derived(secret), self.digest)

    def _derived(self, secret: str) -> bytes:
        # What OpenSSL needs besides the 128 * N * r of the algorithm is little.
        most = 128 * (1 << self.ln) * self.r + (1 << 20)
        return hashlib.scrypt(
            secret.encode("utf-8", "surrogatepass"),
            salt=self.salt,
            n=1 << self.ln,
            r=self.r,
            p=self.p,
            maxmem=most,
            dklen=_BYTES,
        )


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
