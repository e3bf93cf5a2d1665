"""
Who may call the ingress: ``[server.auth]`` and ``[server.clients.NAME]``.

A token comes from a provider that publishes its keys (``issuer``), from one that is asked about each token
(``introspection_url``), or from poller's own token endpoint, which is there where neither is named and a client has a secret.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from poller.clients.address import check_url
from poller.clients.http import ReachSettings
from poller.ingress.scrypt import ScryptHash
from poller.values import Duration, Model, Secret, Size

#: Signed with a key that nobody but the provider has; with a shared one, whoever can check a token could make one.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

#: ``records:write``, ``records:read``, ``poll``, each on all routes or on one; ``metrics`` is about no route.
SCOPE: Final = re.compile(r"(?:records:write|records:read|poll)(?::[a-z0-9][a-z0-9-]{0,62})?|metrics")
#: What a client is given where nothing is asked for.
USUAL: Final = ("records:write", "records:read", "poll")
ACTS: Final = (*USUAL, "metrics")
#: A client's id as providers give them; it stands in access lines.
CLIENT_ID: Final = r"^[\x21-\x7e]{1,200}$"

_LONGEST_LEEWAY: Final = timedelta(seconds=60)


def _scope(text: str) -> str:
    if not SCOPE.fullmatch(text):
        raise ValueError(
            'a scope is "records:write", "records:read" or "poll", or one of them with ":ROUTE" behind it; or "metrics"'
        )
    return text


Scope = Annotated[str, AfterValidator(_scope)]
ClaimName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class AuthSettings(ReachSettings):
    """Whose tokens are accepted. Where it names no provider, those of poller's own token endpoint are."""

    issuer: Annotated[
        str | None, Field(description="the provider's iss, exactly as its tokens have it; they are checked by its keys")
    ] = None
    audience: Annotated[
        str | list[str] | None,
        Field(
            description="aud: one of these must be in the token; required beside issuer unless tokens are asked about"
        ),
    ] = None
    jwks_url: Annotated[
        str | None, Field(description="where the keys are; left out: what the issuer's own metadata say")
    ] = None
    algorithm: Annotated[Algorithm, Field(description="the only one that is accepted")] = "RS256"
    leeway: Annotated[Duration, Field(description="that clocks may differ by; at most 60s")] = timedelta(seconds=30)
    require_typ: Annotated[
        bool,
        Field(
            description="accept nothing that does not say it is an access token: header typ at+jwt, "
            "or token_type in the answer of introspection_url"
        ),
    ] = False
    scope_claim: Annotated[
        ClaimName | None,
        Field(description='where scopes are, such as "realm_access.roles"; left out: scope, else scp, else roles'),
    ] = None
    client_claim: Annotated[
        ClaimName | None, Field(description="where the client's id is; left out: client_id, else azp, else sub")
    ] = None
    stale: Annotated[Duration, Field(description="how long the last good keys are used while the provider is away")] = (
        timedelta(hours=1)
    )
    introspection_url: Annotated[
        str | None, Field(description="where each token is asked about (RFC 7662), for tokens that are no JWT")
    ] = None
    client_id: Annotated[str | None, Field(min_length=1, description="ours, at introspection_url")] = None
    client_secret: Annotated[Secret | None, Field(description="of client_id")] = None
    client_auth: Annotated[
        Literal["basic", "post"], Field(description="where they go: form-encoded into HTTP Basic, or into the form")
    ] = "basic"
    basic: Annotated[
        bool, Field(description="accept HTTP Basic of [server.clients.NAME] beside tokens, on all end points")
    ] = False
    # Somebody waits for the answer, and holds a thread meanwhile.
    connect_timeout: Annotated[Duration, Field(description="until the connection stands")] = timedelta(seconds=5)
    read_timeout: Annotated[Duration, Field(description="the longest silence within an answer")] = timedelta(seconds=10)
    deadline: Annotated[Duration, Field(description="for a whole answer, however it drips")] = timedelta(seconds=10)
    max_body: Annotated[Size, Field(gt=0, description="the largest answer, decoded")] = 1_000_000

    @field_validator("issuer", "jwks_url", "introspection_url")
    @classmethod
    def _secure(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url, allow_plaintext=False)
        return url

    @field_validator("audience")
    @classmethod
    def _some_audience(cls, audience: str | list[str] | None) -> str | list[str] | None:
        listed = [audience] if isinstance(audience, str) else audience
        if listed is not None and (not listed or "" in listed):
            raise ValueError("an audience is some text, or a list of such")
        return audience

    @field_validator("leeway")
    @classmethod
    def _little(cls, leeway: timedelta) -> timedelta:
        if leeway > _LONGEST_LEEWAY:
            raise ValueError('is at most "60s": set the clocks instead (NTP)')
        return leeway

    @field_validator("stale")
    @classmethod
    def _some_time_stale(cls, stale: timedelta) -> timedelta:
        if stale <= timedelta(0):
            raise ValueError("must be longer than nothing")
        return stale

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.introspection_url is not None:
            self._introspects(self.jwks_url, self.client_id, self.client_secret)
        elif self.issuer is not None:
            if self.audience is None:
                raise ValueError("audience is required beside issuer: tokens for others would be accepted without it")
        elif self.jwks_url is not None or self.audience is not None:
            raise ValueError("issuer is required beside jwks_url or audience, or else introspection_url")
        if self.introspection_url is None and (self.client_id is not None or self.client_secret is not None):
            raise ValueError("client_id and client_secret are for introspection_url, which is not given")
        return self

    @staticmethod
    def _introspects(jwks_url: str | None, client_id: str | None, client_secret: Secret | None) -> None:
        if jwks_url is not None:
            raise ValueError("give either jwks_url or introspection_url, not both")
        if client_id is None or client_secret is None:
            raise ValueError("client_id and client_secret are required beside introspection_url")

    @property
    def audiences(self) -> frozenset[str]:
        """What may stand as the audience; none: anything may."""
        if self.audience is None:
            return frozenset()
        return frozenset([self.audience] if isinstance(self.audience, str) else self.audience)

    @property
    def external(self) -> bool:
        """Whether tokens come from a provider, and not from our own endpoint."""
        return self.issuer is not None or self.introspection_url is not None


