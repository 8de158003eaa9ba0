"""A token and what can go wrong with one. Imports nothing of alf."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import requests

__all__ = ["Token", "TokenError"]

#: A header value must not be able to carry a second header or a second word.
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+\Z")

#: An authentication scheme, as far as any has been seen (RFC 9110 §11.1).
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")

#: What `expires_in` is clamped to, in seconds (68 years, the largest 32-bit number).
_LONGEST_LIFE = 2**31 - 1

#: Schemes that need a proof besides the token: sending such a token as a bearer cannot work.
_PROOF_SCHEMES = frozenset({"dpop", "mac", "pop"})


@dataclass(frozen=True)
class Token:
    """An access token as the token endpoint granted it (RFC 6749 §5.1).

    :param access_token: the token itself, visible ASCII.
    :param token_type: the scheme it goes out with: ``Bearer``, or ``DPoP``.
    :param expires_at: when it expires, in seconds since the epoch (UTC); ``None`` where the
        endpoint named no usable lifetime.
    :param issued_at: when it was asked for, in seconds since the epoch (UTC).
    :param scope: the scope granted, blanks between the names; ``None`` where the endpoint
        named none, which means the scope that was asked for.
    :param extra: all other members of the answer, as they came.
    :raises ValueError: ``access_token`` is no token that a header can carry, or ``token_type`` no
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
        """Seconds from ``issued_at`` to ``expires_at``; ``None`` where it is not known."""
        return None if self.expires_at is None else self.expires_at - self.issued_at

    @property
    def authorization(self) -> str:
        """The value of the ``Authorization`` header that carries this token (RFC 6750 §2.1)."""
        return f"{self.token_type} {self.access_token}"

    @classmethod
    def from_answer(
        cls, answer: Mapping[str, Any], issued_at: float, token_type: str = "Bearer"
    ) -> Token:
        """The token in a token endpoint's successful answer.

        :param answer: the members of the JSON object.
        :param issued_at: when the request for it was sent, in seconds since the epoch.
        :param token_type: the scheme that was asked for.
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
            message = f"does not have the token_type {token_type!r} that was asked for"
            raise ValueError(message)
        expires_in = parse_expires_in(members.pop("expires_in", None))
        try:
            return cls(
                access_token=access_token,
                token_type=token_type,
                expires_at=None if expires_in is None else issued_at + expires_in,
                issued_at=issued_at,
                scope=_parse_scope(members.pop("scope", None)),
                extra=members,
            )
        except ValueError:
            message = "has an access_token that is not a non-empty string of visible ASCII"
            raise ValueError(message) from None


class TokenError(requests.exceptions.RequestException):
    """No usable token could be had from the token endpoint.

    It is a :class:`requests.exceptions.RequestException`, so code that guards its calls
    catches it already.

    :param message: what was wrong, what was expected, and where.
    :param response: the token endpoint's response, where there was one.
    :param error: the error code of RFC 6749 §5.2, such as ``invalid_client``, where one was given.
    :param error_description: the endpoint's own words, where it had any.
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


def parse_expires_in(value: object) -> float | None:
    """The lifetime in seconds that ``expires_in`` means (RFC 6749 §5.1).

    Servers send ints, floats and strings of either; what is none of these, or not finite,
    is no known lifetime: ``None``. What is longer than a lifetime can be is clamped.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        seconds = _LONGEST_LIFE if value > 0 else -_LONGEST_LIFE  # type: ignore[operator]
    except ValueError:
        return None
    if not math.isfinite(seconds):
        return None
    return max(-_LONGEST_LIFE, min(seconds, _LONGEST_LIFE))


def _parse_scope(value: object) -> str | None:
    """Scope as RFC 6749 §3.3 writes it; some servers send a JSON list."""
    if isinstance(value, list):
        value = " ".join(name for name in value if isinstance(name, str))
    return value if isinstance(value, str) else None
