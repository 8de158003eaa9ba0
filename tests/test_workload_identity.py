"""The recipes of docs/workload-identity.rst, each run against stand-ins for its platform."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from alf import Client, TokenError
from tests.servers import Api, Reply, Request, Server, TokenServer, running
from tests.test_providers import recipes_of

PAGE = Path(__file__).parent.parent / "docs" / "workload-identity.rst"

RECIPES = recipes_of(PAGE)
PREAMBLE = RECIPES.pop("preamble")

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"


class Platform(Server):
    """Issues identities over HTTP, as the metadata servers and APIs of platforms do."""

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.key = RSAKey.generate_key(2048)
        self.issued: list[str] = []
        self._numbers = itertools.count(1)

    def issue(self, audience: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": "workload", "aud": audience, "iat": now, "exp": now + 300}
        claims["jti"] = str(next(self._numbers))
        self.issued.append(jwt.encode({"alg": "RS256"}, claims, self.key))
        return self.issued[-1]

    def answer(self, request: Request) -> Reply:
        place = urlsplit(request.path)
        query = dict(parse_qsl(place.query))
        if place.path == "/github" and request.method == "GET":
            assert request.authorization == "Bearer request-token"
            assert query["api-version"] == "2.0"
            return Reply(body={"count": 1, "value": self.issue(query["audience"])})
        if place.path.startswith("/computeMetadata/v1/instance/service-accounts/default/identity"):
            assert request.headers["Metadata-Flavor"] == "Google"
            token = self.issue(query["audience"]).encode()
            return Reply(200, token, {"Content-Type": "text/html", "Metadata-Flavor": "Google"})
        assert (request.method, request.form["Action"]) == ("POST", "GetWebIdentityToken")
        assert request.form["SigningAlgorithm"] == "RS256"
        token = self.issue(request.form["Audience.member.1"])
        answer = (
            '<GetWebIdentityTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<GetWebIdentityTokenResult><WebIdentityToken>{token}</WebIdentityToken>"
            "<Expiration>2030-01-01T00:00:00Z</Expiration></GetWebIdentityTokenResult>"
            "</GetWebIdentityTokenResponse>"
        )
        return Reply(200, answer.encode(), {"Content-Type": "text/xml"})


@dataclass
class Kitchen:
    """Where the recipes are run: the server that they name, and their platform."""

    tokens: TokenServer
    platform: Platform
    folder: Path
    audience: str
    clients: list[Client]

    def cook(self, name: str) -> Client:
        code = RECIPES[name]
        for there, here in {
            "https://id.example.com": self.tokens.url,
            "http://metadata.google.internal": self.platform.url,
            "/var/run/secrets/identity/token": str(self.folder / "token"),
            "/var/run/spiffe/svid.jwt": str(self.folder / "token"),
        }.items():
            code = code.replace(there, here)
        namespace: dict[str, Any] = {}
        exec(PREAMBLE + code, namespace)
        client: Client = namespace["client"]
        self.clients.append(client)
        return client


@pytest.fixture
def kitchen(
    tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Kitchen]]:
    clients: list[Client] = []
    with running(Platform()) as platform:
        variables = {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{platform.url}/github?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token",
            "AZURE_AUTHORITY_HOST": f"{tokens.url}/",
            "AZURE_TENANT_ID": "tenant-id",
            "AZURE_CLIENT_ID": "client-id",
            "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_ENDPOINT_URL_STS": platform.url,
            "AWS_ACCESS_KEY_ID": "key-id",
            "AWS_SECRET_ACCESS_KEY": "access-key",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

        def open_kitchen(audience: str) -> Kitchen:
            monkeypatch.setenv("ID_TOKEN", platform.issue(audience))
            (tmp_path / "token").write_text(platform.issue(audience))
            return Kitchen(tokens, platform, tmp_path, audience, clients)

        yield open_kitchen
        for client in clients:
            client.close()


def serve(kitchen: Kitchen, path: str, form: dict[str, str]) -> list[str]:
    """Have the server check each token request; returns the identities that it accepted."""
    accepted: list[str] = []

    def answer(request: Request) -> Reply:
        if request.method == "GET":
            url = kitchen.tokens.url
            return Reply(body={"issuer": url, "token_endpoint": f"{url}{path}"})
        given = dict(request.pairs)
        assertion = given.pop("client_assertion")
        assert request.path == path
        assert given == {"grant_type": "client_credentials", **form}
        assert request.authorization is None
        claims = jwt.decode(assertion, kitchen.platform.key).claims
        if claims["aud"] != kitchen.audience:
            return Reply(401, {"error": "invalid_client"})
        accepted.append(claims["jti"])
        return kitchen.tokens.grant(request)

    kitchen.tokens.script = answer
    return accepted


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(
    kitchen: Callable[[str], Kitchen], tokens: TokenServer, api: Api, name: str
) -> None:
    open_at = kitchen("api://AzureADTokenExchange" if name == "azure" else tokens.url)
    form = {"client_id": "client-id", "client_assertion_type": JWT_BEARER}
    path = "/token"
    if name == "azure":
        path, form["scope"] = "/tenant-id/oauth2/v2.0/token", "https://graph.microsoft.com/.default"
    if name == "spiffe":
        form |= {"client_id": "spiffe://example.com/reports", "client_assertion_type": JWT_SPIFFE}
    accepted = serve(open_at, path, form)
    client = open_at.cook(name)
    assert client.get(api.url).status_code == 200
    (open_at.folder / "token").write_text(open_at.platform.issue(open_at.audience))
    client.renew_token()
    # What a job has in a variable stays the same.
    assert len(set(accepted)) == (1 if name == "gitlab" else 2)


def test_the_page_has_the_platforms_that_it_should() -> None:
    assert set(RECIPES) == {"kubernetes", "github", "gitlab", "google", "azure", "aws", "spiffe"}


@pytest.mark.parametrize("name", ["kubernetes", "azure", "spiffe"])
def test_a_recipe_without_its_file_says_so(
    kitchen: Callable[[str], Kitchen], tokens: TokenServer, name: str
) -> None:
    open_at = kitchen(tokens.url)
    serve(open_at, "/token", {})
    client = open_at.cook(name)
    (open_at.folder / "token").unlink()
    with pytest.raises(TokenError, match="token' does not exist"):
        client.renew_token()
