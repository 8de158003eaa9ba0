"""Adapters for requests: retries that include POST."""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

__all__ = ["mount_retry_adapter"]


def mount_retry_adapter(session: requests.Session, retries: int | Retry) -> None:
    """Mount adapters with these retries on the session.

    :param session: any requests Session.
    :param retries: urllib3's ``Retry``, used unchanged, or the number of retries.
    """
    session.mount("http://", HTTPAdapter(max_retries=retries))
    session.mount("https://", HTTPAdapter(max_retries=retries))
