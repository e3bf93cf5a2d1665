"""Proofs without a token: HTTP Basic with a client's secret, and the TLS certificate that a client has shown."""

from __future__ import annotations

from collections.abc import Mapping

from poller.ingress.auth_settings import ClientSettings
from poller.ingress.principal import Principal, Refused
from poller.ingress.tokens.embedded import decoded_pair
from poller.ingress.tokens.guessing import ClientSecrets
from poller.ingress.tokens.rights import own_principal


class Basic:
    """Judges HTTP Basic, on each request."""

    def __init__(self, clients: Mapping[str, ClientSettings], secrets: ClientSecrets) -> None:
        self._clients = clients
        self._secrets = secrets

    def verify(self, encoded: str, peer: str) -> Principal:
        """
        Return who calls.

        Args:
            encoded: What stands behind ``Basic`` in the header.

            peer: Where the caller is, for counting its failures.

        Raises:
            Refused: It is no client, or not its secret.

            Throttled: Too many were wrong lately.

            Undecided: Too many are being checked.
        """
        pair = decoded_pair(encoded)
        if pair is None:
            raise Refused("not HTTP Basic")
        client, secret = pair
        self._secrets.check(client, secret, peer)
        return own_principal(client, self._clients[client])


class Certificates:
    """Tells clients by the certificate that TLS has verified; whom TLS trusts is the server's business."""

    def __init__(self, clients: Mapping[str, ClientSettings]) -> None:
        self._known = {
            settings.certificate.lower(): own_principal(name, settings)
            for name, settings in clients.items()
            if settings.certificate is not None
        }

    def __bool__(self) -> bool:
        return bool(self._known)

    def verify(self, fingerprint: str) -> Principal:
        """
        Return whose certificate it is.

        Args:
            fingerprint: SHA-256 of the bytes that were shown (DER), in hex.

        Raises:
            Refused: It is nobody's.
        """
        found = self._known.get(f"sha256:{fingerprint.lower()}")
        if found is None:
            raise Refused("the certificate is no client's")
        return found
