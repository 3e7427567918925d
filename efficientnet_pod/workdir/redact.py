"""Secrets in texts, which are blanked before a text is printed or written."""

import os
import re
from typing import Any, NamedTuple

BLANK = "[redacted]"

# An identifier that names a secret. "key" counts as a word of its own in one (api_key, accessKeyId, KEY), not
# as a part of a word: KeyError, keyboard, monkey.
_NAME = (
    r"(?:[\w-]{0,60}?(?i:token|secret|passw(?:or)?d|passphrase|credential|signature)[\w-]{0,60}"
    r"|[\w-]{0,60}?(?:[_-][kK]ey|(?<=[a-z])Key|KEY|(?i:apikey|accesskey))(?![a-z])[\w-]{0,20}"
    r"|(?i:sig|key)(?==(?!lambda\b)))"
)
_QUOTE = r"\\?[\"']"  # JSON inside a JSON string has its quotes escaped
_OPEN = rf"(?:[bru]?{_QUOTE})?+(?!{re.escape(BLANK)})"
_VALUE = r"(?:(?<=\")[^\"\n]+?(?=\\?\"|\n|\Z)|(?<=')[^'\n]+?(?=\\?'|\n|\Z)|(?<![\"'])[^\s\"']+)"
_SECRET_NAME = re.compile(_NAME)
_SHORTEST = 8  # characters of an environment variable that is looked for wherever it stands


class Secret(NamedTuple):
    """One form of secrets.

    Attributes:
      name: the form in words.
      pattern: regular expression; its group ``keep``, if any, is not blanked.
      example: a text with such a secret, in which ``hunter2`` or ``HUNTER2`` is a part of the secret.
    """

    name: str
    pattern: str
    example: str


SECRETS = (
    Secret(
        "private key",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
    ),
    Secret(
        "user and password in a URL",
        r"(?P<keep>[a-zA-Z][\w+.-]{0,20}://)[^\s/@:\"']{0,200}:[^\s@\"']{1,500}(?=@)",
        "https://me:hunter2@host/path",
    ),
    Secret(
        "query of a signed URL",
        r"(?P<keep>\?)[^\s\"'<>?]*?"
        r"(?i:signature|credential|token|accesskey|googleaccessid|\bsig|\bkey)[\w-]{0,60}=[^\s\"'<>]*",
        "https://host/o.jpg?X-Goog-Date=1&X-Goog-Signature=hunter2",
    ),
    Secret(
        "authorization header",
        rf"(?P<keep>(?i:authorization)(?:{_QUOTE})?\s*[:=]\s*(?:{_QUOTE})?)(?!{re.escape(BLANK)})"
        r"(?:[A-Za-z]+ )?[^\s\"',}]+",
        "{'Authorization': 'Basic hunter2=='}",
    ),
    Secret("bearer token", r"(?P<keep>\b(?i:bearer) )[A-Za-z0-9._~+/=-]{8,}", "with bearer hunter2hunter2"),
    Secret("key of Google", r"\b(?:AIza[\w-]{16,}|ya29\.[\w.-]+)", "AIzaSyhunter2abcdefghij"),
    Secret("key of AWS", r"\bA[KS]IA[0-9A-Z]{12,}", "AKIAHUNTER2HUNTER2"),
    Secret("token of Hugging Face", r"\bhf_[A-Za-z0-9]{16,}", "hf_hunter2abcdefghij"),
    Secret(
        "token of GitHub", r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,})", "ghp_hunter2abcdefghij"
    ),
    Secret("JSON web token", r"\beyJ[\w-]{4,}\.eyJ[\w-]{4,}\.[\w-]*", "eyJhbGciOiJ.eyJzdWIiOi.hunter2"),
    Secret(
        "value after a name and = or :",
        rf"(?P<keep>(?<![\w-]){_NAME}(?:{_QUOTE})?\]?\s*[:=]\s*{_OPEN}){_VALUE}",
        "MY_TOKEN=hunter2",
    ),
    Secret("value of a flag", rf"(?P<keep>(?<![\w-])--{_NAME} {_OPEN}){_VALUE}", "train --api-key hunter2"),
)
_PATTERNS = tuple(re.compile(secret.pattern, re.DOTALL) for secret in SECRETS)
# A traceback's lines of source code. There only a literal is a value: `key=lambda row: row.step` is none.
_SOURCE = re.compile(
    r'^[ |]*File "[^\n]*", line \d+, in [^\n]*\n(?P<code>(?:[ |]*    [^\n]*(?:\n|\Z))+)', re.M
)
_PATTERNS_OF_CODE = (
    *_PATTERNS[:-2],
    re.compile(rf"(?P<keep>(?<![\w-]){_NAME}(?:{_QUOTE})?\]?\s*[:=]\s*[bru]?{_QUOTE}){_VALUE}"),
)


def redact(text: str) -> str:
    """Returns the text with its secrets blanked.

    Secrets are all forms of :data:`SECRETS`, and wherever they stand, the values of environment variables
    with such a name (``token``, ``secret``, ``password``, ``key`` and the like).
    """
    values = {value for name, value in os.environ.items() if _SECRET_NAME.fullmatch(name)}
    # The longest first: one may be a part of another.
    for value in sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True):
        text = text.replace(value, BLANK)
    parts, done = [], 0
    for source in _SOURCE.finditer(text):
        parts.append(_blanked(text[done : source.start("code")], _PATTERNS))
        parts.append(_blanked(source["code"], _PATTERNS_OF_CODE))
        done = source.end()
    return "".join(parts) + _blanked(text[done:], _PATTERNS)


def _blanked(text: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    for pattern in patterns:
        text = pattern.sub(lambda match: match.groupdict().get("keep", "") + BLANK, text)
    return text


def redact_strings(value: Any) -> Any:
    """Returns plain nested tables and lists with :func:`redact` applied to their strings.

    A string whose name in a table names a secret is blanked whole.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            name: BLANK
            if item and isinstance(item, str) and _SECRET_NAME.fullmatch(str(name))
            else redact_strings(item)
            for name, item in value.items()
        }
    return [redact_strings(item) for item in value] if isinstance(value, list | tuple) else value
