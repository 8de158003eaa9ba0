"""What Keycloak has besides what all servers have, and what it says when something is wrong."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import Key

from alf import Client, TokenError, TokenManager
from alf.client_auth import ClientAssertion, PrivateKeyJWT
from alf.events import Event, RenewalFailed
from alf.grants import JWTBearerGrant, TokenExchange
from alf.storages import FileStorage
from tests.integration.apis import (
    AuthorizationServer,
    DPoPApi,
    ForeignIssuer,
    JwtApi,
    ProtectedApi,
)
from tests.integration.conftest import LONG_SECRET, UGLY_SECRET, Certificate
from tests.integration.fleet import Fleet, FleetClock
from tests.integration.keycloak import Keycloak
from tests.integration.keycloak_realm import AUDIENCE
from tests.integration.programs import ROOT
from tests.integration.test_authorization_servers import client_of, wait_until
from tests.servers import running
from tests.test_providers import PREAMBLE, RECIPES

pytestmark = [pytest.mark.integration, pytest.mark.keycloak]

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture
def protected_api(keycloak: AuthorizationServer) -> Iterator[ProtectedApi]:
    with running(ProtectedApi(keycloak)) as server:
        yield server


@pytest.fixture
def jwt_api(keycloak: AuthorizationServer) -> Iterator[JwtApi]:
    """An API that does not need Keycloak to judge a token."""
    with running(JwtApi(keycloak, AUDIENCE)) as server:
        yield server


@pytest.fixture
def dpop_api(keycloak: AuthorizationServer) -> Iterator[DPoPApi]:
    with running(DPoPApi(keycloak)) as server:
        yield server


def asserting_client(
    server: AuthorizationServer, keys: dict[str, Key], algorithm: str, **options: Any
) -> Client:
    """A client of the keys' algorithm; ``options`` are those of its PrivateKeyJWT."""
    key = keys[algorithm].as_pem(private=True)
    client_auth = PrivateKeyJWT(key=key, algorithm=algorithm, key_id=algorithm, **options)
    return client_of(
        server,
        algorithm,
        client_secret=None,
        client_auth=client_auth,
        revocation_endpoint=server.revocation_endpoint,
    )


def claims_of(server: AuthorizationServer, client: Client) -> dict[str, Any]:
    return jwt.decode(client.ensure_token().access_token, server.keys()).claims


