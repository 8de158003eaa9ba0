"""The recipes of docs/providers.rst, each run against a stand-in for its provider.

A stand-in answers as the provider documents, or is reported to, and notes what a request has
that it should not have, and the other way round. It is the API, too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey, import_key

from alf import Client, TokenError
from tests.servers import Reply, Request, Server

PAGE = Path(__file__).parent.parent / "docs" / "providers.rst"

RECIPE = re.compile(
    r"^\.\. code-block:: python\n    :name: (?P<name>\S+)\n\n(?P<code>(?:    .*\n|\n)+)",
    re.MULTILINE,
)


def recipes_of(page: Path) -> dict[str, str]:
    """A page's code blocks by name."""
    return {
        block["name"]: textwrap.dedent(block["code"])
        for block in RECIPE.finditer(page.read_text(encoding="utf-8"))
    }


RECIPES = recipes_of(PAGE)
PREAMBLE = RECIPES.pop("preamble")

INVALID_CLIENT = Reply(401, {"error": "invalid_client", "error_description": "Unknown client"})
INVALID_CLIENT_MEANS = ("invalid_client", "Unknown client")
INVALID_TOKEN = Reply(401, b"", {"WWW-Authenticate": 'Bearer error="invalid_token"'})


@dataclass(frozen=True)
class Provider:
    """What a provider expects and answers.

    :param endpoint: its token endpoint, as the page has it.
    :param error: what it answers to a client that it does not know, and …
    :param means: … the error code and description that alf should find in it.
    :param auth: how the client says who it is.
    :param client_id: the client's identifier.
    :param audience: the audience of an assertion, if it is not the token endpoint.
    :param has_certificate: whether an assertion names the key's certificate.
    :param dpop: whether tokens are bound to a key, and proofs have a nonce.
    :param form: the parameters, besides those that say who the client is.
    :param headers: the headers, besides the usual ones.
    :param status: the status of its answer.
    :param answer: the members of its answer, besides ``access_token``.
    :param lifetime: the seconds that the answer means.
    :param scope: the scope that the answer means.
    :param refusal: what its API answers to a token that is dead.
    :param api: the API's host, if the recipe calls it.
    :param calls: what the recipe calls there.
    :param api_headers: what its API wants besides the token.
    :param repeats_itself: whether it hands the same token out again.
    """

    endpoint: str
    error: Reply
    means: tuple[str | None, str | None]
    auth: Literal["basic", "form", "assertion", "password", "certificate"] = "basic"
    client_id: str = "client-id"
    audience: str | None = None
    has_certificate: bool = False
    dpop: bool = False
    form: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    answer: Mapping[str, Any] = field(
        default_factory=lambda: {"token_type": "Bearer", "expires_in": 3600}
    )
    lifetime: float | None = 3600
    scope: str | None = None
    refusal: Reply = INVALID_TOKEN
    api: str | None = None
    calls: tuple[str, ...] = ()
    api_headers: Mapping[str, str] = field(default_factory=dict)
    repeats_itself: bool = False


