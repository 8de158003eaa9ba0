"""An auth plugin for HTTPie: ``http --auth-type=alf https://api.example.com/``."""

from __future__ import annotations

from typing import Any

from httpie.plugins import AuthPlugin

import alf


class AlfPlugin(AuthPlugin):  # type: ignore[misc]
    """Sends the token of the Client that the ``ALF_…`` variables configure."""

    name = "OAuth 2.0 client credentials"
    auth_type = "alf"
    auth_require = False
    auth_parse = False

    def get_auth(self, username: str | None = None, password: str | None = None) -> Any:
        """Return what HTTPie passes to requests as ``auth``."""
        client = alf.Client.from_env()
        return client.auth
