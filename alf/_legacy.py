"""Adapts users' own token managers that were written for alf 0.7."""

from __future__ import annotations

from typing import Any

import requests

from alf.managers import TokenManager
from alf.tokens import Token, TokenError

__all__ = ["wrap_legacy_manager"]


def wrap_legacy_manager(manager: Any) -> Any:
    """The manager; one with the interface of alf 0.7 is wrapped."""
    has_own_way = isinstance(manager, TokenManager) and (
        type(manager).get_token is not TokenManager.get_token
    )
    if hasattr(manager, "refusal") and not has_own_way:
        return manager
    return _ManagerOf07(manager)


class _ManagerOf07:
    """Wraps a manager that has only ``get_token()`` and ``reset_token()``."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._current: Token | None = None

    def peek(self, *, is_fresh: bool = False) -> Token | None:
        # Only the wrapped manager knows whether its token is fresh.
        return None if is_fresh else self._current

    def token(self) -> Token:
        try:
            access_token = self._manager.get_token()
        except TokenError:
            self._manager.reset_token()
            raise
        current = self._current
        if current is None or current.access_token != access_token:
            current = self._current = Token(access_token)
        return current

    def renew(self) -> Token:
        self._manager.reset_token()
        self._current = None
        return self.token()

    def refusal(self, _origin: str) -> _RefusalOf07:
        return _RefusalOf07(self)

    def replace(self, refused: Token, origin: str = "") -> Token | None:
        return self.refusal(origin).replacement(refused)

    def revoke(self) -> None:
        message = f"{type(self._manager).__name__} has no way to revoke a token"
        raise NotImplementedError(message)

    def follow(self, session: requests.Session) -> None:
        if hasattr(self._manager, "follow"):
            self._manager.follow(session)

    def close(self) -> None:
        if hasattr(self._manager, "close"):
            self._manager.close()


class _RefusalOf07:
    """Like :class:`Refusal`, within what is known: tries the current token, then one more."""

    def __init__(self, manager: _ManagerOf07) -> None:
        self._manager = manager
        self._is_renewed = False

    def wait_to_settle(self, _refused: Token) -> bool:
        return False

    def replacement(self, refused: Token) -> Token | None:
        if self._is_renewed:
            return None
        token = self._manager.token()
        if token.access_token == refused.access_token:
            self._is_renewed = True
            token = self._manager.renew()
        return None if token.access_token == refused.access_token else token

    def accepted(self, token: Token) -> None:
        pass
