"""
The token endpoint and the check of credentials: tokens, Basic, API key, client certificate.

Asking again while a token lives returns the living one; what that does to its life differs between sources, so
it is a switch. A wrong secret, a wrong password, a dead refresh token all get the same opaque 401, with
``server_error`` in it, although nothing about it is transient.
"""

import base64
import binascii
import json
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote_plus

from poller.sandbox.assertion import Judge, Refused
from poller.sandbox.faults import error
from poller.sandbox.options import Json, Options, Switches
from poller.sandbox.store import Store
from poller.sandbox.wire import Request, Response


@dataclass(kw_only=True)
class Token:
    """An access token and, for the password grant, the refresh token that came with it."""

    access: str
    user: str
    grant: str
    expires: float  # seconds since 1970, real clock
    refresh: str = ""
    refresh_expires: float = 0.0
    revoked: bool = False
    guest: bool = False


def _denied() -> Response:
    return Response(401, b'{"error_description":"access_denied","error":"server_error"}')


def _oauth_error(status: int, code: str, description: str) -> Response:
    return Response(status, json.dumps({"error": code, "error_description": description}).encode())


JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Gate:
    """
    Issues tokens and tells who is calling.

    Args:
        kind: Under which name its tokens are kept; those of one gate open no other.
    """

    def __init__(self, options: Options, switches: Switches, store: Store, kind: str = "token") -> None:
        self._kind = kind
        self._judge = _judge(options)
        self._options = options
        self._switches = switches
        self._store = store
        self._lock = threading.Lock()
        self._tokens: dict[str, Token] = {}
        store.reads(kind, self._read)

    def _read(self, value: Json) -> None:
        token = Token(**value)
        self._tokens[token.access] = token

    def _keep(self, token: Token) -> None:
        self._tokens[token.access] = token
        self._store.write(self._kind, asdict(token))

    def issue(self, request: Request) -> Response:
        """Answer ``POST /oauth_token.do``."""
        if request.method != "POST":
            return _oauth_error(400, "invalid_request", "Missing parameters: grant_type")
        if "application/x-www-form-urlencoded" not in request.headers.get("content-type", ""):
            return _oauth_error(400, "invalid_request", "Missing parameters: grant_type, client_id, client_secret")
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        if (pair := basic_pair(request)) is not None:
            # The client's id and secret are form-encoded before Basic joins them.
            form.setdefault("client_id", unquote_plus(pair[0]))
            form.setdefault("client_secret", unquote_plus(pair[1]))
        missing = [name for name in ("grant_type", "client_id", "client_secret") if not form.get(name)]
        if missing:
            return _oauth_error(400, "invalid_request", f"Missing parameters: {', '.join(missing)}")
        if form["client_id"] != self._options.client_id:
            return _oauth_error(401, "invalid_client", "Invalid client")
        if form["client_secret"] != self._options.client_secret:
            return _denied()
        return self._granted(form)

    def _granted(self, form: dict[str, str]) -> Response:
        grant = form["grant_type"]
        options, switches = self._options, self._switches
        if grant == "client_credentials":
            if not switches.client_credentials:
                return _denied()
            if not switches.application_user:
                text = "integration user is not configured for OAuth:0123456789abcdef0123456789abcdef"
                return _oauth_error(400, "unauthorized_client", text)
            return self._answer(self._token(options.username, grant))
        if grant == "password":
            if (form.get("username"), form.get("password")) != (options.username, options.password):
                return _denied()
            return self._answer(self._token(options.username, grant))
        if grant == "refresh_token":
            return self._refreshed(form.get("refresh_token", ""))
        if grant == JWT_BEARER and self._judge is not None:
            return self._asserted(form.get("assertion", ""), self._judge)
        return _oauth_error(400, "unsupported_grant_type", grant)

    def _asserted(self, assertion: str, judge: Judge) -> Response:
        try:
            subject = judge.subject(assertion, time.time() + self._switches.clock_skew)
        except Refused:
            return _denied()
        return self._answer(self._token(subject, JWT_BEARER)) if subject == self._options.username else _denied()

    def _token(self, user: str, grant: str) -> Token:
        switches, now = self._switches, time.time()
        with self._lock:
            if switches.token_reuse != "new-each-time":
                living = (
                    one for one in self._tokens.values() if self._alive(one) and (one.user, one.grant) == (user, grant)
                )
                if (token := next(living, None)) is not None and token.guest == switches.guest_token:
                    if switches.token_reuse == "same+extended":
                        token.expires = now + switches.token_life
                        self._keep(token)
                    return token
            token = Token(
                access=secrets.token_urlsafe(64),
                user=user,
                grant=grant,
                expires=now + switches.token_life,
                guest=switches.guest_token,
            )
            if grant == "password":
                token.refresh = secrets.token_urlsafe(64)
                token.refresh_expires = now + switches.refresh_life
            self._keep(token)
            return token

    def _refreshed(self, refresh: str) -> Response:
        now = time.time()
        with self._lock:
            found = [one for one in self._tokens.values() if refresh and one.refresh == refresh]
            if not found or found[-1].refresh_expires <= now:
                return _denied()
            old = found[-1]
            token = Token(
                access=secrets.token_urlsafe(64),
                user=old.user,
                grant=old.grant,
                expires=now + self._switches.token_life,
                refresh=old.refresh,
                refresh_expires=old.refresh_expires,
            )
            self._keep(token)
        return self._answer(token)

    def _answer(self, token: Token) -> Response:
        # A fresh token reads one second less than its life: whole seconds, and some of the first is gone.
        left = max(0, int(token.expires - time.time() - 0.001))
        content: dict[str, Json] = {"access_token": token.access}
        if token.refresh:
            content["refresh_token"] = token.refresh
        content |= {"scope": "useraccount", "token_type": "Bearer"}
        told = self._switches.expires_in
        if told != "absent":
            content["expires_in"] = left if told is None else told
        headers = [("Cache-Control", "no-store"), ("Pragma", "no-cache"), ("Server", "ServiceNow")]
        return Response(200, json.dumps(content, separators=(",", ":")).encode(), headers=headers)

    def revoke(self, request: Request) -> Response:
        """Answer ``/oauth_revoke_token.do?token=...``; it needs no authentication."""
        form = dict(parse_qsl(request.query) + parse_qsl(request.body.decode("utf-8", "replace")))
        self.kill(form.get("token", ""))
        return Response(200, b"", "text/html")

    def kill(self, access: str) -> None:
        """Make a token dead."""
        with self._lock:
            for token in list(self._tokens.values()):
                if access and access in {token.access, token.refresh}:
                    token.revoked = True
                    if access == token.refresh:
                        token.refresh_expires = 0.0
                    self._keep(token)

    def kill_all(self) -> None:
        """Make every token dead."""
        with self._lock:
            for token in list(self._tokens.values()):
                token.revoked, token.refresh_expires = True, 0.0
                self._keep(token)

    def _alive(self, token: Token) -> bool:
        return not token.revoked and token.expires > time.time()

    def holder(self, request: Request) -> str | None:
        """Return whose living token *request* carries, None without one."""
        token = self._tokens.get(bearer(request) or "")
        return token.user if token is not None and self._alive(token) and not token.guest else None

    def user(self, request: Request) -> str | None:
        """Return the user_name that *request* acts as; None when its credentials are no good."""
        options = self._options
        if bearer(request) is not None:
            return self.holder(request)
        if request.headers.get("x-sn-apikey") == options.api_key:
            return options.username
        if (pair := basic_pair(request)) is not None and self._switches.basic:
            return options.username if pair == (options.username, options.password) else None
        return options.username if request.certificate else None

    def unauthenticated(self, instance: str) -> Response:
        """Return the 401 of an API call."""
        new = self._switches.wording == "new"
        text = "User is not authenticated" if new else "User Not Authenticated"
        response = error(401, text, "Required to provide Auth information")
        schemes = ["BEARER", "BASIC"] if new else ["BASIC"]
        response.headers = [
            *[("WWW-Authenticate", f'{scheme} realm="Service-now"') for scheme in schemes],
            ("Server", "ServiceNow"),
            ("Set-Cookie", f"JSESSIONID={secrets.token_hex(16).upper()}; Path=/; HttpOnly; Secure"),
            ("Set-Cookie", "glide_user=; Max-Age=0; Expires=Thu, 01-Jan-1970 00:00:10 GMT; Path=/; HttpOnly; Secure"),
            ("Set-Cookie", f"BIGipServerpool_{instance}=1.2.3; path=/; Httponly; Secure"),
        ]
        response.close = True
        return response


def _judge(options: Options) -> Judge | None:
    if options.jwt_key is None:
        return None
    return Judge(Path(options.jwt_key).read_text("ascii"), client_id=options.client_id)


def bearer(request: Request) -> str | None:
    """Return the bearer token of *request*, if it has one."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if request.method == "GET" and "access_token=" in request.query:
        return dict(parse_qsl(request.query)).get("access_token")
    return None


def basic_pair(request: Request) -> tuple[str, str] | None:
    """Return user and password of HTTP Basic, if *request* has them."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user, password
