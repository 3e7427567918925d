"""Names of files and classes as text: UTF-8, on one line, and no two alike."""

import os
import unicodedata

# Control characters, bytes that are not UTF-8, ends of lines and paragraphs; the mark of byte order, and what
# turns the direction of the text behind it.
_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
_MARKS = "\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(name: str | bytes) -> str:
    r"""Returns the name of a file as text that can be printed, stored as UTF-8, and kept one in a line.

    Bytes that are not UTF-8, control characters, spaces at either end and backslashes are escaped, so that
    different names stay different. A shell has them back: ``caf\xe9`` is ``$'caf\xe9'``.
    """
    try:
        text = os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name of a file of this machine, whose locale lacks the letters
        text = str(name)
    first, end = len(text) - len(text.lstrip()), len(text.rstrip())
    return "".join(
        _escaped(char)
        if not first <= place < end or char in _MARKS or unicodedata.category(char) in _CATEGORIES
        else char.replace("\\", r"\\")
        for place, char in enumerate(text)
    )


def _escaped(char: str) -> str:
    return "".join(
        rf"\x{byte:02x}"
        for byte in char.encode(
            "utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
        )
    )
