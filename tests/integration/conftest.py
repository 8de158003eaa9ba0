from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from tests.integration.apis import AuthorizationServer, ForeignIssuer, ProtectedApi
from tests.integration.keycloak import Keycloak, keycloak_or_skip
from tests.integration.keycloak_realm import make_realm
from tests.integration.programs import OIDC_PROVIDER, ROOT, node_command, running_program
from tests.servers import running

#: Nothing in it survives HTTP Basic unless both sides encode and decode as RFC 6749 §2.3.1 says.
UGLY_SECRET = "a:b%41/+= c"

#: As long as HS256 wants it.
LONG_SECRET = f"{UGLY_SECRET} and more than 32 bytes"

#: Every server knows these; the tokens of "short" live two seconds.
CLIENTS: list[dict[str, Any]] = [
    {"client_id": "client", "client_secret": UGLY_SECRET},
    {"client_id": "short", "client_secret": UGLY_SECRET, "access_token_ttl": 2},
    {"client_id": "resource-server", "client_secret": "secret"},
]

#: The API whose tokens are JWTs, in oidc-provider.
JWT_RESOURCE = "https://api.example.com/"


@pytest.fixture(scope="session")
def client_keys() -> dict[str, Key]:
    """The keys that clients sign their assertions with, by algorithm."""
    rsa = RSAKey.generate_key(2048)
    return {
        "RS256": rsa,
        "PS256": rsa,
        "ES256": ECKey.generate_key("P-256"),
        "EdDSA": OKPKey.generate_key("Ed25519"),
    }


@pytest.fixture(scope="session")
def certificate_authority() -> trustme.CA:
    """Vouches for the servers, and for the clients that it has given a certificate."""
    return trustme.CA()


@pytest.fixture(scope="session")
def oidc_provider(
    client_keys: dict[str, Key], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuthorizationServer]:
    """oidc-provider, with a client for each method that needs no TLS."""
    clients = [
        *CLIENTS,
        {
            "client_id": "post",
            "client_secret": UGLY_SECRET,
            "token_endpoint_auth_method": "client_secret_post",
        },
        {
            "client_id": "secret-jwt",
            "client_secret": LONG_SECRET,
            "token_endpoint_auth_method": "client_secret_jwt",
        },
        {"client_id": "public", "token_endpoint_auth_method": "none"},
        {"client_id": "dpop", "client_secret": UGLY_SECRET, "dpop_bound_access_tokens": True},
        {
            "client_id": "dpop-jwt",
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [client_keys["ES256"].as_dict(private=False)]},
            "token_endpoint_auth_signing_alg": "ES256",
            "dpop_bound_access_tokens": True,
        },
        *(
            {
                "client_id": algorithm,
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": algorithm,
                "jwks": {"keys": [key.as_dict(private=False)]},
            }
            for algorithm, key in client_keys.items()
        ),
    ]
    resources = {
        JWT_RESOURCE: {"scope": "read write", "accessTokenFormat": "jwt", "accessTokenTTL": 2}
    }
    configuration = {"clients": clients, "resources": resources}
    folder = tmp_path_factory.mktemp("oidc-provider")
    with running_program(node_command(), configuration, folder, OIDC_PROVIDER) as url:
        yield AuthorizationServer(url)


@dataclass(frozen=True)
class Certificate:
    """A client's certificate and its key, as files and as the server knows it."""

    certificate: str
    key: str
    pem: str

    @property
    def cert(self) -> tuple[str, str]:
        """As requests takes it."""
        return (self.certificate, self.key)

    @property
    def der(self) -> str:
        """Base64 of DER: a member of ``x5c`` in a JWK."""
        return "".join(self.pem.split("-----")[2].split())


@pytest.fixture(scope="session")
def client_certificates(
    certificate_authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Certificate]:
    """Certificates of clients: one from an authority, one self-signed, one that nobody knows."""
    issued = certificate_authority.issue_cert("client.example.com")
    stranger = certificate_authority.issue_cert("stranger.example.com")
    # The root of an authority is signed by itself.
    own = trustme.CA()
    folder = tmp_path_factory.mktemp("client-certificates")
    certificates = {}
    for name, pem, key in (
        ("issued", issued.cert_chain_pems[0], issued.private_key_pem),
        ("self-signed", own.cert_pem, own.private_key_pem),
        ("stranger", stranger.cert_chain_pems[0], stranger.private_key_pem),
    ):
        paths = (folder / f"{name}.pem", folder / f"{name}.key")
        pem.write_to_path(paths[0])
        key.write_to_path(paths[1])
        certificates[name] = Certificate(*map(str, paths), pem.bytes().decode())
    return certificates


