"""Repairs objects in a child process after a fork."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Protocol

import requests
from requests.adapters import HTTPAdapter

__all__ = ["forget_connections", "notice_fork", "register_after_fork"]

logger = logging.getLogger("alf")


class _Forkable(Protocol):
    def _after_fork(self) -> None: ...


#: Keyed by identity, because an object that defines ``__eq__`` may not be hashable.
_forkables: weakref.WeakValueDictionary[int, _Forkable] = weakref.WeakValueDictionary()

#: The process for which ``_after_fork()`` was last called.
_pid = os.getpid()


def register_after_fork(forkable: _Forkable) -> None:
    """Call ``forkable._after_fork()`` in every child process from now on."""
    _forkables[id(forkable)] = forkable


def notice_fork() -> None:
    """Notice a fork that did not run Python's hooks: uWSGI, for example, forks in C."""
    if os.getpid() != _pid:
        _after_fork_in_child()


def forget_connections(session: requests.Session) -> None:
    """Give the session's adapters new, empty connection pools, and its cookie jar a new lock.

    The old connections are not closed: after a fork their sockets belong to the parent as well.
    """
    for adapter in session.adapters.values():
        if isinstance(adapter, HTTPAdapter):
            # The same as unpickling: it keeps the settings and makes new pools.
            adapter.__setstate__(adapter.__getstate__())
    # A thread of the parent may have held the old one.
    session.cookies._cookies_lock = threading.RLock()


def _after_fork_in_child() -> None:
    global _pid
    _pid = os.getpid()
    for reference in _forkables.valuerefs():
        forkable = reference()
        if forkable is None:
            continue
        try:
            forkable._after_fork()
        except Exception:
            logger.warning("%s failed after a fork", type(forkable).__name__, exc_info=True)


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork_in_child)
