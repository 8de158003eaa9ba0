"""Adapters of requests: retries that cover a POST, and connections that survive a fork."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

__all__ = ["mount_retry_adapter"]


def mount_retry_adapter(session: requests.Session, retries: int | Retry) -> None:
    """Mount adapters on the session that retry as told.

    :param session: any requests Session.
    :param retries: urllib3's ``Retry``, taken as it is, or the number of retries.
    """
    session.mount("http://", HTTPAdapter(max_retries=retries))
    session.mount("https://", HTTPAdapter(max_retries=retries))


def retry_for_post(retries: int | Retry) -> Retry:
    """The given retries, for a POST: urllib3 leaves it out where nothing is said.

    :raises TypeError: neither a ``Retry`` nor an int.
    :raises ValueError: a negative number.
    """
    if isinstance(retries, bool) or not isinstance(retries, (int, Retry)):
        message = f"token_retry must be a urllib3 Retry or an int, got {retries!r}"
        raise TypeError(message)
    if isinstance(retries, Retry):
        # Identity, not equality: a Retry that names these methods itself means them.
        if retries.allowed_methods is not Retry.DEFAULT_ALLOWED_METHODS:
            return retries.new(raise_on_status=False)
        return retries.new(raise_on_status=False, allowed_methods=None)
    if retries < 0:
        message = f"token_retry must not be negative, got {retries!r}"
        raise ValueError(message)
    return Retry(retries, raise_on_status=False, allowed_methods=None)


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


def survive_fork(forkable: _Forkable) -> None:
    """Have ``forkable._after_fork()`` called in every child process that is forked."""
    _forkables.add(forkable)


def _after_fork_in_child() -> None:
    for forkable in list(_forkables):
        forkable._after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork_in_child)
