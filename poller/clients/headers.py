"""Headers that the settings add to requests: which there may be, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, ValidationInfo

from poller.clients.revealing import reveal
from poller.values import Secret

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OWN: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "cookie", "accept-encoding"})
_CONDITIONS: Final = frozenset(
    {"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range"}
)


def _secret_or_text(value: object, info: ValidationInfo) -> object:
    if isinstance(value, dict):
        return Secret.parse(value, (info.context or {}).get("base"))
    if isinstance(value, (int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return value


#: Text, or where a secret is found.
SecretOrText = Annotated[str | Secret, Field(union_mode="left_to_right"), BeforeValidator(_secret_or_text)]


def check_headers(
    headers: dict[str, str | Secret], *, instead: str, reserved: Collection[str] = ()
) -> dict[str, str | Secret]:
    """
    Return *headers* if they can be sent with each request.

    Args:
        instead: Where templates belong.

        reserved: Further ones that the client sets, in lower case.

    Raises:
        ValueError: One of them cannot, or is the client's own.
    """
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError("a header's name is made of letters, digits and -")
        if name.lower() in _OWN | _CONDITIONS or name.lower() in reserved:
            raise ValueError(f"{name} is set by the client itself")
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise ValueError(f"the header {name} holds something other than printable ASCII")
        if isinstance(value, str) and "{{" in value:
            raise ValueError(f"the header {name} is sent as it is; templates are for {instead}")
    return headers


def merged(given: Mapping[str, str], configured: Mapping[str, str | Secret]) -> dict[str, str]:
    """Return *given* with *configured*, which count more, however their names are written; secrets are read now."""
    headers = dict(given)
    for name, value in configured.items():
        headers = {kept: text for kept, text in headers.items() if kept.lower() != name.lower()}
        headers[name] = reveal(value) if isinstance(value, Secret) else value
    return headers
