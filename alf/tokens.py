"""Tokens and their errors. Imports nothing from alf."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

import requests

__all__ = ["Token", "TokenError"]

#: A header value must not be able to carry a second header or a second word.
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+\Z")

#: An authentication scheme (RFC 9110 §11.1), as used for tokens.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")

#: The largest lifetime in seconds; longer ones are clamped (68 years, the largest 32-bit number).
_LONGEST_LIFE = 2**31 - 1

#: A number counts as a time of expiry, in seconds since the epoch, if it is at least this (a time
#: in 2001, or a lifetime of 31 years) and within these seconds before and after the request.
_LEAST_TIME = 1e9
_EARLIEST = 24 * 3600
_LATEST = 10 * 365 * 24 * 3600

#: Schemes that need a proof in addition to the token: as a bearer such a token cannot work.
_PROOF_SCHEMES = frozenset({"dpop", "mac", "pop"})


@dataclass(frozen=True)
class Token:
    """An access token as the token endpoint granted it (RFC 6749 §5.1).

    :param access_token: the token itself, visible ASCII.
    :param token_type: the scheme that it is sent with: ``Bearer`` or ``DPoP``.
    :param expires_at: when it expires, in seconds since the epoch (UTC); ``None`` if the endpoint
        named no usable lifetime.
    :param issued_at: when it was requested, in seconds since the epoch (UTC).
    :param scope: the granted scope, blanks between the names; ``None`` if the endpoint did not name
        it, which means the requested scope.
    :param extra: all other members of the answer, unchanged.
    :raises ValueError: ``access_token`` cannot be sent in a header, or ``token_type`` is not a
        scheme.

    ``str()`` and ``repr()`` show neither the token nor the values in ``extra``.
    """

    access_token: str = field(repr=False)
    token_type: str = "Bearer"
    expires_at: float | None = None
    issued_at: float = 0.0
    scope: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.access_token, str) or not _VISIBLE_ASCII.match(self.access_token):
            message = "access_token must be a non-empty string of visible ASCII characters"
            raise ValueError(message)
        if not isinstance(self.token_type, str) or not _SCHEME.match(self.token_type):
            message = "token_type must be an authentication scheme, such as Bearer"
            raise ValueError(message)
        object.__setattr__(self, "extra", MappingProxyType(dict(self.extra)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled.
        values = (self.access_token, self.token_type, self.expires_at, self.issued_at, self.scope)
        return (type(self), (*values, dict(self.extra)))

    @property
    def lifetime(self) -> float | None:
        """Seconds from ``issued_at`` to ``expires_at``; ``None`` if not known."""
        return None if self.expires_at is None else self.expires_at - self.issued_at

    @property
    def authorization(self) -> str:
        """The ``Authorization`` header with this token (RFC 6750 §2.1)."""
        return f"{self.token_type} {self.access_token}"

    @classmethod
    def from_answer(
        cls, answer: Mapping[str, Any], issued_at: float, token_type: str = "Bearer"
    ) -> Token:
        """The token in a token endpoint's successful answer.

        :param answer: the members of the JSON object.
        :param issued_at: when the request for it was sent, in seconds since the epoch.
        :param token_type: the scheme that was requested.
        :raises ValueError: the answer holds no usable token; the text says why and shows no value.
        """
        members = dict(answer)
        access_token = members.pop("access_token", None)
        if access_token is None:
            message = "has no access_token"
            raise ValueError(message)
        granted_type = members.pop("token_type", None)
        scheme = granted_type.lower() if isinstance(granted_type, str) else ""
        if scheme in _PROOF_SCHEMES and scheme != token_type.lower():
            message = f"has the token_type {scheme!r}, expected {token_type!r}"
            raise ValueError(message)
        if token_type != "Bearer" and scheme != token_type.lower():
            # RFC 9449 §5: the answer did not bind the token to the key.
            message = f"does not have the token_type {token_type!r} that was requested"
            raise ValueError(message)
        lifetime = _parse_lifetime(members, issued_at)
        members.pop("expires_in", None)
        try:
            return cls(
                access_token=access_token,
                token_type=token_type,
                expires_at=None if lifetime is None else issued_at + lifetime,
                issued_at=issued_at,
                scope=_parse_scope(members.pop("scope", None)),
                extra=members,
            )
        except ValueError:
            message = "has an access_token that is not a non-empty string of visible ASCII"
            raise ValueError(message) from None


class TokenError(requests.exceptions.RequestException):
    """The token endpoint did not return a usable token.

    Code that handles :class:`requests.exceptions.RequestException` handles it, too.

    :param message: what was wrong, what was expected, and where.
    :param response: the token endpoint's response, if there was one.
    :param error: the error code of RFC 6749 §5.2, such as ``invalid_client``, if there was one.
    :param error_description: the endpoint's description, if there was one.
    """

    def __init__(
        self,
        message: str,
        response: requests.Response | None = None,
        *,
        error: str | None = None,
        error_description: str | None = None,
    ) -> None:
        super().__init__(message, response=response)
        self.error = error
        self.error_description = error_description


def parse_expires_in(value: object, longest: float = _LONGEST_LIFE) -> float | None:
    """The lifetime in seconds that ``expires_in`` means (RFC 6749 §5.1).

    Servers send ints, floats and strings of these. For anything else, or a number that is not
    finite, the lifetime is unknown: ``None``. A too long lifetime is clamped.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        seconds = longest if value > 0 else -longest  # type: ignore[operator]
    except ValueError:
        return None
    if not math.isfinite(seconds):
        return None
    return max(-longest, min(seconds, longest))


def _parse_lifetime(members: Mapping[str, Any], issued_at: float) -> float | None:
    """The lifetime in seconds, from ``expires_in`` or from a time of expiry.

    Some servers send such a time as ``expires_in``, others as ``expires_at`` or ``expires_on``.
    """
    expires_in = parse_expires_in(members.get("expires_in"))
    if expires_in is not None:
        until = _parse_time(expires_in, issued_at)
        return expires_in if until is None else until - issued_at
    for name in ("expires_at", "expires_on"):
        until = _parse_time(members.get(name), issued_at)
        if until is not None:
            return until - issued_at
    return None


def _parse_time(value: object, now: float) -> float | None:
    """Seconds since the epoch; ``None`` unless the value is clearly a time near ``now``."""
    if isinstance(value, str) and "-" in value[1:]:
        seconds = _parse_iso_time(value)
    else:
        # Not clamped like a lifetime, because milliseconds are larger.
        milliseconds = parse_expires_in(value, longest=_LONGEST_LIFE * 1000)
        seconds = milliseconds
        if milliseconds is not None and milliseconds > _LONGEST_LIFE:
            seconds = milliseconds / 1000
    if seconds is None:
        return None
    is_near = seconds >= _LEAST_TIME and now - _EARLIEST <= seconds <= now + _LATEST
    return seconds if is_near else None


def _parse_iso_time(text: str) -> float | None:
    # Python 3.10 reads neither "Z" nor seven decimals.
    text = re.sub(r"[Zz]$", "+00:00", re.sub(r"\.\d+", "", text.strip()))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    # Without a zone the time is ambiguous.
    return None if moment.tzinfo is None else moment.timestamp()


def _parse_scope(value: object) -> str | None:
    """The scope in the form of RFC 6749 §3.3; some servers send a JSON list."""
    if isinstance(value, list):
        value = " ".join(name for name in value if isinstance(name, str))
    return value if isinstance(value, str) else None
