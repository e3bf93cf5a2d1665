"""
The shapes of ``auth`` in the settings, one model a type.

A further type is one model here, one line in `AuthSettings`, and one branch in `poller.clients.oauth.credentials`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from poller.clients.address import check_url
from poller.values import Model, Secret

#: RFC 9110 "token": what a header may be called.
_HEADER_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$"
#: Set by the client itself; a second one would be a second meaning.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "cookie", "accept-encoding"})


class NoAuth(Model):
    """No credentials at all."""

    type: Literal["none"] = "none"


class BasicAuth(Model):
    """HTTP Basic."""

    type: Literal["basic"]
    username: str = Field(min_length=1)
    password: Secret


class BearerAuth(Model):
    """A token that was handed out once and for all."""

    type: Literal["bearer"]
    token: Secret


class HeaderAuth(Model):
    """A header of the admin's choice, such as ``x-sn-apikey``."""

    type: Literal["header"]
    name: str = Field(pattern=_HEADER_NAME)
    value: Secret

    @field_validator("name")
    @classmethod
    def _not_ours(cls, name: str) -> str:
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{name} is set by the client itself")
        return name


class _TokenAuth(Model):
    #: Left out: the remote's own default, for ServiceNow ``<instance>/oauth_token.do``.
    token_url: str | None = None
    client_id: str = Field(min_length=1)
    client_secret: Secret
    scope: str | None = None
    #: Where the client's id and secret go: the form body, or HTTP Basic (form-encoded first, RFC 6749 2.3.1).
    client_auth: Literal["post", "basic"] = "post"

    @field_validator("token_url")
    @classmethod
    def _secure(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url, allow_plaintext=False)
        return url


class ClientCredentialsAuth(_TokenAuth):
    """OAuth 2 client credentials (RFC 6749 4.4)."""

    type: Literal["client_credentials"]


class PasswordAuth(_TokenAuth):
    """OAuth 2 resource owner password (RFC 6749 4.3), for instances without the client-credentials grant."""

    type: Literal["password"]
    username: str = Field(min_length=1)
    password: Secret


#: Types that are asked for a token at a token endpoint.
TokenAuth = ClientCredentialsAuth | PasswordAuth

AuthSettings = Annotated[
    ClientCredentialsAuth | PasswordAuth | BasicAuth | BearerAuth | HeaderAuth | NoAuth,
    Field(discriminator="type"),
]
