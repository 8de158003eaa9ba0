"""What oidc-provider alone has: assertions, certificates, resource indicators, JWTs."""

from __future__ import annotations

import base64
import hashlib
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc.jwk import Key

from alf import Client, TokenError
from alf.client_auth import ClientSecretJWT, PrivateKeyJWT
from tests.integration.apis import AuthorizationServer, JwtApi, ProtectedApi
from tests.integration.conftest import JWT_RESOURCE, LONG_SECRET, UGLY_SECRET, Certificate
from tests.integration.test_authorization_servers import wait_until
from tests.servers import running

pytestmark = pytest.mark.integration


@pytest.fixture
def protected_api(oidc_provider: AuthorizationServer) -> Iterator[ProtectedApi]:
    with running(ProtectedApi(oidc_provider)) as server:
        yield server


def renew_and_call(client: Client, api: ProtectedApi) -> dict[str, Any]:
    """What the server knows of the second token: nothing in an assertion may be used twice."""
    assert client.get(api.url).status_code == 200
    client.renew_token()
    return client.get(api.url).json()


@pytest.mark.parametrize(
    ("client_id", "options"),
    [
        ("client", {"client_secret": UGLY_SECRET}),
        ("post", {"client_secret": UGLY_SECRET, "client_auth": "client_secret_post"}),
        pytest.param(
            "secret-jwt",
            {"client_secret": LONG_SECRET, "client_auth": "client_secret_jwt"},
            marks=pytest.mark.capability("client_secret_jwt"),
        ),
        ("secret-jwt", {"client_secret": LONG_SECRET, "client_auth": ClientSecretJWT()}),
        pytest.param("public", {"client_auth": "none"}, marks=pytest.mark.capability("none")),
    ],
)
def test_each_way_to_authenticate_with_a_secret_is_accepted(
    oidc_provider: AuthorizationServer,
    protected_api: ProtectedApi,
    client_id: str,
    options: dict[str, Any],
) -> None:
    endpoint = oidc_provider.token_endpoint
    with Client(token_endpoint=endpoint, client_id=client_id, **options) as client:
        assert renew_and_call(client, protected_api)["client_id"] == client_id


@pytest.mark.capability("private_key_jwt, {algorithm}")
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("is_discovered", [True, False])
def test_an_assertion_signed_with_a_private_key_is_accepted_and_may_revoke(
    oidc_provider: AuthorizationServer,
    protected_api: ProtectedApi,
    client_keys: dict[str, Key],
    algorithm: str,
    is_discovered: bool,
) -> None:
    key = client_keys[algorithm].as_pem(private=True)
    endpoints = (
        {"issuer": oidc_provider.issuer}
        if is_discovered
        else {
            "token_endpoint": oidc_provider.token_endpoint,
            "revocation_endpoint": oidc_provider.revocation_endpoint,
        }
    )
    with Client(
        **endpoints,
        client_id=algorithm,
        client_auth=PrivateKeyJWT(key=key, algorithm=algorithm),
    ) as client:
        assert renew_and_call(client, protected_api)["client_id"] == algorithm
        revoked = client.ensure_token().access_token
        client.revoke_token()
    assert not oidc_provider.is_active(revoked)


