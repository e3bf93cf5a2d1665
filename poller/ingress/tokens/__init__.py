"""
How a caller proves who it is: bearer tokens of a provider or of our own endpoint, HTTP Basic, a client certificate.

`open_proofs` makes of the settings what the app asks: `Proofs`. Each part judges one kind of proof, for any number of threads,
and says `Principal`, or raises `Refused` (401), `Undecided` (503) or `Throttled` (429).

==================  ==================================================================
``jwt``             a JWT, by the keys of its issuer (``keys``, ``jwks``)
``introspection``   an opaque token, by asking its provider
``opaque``          a token of our own endpoint
``embedded``        that endpoint
``basic``           HTTP Basic, and client certificates
``guessing``        a client's secret, checked slowly and not too often
``claims``          what a token says, held against the settings
``rights``          what a client may do in the end
==================  ==================================================================
"""

from poller.ingress.tokens.basic import Basic, Certificates
from poller.ingress.tokens.embedded import TokenAnswer, TokenEndpoint
from poller.ingress.tokens.guessing import Throttled
from poller.ingress.tokens.opaque import TokenStore
from poller.ingress.tokens.opening import Proofs, open_proofs, open_verifier

__all__ = [
    "Basic",
    "Certificates",
    "Proofs",
    "Throttled",
    "TokenAnswer",
    "TokenEndpoint",
    "TokenStore",
    "open_proofs",
    "open_verifier",
]