class ClientSettings(Model):
    """A client of the ingress, under the id by which it is known, also to an external provider."""

    client_secret: Annotated[
        Secret | None,
        Field(description="the scrypt hash of its secret, as poller client add writes it; never the secret itself"),
    ] = None
    certificate: Annotated[
        str | None,
        Field(
            pattern=r"^sha256:[0-9a-fA-F]{64}$",
            description='"sha256:…", the fingerprint of its TLS certificate, which then proves who it is without a token',
        ),
    ] = None
    scopes: Annotated[
        list[Scope] | None,
        Field(
            min_length=1,
            description='what it may do: "records:write", "records:read", "poll", each on all routes or, with ":ROUTE", on one; "metrics"; '
            "of the scopes in a provider's token these remain. Left out: those alone decide",
        ),
    ] = None
    routes: Annotated[
        list[str] | None, Field(min_length=1, description="the routes that it may speak of; left out: all")
    ] = None
    requests_per_minute: Annotated[int, Field(ge=1, description="more get 429 and are to come again later")] = 6000

    @field_validator("client_secret")
    @classmethod
    def _hash(cls, secret: Secret | None) -> Secret | None:
        if secret is not None:
            hash_of(secret)
        return secret

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.scopes is None and (self.client_secret is not None or self.certificate is not None):
            raise ValueError("scopes are required beside client_secret or certificate")
        return self


def hash_of(secret: Secret) -> ScryptHash:
    """
    Return the hash that a client's ``client_secret`` holds; files are read anew each time.

    Raises:
        ValueError: There is none. What was found is not in the text: it may be the secret itself.
    """
    try:
        text = secret.reveal()
    except (OSError, UnicodeDecodeError):
        raise ValueError("its file cannot be read as text") from None
    try:
        return ScryptHash.parse(text)
    except ValueError as error:
        raise ValueError(f"{error}; poller client add makes one") from None


#: ``[server.clients.NAME]``.
ClientName = Annotated[str, StringConstraints(pattern=CLIENT_ID)]
