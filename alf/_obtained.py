"""Remembers with which secret this process obtained each token.

Processes share tokens by client id, because secrets are rotated, and the old and the new secret
may share a token. Within a process, however, a Client with another secret makes its own token
request, so that a wrong secret is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

from alf.tokens import Token

__all__ = ["is_of_another_secret", "note_obtained"]

#: This many tokens are remembered: the last ones.
_MOST = 4096

#: Random for each process, so that what is remembered cannot be guessed from or compared.
_SALT = os.urandom(16)

_obtained: OrderedDict[bytes, bytes] = OrderedDict()


def note_obtained(token: Token, secret: str | None) -> None:
    """Remember the secret with which a token was obtained; ``None`` for other credentials."""
    if secret is not None:
        _obtained[_digest(token.access_token)] = _digest(secret)
        if len(_obtained) > _MOST:
            _obtained.popitem(last=False)


def is_of_another_secret(token: Token, secret: str | None) -> bool:
    """Whether this process obtained the token with another secret than this one."""
    if secret is None:
        return False
    known = _obtained.get(_digest(token.access_token))
    return known is not None and known != _digest(secret)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), key=_SALT, digest_size=16
    ).digest()
