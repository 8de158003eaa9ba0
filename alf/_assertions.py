"""The JWTs that a client signs: what they say (RFC 7521 §5, RFC 7523 §3)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import NoneType
from typing import Any

from alf._jose import encode_jwt
from alf._redaction import Secret

__all__ = ["Assertion"]

#: Members that the user does not set by name, and what sets them.
_HEADERS = {
    "typ": "typ=",
    "alg": "algorithm=",
    "kid": "key_id=",
    "x5t": "certificate=",
    "x5t#S256": "certificate=",
}
_CLAIMS = {
    "iss": "alf",
    "sub": "alf",
    "aud": "audience=",
    "jti": "alf",
    "iat": "alf",
    "exp": "lifetime=",
}


class Assertion:
    """What all JWTs of one signer have in common.

    :param algorithm: the ``alg`` of the header.
    :param key_id: its ``kid``; ``None``: it has none.
    :param typ: its ``typ``; ``None``: as :meth:`encode` says.
    :param thumbprints: its members that name a certificate.
    :param headers: its other members.
    :param audience: whom the JWTs are for; ``None``: as :meth:`encode` says.
    :param lifetime: seconds for which each JWT is valid.
    :param claims: other claims.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument does not have a usable value.
    """

    def __init__(
        self,
        algorithm: str,
        *,
        key_id: str | None = None,
        typ: str | None = None,
        thumbprints: Mapping[str, str] | None = None,
        headers: Mapping[str, Any] | None = None,
        audience: str | Sequence[str] | None = None,
        lifetime: float = 60,
        claims: Mapping[str, Any] | None = None,
    ) -> None:
        for name, text in (("key_id", key_id), ("typ", typ)):
            if not isinstance(text, (str, NoneType)):
                message = f"{name} must be a str, got {text!r}"
                raise TypeError(message)
        own = {"typ": typ, "alg": algorithm, "kid": key_id}
        own = {name: value for name, value in own.items() if value is not None}
        own.update(thumbprints or {})
        self._header = {**own, **_members("headers", headers, {n: _HEADERS[n] for n in own})}
        self._claims = _members("claims", claims, _CLAIMS)
        self._audience = _checked_audience(audience)
        self._lifetime = _checked_lifetime(lifetime)

    def encode(
        self,
        sign: Callable[[bytes], bytes],
        *,
        issuer: str,
        subject: str | None,
        audience: str,
        typ: str = "JWT",
    ) -> Secret:
        """A new JWT in its compact form.

        :param sign: makes the signature of the bytes that it is given.
        :param issuer: the ``iss`` claim: who signs.
        :param subject: the ``sub`` claim: whom the JWT is about; ``None``: it has none.
        :param audience: the ``aud`` claim, unless the user has set another.
        :param typ: the ``typ`` of the header, unless the user has set another.
        """
        now = int(time.time())
        claims = {
            "iss": issuer,
            **({} if subject is None else {"sub": subject}),
            "aud": audience if self._audience is None else self._audience,
            "jti": os.urandom(16).hex(),
            "iat": now,
            "exp": now + self._lifetime,
            **self._claims,
        }
        return Secret(encode_jwt(claims, {"typ": typ, **self._header}, sign))

    def __repr__(self) -> str:
        return f"algorithm={self._header['alg']!r}, key_id={self._header.get('kid')!r}"


def _members(name: str, given: Any, own: Mapping[str, str]) -> dict[str, Any]:
    """A copy of the user's members, which stays the same if the user changes the original.

    :param own: the members that must not be among them, and what sets each.
    """
    if not isinstance(given, (Mapping, NoneType)):
        message = f"{name} must be a mapping, got {type(given).__name__}"
        raise TypeError(message)
    members: dict[str, Any] = json.loads(json.dumps(dict(given or {})))
    for member in members.keys() & own.keys():
        message = f"{name} must not hold {member}: {own[member]} sets it"
        raise ValueError(message)
    return members


def _checked_audience(audience: Any) -> str | list[str] | None:
    if audience is None or isinstance(audience, str):
        return audience
    if isinstance(audience, Sequence) and all(isinstance(name, str) for name in audience):
        return list(audience)
    message = f"audience must be a str or a sequence of these, got {audience!r}"
    raise TypeError(message)


def _checked_lifetime(lifetime: Any) -> int:
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)):
        message = f"lifetime must be seconds, got {lifetime!r}"
        raise TypeError(message)
    if not 1 <= lifetime < inf:
        message = f"lifetime must be at least 1 second, got {lifetime!r}"
        raise ValueError(message)
    return int(lifetime)
