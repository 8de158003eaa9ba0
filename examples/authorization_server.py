"""An authorization server built on Authlib, and an API that it protects, on loopback.

It is for demonstrations and tests: it keeps everything in memory and has one client.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import flask
from authlib.integrations.flask_oauth2 import AuthorizationServer as AuthlibServer
from authlib.integrations.flask_oauth2 import ResourceProtector
from authlib.oauth2.rfc6749 import ClientCredentialsGrant, ClientMixin, TokenMixin
from authlib.oauth2.rfc6750 import BearerTokenValidator
from werkzeug.serving import WSGIRequestHandler, make_server


@dataclass
class KnownClient(ClientMixin):
    client_id: str
    client_secret: str
    scope: str

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self.client_secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in ("client_secret_basic", "client_secret_post")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == ClientCredentialsGrant.GRANT_TYPE

    def get_allowed_scope(self, scope: str | None) -> str:
        allowed = self.scope.split()
        return " ".join(name for name in (scope or self.scope).split() if name in allowed)


@dataclass
class GrantedToken(TokenMixin):
    scope: str
    expires_at: float
    is_dead: bool = False

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return time.time() >= self.expires_at

    def is_revoked(self) -> bool:
        return self.is_dead


@dataclass
class AuthorizationServer:
    """The state of the running server, and the means to change it."""

    client: KnownClient
    lifetime: int
    tokens: dict[str, GrantedToken] = field(default_factory=dict)
    is_down: bool = False
    url: str = ""

    @property
    def token_endpoint(self) -> str:
        return f"{self.url}/token"

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    def revoke_all(self) -> None:
        for token in self.tokens.values():
            token.is_dead = True


def make_app(server: AuthorizationServer) -> flask.Flask:
    app = flask.Flask(__name__)
    app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"client_credentials": server.lifetime}

    def query_client(client_id: str) -> KnownClient | None:
        return server.client if client_id == server.client.client_id else None

    def save_token(token: dict[str, Any], _request: object) -> None:
        server.tokens[token["access_token"]] = GrantedToken(
            token.get("scope", ""), time.time() + token["expires_in"]
        )

    authlib_server = AuthlibServer(app, query_client=query_client, save_token=save_token)
    authlib_server.register_grant(ClientCredentialsGrant)

    class Validator(BearerTokenValidator):
        def authenticate_token(self, token_string: str) -> GrantedToken | None:
            return server.tokens.get(token_string)

    require_oauth = ResourceProtector()
    require_oauth.register_token_validator(Validator())

    @app.post("/token")
    def token() -> Any:
        if server.is_down:
            return {"error": "temporarily_unavailable"}, 503
        return authlib_server.create_token_response()

    @app.route("/api", methods=["GET", "POST", "PUT", "DELETE"])
    @require_oauth()
    def api() -> Any:
        return {"method": flask.request.method, "received": flask.request.get_data(as_text=True)}

    return app


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_args: Any) -> None:
        """Log nothing: the demonstration prints its own lines."""


@contextlib.contextmanager
def running(lifetime: int = 3600) -> Iterator[AuthorizationServer]:
    """Run the server on a free port until the block ends; its tokens live ``lifetime`` seconds."""
    server = AuthorizationServer(KnownClient("client-id", "secret", "read write"), lifetime)
    listener = make_server("127.0.0.1", 0, make_app(server), threaded=True, request_handler=_Quiet)
    # An open connection must not keep the process alive.
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.port}"
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
