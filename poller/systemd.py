"""
Speak to systemd: readiness, status, watchdog.

The protocol is one datagram per message to the socket named in NOTIFY_SOCKET. Not started by systemd, every call does nothing.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping
from datetime import timedelta


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    r"""
    Send *assignments*, such as ``"READY=1"`` and ``"STATUS=3 routes"``, as one message.

    A newline within one would begin another assignment, so it becomes a blank.

    Returns:
        Whether it was sent. A message that cannot be delivered is no reason to stop the daemon: the watchdog is there for that.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        # An abstract socket: its name begins with a NUL byte.
        address = "\0" + address[1:]
    message = "\n".join(assignment.replace("\n", " ") for assignment in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as client:
            client.connect(address)
            client.sendall(message.encode())
    except OSError:
        return False
    return True


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> timedelta | None:
    """
    Return how long systemd waits for ``WATCHDOG=1`` before it kills this process; ping at half of it. None: it does not wait.

    The variables are inherited by child processes, for whom they are not meant: hence the process id.
    """
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        meant_for = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    if microseconds <= 0 or meant_for != os.getpid():
        return None
    return timedelta(microseconds=microseconds)
