"""A :class:`requests.Session` that always has a good OAuth 2.0 token."""

from __future__ import annotations

import logging

from alf.auth import BearerTokenAuth, NoAuth
from alf.client import Client
from alf.managers import TokenManager
from alf.tokens import Token, TokenError

__all__ = ["BearerTokenAuth", "Client", "NoAuth", "Token", "TokenError", "TokenManager"]

__version__ = "1.0.0"

logging.getLogger("alf").addHandler(logging.NullHandler())
