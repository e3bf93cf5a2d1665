"""
What can be known of a query before it is asked: one statement, that reads, with ``:checkpoint`` as its only parameter.

This is the first of two nets, for slips of the pen; the second is a transaction that refuses to write, and an account
that may not. It is no parser: it only tells words from what stands in quotes and comments.
"""

from __future__ import annotations

import re

#: Longest query.
MAX_QUERY = 50_000

# Quoted texts and names of all dialects, and comments; a quote that does not end runs to the end of the text.
_QUOTED = re.compile(
    r"""
    '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z) | `[^`]*(?:`|\Z)
    | \$(?P<tag>[A-Za-z_]\w*|)\$ .*? (?:\$(?P=tag)\$|\Z)
    | --[^\n]* | /\*.*?(?:\*/|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_WRITES = re.compile(r"\b(INTO|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_PARAMETER = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)(?!:)")
#: Words by which a query may mean to find something while :checkpoint is NULL.
_NULL_SAFE = re.compile(
    r":checkpoint\b[^:;]*?\bIS\s+(?:NOT\s+)?(?:NULL|DISTINCT)|\b(?:COALESCE|IFNULL|NVL|ISNULL)\s*\(|<=>", re.IGNORECASE
)


def check_query(query: str) -> str:
    """
    Return *query* if it may be asked.

    Raises:
        ValueError: It is not one reading statement, or has a parameter that nobody fills; says what to write.
    """
    if len(query) > MAX_QUERY:
        raise ValueError(f"is longer than {MAX_QUERY} characters")
    if "{{" in query or "{%" in query:
        raise ValueError("is no template; the checkpoint is bound where :checkpoint stands")
    bare = _bare(query)
    first = re.match(r"[\s(]*(\w*)", bare)
    if first is None or first[1].upper() not in {"SELECT", "WITH"}:
        raise ValueError("must begin with SELECT or WITH: a source only reads")
    if ";" in bare.rstrip().rstrip(";"):
        raise ValueError("is more than one statement; only one is asked")
    if found := _WRITES.search(bare):
        raise ValueError(f"holds {found[1].upper()}, and a source only reads; quote it if it is a name")
    if unknown := sorted({*_PARAMETER.findall(bare)} - {"checkpoint"}):
        raise ValueError(f"unknown parameter :{unknown[0][:80]}; only :checkpoint is known, and a colon is written \\:")
    if _PARAMETER.search(" ".join(found[0] for found in _QUOTED.finditer(query))):
        raise ValueError(
            "has a colon with a name in quotes or in a comment; write \\: there, and :checkpoint without quotes"
        )
    return query.strip().rstrip(";")


def uses_checkpoint(query: str) -> bool:
    """Return whether *query* has a place for the checkpoint."""
    return "checkpoint" in _PARAMETER.findall(_bare(query))


def bears_null(query: str) -> bool:
    """Return whether *query* seems to be written for a checkpoint that is NULL, as on the first poll."""
    return bool(_NULL_SAFE.search(_bare(query)))


def _bare(query: str) -> str:
    """Return *query* without quoted texts, quoted names and comments."""
    return _QUOTED.sub(" ", query)
