"""What holds with each authorization server: a token's whole life, seen from both ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from alf import Client, TokenError
from tests.integration.apis import AuthorizationServer, ProtectedApi
from tests.integration.conftest import UGLY_SECRET

pytestmark = pytest.mark.integration


def client_of(server: AuthorizationServer, client_id: str = "client", **options: Any) -> Client:
    given: dict[str, Any] = {
        "token_endpoint": server.token_endpoint,
        "client_id": client_id,
        "client_secret": UGLY_SECRET,
        **options,
    }
    client = Client(**given)
    client.verify = server.verify
    return client


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.capability("client_secret_basic")
@pytest.mark.capability("Scopes")
def test_the_first_call_gets_a_token_that_the_server_knows(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    with client_of(authorization_server, scope="read") as client:
        response = client.get(protected_api.url)
        token = client.ensure_token()
    known = response.json()
    assert (known["active"], known["client_id"], known["scope"]) == (True, "client", "read")
    assert protected_api.tokens == [token.access_token]
    assert token.scope == "read"
    # Keycloak may count a second that begins meanwhile.
    assert token.lifetime in (299, 300)


def test_a_revoked_token_is_replaced_within_the_call(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    with client_of(authorization_server, scope="read") as client:
        revoked = client.ensure_token().access_token
        authorization_server.revoke(revoked, "client", UGLY_SECRET)
        assert not authorization_server.is_active(revoked)
        response = client.get(protected_api.url)
        fresh = client.ensure_token().access_token
    assert response.status_code == 200
    assert protected_api.tokens == [revoked, fresh]
    assert authorization_server.introspect(fresh)["scope"] == "read"


def test_threads_that_lose_their_token_at_once_share_one_new_one(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    with client_of(authorization_server) as client, ThreadPoolExecutor(8) as pool:
        revoked = client.ensure_token().access_token
        authorization_server.revoke(revoked, "client", UGLY_SECRET)
        statuses = {got.status_code for got in pool.map(client.get, [protected_api.url] * 24)}
        fresh = client.ensure_token().access_token
    assert statuses == {200}
    assert set(protected_api.tokens) == {revoked, fresh}


def test_an_expired_token_is_renewed_before_the_api_sees_it(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    with client_of(authorization_server, "short") as client:
        expired = client.ensure_token()
        assert expired.lifetime in (1, 2)
        wait_until(lambda: not authorization_server.is_active(expired.access_token))
        wait_until(lambda: time.time() >= expired.expires_at)
        response = client.get(protected_api.url)
    assert response.status_code == 200
    assert expired.access_token not in protected_api.tokens


@pytest.mark.parametrize("secret", ["wrong", "wr:ong%/+= c"])
def test_a_wrong_secret_brings_the_servers_own_error_to_the_caller(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi, secret: str
) -> None:
    with client_of(authorization_server, client_secret=secret) as client:
        response = client.get(protected_api.url)
        assert response.url == authorization_server.token_endpoint
        assert response.status_code in (400, 401)
        # RFC 6749 §5.2 has the first for this; Keycloak answers with the second.
        assert response.json()["error"] in ("invalid_client", "unauthorized_client")
        client.raise_token_error = True
        with pytest.raises(TokenError, match=authorization_server.issuer) as caught:
            client.get(protected_api.url)
    assert caught.value.error == response.json()["error"]
    assert secret not in str(caught.value)
    assert protected_api.requests == []


@pytest.mark.capability("client_secret_post")
def test_the_secret_may_go_in_the_form(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    with client_of(authorization_server, client_auth="client_secret_post") as client:
        assert client.get(protected_api.url).json()["client_id"] == "client"


@pytest.mark.capability("Discovery")
def test_the_issuer_is_enough_to_find_the_endpoint(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    with client_of(
        authorization_server, token_endpoint=None, issuer=authorization_server.issuer
    ) as client:
        assert client.get(protected_api.url).status_code == 200


@pytest.mark.capability("Revocation")
@pytest.mark.parametrize("is_discovered", [True, False])
def test_revoke_token_revokes_it_at_the_server_and_the_next_call_has_another(
    authorization_server: AuthorizationServer, protected_api: ProtectedApi, is_discovered: bool
) -> None:
    options = (
        {"issuer": authorization_server.issuer, "token_endpoint": None}
        if is_discovered
        else {"revocation_endpoint": authorization_server.revocation_endpoint}
    )
    with client_of(authorization_server, **options) as client:
        revoked = client.ensure_token().access_token
        assert authorization_server.is_active(revoked)
        client.revoke_token()
        assert not authorization_server.is_active(revoked)
        assert client.get(protected_api.url).status_code == 200
    assert revoked not in protected_api.tokens
