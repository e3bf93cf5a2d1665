"""
The shapes of ``auth`` in the settings, one model a type.

A further type is one model here, one line in `AuthSettings`, and one branch in `poller.clients.oauth.credentials`, or in
`poller.clients.grants.asker` where a token is asked for.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from poller.clients.address import check_url
from poller.clients.assertion import Algorithm, algorithm_for, load_key
from poller.values import Model, Secret

#: RFC 9110 "token": what a header may be called.
_HEADER_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$"
#: Set by the client itself; a second one would be a second meaning.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "cookie", "accept-encoding"})
#: What is a header's value, from its first to its last character.
_HEADER_VALUE = re.compile(r"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


class NoAuth(Model):
    """No credentials at all, or those of ``tls.certificate`` alone."""

    type: Literal["none"] = "none"


class BasicAuth(Model):
    """HTTP Basic."""

    type: Literal["basic"]
    username: Annotated[str, Field(min_length=1, description="the account's user name")]
    password: Annotated[Secret, Field(description="its password")]

    @field_validator("username")
    @classmethod
    def _one_part(cls, username: str) -> str:
        if ":" in username:
            raise ValueError("holds a colon, where HTTP Basic begins the password")
        return username

    @field_validator("password")
    @classmethod
    def _there(cls, password: Secret) -> Secret:
        return _something(password)


class BearerAuth(Model):
    """A token that was handed out once and for all."""

    type: Literal["bearer"]
    token: Annotated[Secret, Field(description="what stands behind Authorization: Bearer")]

    @field_validator("token")
    @classmethod
    def _sendable(cls, token: Secret) -> Secret:
        return _header_value(token)


class HeaderAuth(Model):
    """A header of the admin's choice, such as ``x-sn-apikey``."""

    type: Literal["header"]
    name: Annotated[str, Field(pattern=_HEADER_NAME, description='the header, such as "x-sn-apikey"')]
    value: Annotated[Secret, Field(description="its whole value")]

    @field_validator("name")
    @classmethod
    def _not_ours(cls, name: str) -> str:
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{name} is set by the client itself")
        return name

    @field_validator("value")
    @classmethod
    def _sendable(cls, value: Secret) -> Secret:
        return _header_value(value)


class _TokenAuth(Model):
    token_url: Annotated[
        str | None,
        Field(description="where tokens are asked for; left out: <instance>/oauth_token.do, elsewhere it is required"),
    ] = None
    scope: Annotated[str | None, Field(description="asked for, parted by blanks; left out: none")] = None
    client_auth: Annotated[
        Literal["post", "basic"],
        Field(description="where client id and secret go: into the form, or form-encoded into HTTP Basic"),
    ] = "post"

    @field_validator("token_url")
    @classmethod
    def _secure(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url, allow_plaintext=False)
        return url


class _ClientTokenAuth(_TokenAuth):
    client_id: Annotated[str, Field(min_length=1, description="of the OAuth application")]
    client_secret: Annotated[Secret, Field(description="of the OAuth application")]

    @field_validator("client_secret")
    @classmethod
    def _there(cls, secret: Secret) -> Secret:
        return _something(secret)


class ClientCredentialsAuth(_ClientTokenAuth):
    """OAuth 2 client credentials (RFC 6749 4.4)."""

    type: Literal["client_credentials"]


class PasswordAuth(_ClientTokenAuth):
    """OAuth 2 resource owner password (RFC 6749 4.3), for instances without the client-credentials grant."""

    type: Literal["password"]
    username: Annotated[str, Field(min_length=1, description="whose rights the requests have")]
    password: Annotated[Secret, Field(description="used where there is no refresh token, or it is dead")]

    @field_validator("password")
    @classmethod
    def _password_there(cls, password: Secret) -> Secret:
        return _something(password)


class RefreshAuth(_ClientTokenAuth):
    """
    OAuth 2 refresh (RFC 6749 6), for whoever was given a refresh token.

    With `username` and `password` as well, a dead refresh token is replaced; with these two alone, the first one is got by
    them, which is what ``password`` does.
    """

    type: Literal["refresh"]
    refresh_token: Annotated[
        Secret | None, Field(description="handed out once; the provider must let it be used again")
    ] = None
    username: Annotated[str | None, Field(min_length=1, description="with password: replaces a dead one")] = None
    password: Annotated[Secret | None, Field(description="of username")] = None

    @field_validator("refresh_token", "password")
    @classmethod
    def _some(cls, secret: Secret | None) -> Secret | None:
        return secret if secret is None else _something(secret)

    @model_validator(mode="after")
    def _one_way_at_least(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.refresh_token is None and self.password is None:
            raise ValueError("refresh_token is required, or else username and password")
        return self


class JwtBearerAuth(_TokenAuth):
    """OAuth 2 by a signed assertion (RFC 7523): nothing that could be sent twice ever leaves this machine."""

    type: Literal["jwt_bearer"]
    client_id: Annotated[
        str | None, Field(min_length=1, description="of the OAuth application; ServiceNow needs it")
    ] = None
    client_secret: Annotated[Secret | None, Field(description="of the OAuth application; ServiceNow needs it")] = None
    private_key: Annotated[Secret, Field(description="PEM: RSA from 2048 bits, or P-256, P-384, P-521")]
    passphrase: Annotated[Secret | None, Field(description="of private_key, where it is protected by one")] = None
    issuer: Annotated[str | None, Field(min_length=1, description="iss; left out: client_id")] = None
    subject: Annotated[str, Field(min_length=1, description="sub: whose rights the requests have")]
    audience: Annotated[
        str | None, Field(min_length=1, description="aud; left out: client_id, as ServiceNow wants, else token_url")
    ] = None
    key_id: Annotated[str | None, Field(min_length=1, description="kid; left out: none")] = None
    algorithm: Annotated[
        Algorithm | None, Field(description="left out: RS256 for an RSA key, else the one of its curve")
    ] = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.issuer is None and self.client_id is None:
            raise ValueError("issuer is required where there is no client_id")
        if self.client_secret is not None and self.client_id is None:
            raise ValueError("client_id is required beside client_secret")
        if self.client_secret is not None:
            _something(self.client_secret)
        key = load_key(_text(self.private_key), _text(self.passphrase) if self.passphrase else None)
        algorithm_for(key, self.algorithm)
        return self


def _text(secret: Secret) -> str:
    try:
        return secret.reveal()
    except OSError as error:
        raise ValueError(f"secret file {error.filename} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"secret file {secret.path} is not UTF-8 text") from None


def _something(secret: Secret) -> Secret:
    if not _text(secret):
        raise ValueError("this secret is empty")
    return secret


def _header_value(secret: Secret) -> Secret:
    if not _HEADER_VALUE.fullmatch(_text(secret)):
        raise ValueError("this secret is empty, or holds something that no header may: a line end, a blank at an end")
    return secret


#: Types that are asked for a token at a token endpoint.
TokenAuth = ClientCredentialsAuth | PasswordAuth | RefreshAuth | JwtBearerAuth

AuthSettings = Annotated[
    ClientCredentialsAuth | PasswordAuth | RefreshAuth | JwtBearerAuth | BasicAuth | BearerAuth | HeaderAuth | NoAuth,
    Field(discriminator="type"),
]
