"""Checks texts that people paste: what is stripped, and what is refused."""

from __future__ import annotations

import unicodedata

__all__ = ["check_text", "check_utf8", "has_outer_blanks", "without_line_break"]


def check_text(name: str, value: object) -> str:
    """The text, if a request can carry it.

    :raises TypeError: it is not a string.
    :raises ValueError: it is blank, has a control character inside, or cannot be encoded. The
        message does not show it, because it may be a secret.
    """
    if not isinstance(value, str):
        message = f"{name} must be a str, got {type(value).__name__}"
        raise TypeError(message)
    if not value.strip():
        message = f"{name} must not be empty"
        raise ValueError(message)
    if any(unicodedata.category(character) == "Cc" for character in value.strip()):
        message = f"{name} must not contain control characters, such as line breaks"
        raise ValueError(message)
    check_utf8(name, value)
    return value


def check_utf8(name: str, text: str) -> None:
    """Raise for a text that was not UTF-8 at its source, such as the environment.

    :raises ValueError: it has surrogates. The message does not show it.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        message = f"{name} must be text that UTF-8 can encode: its source is not UTF-8"
        raise ValueError(message)


def without_line_break(secret: str) -> str:
    """The secret without the line break that files and ``echo`` have at the end."""
    for line_break in ("\r\n", "\n", "\r"):
        if secret.endswith(line_break):
            return secret.removesuffix(line_break)
    return secret


def has_outer_blanks(secret: str) -> bool:
    """Whether the secret begins or ends with white space, which may be a mistake."""
    return secret != secret.strip()
