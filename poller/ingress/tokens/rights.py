"""What a client may do: the scopes of its token and those that the settings leave it, taken together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from poller.ingress.auth_settings import ACTS, SCOPE, ClientSettings
from poller.ingress.principal import Principal


def act_of(scope: str) -> str:
    """Return *scope* without its route: ``records:write`` of ``records:write:helpdesk``."""
    found = SCOPE.fullmatch(scope)
    if found is None:
        raise ValueError("no scope of ours")
    return next(act for act in ACTS if scope == act or scope.startswith(f"{act}:"))


def ours(scopes: Iterable[str]) -> frozenset[str]:
    """Return those of *scopes* that mean something here; a provider's tokens have others as well."""
    return frozenset(scope for scope in scopes if SCOPE.fullmatch(scope))


def covered(scope: str, by: frozenset[str]) -> bool:
    """Return whether whoever has the scopes *by* may also have *scope*."""
    return scope in by or act_of(scope) in by


def common(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """Return what both allow: of ``poll`` and ``poll:helpdesk``, the narrower."""
    return frozenset(
        {scope for scope in one if covered(scope, other)} | {scope for scope in other if covered(scope, one)}
    )


def principal(client: str, scopes: Iterable[str], clients: Mapping[str, ClientSettings]) -> Principal:
    """Return the caller *client* that a token gives *scopes*, within what the settings leave it."""
    granted = ours(scopes)
    settings = clients.get(client)
    if settings is None:
        return Principal(client=client, scopes=granted)
    if settings.scopes is not None:
        granted = common(granted, frozenset(settings.scopes))
    return Principal(client=client, scopes=granted, routes=_routes(settings))


def own_principal(client: str, settings: ClientSettings) -> Principal:
    """Return the caller that has proven to be *client* by its secret or its certificate."""
    return Principal(client=client, scopes=frozenset(settings.scopes or ()), routes=_routes(settings))


def _routes(settings: ClientSettings) -> frozenset[str] | None:
    return None if settings.routes is None else frozenset(settings.routes)
