"""
Who we are at the instance, and what that account may do: token, access, clock, own user, roles, ``sys_user``.

Everything is read; nothing is written. What an instance does not tell is said to be not known.

Source: servicenow.md sections 1, 3 and 10; guarantee.md S50.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from poller.clients.answers import is_sys_id
from poller.clients.query import Query, check_value
from poller.clients.servicenow import ServiceNowClient
from poller.commands.checking.findings import Finding, fault, warning, well
from poller.errors import BlockedError, PollerError
from poller.model import Fields

#: Clocks further apart are worth a word; creates stop at `_SKEWED`, as in the sink.
_NOTABLE, _SKEWED = timedelta(seconds=5), timedelta(seconds=300)
_PROPERTY: Final = "glide.oauth.inbound.client.credential.grant_type.enabled"
_GUEST: Final = "application user set and active"
#: A token endpoint's answers that never say which of several causes it is (servicenow.md 1.4).
_OPAQUE: Final = ("server_error", "access_denied", "without a reason", "invalid_client")
_TITLE: Final = re.compile(r"<title>([^<]{1,80})", re.IGNORECASE)
_USER: Final = ("sys_id", "user_name", "active", "time_zone", "web_service_access_only")
#: Roles of the base system that may create incidents; customers have their own besides.
WRITERS: Final = frozenset({"itil", "sn_incident_write", "admin"})
READ_ONLY: Final = "snc_read_only"


class Account:
    """The integration user, as far as the instance tells."""

    def __init__(self, client: ServiceNowClient) -> None:
        self.client = client
        auth = client.settings.auth
        #: Of the settings; None where only the instance knows, as with client credentials.
        self.username: str | None = getattr(auth, "username", None) or getattr(auth, "subject", None)
        self.row: Fields | None = None
        #: None: not known.
        self.roles: frozenset[str] | None = None

    @property
    def name(self) -> str:
        """Return what to call it."""
        return self.username or "the integration user"

    def checks(self) -> list[Callable[[], Iterator[Finding]]]:
        """Return what is asked once `access` is given."""
        return [self.clock, self.own_user, self.own_roles, self.users]

    # Whether we get in at all.

    def token(self) -> Iterator[Finding]:
        """Ask for a token, and once more with nothing remembered."""
        try:
            first = self.client.authenticate()
            if not first.token:
                kind = self.client.settings.auth.type
                yield well("token", f"{self.client.instance}: none is asked for, auth is {kind}")
                return
            again = ServiceNowClient(self.client.settings, connections=1)
            second = again.authenticate()
            again.close()
        except PollerError as error:
            yield fault("token", *self._no_token(error))
            return
        same = "the same one when asked again" if first.mark == second.mark else "a new one each time"
        lives = "" if first.lives is None else f", lives {first.lives:.0f} s"
        yield well("token", f"{self.client.instance}: given{lives}, {same}")

    def _no_token(self, error: PollerError) -> tuple[str, str]:
        """Return what is said of a token that was not given, and the remedy."""
        said = str(error)
        if not isinstance(error, BlockedError):
            return self._no_answer(error)
        said = said.partition(";")[0]
        if "unauthorized_client" in said:
            return said, "set the OAuth application's user (OAuth Application User) at the instance, and have it active"
        if "invalid_scope" in said:
            return said, "correct servicenow.auth.scope, or leave it out"
        if not any(word in said for word in _OPAQUE):
            return said, "see servicenow.auth, and the application registry of the instance"
        if self.client.settings.auth.type == "client_credentials":
            causes = f"client_secret or client_id is wrong, or the system property {_PROPERTY} is not true"
            order = "look at client_secret first, then at the property, then at the OAuth application's user"
        else:
            causes = "client_secret, client_id or the user's own credentials are wrong, or the user is locked out"
            order = "look at client_secret and password first, then at the user"
        return f"{said}, which ServiceNow says of several causes: {causes}", order

    def access(self) -> Iterator[Finding]:
        """Ask one harmless question: does the API answer this account at all."""
        try:
            self.client.table_get("sys_user", Query().equals("user_name", _nobody()), ["sys_id"], 1)
        except PollerError as error:
            if error.evidence.status in {400, 403, 404} and isinstance(error, BlockedError):
                return  # it answers; what may be read is asked below
            if error.evidence.status == 401:
                yield fault("access", *self._unauthenticated())
            else:
                yield fault("access", *self._no_answer(error))

    def _unauthenticated(self) -> tuple[str, str]:
        said = "401: the API does not accept what was sent"
        match self.client.settings.auth.type:
            case "client_credentials":
                said = "401: a token was given, and the API does not accept it, as for a guest"
                return said, f"have the OAuth application's user set and active ({_GUEST})"
            case "basic":
                remedy = "mark the user as web service access only, or give it the role snc_basic_auth_api_access"
                return said, f"check username and password; new releases refuse Basic to interactive users: {remedy}"
            case "header":
                return said, "check the API key, its expiry, and the REST API access policy of the instance"
        return said, "check servicenow.auth, and that its user is active and not locked out"

    def _no_answer(self, error: PollerError) -> tuple[str, str]:
        """Return what is said where nothing of ServiceNow answered, and the remedy."""
        said, status = str(error), error.evidence.status
        if "not trusted" in said:
            return said.partition("; see tls.ca")[0], (
                "put the PEM of the CA that signed the instance's certificate into servicenow.tls.ca "
                "(there is no switch that turns verification off)"
            )
        excerpt = error.evidence.excerpt or ""
        if status == 200:
            title = _TITLE.search(excerpt)
            what = f'the HTML page "{title[1].strip()}"' if title else "a page that is no answer of the API"
            return f"{self.client.instance} answered with {what} and status 200", (
                "it is a login, hibernation or proxy page: open the address in a browser, wake the instance, "
                "and see that servicenow.instance is its bare address"
            )
        if status is not None and 300 <= status < 400:
            return f"{self.client.instance} redirects ({status})", "set servicenow.instance to where it leads"
        if status == 429:
            return said, "the instance limits our requests; wait, and see servicenow.requests_per_hour"
        return said, "see that servicenow.instance and proxy are right, and that this machine may reach them"

    # What it is like.

    def clock(self) -> Iterator[Finding]:
        """Tell how far the clocks are apart, from the Date of the answers so far."""
        if not self.client.skew_measured:
            yield warning("clock", "not known: answers carry no Date", "see that no proxy takes the Date header out")
            return
        seconds = self.client.skew_seconds
        apart = timedelta(seconds=abs(seconds))
        said = f"ours is {apart.total_seconds():.0f} s {'ahead' if seconds > 0 else 'behind'}"
        remedy = "set the clocks right (NTP on this machine); creates stop at 300 s"
        if apart >= _SKEWED:
            yield fault("clock", said, remedy)
        elif apart >= _NOTABLE:
            yield warning("clock", said, remedy)
        else:
            yield well("clock", "in step with ours")

    def own_user(self) -> Iterator[Finding]:
        """Find out who we are: by the settings' username, else by what the instance says."""
        try:
            self.row = self._own_row()
        except PollerError as error:
            yield well("account", f"{self.username or 'not known'}: {error}")
            return
        if self.row is None:
            yield well("account", f"{self.username or 'not known'}: its own row in sys_user is not to be seen")
            return
        self.username = str(self.row["user_name"])
        kind = "web service access only" if self.row.get("web_service_access_only") == "true" else "interactive too"
        yield well("account", f"{self.username}, {kind}")

    def _own_row(self) -> Fields | None:
        if self.username is None:
            rows = self.client.table_get("sys_user", Query().asker("user_name"), _USER, 2)
            # Two rows: the condition was dropped or the script refused, and these are just anybody.
            return rows[0] if len(rows) == 1 and rows[0].get("user_name") else None
        rows = self.client.table_get("sys_user", Query().equals("user_name", check_value(self.username)), _USER, 2)
        mine = [row for row in rows if _same(row.get("user_name"), self.username)]
        return mine[0] if mine else None

    def own_roles(self) -> Iterator[Finding]:
        """Read the roles of the account, where that is allowed."""
        sys_id = self.row.get("sys_id") if self.row else None
        if not is_sys_id(sys_id):
            return
        query = Query().equals("user", str(sys_id))
        try:
            rows = self.client.table_get("sys_user_has_role", query, ["user", "role.name"], 500)
        except PollerError:
            yield well("roles", "not known: sys_user_has_role cannot be read")
            return
        mine = [row for row in rows if row.get("user") == sys_id]
        if rows and not any(row.get("role.name") for row in mine):
            yield well("roles", "not known: sys_user_has_role does not tell")
            return
        self.roles = frozenset(str(row["role.name"]) for row in mine if row.get("role.name"))
        yield self._roles()

    def _roles(self) -> Finding:
        roles = self.roles or frozenset()
        if "admin" in roles:  # S50
            return warning(
                "roles",
                f"{self.name} has the role admin, which may do anything",
                "take it away; sn_incident_write and read access to sys_user are enough",
            )
        if READ_ONLY in roles:
            return fault(
                "roles",
                f"{self.name} has the role {READ_ONLY}, which refuses every write: no incident could be created",
                f"take the role {READ_ONLY} from {self.name}",
            )
        return well("roles", ", ".join(sorted(roles)) or "none is to be seen")

    # Users in general.

    def users(self) -> Iterator[Finding]:
        """See whether users can be looked up, and whether conditions are heeded."""
        remedy = f"give {self.name} read access to sys_user and its column user_name"
        try:
            if self.client.table_get("sys_user", Query().equals("user_name", _nobody()), ["user_name"], 1):
                yield fault(
                    "sys_user",
                    "asked for a user that nobody is, the instance drops our condition on user_name and gives others",
                    remedy,
                )
                return
            rows = self._some_users()
        except PollerError as error:
            yield fault("sys_user", str(error), remedy)
            return
        if not rows:
            yield fault("sys_user", "no user that begins with a can be seen", remedy)
        elif not any(row.get("user_name") for row in rows):
            yield fault("sys_user", "user_name comes back empty or is left out: nobody could be found", remedy)
        else:
            yield well("sys_user", f"can be read; {self._case(str(rows[0]['user_name']))}; {self._dropping()}")

    def _some_users(self) -> list[Fields]:
        columns = ["sys_id", "user_name"]
        if self.username is not None:
            rows = self.client.table_get("sys_user", Query().equals("user_name", self.username), columns, 2)
            if rows:
                return rows
        # Of all users, those whose names begin with a letter that nearly every instance has.
        return self.client.table_get("sys_user", Query().starts_with("user_name", "a"), columns, 1)

    def _case(self, name: str) -> str:
        """Ask for *name* in the other case: what ``=`` makes of it (servicenow.md 3.4)."""
        other = name.upper() if name != name.upper() else name.lower()
        if other == name:
            return "case is not known to matter"
        try:
            rows = self.client.table_get("sys_user", Query().equals("user_name", check_value(other)), ["user_name"], 2)
        except (PollerError, ValueError):
            return "case is not known to matter"
        matters = not any(_same(row.get("user_name"), name) for row in rows)
        return "case matters in look-ups" if matters else "case does not matter in look-ups"

    def _dropping(self) -> str:
        """Ask about a column that there is not (servicenow.md 3.1)."""
        try:
            rows = self.client.table_get("sys_user", Query().equals("u_poller_no_such_column", "x"), ["sys_id"], 1)
        except PollerError:
            return "a condition that is not understood is refused"
        what = "is dropped, as by default; each row is compared" if rows else "gives no rows"
        return f"a condition that is not understood {what}"


def _nobody() -> str:
    return f"poller-check-{secrets.token_hex(12)}"


def _same(value: object, name: str) -> bool:
    return isinstance(value, str) and value.casefold() == name.casefold()