PROVIDERS = {
    "adobe": Provider(
        "https://ims-na1.adobelogin.com/ims/token/v3",
        auth="form",
        form={"scope": "openid,AdobeID,firefly_api"},
        answer={"token_type": "bearer", "expires_in": 86399},
        lifetime=86399,
        error=Reply(400, {"error": "invalid_client", "error_description": "invalid client_secret"}),
        means=("invalid_client", "invalid client_secret"),
        api_headers={"x-api-key": "client-id"},
    ),
    "amadeus": Provider(
        "https://test.api.amadeus.com/v1/security/oauth2/token",
        auth="form",
        answer={
            "type": "amadeusOAuth2Token",
            "username": "somebody@example.com",
            "application_name": "Example",
            "client_id": "client-id",
            "token_type": "Bearer",
            "expires_in": 1799,
            "state": "approved",
            "scope": "",
        },
        lifetime=1799,
        scope="",
        error=Reply(
            401,
            {
                "error": "invalid_client",
                "error_description": "Client credentials are invalid",
                "code": 38187,
                "title": "Invalid parameters",
            },
        ),
        means=("invalid_client", "Client credentials are invalid"),
        refusal=Reply(401, {"errors": [{"code": 38190, "title": "Invalid access token"}]}),
    ),
    "apple": Provider(
        "https://account.apple.com/auth/oauth2/token",
        auth="assertion",
        audience="https://account.apple.com/auth/oauth2/v2/token",
        form={"scope": "business.api"},
        answer={"token_type": "Bearer", "expires_in": 3600, "scope": "business.api"},
        scope="business.api",
        error=Reply(400, {"error": "invalid_client"}),
        means=("invalid_client", None),
    ),
    "atlassian": Provider(
        "https://auth.atlassian.com/oauth/token",
        auth="form",
        error=Reply(401, {"error": "access_denied", "error_description": "Unauthorized"}),
        means=("access_denied", "Unauthorized"),
        api="https://api.atlassian.com",
        calls=("GET /ex/jira/cloud-id/rest/api/3/issue/KEY-1",),
    ),
    "atlassian-data-center": Provider(
        "https://jira.example.com/rest/oauth2/latest/token",
        auth="form",
        form={"scope": "READ"},
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "auth0": Provider(
        "https://example.eu.auth0.com/oauth/token",
        auth="form",
        form={"audience": "https://api.example.com/"},
        answer={"token_type": "Bearer", "expires_in": 86400},
        lifetime=86400,
        error=Reply(401, {"error": "access_denied", "error_description": "Unauthorized"}),
        means=("access_denied", "Unauthorized"),
    ),
    "auth0-private-key": Provider(
        "https://example.eu.auth0.com/oauth/token",
        auth="assertion",
        audience="https://example.eu.auth0.com/",
        form={"audience": "https://api.example.com/"},
        answer={"token_type": "Bearer", "expires_in": 86400},
        lifetime=86400,
        error=Reply(401, {"error": "invalid_client", "error_description": "Unknown key"}),
        means=("invalid_client", "Unknown key"),
    ),
    "authentik": Provider(
        "https://id.example.com/application/o/token/",
        auth="form",
        form={"scope": "profile"},
        answer={"token_type": "Bearer", "expires_in": 300, "scope": "profile"},
        lifetime=300,
        scope="profile",
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "authentik-service-account": Provider(
        "https://id.example.com/application/o/token/",
        auth="password",
        form={"scope": "profile", "username": "service-account"},
        answer={"token_type": "Bearer", "expires_in": 300, "scope": "profile"},
        lifetime=300,
        scope="profile",
        error=Reply(400, {"error": "invalid_grant"}),
        means=("invalid_grant", None),
    ),
    "blizzard": Provider(
        "https://oauth.battle.net/token",
        answer={"token_type": "bearer", "expires_in": 86399, "sub": "client-id"},
        lifetime=86399,
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "box": Provider(
        "https://api.box.com/oauth2/token",
        auth="form",
        form={"box_subject_type": "enterprise", "box_subject_id": "enterprise-id"},
        answer={"issued_token_type": "bearer", "expires_in": 3992, "restricted_to": []},
        lifetime=3992,
        error=Reply(
            400,
            {"error": "invalid_grant", "error_description": "Grant credentials are invalid"},
        ),
        means=("invalid_grant", "Grant credentials are invalid"),
    ),
    "camunda": Provider(
        "https://login.cloud.camunda.io/oauth/token",
        auth="form",
        form={"audience": "zeebe.camunda.io"},
        answer={
            "token_type": "Bearer",
            "expires_in": 300,
            "refresh_expires_in": 0,
            "not-before-policy": 0,
        },
        lifetime=300,
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
        api="https://bru-2.zeebe.camunda.io",
        calls=("GET /cluster-id/v2/topology",),
    ),
    "camunda-administration": Provider(
        "https://login.cloud.camunda.io/oauth/token",
        auth="form",
        form={"audience": "api.cloud.camunda.io"},
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "cognito": Provider(
        "https://example.auth.eu-central-1.amazoncognito.com/oauth2/token",
        form={"scope": "orders/read orders/write"},
        error=Reply(400, {"error": "invalid_client"}),
        means=("invalid_client", None),
    ),
    "crowdstrike": Provider(
        "https://api.crowdstrike.com/oauth2/token",
        auth="form",
        status=201,
        answer={"token_type": "bearer", "expires_in": 1799},
        lifetime=1799,
        error=Reply(
            403,
            {
                "meta": {"trace_id": "255d1aef"},
                "errors": [{"code": 403, "message": "access denied, authorization failed"}],
            },
        ),
        means=(None, "access denied, authorization failed"),
    ),
    "databricks": Provider(
        "https://example.cloud.databricks.com/oidc/v1/token",
        form={"scope": "all-apis"},
        answer={"token_type": "Bearer", "expires_in": 3600, "scope": "all-apis"},
        scope="all-apis",
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "duende": Provider(
        "https://id.example.com/connect/token",
        form={"scope": "orders.read"},
        answer={"token_type": "Bearer", "expires_in": 3600, "scope": "orders.read"},
        scope="orders.read",
        error=Reply(400, {"error": "invalid_client"}),
        means=("invalid_client", None),
    ),
    "ebay": Provider(
        "https://api.ebay.com/identity/v1/oauth2/token",
        form={"scope": "https://api.ebay.com/oauth/api_scope"},
        answer={"token_type": "Application Access Token", "expires_in": 7200},
        lifetime=7200,
        error=Reply(
            401,
            {"error": "invalid_client", "error_description": "client authentication failed"},
        ),
        means=("invalid_client", "client authentication failed"),
    ),
    "entra-id": Provider(
        "https://login.microsoftonline.com/tenant-id/oauth2/v2.0/token",
        auth="form",
        form={"scope": "https://graph.microsoft.com/.default"},
        answer={"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599},
        lifetime=3599,
        error=Reply(
            401,
            {
                "error": "invalid_client",
                "error_description": "AADSTS7000215: Invalid client secret provided.",
                "error_codes": [7000215],
                "timestamp": "2026-01-09 02:02:12Z",
                "trace_id": "255d1aef-8c98-452f-ac51-23d051240864",
                "correlation_id": "fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7",
            },
        ),
        means=("invalid_client", "AADSTS7000215: Invalid client secret provided."),
    ),
    "entra-id-certificate": Provider(
        "https://login.microsoftonline.com/tenant-id/oauth2/v2.0/token",
        auth="assertion",
        has_certificate=True,
        form={"scope": "https://graph.microsoft.com/.default"},
        answer={"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599},
        lifetime=3599,
        error=Reply(
            401,
            {
                "error": "invalid_client",
                "error_description": "AADSTS700027: The certificate is not registered.",
                "error_codes": [700027],
            },
        ),
        means=("invalid_client", "AADSTS700027: The certificate is not registered."),
    ),
    "entra-id-v1": Provider(
        "https://login.microsoftonline.com/tenant-id/oauth2/token",
        auth="form",
        form={"resource": "https://management.azure.com/"},
        answer={
            "token_type": "Bearer",
            "expires_in": "43199",
            "ext_expires_in": "43199",
            "expires_on": "1795500000",
            "not_before": "1795456800",
            "resource": "https://management.azure.com/",
        },
        lifetime=43199,
        error=Reply(401, {"error": "invalid_client", "error_codes": [7000215]}),
        means=("invalid_client", None),
    ),
    "fedex": Provider(
        "https://apis.fedex.com/oauth/token",
        auth="form",
        answer={"token_type": "bearer", "expires_in": 3599, "scope": "CXS"},
        lifetime=3599,
        scope="CXS",
        error=Reply(
            401,
            {
                "transactionId": "624deea6",
                "errors": [
                    {
                        "code": "NOT.AUTHORIZED.ERROR",
                        "message": "The given client credentials were not valid.",
                    }
                ],
            },
        ),
        means=("NOT.AUTHORIZED.ERROR", "The given client credentials were not valid."),
    ),
    "hydra": Provider(
        "https://hydra.example.com/oauth2/token",
        form={"scope": "read", "audience": "https://api.example.com/"},
        answer={"token_type": "bearer", "expires_in": 3599, "scope": "read"},
        lifetime=3599,
        scope="read",
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "keycloak": Provider(
        "https://id.example.com/realms/example/protocol/openid-connect/token",
        answer={
            "token_type": "Bearer",
            "expires_in": 300,
            "refresh_expires_in": 0,
            "not-before-policy": 0,
            "scope": "email profile",
        },
        lifetime=300,
        scope="email profile",
        error=Reply(
            401,
            {
                "error": "unauthorized_client",
                "error_description": "Invalid client or Invalid client credentials",
            },
        ),
        means=("unauthorized_client", "Invalid client or Invalid client credentials"),
    ),
    "okta": Provider(
        "https://example.okta.com/oauth2/default/v1/token",
        form={"scope": "orders.read"},
        answer={"token_type": "Bearer", "expires_in": 3600, "scope": "orders.read"},
        scope="orders.read",
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "okta-api": Provider(
        "https://example.okta.com/oauth2/v1/token",
        auth="assertion",
        dpop=True,
        form={"scope": "okta.users.read"},
        answer={"token_type": "DPoP", "expires_in": 3600, "scope": "okta.users.read"},
        scope="okta.users.read",
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "paypal": Provider(
        "https://api-m.paypal.com/v1/oauth2/token",
        answer={
            "scope": "https://uri.paypal.com/services/invoicing",
            "token_type": "Bearer",
            "app_id": "APP-EXAMPLE",
            "expires_in": 31668,
            "nonce": "2026-11-24T21:25:00Z-example",
        },
        lifetime=31668,
        scope="https://uri.paypal.com/services/invoicing",
        error=Reply(
            429,
            {
                "name": "RATE_LIMIT_REACHED",
                "message": "Too many requests. Blocked due to rate limiting.",
                "debug_id": "5c5b3d2ea7d5a",
                "links": [],
            },
        ),
        means=("RATE_LIMIT_REACHED", "Too many requests. Blocked due to rate limiting."),
    ),
    "ping": Provider(
        "https://auth.pingone.com/environment-id/as/token",
        error=Reply(
            401,
            {
                "error": "invalid_client",
                "error_description": "Request denied: Invalid client credentials",
                "correlationId": "0b7a9a1c",
            },
        ),
        means=("invalid_client", "Request denied: Invalid client credentials"),
    ),
    "reddit": Provider(
        "https://www.reddit.com/api/v1/access_token",
        headers={"User-Agent": "linux:com.example.bot:1.0"},
        answer={"token_type": "bearer", "expires_in": 86400, "scope": "*"},
        lifetime=86400,
        scope="*",
        error=Reply(401, {"message": "Unauthorized", "error": 401}),
        means=(None, "Unauthorized"),
        api="https://oauth.reddit.com",
        calls=("GET /r/python/new",),
        api_headers={"User-Agent": "linux:com.example.bot:1.0"},
    ),
    "salesforce": Provider(
        "https://example.my.salesforce.com/services/oauth2/token",
        auth="form",
        answer={
            "signature": "c2lnbmF0dXJl",
            "instance_url": "<the API>",
            "id": "https://login.salesforce.com/id/00D000000000000/005000000000000",
            "token_type": "Bearer",
            "issued_at": "1795555500000",
        },
        lifetime=None,
        error=Reply(
            400, {"error": "invalid_client", "error_description": "invalid client credentials"}
        ),
        means=("invalid_client", "invalid client credentials"),
        refusal=Reply(
            401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]
        ),
        calls=("GET /services/data/v68.0/limits",),
    ),
    "sap": Provider(
        "https://example.authentication.eu10.hana.ondemand.com/oauth/token",
        auth="form",
        client_id="sb-example!t1234",
        answer={"token_type": "bearer", "expires_in": 43199, "scope": "uaa.resource", "jti": "a1"},
        lifetime=43199,
        scope="uaa.resource",
        error=Reply(401, {"error": "unauthorized", "error_description": "Bad credentials"}),
        means=("unauthorized", "Bad credentials"),
    ),
    "sap-certificate": Provider(
        "https://example.authentication.cert.eu10.hana.ondemand.com/oauth/token",
        auth="certificate",
        client_id="sb-example!t1234",
        answer={"token_type": "bearer", "expires_in": 43199, "scope": "uaa.resource", "jti": "a1"},
        lifetime=43199,
        scope="uaa.resource",
        error=Reply(401, {"error": "unauthorized", "error_description": "Bad credentials"}),
        means=("unauthorized", "Bad credentials"),
    ),
    "servicenow": Provider(
        "https://example.service-now.com/oauth_token.do",
        auth="form",
        answer={"scope": "useraccount", "token_type": "Bearer", "expires_in": 1799},
        lifetime=1799,
        scope="useraccount",
        error=Reply(401, {"error_description": "access_denied", "error": "server_error"}),
        means=("server_error", "access_denied"),
        repeats_itself=True,
    ),
    "snowflake": Provider(
        "https://example.okta.com/oauth2/authorization-server-id/v1/token",
        form={"scope": "session:role:ANALYST"},
        answer={"token_type": "Bearer", "expires_in": 3600, "scope": "session:role:ANALYST"},
        scope="session:role:ANALYST",
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
        refusal=Reply(401, {"code": "390303", "message": "Invalid OAuth access token."}),
        api="https://example.snowflakecomputing.com",
        calls=("POST /api/v2/statements",),
        api_headers={"X-Snowflake-Authorization-Token-Type": "OAUTH"},
    ),
    "spotify": Provider(
        "https://accounts.spotify.com/api/token",
        error=Reply(400, {"error": "invalid_client", "error_description": "Invalid client secret"}),
        means=("invalid_client", "Invalid client secret"),
        refusal=Reply(401, {"error": {"status": 401, "message": "The access token expired"}}),
    ),
    "twitch": Provider(
        "https://id.twitch.tv/oauth2/token",
        auth="form",
        answer={"expires_in": 5011271, "token_type": "bearer", "scope": []},
        lifetime=5011271,
        scope="",
        error=Reply(403, {"status": 403, "message": "invalid client secret"}),
        means=(None, "invalid client secret"),
        api_headers={"Client-Id": "client-id"},
    ),
    "ups": Provider(
        "https://onlinetools.ups.com/security/v1/oauth/token",
        headers={"x-merchant-id": "123456"},
        answer={
            "token_type": "Bearer",
            "issued_at": "1706710921672",
            "client_id": "client-id",
            "scope": "public",
            "expires_in": "14399",
            "refresh_count": "0",
            "status": "approved",
        },
        lifetime=14399,
        scope="public",
        error=Reply(
            401,
            {"response": {"errors": [{"code": "10401", "message": "ClientId is Invalid"}]}},
        ),
        means=("10401", "ClientId is Invalid"),
    ),
    "x": Provider(
        "https://api.x.com/oauth2/token",
        answer={"token_type": "bearer"},
        lifetime=None,
        error=Reply(
            403,
            {"errors": [{"code": 99, "message": "Unable to verify your credentials"}]},
        ),
        means=(None, "Unable to verify your credentials"),
        repeats_itself=True,
    ),
    "zitadel": Provider(
        "https://example.zitadel.cloud/oauth/v2/token",
        form={"scope": "openid urn:zitadel:iam:org:project:id:zitadel:aud"},
        answer={"token_type": "Bearer", "expires_in": 43199},
        lifetime=43199,
        error=INVALID_CLIENT,
        means=INVALID_CLIENT_MEANS,
    ),
    "zoom": Provider(
        "https://zoom.us/oauth/token",
        form={"grant_type": "account_credentials", "account_id": "account-id"},
        answer={"token_type": "bearer", "expires_in": 3600, "scope": "user:read:admin"},
        scope="user:read:admin",
        error=Reply(
            400, {"reason": "Invalid client_id or client_secret", "error": "invalid_client"}
        ),
        means=("invalid_client", None),
        refusal=Reply(401, {"code": 124, "message": "Invalid access token."}),
    ),
}


class StandIn(Server):
    """The provider's token endpoint, at the provider's path, and its API at all others."""

    def __init__(self, provider: Provider, key: RSAKey) -> None:
        super().__init__(self.answer)
        self.provider = provider
        self.key = key
        self.complaints: list[str] = []
        self.token_requests = 0
        self.calls: list[str] = []
        self.tokens: list[str] = []
        self.dead: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply:
        with self._lock:
            if urlsplit(request.path).path == urlsplit(self.provider.endpoint).path:
                return self.grant(request)
            return self.protect(request)

    def grant(self, request: Request) -> Reply:
        if self.provider.dpop and self.proof(request).get("nonce") != "nonce-1":
            return Reply(400, {"error": "use_dpop_nonce"}, {"DPoP-Nonce": "nonce-1"})
        self.token_requests += 1
        form = parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True)
        expected = {"grant_type": "client_credentials", **self.provider.form}
        is_known = True
        authorization = None
        if self.provider.auth == "basic":
            authorization, is_known = self.expected_basic(request)
        elif self.provider.auth == "form":
            is_known = ("client_secret", "client-secret") in form
            client_secret = dict(form)["client_secret"]
            expected |= {"client_id": self.provider.client_id, "client_secret": client_secret}
        elif self.provider.auth == "password":
            is_known = ("password", "app-password") in form
            expected |= {"client_id": "client-id", "password": dict(form)["password"]}
        elif self.provider.auth == "certificate":
            is_known = request.certificate == "client.example.com"
            expected |= {"client_id": self.provider.client_id}
        else:
            assertion = dict(form)["client_assertion"]
            is_known = self.is_signed(assertion)
            assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            expected |= {
                "client_id": "client-id",
                "client_assertion": assertion,
                "client_assertion_type": assertion_type,
            }
        self.compare("method and path", (request.method, request.path), ("POST", self.path))
        self.compare("form", sorted(form), sorted(expected.items()))
        self.compare("Authorization", request.authorization, authorization)
        content_type = "application/x-www-form-urlencoded"
        for name, value in {"Content-Type": content_type, **self.provider.headers}.items():
            self.compare(name, request.headers[name], value)
        if not is_known:
            return self.provider.error
        if not (self.tokens and self.provider.repeats_itself):
            # `%2B` and `!`: some providers' tokens have them.
            self.tokens.append(f"AAAA%2B!token-{len(self.tokens) + 1}")
        answer = {"access_token": self.tokens[-1], **self.provider.answer}
        if "instance_url" in answer:
            answer["instance_url"] = self.url
        return Reply(self.provider.status, answer)

    @property
    def path(self) -> str:
        return urlsplit(self.provider.endpoint).path

    def expected_basic(self, request: Request) -> tuple[str, bool]:
        """The header that there should be, and whether the secret in it is the right one."""
        right, wrong = (
            "Basic " + base64.b64encode(f"client-id:{secret}".encode()).decode()
            for secret in ("client-secret", "wrong-secret")
        )
        is_wrong = request.authorization == wrong
        return (wrong if is_wrong else right), not is_wrong

    def is_signed(self, assertion: str) -> bool:
        try:
            token = jwt.decode(assertion, self.key, algorithms=["RS256", "PS256"])
        except JoseError:
            return False
        self.compare("typ", token.header.get("typ"), "JWT")
        if self.provider.has_certificate:
            sha256 = certificate_of(self.key).fingerprint(SHA256())
            thumbprint = base64.urlsafe_b64encode(sha256).decode().rstrip("=")
            self.compare("x5t#S256", token.header.get("x5t#S256"), thumbprint)
            self.compare("alg", token.header["alg"], "PS256")
        else:
            self.compare("kid", token.header.get("kid"), "key-id")
        audience = self.provider.audience or self.endpoint
        for name, value in {"iss": "client-id", "sub": "client-id", "aud": audience}.items():
            self.compare(name, token.claims.get(name), value)
        return True

    def proof(self, request: Request) -> dict[str, Any]:
        """The claims of the DPoP proof, once its signature is checked (RFC 9449 §4.3)."""
        proof = request.headers["DPoP"]
        header = json.loads(base64.urlsafe_b64decode(proof.split(".")[0] + "=="))
        claims = jwt.decode(proof, import_key(header["jwk"]), algorithms=[header["alg"]]).claims
        target = (request.method, self.url + urlsplit(request.path).path)
        self.compare("htm, htu", (claims["htm"], claims["htu"]), target)
        return claims

    @property
    def endpoint(self) -> str:
        return self.url + self.path

    def compare(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            self.complaints.append(f"{what}: expected {expected!r}, got {got!r}")

    def protect(self, request: Request) -> Reply:
        self.calls.append(f"{request.method} {request.path}")
        scheme, _, token = (request.authorization or "").partition(" ")
        for name, value in self.provider.api_headers.items():
            self.compare(name, request.headers[name], value)
        if self.provider.dpop:
            digest = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest())
            self.compare("ath", self.proof(request)["ath"], digest.decode().rstrip("="))
        expected = "DPoP" if self.provider.dpop else "Bearer"
        if scheme != expected or token not in self.tokens or token in self.dead:
            return self.provider.refusal
        return Reply(body={"hello": "world"})


def certificate_of(key: RSAKey) -> x509.Certificate:
    """The certificate of this key: the same one each time."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key.private_key, SHA256())
    )


Cook = Callable[..., tuple[Client, StandIn]]


@pytest.fixture(scope="module")
def keys() -> tuple[RSAKey, RSAKey]:
    """The key that the provider knows, and another."""
    return RSAKey.generate_key(2048), RSAKey.generate_key(2048)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def cook(
    keys: tuple[RSAKey, RSAKey],
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cook]:
    """Runs the page's recipe of this name, its endpoint being that of a stand-in."""
    made: list[Any] = []
    monkeypatch.chdir(tmp_path)

    def run(name: str, *, is_wrong: bool = False) -> tuple[Client, StandIn]:
        provider = PROVIDERS[name]
        Path("private-key.pem").write_bytes(keys[is_wrong].as_pem(private=True))
        if provider.has_certificate:
            pem = certificate_of(keys[is_wrong]).public_bytes(Encoding.PEM)
            Path("certificate.pem").write_bytes(pem)
        stand_in = StandIn(provider, keys[0])
        made.append(stand_in.stop)
        if provider.auth == "certificate":
            stand_in.use_tls(authority.issue_cert("127.0.0.1"), clients=authority)
            shown = authority.issue_cert("other.example.com" if is_wrong else "client.example.com")
            shown.cert_chain_pems[0].write_to_path("certificate.pem")
            shown.private_key_pem.write_to_path("key.pem")
            authority.cert_pem.write_to_path("authority.pem")
        code = RECIPES[name]
        assert f'token_endpoint="{provider.endpoint}"' in code
        code = code.replace(provider.endpoint, stand_in.endpoint)
        if provider.api is not None:
            code = code.replace(provider.api, stand_in.url)
        if is_wrong:
            code = code.replace('client_secret="client-secret"', 'client_secret="wrong-secret"')
            code = code.replace('"app-password"', '"wrong-secret"')
            # What the recipe does with a client needs a token.
            code = code[: code.index("\n)\n") + 3]
        namespace: dict[str, Any] = {}
        exec(PREAMBLE + code, namespace)
        made.append(namespace["client"].close)
        if provider.auth == "certificate":
            namespace["client"].verify = "authority.pem"
        return namespace["client"], stand_in

    yield run
    for close in reversed(made):
        close()


def test_every_recipe_has_a_stand_in_and_every_stand_in_a_recipe() -> None:
    assert RECIPES.keys() == PROVIDERS.keys()


def test_the_list_at_the_top_names_every_provider_and_the_readme_counts_them() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^\* `(.+)`_$", page, re.MULTILINE)
    sections = re.findall(r"^(.+)\n~+$", page, re.MULTILINE)
    assert sorted(listed) == sorted(sections)
    readme = (PAGE.parent.parent / "README.rst").read_text(encoding="utf-8")
    assert f"has recipes for {len(sections)} providers" in readme


def test_every_code_block_of_the_page_is_a_recipe() -> None:
    blocks = PAGE.read_text(encoding="utf-8").count(".. code-block::")
    assert blocks == len(RECIPES) + 1  # the preamble


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_asks_and_understands_as_the_provider_documents(name: str, cook: Cook) -> None:
    client, stand_in = cook(name)
    provider = stand_in.provider
    assert stand_in.calls == list(provider.calls)
    response = client.get(f"{stand_in.url}/resource")
    assert stand_in.complaints == []
    assert response.json() == {"hello": "world"}
    assert stand_in.token_requests == 1
    token = client.ensure_token()
    assert (token.lifetime, token.scope) == (provider.lifetime, provider.scope)
    standard = {"token_type", "expires_in", "scope", "instance_url"}
    rest = {k: v for k, v in provider.answer.items() if k not in standard}
    assert rest.items() <= token.extra.items()


@pytest.mark.parametrize("name", RECIPES)
def test_the_providers_error_reaches_the_caller_as_it_came(name: str, cook: Cook) -> None:
    client, stand_in = cook(name, is_wrong=True)
    error = stand_in.provider.error
    response = client.get(f"{stand_in.url}/resource")
    assert (response.status_code, response.json()) == (error.status, error.body)
    client.raise_token_error = True
    with pytest.raises(TokenError) as caught:
        client.get(f"{stand_in.url}/resource")
    assert (caught.value.error, caught.value.error_description) == stand_in.provider.means
    assert "wrong-secret" not in str(caught.value)
    assert stand_in.complaints == []
    assert stand_in.calls == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_token_that_the_api_refuses_is_replaced_where_there_is_another(
    name: str, cook: Cook
) -> None:
    client, stand_in = cook(name)
    stand_in.dead.add(client.ensure_token().access_token)
    response = client.get(f"{stand_in.url}/resource")
    assert stand_in.complaints == []
    assert stand_in.token_requests == 2
    if stand_in.provider.repeats_itself:
        refusal = stand_in.provider.refusal
        assert (response.status_code, response.content) == (401, refusal.payload)
    else:
        assert response.json() == {"hello": "world"}
