"""The ingress: whether those who judge tokens answer, how long our certificate lasts, and whether the address is to be had."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from poller.clients.http import HttpRemote
from poller.commands.checking.findings import Finding, fault, warning, well
from poller.ingress.auth_settings import AuthSettings
from poller.ingress.listening import try_out
from poller.ingress.principal import Refused, Undecided
from poller.ingress.settings import ServerSettings
from poller.ingress.tokens.introspection import IntrospectionVerifier
from poller.ingress.tokens.jwks import KeySource, NoKeys

_NAME: Final = "ingress"
#: A certificate that ends sooner is worth a look.
_SOON: Final = timedelta(days=21)
#: Nobody's token: the provider must say that it is not active.
_NOBODYS: Final = "poller-check-of-a-token-that-nobody-has"


def ingress(settings: ServerSettings, *, now: datetime | None = None) -> Iterator[Finding]:
    """Check what `[server]` depends on."""
    auth = settings.auth
    if auth is not None and auth.issuer is not None and auth.introspection_url is None:
        yield _keys(auth)
    elif auth is not None and auth.introspection_url is not None:
        yield _introspection(auth)
    if settings.tls is not None:
        yield _certificate(str(settings.tls.certificate), now or datetime.now(UTC))
    yield _address(settings)


def _address(settings: ServerSettings) -> Finding:
    names = ", ".join(settings.clients) or "none in the settings"
    try:
        try_out(settings)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            # A daemon that runs is the usual reason, and none to worry about.
            return well(_NAME, f"somebody listens on {settings.listen}: our daemon, if it runs; clients: {names}")
        if error.errno == errno.EACCES:
            return warning(
                _NAME, f"whoever asks may not listen on {settings.listen}; may the daemon?", "see server.listen"
            )
        why = (error.strerror or "it is no address of this machine").partition(" (while")[0]
        return fault(_NAME, f"cannot listen on {settings.listen}: {why}", "see server.listen")
    return well(_NAME, f"would listen on {settings.listen}; clients: {names}")


def _keys(auth: AuthSettings) -> Finding:
    source = KeySource(auth, HttpRemote(auth, connections=1))
    try:
        keys = source.fetch()
    except NoKeys as error:
        return fault(
            _NAME, f"the keys of the issuer: {error}", "see server.auth: issuer, jwks_url, algorithm, tls, proxy"
        )
    finally:
        source.close()
    return well(_NAME, f"{len(keys)} key{'s' * (len(keys) != 1)} of the issuer, fit for {auth.algorithm}")


def _introspection(auth: AuthSettings) -> Finding:
    verifier = IntrospectionVerifier(auth, HttpRemote(auth, connections=1), {})
    try:
        verifier.verify(_NOBODYS)
    except Refused:
        return well(_NAME, "the provider answers about tokens")
    except Undecided as error:
        return fault(
            _NAME,
            f"the provider does not answer about tokens: {error.why}",
            "see server.auth: introspection_url, client_id",
        )
    finally:
        verifier.close()
    return fault(_NAME, "the provider accepts a token that nobody has", "see server.auth.introspection_url")


def _certificate(path: str, now: datetime) -> Finding:
    ends = x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc
    if ends < now:
        return fault(
            _NAME, f"the certificate has ended on {ends:%Y-%m-%d}", "replace server.tls.certificate; no restart"
        )
    if ends - now < _SOON:
        return warning(_NAME, f"the certificate ends on {ends:%Y-%m-%d}", "replace server.tls.certificate; no restart")
    return well(_NAME, f"the certificate lasts until {ends:%Y-%m-%d}")
