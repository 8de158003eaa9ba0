"""The realm that Keycloak has in the tests, as its admin REST API takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from joserfc.jwk import Key

#: The API that the scope "orders" is for.
AUDIENCE = "https://api.example.com/"

#: What Keycloak calls the foreign issuer.
FOREIGN = "foreign"


def make_realm(
    secret: str,
    long_secret: str,
    keys: Mapping[str, Key],
    certificate: str,
    foreign: tuple[str, str],
) -> dict[str, Any]:
    """The realm's representation.

    :param secret: of the clients that have one; ``long_secret`` is that of HS256.
    :param keys: the keys of clients that sign assertions, by algorithm.
    :param certificate: the PEM file of the client's certificate.
    :param foreign: another issuer and the URL of its keys.
    """
    confidential = {"secret": secret}
    jwt_grant = {
        "oauth2.jwt.authorization.grant.enabled": "true",
        "oauth2.jwt.authorization.grant.idp": FOREIGN,
    }
    subject = x509.load_pem_x509_certificate(Path(certificate).read_bytes()).subject
    by_certificate = {
        "x509.subjectdn": subject.rfc4514_string(),
        "x509.allow.regex.pattern.comparison": "false",
    }
    clients = [
        _client("client", **confidential),
        _client("short", {"access.token.lifespan": 2}, **confidential),
        _client("long", {"access.token.lifespan": 3600}, **confidential),
        _client("disabled", enabled=False, **confidential),
        _client("resource-server", secret="secret"),
        _client("secret-jwt", way="client-secret-jwt", secret=long_secret),
        *(
            _client(
                algorithm,
                {
                    "token.endpoint.auth.signing.alg": algorithm,
                    "use.jwks.string": "true",
                    "jwks.string": json.dumps({"keys": [public_jwk(algorithm, key)]}),
                },
                way="client-jwt",
            )
            for algorithm, key in keys.items()
        ),
        _client("issued", by_certificate, way="client-x509"),
        _client(
            "bound",
            {**by_certificate, "tls.client.certificate.bound.access.tokens": "true"},
            way="client-x509",
        ),
        _client("dpop", {"dpop.bound.access.tokens": "true"}, **confidential),
        # The token to exchange must be for the client that exchanges it.
        _client("exchange", {"standard.token.exchange.enabled": "true"}, **confidential),
        _client("front", protocolMappers=[_audience("exchange")], **confidential),
        _client("jwt-grant", jwt_grant, **confidential),
        _client(
            "federated",
            {"jwt.credential.issuer": FOREIGN, "jwt.credential.sub": "workload"},
            way="federated-jwt",
        ),
    ]
    user = {
        "username": "user",
        "email": "user@example.com",
        "firstName": "A",
        "lastName": "User",
        "enabled": True,
        "emailVerified": True,
        "federatedIdentities": [
            {"identityProvider": FOREIGN, "userId": "foreign-user", "userName": "user"}
        ],
    }
    issuer, jwks_url = foreign
    provider = {
        "alias": FOREIGN,
        "providerId": "oidc",
        "enabled": True,
        "config": {
            "issuer": issuer,
            "clientId": "keycloak",
            "clientSecret": "not used",
            "authorizationUrl": f"{issuer}/authorize",
            "tokenUrl": f"{issuer}/token",
            "validateSignature": "true",
            "useJwksUrl": "true",
            "jwksUrl": jwks_url,
            "supportsClientAssertions": "true",
            "jwtAuthorizationGrantEnabled": "true",
        },
    }
    # Keycloak tells a resource server of tokens that are meant for it alone.
    for_all = {
        "name": "basic",
        "protocol": "openid-connect",
        "attributes": {"include.in.token.scope": "false"},
        "protocolMappers": [
            {"name": "sub", "protocol": "openid-connect", "protocolMapper": "oidc-sub-mapper",
             "config": {"access.token.claim": "true", "introspection.token.claim": "true"}},
            _audience("resource-server"),
        ],
    }  # fmt: skip
    return {
        "enabled": True,
        "sslRequired": "none",
        "clients": clients,
        "users": [user],
        "identityProviders": [provider],
        "clientScopes": [
            for_all,
            _scope("read"),
            _scope("write"),
            _scope("orders", protocolMappers=[_audience(AUDIENCE)]),
        ],
        "defaultDefaultClientScopes": ["basic"],
        "defaultOptionalClientScopes": ["read", "write", "orders"],
    }


def public_jwk(algorithm: str, key: Key) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": algorithm, "alg": algorithm, "use": "sig"}


def _client(
    client_id: str,
    attributes: Mapping[str, Any] | None = None,
    way: str = "client-secret",
    **members: Any,
) -> dict[str, Any]:
    return {
        "clientId": client_id,
        "clientAuthenticatorType": way,
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
        "attributes": dict(attributes or {}),
        **members,
    }


def _scope(name: str, **members: Any) -> dict[str, Any]:
    attributes = {"include.in.token.scope": "true"}
    return {"name": name, "protocol": "openid-connect", "attributes": attributes, **members}


def _audience(audience: str) -> dict[str, Any]:
    """A mapper that puts an audience into the token."""
    return {
        "name": f"audience {audience}",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {
            "included.custom.audience": audience,
            "access.token.claim": "true",
            "introspection.token.claim": "true",
        },
    }
