"""How the client says who it is at the token endpoint (RFC 6749 §2.3).

Each way is an auth object of requests: it is called with the prepared token request, once for
every try, and signs it.
"""

from __future__ import annotations

import base64
from urllib.parse import quote_plus

import requests
from requests.auth import AuthBase

__all__ = ["ClientSecretBasic"]


class ClientSecretBasic(AuthBase):
    """HTTP Basic, by the book: id and secret form-encoded first (RFC 6749 §2.3.1)."""

    def __init__(self, client_id: str, client_secret: str) -> None:
        self._client_id = client_id
        self._client_secret = client_secret

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        pair = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
        credentials = base64.b64encode(pair.encode("ascii")).decode("ascii")
        request.headers["Authorization"] = f"Basic {credentials}"
        return request
