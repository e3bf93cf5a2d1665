"""
Read foreign data: JSON as values, values as text, expressions into both.

One module a format; a further one (XML, CSV) is one file here and one line in `poller.sources.http`.
"""

from poller.formats.expressions import Expression, ExpressionFault, compile_expression
from poller.formats.json import FormatFault, json_text, parse_json
from poller.formats.texts import KeyFault, Real, fingerprint, key_text, storable, to_text

__all__ = [
    "Expression",
    "ExpressionFault",
    "FormatFault",
    "KeyFault",
    "Real",
    "compile_expression",
    "fingerprint",
    "json_text",
    "key_text",
    "parse_json",
    "storable",
    "to_text",
]
