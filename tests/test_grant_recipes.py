"""The recipes of docs/grants.rst, each run against a stand-in for its provider.

A stand-in answers as the provider documents, and notes what a request has that it should not have,
and the other way round. It is the API, too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from alf import Client, TokenError
from tests.servers import Reply, Request, Server
from tests.test_providers import recipes_of

ROOT = Path(__file__).parent.parent
RECIPES = recipes_of(ROOT / "docs" / "grants.rst")
PREAMBLE = RECIPES.pop("preamble")

TYPE = "urn:ietf:params:oauth:token-type:"
JWT_BEARER = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"}
EXCHANGE = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}
BASIC = "Basic " + base64.b64encode(b"client-id:client-secret").decode()
CLOUD = "https://www.googleapis.com/auth/cloud-platform"


@dataclass(frozen=True)
class Provider:
    """What a provider expects and answers.

    :param place: its host, and path of the token endpoint.
    :param form: the parameters, besides the assertion; what has the name of a file is in it.
    :param claims: the claims of an assertion that is signed, besides those about time.
    :param kid: the ``kid`` of its header.
    :param authorization: the header that says who the client is.
    :param answer: the members of its answer, besides ``access_token``.
    :param error: what it answers to an assertion or token that it does not accept.
    """

    place: tuple[str, str]
    form: Mapping[str, str]
    error: Reply
    claims: Mapping[str, str] | None = None
    kid: str | None = None
    authorization: str | None = None
    answer: Mapping[str, Any] = field(
        default_factory=lambda: {"token_type": "Bearer", "expires_in": 3600}
    )


KEYCLOAK = ("https://id.example.com", "/realms/example/protocol/openid-connect/token")
EXCHANGED = {
    "issued_token_type": f"{TYPE}access_token",
    "token_type": "Bearer",
    "expires_in": 300,
}

PROVIDERS = {
    "salesforce": Provider(
        ("https://example.my.salesforce.com", "/services/oauth2/token"),
        JWT_BEARER,
        Reply(
            400,
            {
                "error": "invalid_grant",
                "error_description": "user hasn't approved this consumer",
            },
        ),
        claims={
            "iss": "consumer-key",
            "sub": "robot@example.com",
            "aud": "https://login.salesforce.com",
        },
        answer={
            "scope": "api",
            "instance_url": "https://example.my.salesforce.com",
            "id": "https://login.salesforce.com/id/00D000000000000/005000000000000",
            "token_type": "Bearer",
        },
    ),
    "docusign": Provider(
        ("https://account-d.docusign.com", "/oauth/token"),
        JWT_BEARER,
        Reply(400, {"error": "consent_required"}),
        claims={
            "iss": "integration-key",
            "sub": "user-id",
            "aud": "account-d.docusign.com",
            "scope": "signature impersonation",
        },
    ),
    "google": Provider(
        ("https://oauth2.googleapis.com", "/token"),
        JWT_BEARER,
        Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}),
        claims={
            "iss": "robot@example.iam.gserviceaccount.com",
            "aud": "https://oauth2.googleapis.com/token",
            "scope": CLOUD,
        },
        kid="key-id",
        answer={"expires_in": 3599, "token_type": "Bearer"},
    ),
    "gcp-sts": Provider(
        ("https://sts.googleapis.com", "/v1/token"),
        {
            **EXCHANGE,
            "audience": "//iam.googleapis.com/projects/123456789/locations/global"
            "/workloadIdentityPools/pool/providers/provider",
            "scope": CLOUD,
            "requested_token_type": f"{TYPE}access_token",
            "subject_token": "file",
            "subject_token_type": f"{TYPE}jwt",
        },
        Reply(400, {"error": "invalid_grant", "error_description": "The token is expired."}),
        answer={**EXCHANGED, "expires_in": 3599},
    ),
    "keycloak-exchange": Provider(
        KEYCLOAK,
        {
            **EXCHANGE,
            "audience": "orders",
            "subject_token": "incoming-token",
            "subject_token_type": f"{TYPE}access_token",
        },
        Reply(400, {"error": "invalid_request", "error_description": "Invalid token"}),
        authorization=BASIC,
        answer=EXCHANGED,
    ),
    "keycloak-jwt": Provider(
        KEYCLOAK,
        {**JWT_BEARER, "scope": "orders", "assertion": "file"},
        Reply(400, {"error": "invalid_grant", "error_description": "Invalid token signature"}),
        authorization=BASIC,
        answer={"token_type": "Bearer", "expires_in": 300, "scope": "orders"},
    ),
    "shared": Provider(
        ("https://id.example.com", "/token"),
        {
            **EXCHANGE,
            "subject_token": "subject-token",
            "subject_token_type": f"{TYPE}access_token",
        },
        Reply(400, {"error": "invalid_request"}),
        answer=EXCHANGED,
    ),
}


class StandIn(Server):
    """The provider's token endpoint and metadata, and an API at all other paths."""

    def __init__(self, provider: Provider, key: RSAKey, file: Path) -> None:
        super().__init__(self.answer)
        self.provider = provider
        self.key = key
        self.file = file
        self.complaints: list[str] = []
        self.sent: list[str] = []
        self.is_refusing = False
        self.alive: set[str] = set()

    def answer(self, request: Request) -> Reply:
        path = urlsplit(request.path).path
        if ".well-known" in path:
            issuer = f"{self.url}/realms/example"
            endpoint = self.url + self.provider.place[1]
            return Reply(body={"issuer": issuer, "token_endpoint": endpoint})
        if path == self.provider.place[1]:
            return self.grant(request)
        token = (request.authorization or "").removeprefix("Bearer ")
        return Reply(body={"hello": "world"}) if token in self.alive else Reply(401)

    def grant(self, request: Request) -> Reply:
        form = request.form
        self.compare("parameters", len(request.pairs), len(form))
        expected = dict(self.provider.form)
        if self.provider.claims is not None:
            expected["assertion"] = form["assertion"]
            self.check_claims(form["assertion"], self.provider.claims)
        for name, value in expected.items():
            if value == "file":
                expected[name] = self.file.read_text().strip()
        self.compare("form", form, expected)
        self.compare("method", request.method, "POST")
        self.compare("Authorization", request.authorization, self.provider.authorization)
        self.sent.append(form.get("assertion") or form["subject_token"])
        if self.is_refusing:
            return self.provider.error
        self.alive.add(f"token-{len(self.sent)}")
        return Reply(body={"access_token": f"token-{len(self.sent)}", **self.provider.answer})

    def check_claims(self, assertion: str, expected: Mapping[str, str]) -> None:
        try:
            token = jwt.decode(assertion, self.key)
        except JoseError as error:
            self.complaints.append(f"signature: {error!r}")
            return
        header = {"typ": "JWT", "alg": "RS256"}
        if self.provider.kid is not None:
            header["kid"] = self.provider.kid
        self.compare("header", token.header, header)
        claims = dict(token.claims)
        self.compare("lifetime", claims.pop("exp") - claims.pop("iat"), 60)
        self.compare("jti", isinstance(claims.pop("jti"), str), True)
        host = self.provider.place[0]
        self.compare("claims", claims, {n: v.replace(host, self.url) for n, v in expected.items()})

    def compare(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            self.complaints.append(f"{what}: expected {expected!r}, got {got!r}")


Cook = Callable[[str], tuple[Client, StandIn]]


@pytest.fixture(scope="module")
def key() -> RSAKey:
    return RSAKey.generate_key(2048)


@pytest.fixture
def cook(key: RSAKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cook]:
    """Runs the page's recipe of this name, its provider being a stand-in."""
    made: list[Any] = []
    monkeypatch.chdir(tmp_path)
    pem = key.as_pem(private=True).decode()
    Path("private-key.pem").write_text(pem)

    def run(name: str) -> tuple[Client, StandIn]:
        provider = PROVIDERS[name]
        file = tmp_path / "token"
        file.write_text("eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl\n")
        stand_in = StandIn(provider, key, file)
        made.append(stand_in.stop)
        account = {
            "type": "service_account",
            "private_key_id": "key-id",
            "private_key": pem,
            "client_email": "robot@example.iam.gserviceaccount.com",
            "token_uri": f"{stand_in.url}/token",
        }
        Path("service-account.json").write_text(json.dumps(account))
        code = RECIPES[name].replace(provider.place[0], stand_in.url)
        for path in ("/var/run/secrets/tokens/gcp", "/var/run/secrets/tokens/keycloak"):
            code = code.replace(path, str(file))
        namespace: dict[str, Any] = {}
        exec(PREAMBLE + code, namespace)
        made.append(namespace["client"].close)
        return namespace["client"], stand_in

    yield run
    for close in reversed(made):
        close()


def test_every_recipe_has_a_stand_in_and_every_stand_in_a_recipe() -> None:
    assert RECIPES.keys() == PROVIDERS.keys()
    page = (ROOT / "docs" / "grants.rst").read_text(encoding="utf-8")
    assert page.count(".. code-block::") == len(RECIPES) + 1  # the preamble


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_asks_and_understands_as_the_provider_documents(name: str, cook: Cook) -> None:
    client, stand_in = cook(name)
    assert client.get(f"{stand_in.url}/resource").json() == {"hello": "world"}
    assert stand_in.complaints == []
    assert len(stand_in.sent) == 1
    token = client.ensure_token()
    assert token.lifetime == stand_in.provider.answer.get("expires_in")
    for member in ("issued_token_type", "instance_url"):
        assert token.extra.get(member) == stand_in.provider.answer.get(member)


@pytest.mark.parametrize("name", RECIPES)
def test_a_new_token_has_a_new_assertion(name: str, cook: Cook) -> None:
    client, stand_in = cook(name)
    client.ensure_token()
    stand_in.alive.clear()
    stand_in.file.write_text("eyJhbGciOiJSUzI1NiJ9.eyJuIjoyfQ.c2lnbmF0dXJl\n")
    assert client.get(f"{stand_in.url}/resource").status_code == 200
    assert stand_in.complaints == []
    is_fixed = "lambda" in RECIPES[name]
    assert len(set(stand_in.sent)) == (1 if is_fixed else 2)


@pytest.mark.parametrize("name", RECIPES)
def test_the_providers_error_reaches_the_caller_as_it_came(name: str, cook: Cook) -> None:
    client, stand_in = cook(name)
    stand_in.is_refusing = True
    stand_in.alive.clear()
    error = stand_in.provider.error
    with pytest.raises(TokenError) as caught:
        client.renew_token()
    assert caught.value.error == error.body["error"]
    assert caught.value.error_description == error.body.get("error_description")
    assert not [sent for sent in stand_in.sent if sent in str(caught.value)]