def test_the_recipe_of_the_docs_works_with_the_real_server(
    keycloak: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    code = RECIPES["keycloak"]
    for example, real in {
        "https://id.example.com/realms/example": keycloak.issuer,
        '"client-id"': '"client"',
        '"client-secret"': repr(UGLY_SECRET),
    }.items():
        assert example in code
        code = code.replace(example, real)
    names: dict[str, Any] = {}
    exec(PREAMBLE + code, names)
    with names["client"] as client:
        client.verify = keycloak.verify
        assert client.get(protected_api.url).json()["client_id"] == "client"


def test_audience_and_resource_are_ignored(keycloak: AuthorizationServer) -> None:
    with client_of(keycloak, audience=AUDIENCE, resource=AUDIENCE) as client:
        assert claims_of(keycloak, client)["aud"] == "resource-server"


def test_a_token_is_active_only_for_those_in_its_audience(
    keycloak: AuthorizationServer,
) -> None:
    with client_of(keycloak) as client:
        token = client.ensure_token().access_token
    assert keycloak.is_active(token)
    form = {"token": token, "client_id": "short", "client_secret": UGLY_SECRET}
    other = requests.post(keycloak.introspection_endpoint, data=form, verify=keycloak.verify)
    assert other.json() == {"active": False}


# -- Client authentication -----------------------------------------------------------------------


@pytest.mark.capability("client_secret_jwt")
def test_an_assertion_signed_with_the_secret_is_accepted_each_time(
    keycloak: AuthorizationServer, protected_api: ProtectedApi
) -> None:
    with client_of(
        keycloak, "secret-jwt", client_secret=LONG_SECRET, client_auth="client_secret_jwt"
    ) as client:
        assert client.get(protected_api.url).json()["client_id"] == "secret-jwt"
        client.renew_token()
        assert client.get(protected_api.url).json()["client_id"] == "secret-jwt"


@pytest.mark.capability("private_key_jwt, {algorithm}")
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_an_assertion_signed_with_a_private_key_is_accepted_each_time_and_may_revoke(
    keycloak: AuthorizationServer,
    protected_api: ProtectedApi,
    client_keys: dict[str, Key],
    algorithm: str,
) -> None:
    with asserting_client(keycloak, client_keys, algorithm) as client:
        assert client.get(protected_api.url).json()["client_id"] == algorithm
        client.renew_token()
        assert client.get(protected_api.url).json()["client_id"] == algorithm
        token = client.ensure_token().access_token
        client.revoke_token()
    assert not keycloak.is_active(token)


@pytest.mark.parametrize("endpoint", ["issuer", "token_endpoint"])
@pytest.mark.parametrize("typ", ["JWT", "client-authentication+jwt"])
def test_an_assertion_may_be_for_the_issuer_or_the_token_endpoint_and_of_either_type(
    keycloak: AuthorizationServer, client_keys: dict[str, Key], endpoint: str, typ: str
) -> None:
    audience = getattr(keycloak, endpoint)
    with asserting_client(
        keycloak, client_keys, "ES256", audience=audience, headers={"typ": typ}
    ) as client:
        assert keycloak.is_active(client.ensure_token().access_token)


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_an_assertion_for_somebody_else_or_for_two_is_refused(
    keycloak: AuthorizationServer, client_keys: dict[str, Key], is_elsewhere: bool
) -> None:
    two = [keycloak.issuer, keycloak.token_endpoint]
    audience = "https://elsewhere.example.com" if is_elsewhere else two
    with (
        asserting_client(keycloak, client_keys, "ES256", audience=audience) as client,
        pytest.raises(TokenError, match="audience") as caught,
    ):
        client.ensure_token()
    assert caught.value.error == "invalid_client"


def mtls_client(
    server: AuthorizationServer, name: str, certificate: Certificate, **options: Any
) -> Client:
    given = {
        "client_secret": None,
        "client_auth": "tls_client_auth",
        "token_endpoint": None,
        "issuer": server.issuer,
        "token_cert": certificate.cert,
        **options,
    }
    return client_of(server, name, **given)


@pytest.mark.capability("tls_client_auth")
def test_a_client_is_known_by_its_certificate_and_may_revoke(
    keycloak: AuthorizationServer, client_certificates: dict[str, Certificate]
) -> None:
    with mtls_client(keycloak, "issued", client_certificates["issued"]) as client:
        token = client.ensure_token().access_token
        assert keycloak.introspect(token)["client_id"] == "issued"
        client.revoke_token()
    assert not keycloak.is_active(token)


@pytest.mark.capability("Certificate-bound tokens")
def test_a_token_may_be_bound_to_the_certificate(
    keycloak: AuthorizationServer, client_certificates: dict[str, Certificate]
) -> None:
    certificate = client_certificates["issued"]
    with mtls_client(keycloak, "bound", certificate) as client:
        known = keycloak.introspect(client.ensure_token().access_token)
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.pem)).digest()
    thumbprint = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert known["cnf"]["x5t#S256"] == thumbprint


@pytest.mark.capability("mtls_endpoint_aliases")
def test_a_client_with_a_certificate_uses_the_endpoint_that_is_meant_for_it(
    keycloak: AuthorizationServer, client_certificates: dict[str, Certificate]
) -> None:
    url = f"{keycloak.issuer}/.well-known/openid-configuration"
    aliases = requests.get(url, verify=keycloak.verify).json()["mtls_endpoint_aliases"]
    asked: list[str | None] = []
    with requests.Session() as session:
        session.hooks["response"].append(lambda got, **_: asked.append(got.request.url))
        session.verify = keycloak.verify
        with mtls_client(
            keycloak, "issued", client_certificates["issued"], token_session=session
        ) as client:
            client.ensure_token()
    assert asked[-1] == aliases["token_endpoint"]


@pytest.mark.parametrize("name", ["issued", "bound"])
def test_a_certificate_of_somebody_else_brings_the_servers_error(
    keycloak: AuthorizationServer, client_certificates: dict[str, Certificate], name: str
) -> None:
    with (
        mtls_client(keycloak, name, client_certificates["stranger"]) as client,
        pytest.raises(TokenError) as caught,
    ):
        client.ensure_token()
    assert caught.value.error == "invalid_client"


@pytest.mark.capability("Client assertions of another issuer")
@pytest.mark.parametrize("has_client_id", [True, False])
def test_an_assertion_of_another_issuer_is_accepted(
    keycloak: AuthorizationServer, foreign_issuer: ForeignIssuer, has_client_id: bool
) -> None:
    def add_assertion(request: requests.PreparedRequest) -> requests.PreparedRequest:
        form = {
            "client_assertion_type": JWT_BEARER,
            "client_assertion": foreign_issuer.sign("workload", keycloak.issuer),
        }
        if has_client_id:
            form["client_id"] = "federated"
        request.body = f"{request.body}&{urlencode(form)}"
        return request

    with client_of(keycloak, "federated", client_secret=None, client_auth=add_assertion) as client:
        assert claims_of(keycloak, client)["azp"] == "federated"
        client.renew_token()
        assert claims_of(keycloak, client)["azp"] == "federated"


