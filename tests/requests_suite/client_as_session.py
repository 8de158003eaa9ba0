"""A plugin of pytest that puts a Client in the place of requests' Session.

The token comes from an adapter: the suite is about everything else.
"""

from __future__ import annotations

import io
import json
from typing import Any

import requests
from requests.adapters import BaseAdapter

from alf import Client


class TokenAdapter(BaseAdapter):
    """A token endpoint without a network."""

    def send(self, request: Any, **_settings: Any) -> requests.Response:  # type: ignore[override]
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.raw = io.BytesIO(json.dumps({"access_token": "t", "expires_in": 3600}).encode())
        return response

    def close(self) -> None:
        pass


class TokenSession(requests.Session):
    """Has a name of its own, so that it can be pickled when Session's is taken."""


_token_session = TokenSession()
_token_session.mount("https://id.example.com", TokenAdapter())


class ClientSession(Client):
    """A Client that is made as a Session is: without arguments."""

    made = 0

    def __init__(self) -> None:
        super().__init__(
            token_endpoint="https://id.example.com/token",
            client_id="client-id",
            client_secret="secret",
            token_session=_token_session,
        )
        ClientSession.made += 1


requests.Session = requests.sessions.Session = ClientSession  # type: ignore[misc]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.line(f"Clients made in a Session's place: {ClientSession.made}")
