"""Make of the settings what judges the callers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from poller.clients.http import HttpRemote
from poller.ingress.auth_settings import AuthSettings, ClientSettings
from poller.ingress.principal import Principal, Refused, Verifier
from poller.ingress.tokens.basic import Basic, Certificates
from poller.ingress.tokens.embedded import TokenEndpoint
from poller.ingress.tokens.guessing import ClientSecrets
from poller.ingress.tokens.introspection import IntrospectionVerifier
from poller.ingress.tokens.jwks import KeySource
from poller.ingress.tokens.jwt import JwtVerifier
from poller.ingress.tokens.keys import Keys
from poller.ingress.tokens.opaque import OpaqueVerifier, TokenStore
from poller.logs import get_logger

log = get_logger()


def _nothing(_: str) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """What the app asks who calls. A part that is None is not offered: such a proof is refused."""

    #: ``Authorization: Bearer``.
    verifier: Verifier | None
    #: ``POST /oauth/token``.
    endpoint: TokenEndpoint | None
    #: ``Authorization: Basic``.
    basic: Basic | None
    #: The certificate of the connection.
    certificates: Certificates | None

    def close(self) -> None:
        """Let go of connections; whoever has a question under way gets its answer."""
        if self.verifier is not None:
            self.verifier.close()


def open_proofs(
    auth: AuthSettings | None,
    clients: Mapping[str, ClientSettings],
    tokens: TokenStore | None = None,
    *,
    count: Callable[[str], None] = _nothing,
) -> Proofs:
    """
    Return what judges callers as the settings say. Nothing is asked yet: a provider may be away at the start.

    Args:
        auth: ``[server.auth]``.

        clients: ``[server.clients]``.

        tokens: Where our own endpoint keeps its tokens; None: there is no such endpoint.

        count: Called with ``keys_fetched``, ``keys_failed``, ``introspected``, ``introspection_failed``,
            ``token_refused``, for the metrics.
    """
    secrets = ClientSecrets(clients)
    embedded = tokens if embeds(auth, clients) else None
    certificates = Certificates(clients)
    return Proofs(
        verifier=open_verifier(auth, clients, secrets, tokens, count=count),
        endpoint=None if embedded is None else TokenEndpoint(clients, secrets, embedded),
        basic=Basic(clients, secrets) if auth is not None and auth.basic else None,
        certificates=certificates or None,
    )


def embeds(auth: AuthSettings | None, clients: Mapping[str, ClientSettings]) -> bool:
    """Return whether the settings ask for our own token endpoint: no provider is named, and a client has a secret."""
    external = auth is not None and auth.external
    return not external and any(client.client_secret is not None for client in clients.values())


def open_verifier(
    auth: AuthSettings | None,
    clients: Mapping[str, ClientSettings],
    secrets: ClientSecrets,
    tokens: TokenStore | None = None,
    *,
    count: Callable[[str], None] = _nothing,
) -> Verifier | None:
    """Return what judges bearer tokens, None where the settings accept none; see `open_proofs`."""
    if auth is not None and auth.introspection_url is not None:
        return Told(IntrospectionVerifier(auth, HttpRemote(auth, connections=4), clients, count=count), count)
    if auth is not None and auth.issuer is not None:
        keys = Keys(KeySource(auth, HttpRemote(auth, connections=1)), stale=auth.stale, count=count)
        return Told(JwtVerifier(auth, keys, clients), count)
    if tokens is not None and embeds(auth, clients):
        return Told(OpaqueVerifier(clients, secrets, tokens), count)
    return None


class Told:
    """A verifier whose refusals are logged at debug, and counted."""

    def __init__(self, verifier: Verifier, count: Callable[[str], None]) -> None:
        self._verifier = verifier
        self._count = count

    def verify(self, token: str) -> Principal:
        try:
            return self._verifier.verify(token)
        except Refused as error:
            # Why holds nothing of the token: it is not proven, and may be anything.
            log.debug("token_refused", why=error.why)
            self._count("token_refused")
            raise

    def close(self) -> None:
        self._verifier.close()
