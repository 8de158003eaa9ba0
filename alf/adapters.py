"""Adapters of requests: retries that cover a POST."""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

__all__ = ["mount_retry_adapter"]

#: Statuses of a server that may answer the same request otherwise a little later.
_TROUBLE = (429, 500, 502, 503, 504)

#: Half the seconds before the second retry. The first has none before it, each later one twice as
#: many as the last.
_PAUSE = 0.5


def mount_retry_adapter(session: requests.Session, retries: int | Retry) -> None:
    """Mount adapters on the session that retry as told.

    :param session: any requests Session.
    :param retries: urllib3's ``Retry``, taken as it is, or the number of retries.
    """
    session.mount("http://", HTTPAdapter(max_retries=retries))
    session.mount("https://", HTTPAdapter(max_retries=retries))


def retry_for_post(retries: int | Retry) -> Retry:
    """What to retry of a token request.

    A number of retries is for connections that fail and for the statuses of a server in trouble,
    with pauses that grow. A ``Retry`` means what it says; where it says nothing of methods it is
    for a POST, which urllib3 leaves out.

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
    return Retry(
        retries,
        status_forcelist=_TROUBLE,
        backoff_factor=_PAUSE,
        raise_on_status=False,
        allowed_methods=None,
    )