@pytest.mark.capability("Client assertions of another issuer")
@pytest.mark.parametrize("is_file", [True, False])
def test_a_workload_identity_is_accepted_and_read_anew(
    keycloak: AuthorizationServer, foreign_issuer: ForeignIssuer, tmp_path: Path, is_file: bool
) -> None:
    path = tmp_path / "token"

    def issue(audience: str) -> str:
        return foreign_issuer.sign("workload", audience)

    path.write_text(issue(keycloak.issuer))
    source: Any = path if is_file else issue
    with Client(
        issuer=keycloak.issuer, client_id="federated", client_auth=ClientAssertion(source)
    ) as client:
        client.verify = keycloak.verify
        assert claims_of(keycloak, client)["azp"] == "federated"
        path.write_text(issue(keycloak.issuer))
        client.renew_token()
        assert claims_of(keycloak, client)["azp"] == "federated"


# -- DPoP ----------------------------------------------------------------------------------------


@pytest.mark.capability("DPoP")
def test_a_token_bound_to_a_key_goes_out_with_proofs_and_the_nonce_of_the_api(
    keycloak: AuthorizationServer, dpop_api: DPoPApi
) -> None:
    with client_of(keycloak, "dpop", dpop=True) as client:
        first = client.get(f"{dpop_api.url}/orders?page=1")
        second = client.post(f"{dpop_api.url}/orders", json={"size": 1})
        token = client.ensure_token()
    assert token.token_type == "DPoP"
    assert first.json() == second.json() == keycloak.introspect(token.access_token)
    assert dpop_api.refusals == ["use_dpop_nonce"]


def test_a_revoked_bound_token_is_replaced_within_the_call(
    keycloak: AuthorizationServer, dpop_api: DPoPApi
) -> None:
    with client_of(keycloak, "dpop", dpop=True) as client:
        client.get(dpop_api.url)
        keycloak.revoke(client.ensure_token().access_token, "dpop", UGLY_SECRET)
        assert client.get(dpop_api.url).status_code == 200
    assert dpop_api.refusals == ["use_dpop_nonce", "invalid_token"]


def test_a_client_without_dpop_is_told_that_the_server_wants_it(
    keycloak: AuthorizationServer,
) -> None:
    with client_of(keycloak, "dpop") as client, pytest.raises(TokenError) as caught:
        client.ensure_token()
    assert "DPoP proof is missing" in str(caught.value)


# -- Scopes, audiences and other grants ----------------------------------------------------------


@pytest.mark.capability("JWT access tokens")
@pytest.mark.capability("Audience")
def test_a_scope_brings_its_audience_into_the_token(
    keycloak: AuthorizationServer, jwt_api: JwtApi
) -> None:
    with client_of(keycloak, scope=["read", "orders"]) as client:
        claims = client.get(jwt_api.url).json()
    assert AUDIENCE in claims["aud"]
    assert set(claims["scope"].split()) == {"read", "orders"}


def test_a_token_for_another_audience_is_refused_by_the_api(
    keycloak: AuthorizationServer, jwt_api: JwtApi
) -> None:
    with client_of(keycloak, scope="read") as client:
        assert client.get(jwt_api.url).status_code == 401


def test_a_scope_that_does_not_exist_is_its_error_to_tell(keycloak: AuthorizationServer) -> None:
    with (
        client_of(keycloak, scope="administrate") as client,
        pytest.raises(TokenError, match="administrate") as caught,
    ):
        client.ensure_token()
    assert caught.value.error == "invalid_scope"


@pytest.mark.capability("Token exchange (RFC 8693)")
def test_a_token_is_exchanged_for_one_of_another_audience(
    keycloak: AuthorizationServer, jwt_api: JwtApi
) -> None:
    with client_of(keycloak, "front") as front:
        subject = claims_of(keycloak, front)["sub"]
        grant = TokenExchange(
            subject_token=lambda: front.ensure_token().access_token,
            subject_token_type="access_token",
            requested_token_type="access_token",
        )
        with client_of(keycloak, "exchange", scope="orders", grant=grant) as client:
            claims = client.get(jwt_api.url).json()
            client.renew_token()
            assert client.get(jwt_api.url).status_code == 200
            extra = client.ensure_token().extra
    assert (claims["sub"], claims["azp"]) == (subject, "exchange")
    assert extra["issued_token_type"] == ACCESS_TOKEN


