"""Where the server listens: a port, or a socket in the file system that nobody can exchange for another."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from poller.ingress.settings import ServerSettings

_BACKLOG = 256


class CannotListen(Exception):
    """The address cannot be had; ``str`` is one line."""


@dataclass(kw_only=True)
class Listener:
    """A socket that listens."""

    socket: socket.socket
    #: Where it is in the file system, None where it is a port.
    path: Path | None = None
    inode: int = 0

    def copy(self) -> Listener:
        """
        Return it for another server: the same queue of those who connect, so that nobody is turned away between the two.

        Raises:
            OSError: There is no descriptor left.
        """
        return Listener(socket=self.socket.dup(), path=self.path, inode=self.inode)

    def leave(self) -> None:
        """Remove nothing from the file system any more: it is another server's."""
        self.path = None

    def remove(self) -> None:
        """Remove it from the file system, unless another process has made the path its own meanwhile."""
        if self.path is not None:
            with suppress(OSError):
                if self.path.stat().st_ino == self.inode:
                    self.path.unlink()


def listen(settings: ServerSettings) -> Listener:
    """
    Listen where the settings say.

    Raises:
        OSError: The address cannot be had; ``strerror`` says why.
    """
    if settings.unix_path is not None:
        return _listen_at(Path(settings.unix_path))
    host, port = settings.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Listener(socket=found)


def try_out(settings: ServerSettings) -> None:
    """
    Find out whether the address is to be had; nothing listens meanwhile, and nothing is left behind.

    Whose the folder of a socket is, is not looked at: the daemon may run as somebody else.

    Raises:
        OSError: As `listen`.
    """
    if settings.unix_path is not None:
        path = Path(settings.unix_path)
        path.parent.stat()
        _make_room(path, remove=False)
        if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "what is there is no socket")
        return
    host, port = settings.address
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        # As a server does: then a daemon may start in the same moment.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((host, port))


def _listen_at(path: Path) -> Listener:
    _check_folder(path.parent)
    _make_room(path)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Whoever may enter the folder may connect: the proxy's user is another one than ours.
        found.bind(str(path))
        path.chmod(0o666)
        found.listen(_BACKLOG)
        return Listener(socket=found, path=path, inode=path.stat().st_ino)
    except OSError:
        found.close()
        raise


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which others could put something else in the socket's place, for us to open or to listen there."""
    found = folder.stat()
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if writable or found.st_uid not in {0, os.geteuid()}:
        raise OSError(errno.EPERM, "others may exchange files in its folder; take one that is ours alone")


def _make_room(path: Path, *, remove: bool = True) -> None:
    """Remove a socket that a process before us has left; whatever else is there stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A daemon that is frozen, with its queue full, would hold us up.
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            if remove:
                path.unlink()
            return
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")
