"""Checked by mypy and pyright (``make types``), never run: how a Client may be used, by its types.

The lines with ``type: ignore`` must be errors: both checkers complain of a comment in vain.
"""

from __future__ import annotations

from collections.abc import Callable

import requests
from redis import Redis
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from typing_extensions import Unpack, assert_type

from alf import BearerTokenAuth, Client, NoAuth, Token, TokenError, TokenManager
from alf.client import ClientOptions
from alf.client_auth import PrivateKeyJWT
from alf.grants import JWTBearerGrant, TokenExchange
from alf.storages import EncryptedStorage, FileStorage, Storage
from alf.testing import FakeAPI, FakeTokenEndpoint, StaticToken


class ReportsClient(Client):
    """A user's own."""


def takes_a_session(session: requests.Session) -> requests.Response:
    return session.get("https://api.example.com/reports")


def takes_a_class(session_class: type[requests.Session]) -> None: ...


def takes_a_factory(factory: Callable[[], requests.Session]) -> None: ...


client = Client(
    token_endpoint="https://id.example.com/token",
    client_id="client-id",
    client_secret="secret",
    scope=["read", "write"],
    token_params={"a": "1"},
    token_timeout=(3.05, 10),
    token_hosts=("api.example.com",),
)

Client(
    token_endpoint="https://id.example.com/token",
    grant=JWTBearerGrant(lambda audience: f"a JWT for {audience}"),
)
client.with_options(grant=JWTBearerGrant(key="PEM", issuer="a", audience=["b"], claims={"c": 1}))
client.with_options(grant=TokenExchange(subject_token="path", subject_token_type="jwt"))

# Wherever a Session is.
session: requests.Session = client
sessions: list[requests.Session] = [client, ReportsClient.from_env(), StaticToken()]
takes_a_session(client)
takes_a_class(Client)
takes_a_factory(Client.from_env)
takes_a_factory(StaticToken)
client.mount("https://", HTTPAdapter())
client.headers["X-Team"] = "reports"
client.auth = ("user", "password")

# What comes of it.
assert_type(takes_a_session(client), requests.Response)
assert_type(client.post("https://api.example.com/", json={"a": 1}, stream=True), requests.Response)
assert_type(client.request("GET", "https://api.example.com/"), requests.Response)
prepared = client.prepare_request(requests.Request("GET", "https://api.example.com/"))
assert_type(client.send(prepared), requests.Response)
assert_type(Client.from_env("REPORTS_", scope="read"), Client)
assert_type(ReportsClient.from_env(), ReportsClient)
assert_type(client.token, "Token | None")
assert_type(client.manager, TokenManager)
assert_type(client.ensure_token(), Token)
assert_type(client.ensure_token().scope, "str | None")
assert_type(client.renew_token().authorization, str)
with ReportsClient.from_env() as entered:
    assert_type(entered, ReportsClient)
with FakeTokenEndpoint() as endpoint:
    assert_type(endpoint, FakeTokenEndpoint)
    assert_type(endpoint.granted, list[str])
    with FakeAPI(endpoint) as api, Client(**endpoint.credentials, dpop=True) as client:
        assert_type(api, FakeAPI)

# As auth= of any Session.
session.get("https://api.example.com/", auth=BearerTokenAuth("a-token", hosts=["a"]))
session.get("https://api.example.com/", auth=NoAuth())
session.auth = BearerTokenAuth(client.ensure_token)

try:
    client.get("https://api.example.com/")
except requests.RequestException as error:
    if isinstance(error, TokenError):
        assert_type(error.error, "str | None")

manager = TokenManager("https://id.example.com/token", "client-id", "secret")
assert_type(manager.get_token(), str)

# Ways of client authentication.
Client(issuer="https://id.example.com", client_id="client-id", client_auth="client_secret_post")
Client(issuer="https://id.example.com", client_auth=PrivateKeyJWT(key="key.pem"))
Client(token_endpoint="https://id.example.com/token", client_auth=("user", "password"))
Client(token_endpoint="https://id.example.com/token", client_auth=HTTPBasicAuth("a", "b"))


# Storages.
class Table:
    def get(self, key: str) -> str | None: ...
    def set(self, key: str, value: str, ttl: int | None = None) -> None: ...


def takes_a_storage(storage: Storage) -> None: ...


takes_a_storage(Table())
takes_a_storage(FileStorage())
takes_a_storage(EncryptedStorage(Table(), b"key"))
takes_a_storage(Redis())
Client(token_endpoint="https://id.example.com/token", token_storage={})
Client(token_endpoint="https://id.example.com/token", token_storage=dict[str, str]())
Client(token_endpoint="https://id.example.com/token", token_storage=Redis())


class Configured(Client):
    def __init__(self, **options: Unpack[ClientOptions]) -> None:
        super().__init__(token_endpoint="https://id.example.com/token", **options)


takes_a_class(Configured)
Configured(client_id="client-id", token_hosts={"api.example.com"})
with_audience = client.with_options(audience="b", token_hosts=["api.example.com"])
assert_type(with_audience, Client)

# What must be errors.
TokenExchange(subject_token="path")  # type: ignore[call-arg]
Client(token_endpoint="a", grant="jwt-bearer")  # type: ignore[call-overload]
Client(token_endpoint="https://id.example.com/token", client_id=1)  # type: ignore[call-overload]
Client(client_id="client-id")  # type: ignore[call-overload]
Client(token_endpoint="a", issuer="b")  # type: ignore[call-overload]
Client(token_endpoint="a", token_hosts="api.example.com")  # type: ignore[call-overload]
Client(token_endpoint="a", token_hots=["a"])  # type: ignore[call-overload]
Client(token_endpoint="a", client_auth="post")  # type: ignore[call-overload]
Client(token_endpoint="a", token_storage=7)  # type: ignore[call-overload]
Client("https://id.example.com/token", client_id="client-id")  # type: ignore[call-overload]
Client(token_endpoint="a", token_refresh="sometimes")  # type: ignore[call-overload]
Configured(client_id="client-id", token_hots=["a"])  # type: ignore[call-arg]
client.with_options(token_hosts="api.example.com")  # type: ignore[arg-type]
BearerTokenAuth("a-token", hosts="api.example.com")  # type: ignore[arg-type]
TokenManager("https://id.example.com/token", token_storage=7)  # type: ignore[arg-type]
client.token = Token("a-token")  # type: ignore[misc]
client.ensure_token().access_token = "another"  # type: ignore[misc]
BearerTokenAuth(1)  # type: ignore[arg-type]