def test_an_assertion_signed_with_another_key_brings_the_servers_error(
    oidc_provider: AuthorizationServer,
    protected_api: ProtectedApi,
    client_keys: dict[str, Key],
) -> None:
    client_auth = PrivateKeyJWT(key=client_keys["RS256"].as_pem(private=True), algorithm="RS256")
    with Client(
        token_endpoint=oidc_provider.token_endpoint, client_id="ES256", client_auth=client_auth
    ) as client:
        response = client.get(protected_api.url)
    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
    assert protected_api.requests == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("issued", marks=pytest.mark.capability("tls_client_auth")),
        pytest.param("self-signed", marks=pytest.mark.capability("self_signed_tls_client_auth")),
    ],
)
@pytest.mark.parametrize("is_for_the_token_alone", [True, False])
def test_a_client_is_known_by_its_certificate_and_may_revoke(
    tls_oidc_provider: AuthorizationServer,
    client_certificates: dict[str, Certificate],
    name: str,
    is_for_the_token_alone: bool,
) -> None:
    cert = client_certificates[name].cert
    with Client(
        issuer=tls_oidc_provider.issuer,
        client_id=name,
        client_auth="tls_client_auth",
        token_cert=cert if is_for_the_token_alone else None,
    ) as client:
        client.verify = tls_oidc_provider.verify
        client.cert = None if is_for_the_token_alone else cert
        token = client.ensure_token().access_token
        assert tls_oidc_provider.introspect(token)["client_id"] == name
        client.revoke_token()
    assert not tls_oidc_provider.is_active(token)


@pytest.mark.capability("Certificate-bound tokens")
def test_a_token_may_be_bound_to_the_certificate(
    tls_oidc_provider: AuthorizationServer, client_certificates: dict[str, Certificate]
) -> None:
    with Client(
        token_endpoint=tls_oidc_provider.token_endpoint,
        client_id="issued",
        client_auth="tls_client_auth",
    ) as client:
        client.verify = tls_oidc_provider.verify
        client.cert = client_certificates["issued"].cert
        known = tls_oidc_provider.introspect(client.ensure_token().access_token)
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(client_certificates["issued"].pem)).digest()
    thumbprint = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert known["cnf"]["x5t#S256"] == thumbprint


def test_a_certificate_of_somebody_else_brings_the_servers_error(
    tls_oidc_provider: AuthorizationServer, client_certificates: dict[str, Certificate]
) -> None:
    with Client(
        token_endpoint=tls_oidc_provider.token_endpoint,
        client_id="issued",
        client_auth="tls_client_auth",
        token_cert=client_certificates["stranger"].cert,
    ) as client:
        client.verify = tls_oidc_provider.verify
        with pytest.raises(TokenError) as caught:
            _ = client.ensure_token()
    assert caught.value.error == "invalid_client"


@pytest.mark.capability("JWT access tokens")
@pytest.mark.capability("Resource indicators")
def test_a_jwt_for_the_resource_is_renewed_when_it_expires(
    oidc_provider: AuthorizationServer,
) -> None:
    with (
        running(JwtApi(oidc_provider, JWT_RESOURCE)) as api,
        Client(
            token_endpoint=oidc_provider.token_endpoint,
            client_id="client",
            client_secret=UGLY_SECRET,
            resource=JWT_RESOURCE,
            scope=["read", "write"],
        ) as client,
    ):
        expired = client.ensure_token()
        assert (expired.lifetime, expired.scope) == (2, "read write")
        wait_until(lambda: not api.look_up(expired.access_token)["active"])
        wait_until(lambda: time.time() >= (expired.expires_at or 0))
        response = client.get(api.url)
    claims = response.json()
    assert (claims["aud"], claims["scope"]) == (JWT_RESOURCE, "read write")
    assert expired.access_token not in api.tokens


def test_a_resource_that_the_server_does_not_know_is_its_error_to_tell(
    oidc_provider: AuthorizationServer,
) -> None:
    with (
        Client(
            token_endpoint=oidc_provider.token_endpoint,
            client_id="client",
            client_secret=UGLY_SECRET,
            resource="https://elsewhere.example.com/",
        ) as client,
        pytest.raises(TokenError) as caught,
    ):
        _ = client.ensure_token()
    assert caught.value.error == "invalid_target"


def test_a_scope_granted_smaller_than_asked_for_is_on_the_token(
    oidc_provider: AuthorizationServer,
) -> None:
    with Client(
        token_endpoint=oidc_provider.token_endpoint,
        client_id="client",
        client_secret=UGLY_SECRET,
        resource=JWT_RESOURCE,
        scope=["read", "administrate"],
    ) as client:
        assert client.ensure_token().scope == "read"
