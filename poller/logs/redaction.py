"""
Take secrets out of whatever is logged: by the name of the key, and by value wherever it turns up.

By value means as it is, and as it looks in a URL, in base64 (at any offset, as in HTTP Basic), in hexadecimal, in JSON and in
a Python literal.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus

MASK = "**********"

#: Longest value; the rest is cut off.
MAX_VALUE = 4_000
_MAX_ITEMS = 100
_MAX_DEPTH = 5
#: Shorter secrets are words that stand everywhere; they are hidden by key alone.
_MIN_SECRET = 4
#: Tokens that came and went; old ones have expired.
_MAX_PASSING = 100

_KEY = re.compile(r"token|secret|passw|passphrase|authorization|api_?key|credential|cookie|private_?key", re.IGNORECASE)
#: ``password=…``, ``"client_secret": "…"``, ``Authorization: Bearer …`` in texts that others wrote.
_IN_TEXT = re.compile(
    r"""((?:token|secret|passw(?:or)?d|api_?key|authorization|cookie)["']?\s*=\s*["']?|"""
    r"""(?:token|secret|passw(?:or)?d|api_?key|authorization|cookie)["']\s*:\s*["']?|"""
    r"""\bauthorization:\s*(?:\w+\s)?|\b(?:bearer|basic)\s+(?=\S{8}))([^\s"'&,;<>}]+)""",
    re.IGNORECASE,
)
#: Values that may quote somebody else's words.
_QUOTING = frozenset({"message", "exception", "error", "hint", "why", "excerpt"})


class _Known:
    """The secrets that are known by value."""

    def __init__(self) -> None:
        self.lasting: tuple[str, ...] = ()
        self.passing: OrderedDict[str, None] = OrderedDict()
        self.pattern: re.Pattern[str] | None = None
        self.longest = 0
        #: Several threads may learn a secret at one time.
        self.lock = threading.Lock()

    def compile(self) -> None:
        forms = {form for secret in (*self.lasting, *self.passing) for form in _forms(secret)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self.longest = len(longest_first[0]) if longest_first else 0
        self.pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


_known = _Known()


def set_secrets(secrets: Iterable[str]) -> None:
    """Hide these from now on, instead of those named before."""
    with _known.lock:
        _known.lasting = tuple(secrets)
        _known.compile()


def hide(secret: str) -> None:
    """Hide one more, such as an access token that was just handed out."""
    if secret in _known.passing or secret in _known.lasting:
        return
    with _known.lock:
        _known.passing[secret] = None
        while len(_known.passing) > _MAX_PASSING:
            _known.passing.popitem(last=False)
        _known.compile()


def _forms(secret: str) -> Iterator[str]:
    if len(secret) < _MIN_SECRET:
        return
    data = secret.encode("utf-8", "surrogatepass")
    yield secret
    yield quote(data, safe="")
    yield quote(data)
    yield quote_plus(data)
    yield data.hex()
    yield data.hex().upper()
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    for line in secret.splitlines():  # a private key, told line by line
        if len(line) >= 16:
            yield line
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # The characters at both ends also depend on what stands beside the secret.
            text = encode(b"\0" * offset + data).decode()
            start, end = (0, 2, 3)[offset], (0, 3, 2)[(offset + len(data)) % 3]
            inner = text[start : len(text) - end]
            if len(inner) >= 6:
                yield inner


@lru_cache(maxsize=2000)
def _secret_key(key: str) -> bool:
    return _KEY.search(key) is not None


def redact(text: str) -> str:
    """Return *text* without any secret that is known, and without what looks like one."""
    text = _without_known(text)
    return _IN_TEXT.sub(rf"\1{MASK}", text)


def holds_secret(text: str) -> bool:
    """Return whether a secret that is known stands in *text*, in any of the forms that it may take."""
    return _without_known(text) != text


def _without_known(text: str) -> str:
    return text if _known.pattern is None else _known.pattern.sub(MASK, text)


def clean(key: str, value: object) -> object:
    """Return *value* as it may be logged under *key*: without secrets, and short."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if _secret_key(key):
        return MASK
    if kind is int or kind is float:
        return value
    if isinstance(value, str):
        return _clean_text(key, value)
    return _clean_rest(key, value, 0)


def _clean_text(key: str, text: str) -> str:
    whole = len(text)
    tail = ""
    if whole > MAX_VALUE:
        if key == "exception":  # what was raised stands at its end
            text, tail = text[:1_000], text[-(MAX_VALUE - 1_000) :]
            return redact(f"{text}\n… cut …\n{tail}")
        # A little more than will be shown, so that no secret is cut in half before it is recognised.
        text = text[: MAX_VALUE + _known.longest]
    text = redact(text) if key in _QUOTING else _without_known(text)
    return text if whole <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({whole} characters)"


def _clean_rest(key: str, value: object, depth: int) -> object:
    if isinstance(value, str):
        return _clean_text(key, value)
    if depth < _MAX_DEPTH:
        if isinstance(value, dict):
            items = list(value.items())[:_MAX_ITEMS]
            return {
                _clean_text("", str(name)): MASK if _secret_key(str(name)) else _clean_rest(str(name), part, depth + 1)
                for name, part in items
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [_clean_rest(key, part, depth + 1) for part in list(value)[:_MAX_ITEMS]]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _clean_text(key, described(value))


def described(value: object) -> str:
    """Return any object as text. Never raises."""
    try:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value[: MAX_VALUE * 2]).decode("utf-8", "backslashreplace")
        return str(value)
    except Exception:  # noqa: BLE001  a broken __str__ is no reason not to log
        return f"<{type(value).__name__}>"
