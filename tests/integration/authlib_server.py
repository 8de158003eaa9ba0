"""Authlib's authorization server on loopback: run as a program, for the tests.

Reads a JSON object with ``clients`` from stdin, each with client_id, client_secret and, where
its tokens are to live shorter than 300 seconds, access_token_ttl. Prints its URL when it is ready.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
import time
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

METHODS = ["client_secret_basic", "client_secret_post"]


class Client(ClientMixin):
    def __init__(self, client_id: str, client_secret: str, access_token_ttl: int = 300) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.access_token_ttl = access_token_ttl

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(name for name in (scope or "").split() if name in ("read", "write"))

    def check_client_secret(self, client_secret: str) -> bool:
        return hmac.compare_digest(self.client_secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in METHODS

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"


class Token(TokenMixin):
    def __init__(self, client: Client, answer: dict[str, Any]) -> None:
        self.client = client
        self.scope = answer.get("scope", "")
        self.expires_at = time.time() + answer["expires_in"]
        self.revoked = False

    def check_client(self, client: Client) -> bool:
        return client is self.client

    def is_expired(self) -> bool:
        return time.time() >= self.expires_at

    def is_revoked(self) -> bool:
        return self.revoked


class ClientCredentialsGrant(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS


def make_app(clients: dict[str, Client]) -> Flask:
    tokens: dict[str, Token] = {}

    def save_token(answer: dict[str, Any], grant_request: Any) -> None:
        tokens[answer["access_token"]] = Token(grant_request.client, answer)

    class Revocation(RevocationEndpoint):
        CLIENT_AUTH_METHODS = METHODS

        def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
            return tokens.get(token_string)

        def revoke_token(self, token: Token, request: Any) -> None:
            token.revoked = True

    class Introspection(IntrospectionEndpoint):
        def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
            return tokens.get(token_string)

        def check_permission(self, token: Token, client: Client, request: Any) -> bool:
            return client.client_id == "resource-server"

        def introspect_token(self, token: Token) -> dict[str, Any]:
            return {"active": True, "client_id": token.client.client_id, "scope": token.scope}

    app = Flask(__name__)
    server = AuthorizationServer(app, query_client=clients.get, save_token=save_token)
    server.register_token_generator(
        "default",
        BearerTokenGenerator(
            access_token_generator=lambda **_: os.urandom(32).hex(),
            expires_generator=lambda client, _: client.access_token_ttl,
        ),
    )
    server.register_grant(ClientCredentialsGrant)
    server.register_endpoint(Revocation)
    server.register_endpoint(Introspection)

    @app.get("/.well-known/oauth-authorization-server")
    def metadata() -> Any:
        issuer = request.host_url.rstrip("/")
        return jsonify(
            issuer=issuer,
            token_endpoint=f"{issuer}/token",
            revocation_endpoint=f"{issuer}/revoke",
            introspection_endpoint=f"{issuer}/introspect",
            token_endpoint_auth_methods_supported=METHODS,
        )

    app.post("/token")(server.create_token_response)
    app.post("/revoke", endpoint="revoke")(
        lambda: server.create_endpoint_response(Revocation.ENDPOINT_NAME)
    )
    app.post("/introspect", endpoint="introspect")(
        lambda: server.create_endpoint_response(Introspection.ENDPOINT_NAME)
    )
    return app


if __name__ == "__main__":
    # Plain http, on loopback only.
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    given = [Client(**client) for client in json.load(sys.stdin)["clients"]]
    http = make_server("127.0.0.1", 0, make_app({c.client_id: c for c in given}), threaded=True)
    print(f"http://127.0.0.1:{http.port}", flush=True)  # noqa: T201
    http.serve_forever()
