"""Which tokens this process obtained, and with which secret: a wrong one gets no token of others.

Processes share tokens by client id: secrets are rotated, and the old and the new one may share.
Within a process it is known with which secret a token was obtained, and one with another secret
makes a request of its own, so that a wrong secret shows.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

from alf.tokens import Token

__all__ = ["is_of_another_secret", "note_obtained"]

#: Tokens that are remembered, the last ones.
_MOST = 4096

#: Nothing that is remembered can be compared with what another process has, or guessed from.
_SALT = os.urandom(16)

_obtained: OrderedDict[bytes, bytes] = OrderedDict()


def note_obtained(token: Token, secret: str | None) -> None:
    """Remember with which secret the token was obtained; ``None``: with something else."""
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
