"""Names of classes: which of them are one name, and what is wrong with a list of them."""

import codecs
import unicodedata
from collections.abc import Sequence


def spelling_of(name: str) -> str:
    """Returns the name in the one spelling by which names are compared: Unicode's NFC. Case counts.

    A Mac writes ``é`` as two characters, most other systems as one; both look alike.
    """
    return unicodedata.normalize("NFC", name)


def fault_of(names: Sequence[str]) -> str | None:
    """Returns what is wrong with a list of class names, in words; None if nothing is.

    A name is text that can be seen and written, and belongs to one class, however it is spelled.
    """
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        if not name.strip():
            return f"class {label} has the name {name!r}, which shows nothing"
        if not _is_utf8(name):
            return f"the name of class {label}, {name!a}, is not UTF-8"
        if (other := first.setdefault(spelling_of(name), label)) != label:
            one, two = pair_of(names[other], name)
            spelled = "one name in two spellings of Unicode" if one != two else "the same name"
            return f"classes {other} and {label}, {one} and {two}, have {spelled}"
    return None


def pair_of(one: str, other: str) -> tuple[str, str]:
    """Returns two names for a message, quoted; with escapes where they would look alike and are not."""
    if one != other and spelling_of(one) == spelling_of(other):
        return ascii(one), ascii(other)
    return f"'{one}'", f"'{other}'"


def names_in(contents: bytes) -> tuple[str, ...]:
    """Returns the names in a file of UTF-8, or of UTF-16 with its mark, that has one on each line.

    Empty lines, spaces around a name and the byte-order mark of Windows are left out. Only a line feed ends a
    line: U+2028 and the like, where ``str.splitlines`` breaks too, belong to the name. Raises
    UnicodeDecodeError for anything else.
    """
    is_utf16 = contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    lines = contents.decode("utf-16" if is_utf16 else "utf-8-sig").split("\n")
    return tuple(line.strip() for line in lines if line.strip())


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a lone surrogate, which stands for a byte
        return False
    return True
