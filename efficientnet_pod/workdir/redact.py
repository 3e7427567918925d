"""Secrets in texts: what they look like, blanked before a text is printed or written."""

import os
import re
from collections.abc import Iterator
from typing import Any

BLANK = "[redacted]"

# An identifier that names a secret. "key" counts as a word of its own in one (api_key, accessKeyId, KEY), not
# as a part of a word: KeyError, keyboard, monkey.
_NAME = (
    r"(?:[\w-]{0,60}?(?i:token|secret|passw(?:or)?d|passphrase|credential|signature)[\w-]{0,60}"
    r"|[\w-]{0,60}?(?:[_-][kK]ey|(?<=[a-z])Key|KEY|(?i:apikey|accesskey))(?![a-z])[\w-]{0,20}"
    r"|(?i:sig|key)(?==))"
)
_QUOTE = r"\\?[\"']"  # JSON inside a JSON string has its quotes escaped
_OPEN = rf"(?:[bru]?{_QUOTE})?+(?!{re.escape(BLANK)})"
_VALUE = r"(?:(?<=\")[^\"\n]+?(?=\\?\"|\n|\Z)|(?<=')[^'\n]+?(?=\\?'|\n|\Z)|(?<![\"'])[^\s\"']+)"

_PATTERNS = (
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", BLANK),
    # A URL's user and password; the whole query of one that is signed.
    (r"(?P<keep>[a-zA-Z][\w+.-]{0,20}://)[^\s/@:\"']{0,200}:[^\s@\"']{1,500}(?=@)", rf"\g<keep>{BLANK}"),
    (
        r"\?[^\s\"'<>?]*?(?i:signature|credential|token|accesskey|googleaccessid|\bsig|\bkey)[\w-]{0,60}=[^\s\"'<>]*",
        f"?{BLANK}",
    ),
    (
        rf"(?P<keep>(?i:authorization)(?:{_QUOTE})?\s*[:=]\s*(?:{_QUOTE})?)(?!{re.escape(BLANK)})"
        r"(?:[A-Za-z]+ )?[^\s\"',}]+",
        rf"\g<keep>{BLANK}",
    ),
    (r"(?P<keep>\b(?i:bearer) )[A-Za-z0-9._~+/=-]{8,}", rf"\g<keep>{BLANK}"),
    # What Google, AWS, Hugging Face and GitHub hand out, and JSON web tokens.
    (
        r"\b(?:AIza[\w-]{16,}|ya29\.[\w.-]+|A[KS]IA[0-9A-Z]{12,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
        r"|github_pat_\w{16,}|eyJ[\w-]{4,}\.eyJ[\w-]{4,}\.[\w-]*)",
        BLANK,
    ),
    (rf"(?P<keep>(?<![\w-]){_NAME}(?:{_QUOTE})?\]?\s*[:=]\s*{_OPEN}){_VALUE}", rf"\g<keep>{BLANK}"),
    (rf"(?P<keep>(?<![\w-])--{_NAME} {_OPEN}){_VALUE}", rf"\g<keep>{BLANK}"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), blank) for pattern, blank in _PATTERNS)
_SECRET_NAME = re.compile(_NAME)
_SHORTEST = 8  # characters of an environment variable that is looked for wherever it stands


def redact(text: str) -> str:
    """Returns the text with its secrets blanked.

    These are values beside a name with ``token``, ``secret``, ``password``, ``key`` and the like, bearer
    tokens, the forms in which Google, AWS, Hugging Face and GitHub hand out theirs, passwords and signatures
    in URLs, private keys, and the values of environment variables with such a name, wherever they stand.
    """
    for value in _secrets_of_the_environment():
        text = text.replace(value, BLANK)
    for pattern, blank in _COMPILED:
        text = pattern.sub(blank, text)
    return text


def redact_strings(value: Any) -> Any:
    """Returns plain nested tables and lists with :func:`redact` applied to their strings.

    A string under a name that names a secret is blanked whole.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            name: BLANK
            if each and isinstance(each, str) and _SECRET_NAME.fullmatch(str(name))
            else redact_strings(each)
            for name, each in value.items()
        }
    return [redact_strings(each) for each in value] if isinstance(value, list | tuple) else value


def _secrets_of_the_environment() -> Iterator[str]:
    """Yields them longest first: one may be a part of another."""
    found = {value for name, value in os.environ.items() if _SECRET_NAME.fullmatch(name)}
    yield from sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)