def test_a_token_that_must_not_be_exchanged_is_the_servers_error(
    keycloak: AuthorizationServer,
) -> None:
    grant = TokenExchange(subject_token=lambda: "not-a-token", subject_token_type="access_token")
    with (
        client_of(keycloak, "exchange", grant=grant) as client,
        pytest.raises(TokenError, match="invalid_request") as caught,
    ):
        client.ensure_token()
    assert "not-a-token" not in str(caught.value)


@pytest.mark.capability("JWT authorization grant (RFC 7523)")
@pytest.mark.parametrize("endpoint", ["issuer", "token_endpoint"])
@pytest.mark.parametrize("is_signed_here", [True, False])
def test_an_assertion_of_another_issuer_is_exchanged_for_a_token_of_its_subject(
    keycloak: AuthorizationServer,
    jwt_api: JwtApi,
    foreign_issuer: ForeignIssuer,
    endpoint: str,
    is_signed_here: bool,
) -> None:
    audience = getattr(keycloak, endpoint)
    if is_signed_here:
        grant = JWTBearerGrant(
            key=foreign_issuer.private_key,
            key_id="foreign-key",
            issuer=foreign_issuer.url,
            subject="foreign-user",
            audience=audience,
        )
    else:
        grant = JWTBearerGrant(lambda: foreign_issuer.sign("foreign-user", audience))
    with client_of(keycloak, "jwt-grant", scope="orders", grant=grant) as client:
        assert client.get(jwt_api.url).json()["azp"] == "jwt-grant"
        # Keycloak accepts each assertion once.
        client.renew_token()
        assert client.get(jwt_api.url).status_code == 200


# -- What goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client_id", "secret", "code", "advice"),
    [
        ("client", "wrong", "unauthorized_client", "whether client id and secret are those"),
        ("disabled", UGLY_SECRET, "invalid_client", "whether the client still exists there"),
        ("nobody", UGLY_SECRET, "invalid_client", "whether the client still exists there"),
    ],
)
def test_inspect_explains_why_there_is_no_token(
    keycloak: AuthorizationServer, client_id: str, secret: str, code: str, advice: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alf", "inspect"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "ALF_ISSUER": keycloak.issuer,
            "ALF_CLIENT_ID": client_id,
            "ALF_CLIENT_SECRET": secret,
            "REQUESTS_CA_BUNDLE": str(keycloak.verify),
        },
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert f"401 {code} (Invalid client or Invalid client credentials)" in said
    assert advice in said
    assert secret not in said


# -- Many at once, and restarts ------------------------------------------------------------------


def test_8_processes_of_8_threads_share_one_token(
    keycloak: AuthorizationServer, jwt_api: JwtApi, tmp_path: Path
) -> None:
    with Fleet(
        functools.partial(FileStorage, tmp_path / "tokens"),
        jwt_api.url,
        token_endpoint=keycloak.token_endpoint,
        client_id="client",
        client_secret=UGLY_SECRET,
        scope="orders",
        verify=keycloak.verify,
    ) as fleet:
        assert fleet.call() == {200}
        assert (len(jwt_api.tokens), len(set(jwt_api.tokens))) == (64, 1)
        fleet.turn(300)
        assert fleet.call() == {200}
        assert (len(jwt_api.tokens), len(set(jwt_api.tokens))) == (128, 2)


# The last test of Keycloak, which is down for a while.
def test_a_restart_under_load_fails_no_call(
    keycloak_program: Keycloak, keycloak: AuthorizationServer, jwt_api: JwtApi
) -> None:
    turned = SimpleNamespace(value=0.0)
    events: list[Event] = []
    is_over = threading.Event()

    class ClockedClient(Client):
        token_manager_class = staticmethod(
            functools.partial(TokenManager, clock=FleetClock(turned))
        )

    client = ClockedClient(
        token_endpoint=keycloak.token_endpoint,
        client_id="long",
        client_secret=UGLY_SECRET,
        scope="orders",
        on_event=events.append,
    )
    client.verify = keycloak.verify

    def call_on(_thread: int) -> set[Any]:
        seen: set[Any] = set()
        while not is_over.wait(0.02):
            try:
                seen.add(client.get(jwt_api.url).status_code)
            except Exception as error:
                seen.add(repr(error))
        return seen

    with client, ThreadPoolExecutor(8) as pool:
        client.ensure_token()
        seen = pool.map(call_on, range(8))
        try:
            keycloak_program.stop()
            # The token should be renewed now, and still lives ten minutes.
            turned.value = 3000.0
            wait_until(lambda: any(isinstance(event, RenewalFailed) for event in events))
            keycloak_program.start()
            wait_until(lambda: len(set(jwt_api.tokens)) == 2, 120)
        finally:
            is_over.set()
        assert set().union(*seen) == {200}
