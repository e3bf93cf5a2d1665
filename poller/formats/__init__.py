"""
Read foreign data: documents as values, values as text, expressions into both.

One module a format: JSON and SQL rows with JMESPath, CSV with JMESPath on each row, XML with XPath 1.0.
"""

from poller.formats.decoding import FormatFault, check_encoding
from poller.formats.expressions import JmesPath, compile_expression
from poller.formats.interface import Document, Expression, ExpressionFault, Flawed, Format
from poller.formats.json import json_text, parse_json
from poller.formats.opening import FORMATS, open_format
from poller.formats.texts import KeyFault, Real, fingerprint, key_text, storable, to_text

__all__ = [
    "FORMATS",
    "Document",
    "Expression",
    "ExpressionFault",
    "Flawed",
    "Format",
    "FormatFault",
    "JmesPath",
    "KeyFault",
    "Real",
    "check_encoding",
    "compile_expression",
    "fingerprint",
    "json_text",
    "key_text",
    "open_format",
    "parse_json",
    "storable",
    "to_text",
]
