"""Adapters of requests: retries that cover a POST."""

from __future__ import annotations

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
