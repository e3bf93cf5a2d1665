"""
The address of a database: a password stands apart from it, so that the address may be shown.

Used for poller's own database and for those of others. It knows SQLAlchemy's form of a URL and does not load SQLAlchemy.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SQLITE = "sqlite:///"

_WITH_PASSWORD = re.compile(r"^([A-Za-z0-9+_]+://[^:@/]*):([^@/]*)@(.*)$", re.DOTALL)


def password_apart(given: object) -> object:
    """Return a settings table with the password of its ``url`` under ``password``, unless that is given too."""
    if not isinstance(given, dict) or not isinstance(url := given.get("url"), str) or "password" in given:
        return given
    found = _WITH_PASSWORD.match(url)
    return {**given, "url": f"{found[1]}@{found[3]}", "password": unquote(found[2])} if found else given


def check_no_password(url: str) -> str:
    """
    Return *url* if no password stands in it.

    Raises:
        ValueError: One does, besides the key ``password``; or the port is no number.
    """
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError("holds a password, and so does the key password; keep that one")
    _ = parts.port  # raises for one that is no number
    return url


def with_password(url: str, password: str) -> str:
    """Return the URL to connect with: never to be shown."""
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user}:{quote(password, safe='')}{at or '@'}{host}"


def sqlite_file(url: str, folder: Path) -> Path:
    """
    Return the file that an URL such as ``sqlite:///poller.db`` names.

    Args:
        folder: What a relative name is relative to.

    Raises:
        ValueError: It names no file.
    """
    name = url.removeprefix(SQLITE)
    if not name or name.startswith(":") or "?" in name:
        raise ValueError('names no file: "sqlite:///poller.db", or "sqlite:////var/lib/poller/poller.db"')
    return folder.absolute() / name


def check_driver(url: str) -> str:
    """
    Return *url* if it can be read and what speaks to such a database is installed.

    Raises:
        ValueError: Saying what to write or to install.
    """
    # SQLAlchemy takes half a second to load, and most settings need it for nothing here.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError:
        name = url.partition("://")[0][:40]
        raise ValueError(f"nothing here speaks {name}; install SQLAlchemy's dialect for it beside poller") from None
    except ImportError as error:
        raise ValueError(f"the driver {error.name} is not installed; install it where poller runs") from None
    except (ArgumentError, ValueError):
        raise ValueError('is no database URL, such as "postgresql+psycopg://user@host/database"') from None
    if dialect.is_async:
        raise ValueError(
            f"{parsed.drivername} is an asynchronous driver; name another one for {parsed.get_backend_name()}"
        )
    if any("password" in name.lower() or name.lower() == "pwd" for name in parsed.query):
        raise ValueError("holds a password behind the question mark; put it under the key password")
    return url
