"""
Take a secret in hand, right before it is used.

Files are read anew each time, so that a rotated secret needs no restart; whatever was read is hidden from the log by
value from then on. A secret that cannot be had is a fault of the set-up: the route waits, nothing is buried.
"""

from __future__ import annotations

from poller.errors import BlockedError
from poller.logs import hide
from poller.values import Secret


def reveal(secret: Secret) -> str:
    """
    Return the text of *secret*.

    Raises:
        BlockedError: Its file is gone, unreadable, empty or no text; says which file, never what is in it.
    """
    try:
        text = secret.reveal()
    except OSError as error:
        raise BlockedError(f"secret file {error.filename} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BlockedError(f"secret file {secret.path} is not UTF-8 text; write it anew") from None
    if not text:
        # Half a rotation: sent as it is, it would count as one more wrong password.
        raise BlockedError(
            f"secret file {secret.path} is empty; write the secret into it" if secret.path else "a secret is empty"
        )
    hide(text)
    return text
