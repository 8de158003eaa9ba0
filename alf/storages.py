"""Where a token is shared: the entry in the user's storage, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from alf.tokens import Token

__all__ = ["TokenStorage"]

logger = logging.getLogger("alf")


class TokenStorage:
    """The one entry of one token in a storage. Never raises: a storage in trouble is an empty one.

    :param storage: any object with ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param key: the entry's key.
    :raises TypeError: the storage has neither.
    """

    def __init__(self, storage: Any, key: str) -> None:
        self._storage = storage
        self._key = key
        if isinstance(storage, MutableMapping):
            self._set: Callable[[str, str], object] = storage.__setitem__
        elif callable(getattr(storage, "get", None)) and callable(getattr(storage, "set", None)):
            self._set = storage.set
        else:
            message = f"token_storage must have get and set, got {type(storage).__name__}"
            raise TypeError(message)

    def load(self) -> Token | None:
        """The token in the entry, if there is one."""
        try:
            entry = self._storage.get(self._key)
            return None if entry is None else Token(**json.loads(entry))
        except Exception:
            logger.warning("token storage: %s could not be read", self._key, exc_info=True)
            return None

    def save(self, token: Token) -> None:
        """Replace the entry by this token."""
        entry = {
            "access_token": token.access_token,
            "token_type": token.token_type,
            "expires_at": token.expires_at,
            "issued_at": token.issued_at,
            "scope": token.scope,
            "extra": dict(token.extra),
        }
        try:
            self._set(self._key, json.dumps(entry))
        except Exception:
            logger.warning("token storage: %s could not be written", self._key, exc_info=True)

    def remove(self, token: Token) -> None:
        """Remove the entry, if it still is this token, and the storage has a way to do so."""
        stored = self.load()
        if stored is None or stored.access_token != token.access_token:
            return
        try:
            if isinstance(self._storage, MutableMapping):
                self._storage.pop(self._key, None)
            elif hasattr(self._storage, "delete"):
                self._storage.delete(self._key)
        except Exception:
            logger.warning("token storage: %s could not be removed", self._key, exc_info=True)

    @contextlib.contextmanager
    def turn(self, patience: float, is_wanted: Callable[[Token], bool]) -> Iterator[Token | None]:
        """Wait for this process's turn to ask the endpoint, and keep it for the ``with`` block.

        :param patience: seconds to wait for another process that is at it.
        :param is_wanted: whether a stored token makes asking needless.
        :returns: such a token, if one is there or comes while waiting; ``None``: it is our turn.
        """
        del patience  # nobody else to wait for
        stored = self.load()
        yield stored if stored is not None and is_wanted(stored) else None
