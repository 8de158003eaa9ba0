"""Tokens bound to a key (RFC 9449): oidc-provider grants them, an API checks every proof."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from joserfc.jwk import Key

from alf import Client, TokenError
from alf.client_auth import PrivateKeyJWT
from alf.dpop import DPoPKey
from tests.integration.apis import AuthorizationServer, DPoPApi
from tests.integration.conftest import UGLY_SECRET
from tests.servers import running

pytestmark = pytest.mark.integration


@pytest.fixture
def dpop_api(oidc_provider: AuthorizationServer) -> Iterator[DPoPApi]:
    with running(DPoPApi(oidc_provider)) as server:
        yield server


def dpop_client(server: AuthorizationServer, **options: Any) -> Client:
    given: dict[str, Any] = {
        "token_endpoint": server.token_endpoint,
        "client_id": "dpop",
        "client_secret": UGLY_SECRET,
        "dpop": True,
        **options,
    }
    return Client(**given)


@pytest.mark.capability("DPoP")
def test_a_bound_token_goes_out_with_a_proof_for_each_request(
    oidc_provider: AuthorizationServer, dpop_api: DPoPApi
) -> None:
    with dpop_client(oidc_provider, scope="read") as client:
        first = client.get(f"{dpop_api.url}/orders?page=1")
        second = client.post(f"{dpop_api.url}/orders", json={"size": 1})
        token = client.ensure_token()
    assert token.token_type == "DPoP"
    assert first.json() == second.json() == oidc_provider.introspect(token.access_token)
    # The API's nonce is asked for once, and remembered.
    assert dpop_api.refusals == ["use_dpop_nonce"]


# RFC 9864 would rather have EdDSA called Ed25519.
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_the_key_may_be_given(
    oidc_provider: AuthorizationServer,
    dpop_api: DPoPApi,
    client_keys: dict[str, Key],
    algorithm: str,
) -> None:
    key = client_keys[algorithm]
    dpop = DPoPKey(key=key.as_pem(private=True), algorithm=algorithm)
    with dpop_client(oidc_provider, dpop=dpop) as client:
        known = client.get(f"{dpop_api.url}/a%20path/%C3%A4").json()
    assert known["cnf"] == {"jkt": key.thumbprint()}


def test_a_redirect_has_a_proof_of_its_own(
    oidc_provider: AuthorizationServer, dpop_api: DPoPApi
) -> None:
    dpop_api.redirects["/old"] = "/new?page=2"
    with dpop_client(oidc_provider) as client:
        response = client.get(f"{dpop_api.url}/old")
    assert [hop.status_code for hop in response.history] == [307]
    assert response.status_code == 200
    assert dpop_api.refusals == ["use_dpop_nonce"]


@pytest.mark.parametrize("is_key_shared", [True, False])
def test_a_stored_token_is_taken_by_who_has_its_key(
    oidc_provider: AuthorizationServer, dpop_api: DPoPApi, is_key_shared: bool
) -> None:
    storage: dict[str, str] = {}
    key = DPoPKey()
    tokens = []
    for _ in range(2):
        dpop = key if is_key_shared else True
        with dpop_client(oidc_provider, dpop=dpop, token_storage=storage) as client:
            assert client.get(dpop_api.url).status_code == 200
            tokens.append(client.ensure_token())
    assert (tokens[0] == tokens[1]) is is_key_shared
    assert "invalid_dpop_proof" not in dpop_api.refusals


@pytest.mark.capability("DPoP with nonces of the token endpoint")
def test_the_nonce_of_the_token_endpoint_is_remembered(
    oidc_provider: AuthorizationServer,
) -> None:
    statuses: list[int] = []
    with requests.Session() as session:
        session.hooks["response"].append(lambda got, **_: statuses.append(got.status_code))
        with dpop_client(oidc_provider, token_session=session) as client:
            client.renew_token()
            client.renew_token()
    assert statuses == [400, 200, 200]


def test_a_new_nonce_of_the_api_costs_no_token(
    oidc_provider: AuthorizationServer, dpop_api: DPoPApi
) -> None:
    with dpop_client(oidc_provider) as client:
        client.get(dpop_api.url)
        token = client.ensure_token()
        dpop_api.nonce = "nonce-2"
        assert client.get(dpop_api.url).status_code == 200
        assert client.ensure_token() == token
    assert dpop_api.refusals == ["use_dpop_nonce", "use_dpop_nonce"]


def test_a_revoked_bound_token_is_replaced_within_the_call(
    oidc_provider: AuthorizationServer, dpop_api: DPoPApi
) -> None:
    with dpop_client(oidc_provider) as client:
        client.get(dpop_api.url)
        oidc_provider.revoke(client.ensure_token().access_token, "dpop", UGLY_SECRET)
        assert client.get(dpop_api.url).status_code == 200
    assert dpop_api.refusals == ["use_dpop_nonce", "invalid_token"]


def test_the_retry_with_the_nonce_has_an_assertion_of_its_own(
    oidc_provider: AuthorizationServer, dpop_api: DPoPApi, client_keys: dict[str, Key]
) -> None:
    client_auth = PrivateKeyJWT(key=client_keys["ES256"].as_pem(private=True))
    with dpop_client(
        oidc_provider, client_id="dpop-jwt", client_secret=None, client_auth=client_auth
    ) as client:
        assert client.get(dpop_api.url).json()["client_id"] == "dpop-jwt"


def test_a_client_without_dpop_is_told_that_the_server_wants_it(
    oidc_provider: AuthorizationServer,
) -> None:
    with dpop_client(oidc_provider, dpop=None) as client, pytest.raises(TokenError) as caught:
        _ = client.ensure_token()
    assert caught.value.error == "invalid_grant"
