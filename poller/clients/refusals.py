"""Errors of a connection that does not come about: surely nothing of the request has left, or has been read."""

from __future__ import annotations

from poller.clients.wire import certificate_refused, words_for
from poller.errors import BlockedError, PollerError, TransientError


def unsent(host: str, error: Exception, proxy: str) -> PollerError:
    """
    Return what *error* means, met before the first byte of a request.

    Args:
        proxy: Host and port, empty without one.
    """
    if isinstance(error, PollerError):
        return error
    if certificate_refused(error):
        return certificate_error(host)
    words = words_for(error)
    if not proxy:
        return TransientError(f"{host}: no connection: {words}", remote=True)
    if words == "Tunnel connection failed: 407":
        return proxy_asks(host, proxy)
    return TransientError(f"{host}: no connection through the proxy {proxy}: {words}", remote=True)


def proxy_asks(host: str, proxy: str) -> BlockedError:
    """Return the error that a 407 of our proxy is."""
    return BlockedError(
        f"{host}: the proxy {proxy} asks for credentials (407); check proxy_username and proxy_password"
    )


def certificate_error(host: str) -> BlockedError:
    """Return the error that a refused or missing certificate of ours is."""
    return BlockedError(
        f"{host}: it does not accept our certificate, or misses one; check tls.certificate and tls.key,"
        " and that it is known there"
    )