@pytest.fixture(scope="session")
def tls_oidc_provider(
    certificate_authority: trustme.CA,
    client_certificates: dict[str, Certificate],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AuthorizationServer]:
    """oidc-provider over TLS, with clients that are known by their certificates."""
    own = client_certificates["self-signed"]
    own_key = ECKey.import_key(Path(own.key).read_bytes()).as_dict(private=False)
    clients = [
        *CLIENTS,
        {
            "client_id": "issued",
            "token_endpoint_auth_method": "tls_client_auth",
            "tls_client_auth_san_dns": "client.example.com",
            "tls_client_certificate_bound_access_tokens": True,
        },
        {
            "client_id": "self-signed",
            "token_endpoint_auth_method": "self_signed_tls_client_auth",
            "jwks": {"keys": [{**own_key, "x5c": [own.der]}]},
        },
    ]
    folder = tmp_path_factory.mktemp("tls-oidc-provider")
    certificate = certificate_authority.issue_cert("127.0.0.1")
    ca = folder / "ca.pem"
    certificate_authority.cert_pem.write_to_path(ca)
    tls = {
        "key": certificate.private_key_pem.bytes().decode(),
        "cert": certificate.cert_chain_pems[0].bytes().decode(),
        "ca": ca.read_text(),
    }
    configuration = {"clients": clients, "tls": tls}
    with running_program(node_command(), configuration, folder, OIDC_PROVIDER) as url:
        yield AuthorizationServer(url, verify=str(ca))


@pytest.fixture(scope="session")
def django_oauth_toolkit(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AuthorizationServer]:
    folder = tmp_path_factory.mktemp("django-oauth-toolkit")
    configuration = {"clients": CLIENTS, "folder": str(folder)}
    command = [sys.executable, "-m", "tests.integration.django_server"]
    with running_program(command, configuration, folder, ROOT) as url:
        yield AuthorizationServer(url)


@pytest.fixture(scope="session")
def authlib_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizationServer]:
    folder = tmp_path_factory.mktemp("authlib")
    command = [sys.executable, "-m", "tests.integration.authlib_server"]
    with running_program(command, {"clients": CLIENTS}, folder, ROOT) as url:
        yield AuthorizationServer(url)


@pytest.fixture(scope="session")
def foreign_issuer() -> Iterator[ForeignIssuer]:
    with running(ForeignIssuer()) as server:
        yield server


@pytest.fixture(scope="session")
def keycloak_program(
    certificate_authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keycloak]:
    """The process of Keycloak, for tests that restart it."""
    java = keycloak_or_skip()
    folder = tmp_path_factory.mktemp("keycloak")
    certificate = certificate_authority.issue_cert("127.0.0.1")
    files = {name: folder / f"{name}.pem" for name in ("certificate", "key", "ca")}
    certificate.cert_chain_pems[0].write_to_path(files["certificate"])
    certificate.private_key_pem.write_to_path(files["key"])
    certificate_authority.cert_pem.write_to_path(files["ca"])
    program = Keycloak(java, folder, files)
    try:
        program.start()
        yield program
    finally:
        program.stop()


@pytest.fixture(scope="session")
def keycloak(
    keycloak_program: Keycloak,
    client_keys: dict[str, Key],
    client_certificates: dict[str, Certificate],
    foreign_issuer: ForeignIssuer,
) -> AuthorizationServer:
    realm = make_realm(
        UGLY_SECRET,
        LONG_SECRET,
        client_keys,
        client_certificates["issued"].certificate,
        (foreign_issuer.url, f"{foreign_issuer.url}/jwks"),
    )
    return keycloak_program.create_realm(realm)


@pytest.fixture(
    params=[
        "oidc_provider",
        "django_oauth_toolkit",
        "authlib_server",
        pytest.param("keycloak", marks=pytest.mark.keycloak),
    ]
)
def authorization_server(request: pytest.FixtureRequest) -> AuthorizationServer:
    """Each of the servers in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def protected_api(authorization_server: AuthorizationServer) -> Iterator[ProtectedApi]:
    with running(ProtectedApi(authorization_server)) as server:
        yield server
