"""
The process in which stylesheets run; started by `poller.translate.stylesheet`, by its path, and imported by nobody.

A stylesheet is written by an admin and may still loop or grow without end: here it can be stopped from outside. It reads
no file, opens no connection and reaches no Python. Standard library and lxml only.

The argument is the most CPU seconds of one document. Frames on stdin and stdout: four bytes of length, then as many bytes.
The first frame in is the stylesheet; each further one is a document. Each frame out begins with ``x`` (XML), ``t`` (text)
or ``e`` (an error, one line without texts of the document).
"""

import contextlib
import math
import resource
import struct
import sys
import time

from lxml import etree

#: Most address space, in bytes: half of what the unit of systemd allows the whole service.
MEMORY = 500_000_000
_OUTPUT = "{http://www.w3.org/1999/XSL/Transform}output"


def _read(size: int) -> bytes:
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        sys.exit(0)  # whoever started us has ended
    return data


def _frame() -> bytes:
    (size,) = struct.unpack("!I", _read(4))
    return _read(size)


def _answer(data: bytes) -> None:
    sys.stdout.buffer.write(struct.pack("!I", len(data)) + data)
    sys.stdout.buffer.flush()


def _limit(what: int, most: int) -> None:
    # Where a system's own rules forbid it, the clock of whoever started us remains.
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)


def _transformed(transform: etree.XSLT, data: bytes, *, text: bool) -> bytes:
    try:
        result = transform(etree.fromstring(data, _parser()))
        return b"t" + str(result).encode("utf-8", "replace") if text else _xml(result.getroot())
    except etree.XSLTError as error:
        # Its words may hold the document's; the line is the stylesheet's.
        found = error.error_log.last_error
        where = f", line {found.line}" if found is not None and found.line > 0 else ""
        return b"e" + f"the stylesheet failed{where}".encode()
    except (etree.XMLSyntaxError, MemoryError, ValueError) as error:
        return b"e" + f"the stylesheet failed: {type(error).__name__}".encode()


def _xml(root: "etree._Element | None") -> bytes:
    if root is None:
        return b"ethe stylesheet makes no element of this document"
    if (root.tail or "").strip() or any(isinstance(each.tag, str) for each in root.itersiblings()):
        return b"ethe stylesheet makes more than one outermost element of this document"
    return b"x" + etree.tostring(root, encoding="UTF-8", xml_declaration=False, with_tail=False)


def main() -> None:
    """Serve until stdin ends."""
    seconds = float(sys.argv[1])
    _limit(resource.RLIMIT_AS, MEMORY)
    sheet = etree.fromstring(_frame(), _parser())
    text = any(each.get("method") == "text" for each in sheet.findall(_OUTPUT))
    nothing = etree.XSLTAccessControl.DENY_ALL  # type: ignore[attr-defined]
    transform = etree.XSLT(sheet, access_control=nothing)
    while True:
        data = _frame()
        # Counted from the start of the process: each document has its own share from here on.
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
        _answer(_transformed(transform, data, text=text))


if __name__ == "__main__":
    main()
