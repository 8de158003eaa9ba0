"""What may be shown: requests without their credentials, and text from outside."""

from __future__ import annotations

import base64
import contextlib
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote_plus

import requests
from urllib3.exceptions import MaxRetryError, ProtocolError

from alf._urls import shown_url

__all__ = ["printable", "secrets_of", "shown_cause", "without_secrets"]

#: Headers of the token request, and members of its form, that may be shown: a key may be in any
#: of the others.
_HARMLESS = frozenset(
    ("Accept", "Accept-Encoding", "Connection", "Content-Length", "Content-Type", "User-Agent")
)
_HARMLESS_MEMBERS = frozenset(
    (
        "audience",
        "client_assertion_type",
        "client_id",
        "grant_type",
        "resource",
        "scope",
        "token_type_hint",
    )
)

#: Shorter secrets are not looked for in texts: they may be words.
_SHORTEST_SECRET = 8


def without_secrets(request: Any) -> Any:
    """A copy of the request that may be shown; ``None`` where it was not sent yet."""
    if not isinstance(request, requests.PreparedRequest):
        return None
    shown = request.copy()
    shown.body = None
    shown.hooks = {"response": []}
    for name in set(shown.headers) - _HARMLESS:
        del shown.headers[name]
    return shown


def secrets_of(request: Any) -> list[str]:
    """What the request held that nobody else must see, the longest first."""
    if not isinstance(request, requests.PreparedRequest):
        return []
    found: set[str] = set()
    for name in set(request.headers) - _HARMLESS:
        value = str(request.headers[name])
        scheme, _, credentials = value.partition(" ")
        found |= {value, credentials}
        if scheme == "Basic":
            with contextlib.suppress(ValueError):  # of the user's own making
                found.add(base64.b64decode(credentials).decode().partition(":")[2])
    body = request.body.decode() if isinstance(request.body, bytes) else request.body
    for member in body.split("&") if isinstance(body, str) else ():
        name, _, value = member.partition("=")
        if name not in _HARMLESS_MEMBERS:
            found.add(value)
    found |= {unquote_plus(secret) for secret in found}
    return sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)


def shown_cause(cause: object) -> object:
    """What urllib3 said, without the query of the URL, and without a piece of the answer."""
    if isinstance(cause, MaxRetryError) and cause.url is not None:
        shown = shown_url(cause.url)
        return cause if shown == cause.url else MaxRetryError(cause.pool, shown, cause.reason)
    if isinstance(cause, ProtocolError) and isinstance(cause.args[-1], HTTPException):
        return ProtocolError(f"The answer broke off or is no HTTP: {type(cause.args[-1]).__name__}")
    return cause


def printable(text: str) -> str:
    """The text without what would break a log line, move a terminal's cursor, or worse."""
    return "".join(c if c.isprintable() else " " for c in text)
