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


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A socket that listens."""

    socket: socket.socket
    #: Where it is in the file system, None where it is a port.
    path: Path | None = None
    inode: int = 0

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


def _make_room(path: Path) -> None:
    """Remove a socket that a process before us has left; whatever else is there stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")
