"""
The door of the help desk: who may come in, by one of the usual ways, and its own token endpoint.

``--helpdesk-auth`` chooses the way: ``basic``, ``bearer`` and ``header`` (``x-api-key``) take the sandbox's user name, password
and API key; ``token`` takes tokens of ``POST /oauth/token``, for any grant that the instance knows; ``certificate`` takes a
client certificate of ``--client-ca``. Control calls need none, looking into the vendor's inbox among them.
``GET /sandbox/door`` counts who was let in and who was not.
"""

import json
import threading
from collections import Counter

from poller.sandbox.control import as_json
from poller.sandbox.inbox import is_control
from poller.sandbox.oauth import Gate, basic_pair, bearer
from poller.sandbox.options import Options
from poller.sandbox.wire import Application, Request, Response

TOKEN_PATH = "/oauth/token"  # a path, no secret


class Door:
    """Stands before another application."""

    def __init__(self, inside: Application, gate: Gate, options: Options) -> None:
        self._inside = inside
        self._gate = gate
        self._options = options
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def greet(self, request: Request) -> bool:
        """Leave it to the application."""
        return self._inside.greet(request)

    def answer(self, request: Request) -> Response:
        """Answer *request*, or let it in."""
        if request.path == "/sandbox/door":
            return as_json(200, dict(self._counts))
        if request.path.startswith("/sandbox/") or is_control(request):
            return self._inside.answer(request)
        if request.path == TOKEN_PATH:
            self._count("token")
            return self._gate.issue(request)
        if not self._known(request):
            self._count("refused")
            body = json.dumps({"error": "unauthorized"}).encode()
            return Response(401, body, headers=[("WWW-Authenticate", 'Basic realm="helpdesk"')])
        self._count("let in")
        return self._inside.answer(request)

    def _known(self, request: Request) -> bool:
        options = self._options
        match options.helpdesk_auth:
            case "basic":
                return basic_pair(request) == (options.username, options.password)
            case "bearer":
                return bearer(request) == options.api_key
            case "header":
                return request.headers.get("x-api-key") == options.api_key
            case "token":
                return self._gate.holder(request) is not None
            case "certificate":
                return bool(request.certificate)
        return True

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1
