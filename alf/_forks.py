"""What to do in a child process after a fork."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter

__all__ = ["forget_connections", "register_after_fork"]


def forget_connections(session: requests.Session) -> None:
    """Give the session's adapters new, empty connection pools.

    The old ones are let go unclosed: after a fork their sockets are the parent's too.
    """
    for adapter in session.adapters.values():
        if isinstance(adapter, HTTPAdapter):
            # What pickling does: the same settings, and pools of its own.
            adapter.__setstate__(adapter.__getstate__())


class _Forkable(Protocol):
    def _after_fork(self) -> None: ...


_forkables: weakref.WeakSet[Any] = weakref.WeakSet()


def register_after_fork(forkable: _Forkable) -> None:
    """Have ``forkable._after_fork()`` called in every child process that is forked."""
    _forkables.add(forkable)


def _after_fork_in_child() -> None:
    for forkable in list(_forkables):
        forkable._after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork_in_child)
