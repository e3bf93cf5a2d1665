"""
Who calls: finds the proof in a request and has it judged.

A token in the header ``Authorization``, HTTP Basic where the settings allow it, or the client's certificate. Never in the
address, a cookie or a body: those are logged and kept elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from poller.ingress.answers import Problem
from poller.ingress.principal import Principal, Refused, Undecided
from poller.ingress.requests import Request
from poller.ingress.tokens import Proofs, Throttled

_REALM: Final = 'realm="poller"'


@dataclass(frozen=True, kw_only=True)
class Callers:
    """Judges who calls."""

    proofs: Proofs

    def caller(self, request: Request) -> Principal:
        """
        Return who calls.

        Raises:
            Problem: 401: nobody we know. 503: nobody can tell now.
        """
        try:
            return self._proven(request)
        except Refused as error:
            raise self._unknown(error.why, given=True) from None
        except Throttled as error:
            seconds = max(1, ceil(error.retry_after.total_seconds()))
            raise Problem(
                429, "too many wrong secrets", reason="throttled", headers=[("Retry-After", str(seconds))]
            ) from None
        except Undecided as error:
            seconds = max(1, ceil(error.retry_after.total_seconds()))
            raise Problem(
                503,
                "nobody can say now whose token this is",
                reason="undecided",
                why=error.why,
                headers=[("Retry-After", str(seconds))],
            ) from None

    def _proven(self, request: Request) -> Principal:
        if request.authorization is not None:
            token = request.bearer
            if token is not None and self.proofs.verifier is not None:
                return self.proofs.verifier.verify(token)
            given = request.basic
            if given is not None and self.proofs.basic is not None:
                return self.proofs.basic.verify(given, request.peer)
            raise Refused("the Authorization is of no kind that is taken here")
        shown = request.connection.certificate
        if shown is not None and self.proofs.certificates is not None:
            return self.proofs.certificates.verify(shown)
        raise self._unknown("no proof was given", given=False)

    def _unknown(self, why: str, *, given: bool) -> Problem:
        asked = []
        if self.proofs.verifier is not None:
            asked.append(f"Bearer {_REALM}" + (', error="invalid_token"' if given else ""))
        if self.proofs.basic is not None:
            asked.append(f"Basic {_REALM}")
        headers = [("WWW-Authenticate", each) for each in asked or [f"Bearer {_REALM}"]]
        detail = "the token is not valid here" if given else "a bearer token is needed, in the header Authorization"
        return Problem(401, detail, reason="invalid_token" if given else "no_token", headers=headers, why=why)


def not_allowed(act: str, route: str) -> Problem:
    """Return what is said to somebody who is known and may not do that."""
    return Problem(
        403,
        f"this needs the scope {act} for route {route}",
        reason="insufficient_scope",
        headers=[("WWW-Authenticate", f'Bearer {_REALM}, error="insufficient_scope", scope="{act}"')],
    )
