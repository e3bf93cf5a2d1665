"""
Bytes from strangers to text: a byte order mark counts more than what is stated, and nothing is guessed.

The caller bounds the size.
"""

from __future__ import annotations

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# No charsets of documents: escapes of other languages, and slow beyond measure on a large body.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "utf-7"})


class FormatFault(ValueError):
    """A document that cannot be read. ``str`` is one line without the document's text."""


def decode(body: bytes, encoding: str | None) -> str:
    """
    Return *body* as text. A byte order mark counts more than *encoding*, which counts more than UTF-8.

    Raises:
        FormatFault: The encoding is unknown, or the bytes are not in it.
    """
    name = next((marked for mark, marked in _MARKS if body.startswith(mark)), encoding or "utf-8")
    check_encoding(name)
    try:
        return body.decode(name)
    except (UnicodeError, LookupError):
        raise FormatFault(
            f"it is not {codecs.lookup(name).name} text; set encoding to what the source writes"
        ) from None


def check_encoding(name: str) -> str:
    """
    Return *name* if text can be in it.

    Raises:
        FormatFault: It is no encoding of text, or none of documents.
    """
    try:
        found = codecs.lookup(name)
        if found.name.replace("_", "-") in _NO_CHARSETS:
            raise LookupError
        "0".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise FormatFault("it states an encoding that is not known") from None
    return name
