"""Tokens bound to a key, and the proofs that go out with them (DPoP, RFC 9449)."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests

from alf._answers import find_error
from alf._jose import SigningKey, encode_jwt, generate_key
from alf._keys import base64url
from alf._redaction import masked_key
from alf._urls import origin_of
from alf.tokens import Token

__all__ = ["DPoPKey"]

#: A scheme, or the name of a parameter with "=" and its value, quoted or not.
_CHALLENGE_PART = re.compile(
    r"""([^\s,="]+)(\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s,"]+))?""",
)

#: Digits of the `Content-Length` of a refusal that is read to find an error code in it.
_DIGITS_OF_SHORT = 4

#: Servers whose nonces are kept. Who calls more of them asks some once more.
_MOST_NONCES = 1000


class DPoPKey:
    """The key that tokens are bound to: ``dpop=DPoPKey(key=…)``. Needs the extra ``jwt``.

    It travels with a Client that is pickled, and may be shared by several: processes that share
    tokens by a storage have to share the key, too.

    :param key: the private key: PEM text, the path of a file with it, a JWK as a mapping or as
        text, or a key of ``cryptography``; ``None``: a new one, on the curve P-256.
    :param password: the password of an encrypted PEM.
    :param algorithm: such as ``ES256`` or ``RS256``; by default the JWK's own, or the usual one
        for the key.
    :param allow_short_key: whether an RSA key of less than 2,048 bits is accepted, which is not
        secure (RFC 7518 §3.3).
    :raises TypeError: the key is of another type.
    :raises ValueError: the key cannot be read, is encrypted, is too short, or is of another kind
        than the algorithm wants.
    :raises ImportError: the extra is not installed.
    """

    def __init__(
        self,
        key: Any = None,
        *,
        password: str | bytes | None = None,
        algorithm: str | None = None,
        allow_short_key: bool = False,
    ) -> None:
        key, password = masked_key(key), masked_key(password)
        if callable(key):
            message = "a DPoP key must be a key, not a callable: its public half is in each proof"
            raise TypeError(message)
        self._key = SigningKey(
            generate_key() if key is None else key,
            algorithm,
            password=password,
            allow_short_key=allow_short_key,
        )
        #: The last nonce of each server (RFC 9449 §8.2), by its origin.
        self._nonces: dict[str, str] = {}

    def __repr__(self) -> str:
        if not hasattr(self, "_key"):  # error reports show objects that are not complete yet
            return "<DPoPKey>"
        return f"<DPoPKey {self._key.algorithm} {self.thumbprint}>"

    def __getstate__(self) -> dict[str, Any]:
        # What servers said is for this process.
        return {**self.__dict__, "_nonces": {}}

    @property
    def thumbprint(self) -> str:
        """The SHA-256 thumbprint of the public key, known as ``jkt`` (RFC 9449 §6)."""
        return self._key.thumbprint

    def attach_proof(self, request: requests.PreparedRequest, token: Token | None = None) -> None:
        """Write a new proof on the request: of this key, and of the token that is on it."""

        def make() -> str:
            return self._make_proof(request.method or "", request.url or "", token)

        request.headers["DPoP"] = _Proof(make(), make)

    def remove_proof(self, request: requests.PreparedRequest) -> None:
        """Take a proof off the request, if there is one."""
        if isinstance(request.headers.get("DPoP"), _Proof):
            del request.headers["DPoP"]

    def store_nonce(self, response: requests.Response) -> bool:
        """Keep the nonce that the server handed out (RFC 9449 §8.2); whether it did."""
        nonce = response.headers.get("DPoP-Nonce")
        if nonce is None:
            return False
        origin = origin_of(response.request.url)
        if len(self._nonces) >= _MOST_NONCES and origin not in self._nonces:
            self._nonces = {}
        self._nonces[origin] = nonce
        return True

    def _make_proof(self, method: str, url: str, token: Token | None) -> str:
        claims: dict[str, Any] = {
            "jti": os.urandom(16).hex(),
            "htm": method,
            "htu": f"{origin_of(url)}{urlsplit(url).path or '/'}",
            "iat": int(time.time()),
        }
        if token is not None:
            claims["ath"] = base64url(hashlib.sha256(token.access_token.encode()).digest())
        nonce = self._nonces.get(origin_of(url))
        if nonce is not None:
            claims["nonce"] = nonce
        header = {"typ": "dpop+jwt", "alg": self._key.algorithm, "jwk": self._key.public_jwk}
        return encode_jwt(claims, header, self._key.sign)


class _Proof(str):
    """The header with a proof, which is another one each time it is written to the wire.

    No server takes a proof twice, and adapters may send a request again (urllib3's retries).
    """

    __slots__ = ("_is_used", "_make")
    _is_used: bool
    _make: Callable[[], str]

    def __new__(cls, proof: str, make: Callable[[], str]) -> _Proof:
        header = super().__new__(cls, proof)
        header._is_used = False
        header._make = make
        return header

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return (str, (str(self),))

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Called by http.client as it writes the header."""
        proof = self._make() if self._is_used else str(self)
        self._is_used = True
        return proof.encode(encoding, errors)


def as_dpop_key(dpop: Any) -> DPoPKey | None:
    """The key that ``dpop=`` means: a new one for ``True``, none for ``False``.

    Raises as :class:`DPoPKey`.
    """
    dpop = masked_key(dpop)
    if dpop is None or dpop is False:
        return None
    if isinstance(dpop, DPoPKey):
        return dpop
    try:
        return DPoPKey(None if dpop is True else dpop)
    except (TypeError, ValueError) as error:
        message = f"dpop must be True, a DPoPKey, or a private key; {error}"
        raise type(error)(message) from None


def asks_for_nonce(response: requests.Response) -> bool:
    """Whether an API expects the request again, with the nonce in its response (RFC 9449 §9)."""
    if response.status_code != 401:
        return False
    error = _dpop_error(response.headers.get("WWW-Authenticate", ""))
    length = response.headers.get("Content-Length", "")
    is_short = length.isdecimal() and len(length) <= _DIGITS_OF_SHORT
    if error is None and is_short and "DPoP-Nonce" in response.headers:
        # Some APIs say it in the body only.
        error, _ = find_error(response)
    return error == "use_dpop_nonce"


def endpoint_asks_for_nonce(response: requests.Response) -> bool:
    """Whether a token endpoint expects its nonce in the proof (RFC 9449 §8)."""
    challenges = response.headers.get("WWW-Authenticate", "")
    return "use_dpop_nonce" in (find_error(response)[0], _dpop_error(challenges))


def _dpop_error(challenges: str) -> str | None:
    """The ``error`` of the DPoP challenge among these (RFC 9110 §11.6.1)."""
    scheme = ""
    for name, value in _CHALLENGE_PART.findall(challenges):
        if not value:
            scheme = name.lower()
        elif scheme == "dpop" and name.lower() == "error":
            return str(value).lstrip("= \t").strip('"')
    return None
