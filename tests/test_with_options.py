"""One identity, many APIs: Clients that share everything but the token."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests

from alf import Client, TokenError
from tests.servers import Api, Reply, Request, Server, TokenServer, running

MakeClient = Callable[..., Client]


def test_another_audience_has_a_token_of_its_own(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    client = make_client(audience="one", scope="read")
    other = client.with_options(audience="two")
    for each in (client, other, client, other):
        assert each.get(api.url).status_code == 200
    forms = [(request.form["audience"], request.form["scope"]) for request in tokens.requests]
    assert forms == [("one", "read"), ("two", "read")]
    assert {request.headers["Authorization"] for request in tokens.requests} == {
        tokens.requests[0].headers["Authorization"]
    }
    assert {request.connection for request in tokens.requests} == {1}
    assert {request.connection for request in api.requests} == {1}


def test_each_option_may_differ(make_client: MakeClient, tokens: TokenServer) -> None:
    client = make_client(scope="read", audience="one", resource="https://one.example.com/")
    other = client.with_options(
        scope=["a", "b"],
        audience=None,
        resource=["https://two.example.com/"],
        token_params={"tenant": "t"},
        token_headers={"X-Tenant": "t"},
        token_settle_time=1,
    )
    other.ensure_token()
    assert sorted(tokens.requests[0].pairs) == [
        ("grant_type", "client_credentials"),
        ("resource", "https://two.example.com/"),
        ("scope", "a b"),
        ("tenant", "t"),
    ]
    assert tokens.requests[0].headers["X-Tenant"] == "t"


def test_the_same_options_have_the_same_token(client: Client, tokens: TokenServer) -> None:
    for _ in range(3):
        client.with_options(audience="one").ensure_token()
        client.with_options(token_params=[("a", "1")]).ensure_token()
        client.with_options(audience="one").with_options(audience=None).ensure_token()
        client.with_options().ensure_token()
        gc.collect()
    assert client.with_options(audience="one").token is not None
    assert client.with_options().token is client.token
    assert len(tokens.requests) == 3


def test_settings_of_the_session_go_along(client: Client, api: Api) -> None:
    client.headers["X-Team"] = "reports"
    client.params = {"v": "1"}
    seen: list[int] = []
    client.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    client.cookies.set("a", "1")
    other = client.with_options(audience="two", raise_token_error=True, token_hosts=["127.0.0.1"])
    other.headers["X-Team"] = "sales"
    assert other.get(api.url).status_code == 200
    (request,) = api.requests
    assert (request.path, request.headers["X-Team"]) == ("/?v=1", "sales")
    assert request.headers["Cookie"] == "a=1"
    assert seen == [200]
    assert (client.headers["X-Team"], client.raise_token_error) == ("reports", False)
    other.hooks["response"].clear()
    assert client.get(api.url).status_code == 200
    assert seen == [200, 200]


def test_an_auth_of_the_sessions_own_goes_along(client: Client, api: Api) -> None:
    client.auth = ("user", "password")
    assert client.with_options(audience="two").get(api.url).status_code == 401
    assert (api.requests[0].authorization or "").startswith("Basic")


def test_a_refused_token_is_replaced_for_its_own_api_only(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    other = client.with_options(audience="two")
    first = client.ensure_token()
    tokens.alive.discard(other.ensure_token().access_token)
    assert other.get(api.url).status_code == 200
    assert client.token is first
    assert requests.get(api.url, auth=other.auth).status_code == 200
    assert api.requests[-1].authorization == "Bearer token-3"


def test_errors_are_those_of_the_client(client: Client, tokens: TokenServer, api: Api) -> None:
    other: Any = client.with_options(audience="two", raise_token_error=True)
    tokens.replies = [Reply(400, {"error": "invalid_target"})]
    with pytest.raises(TokenError, match="invalid_target"):
        other.get(api.url)
    assert client.get(api.url).status_code == 200
    with pytest.raises(TypeError, match="client_secret"):
        other.with_options(client_secret="another")
    with pytest.raises(TypeError, match="scope"):
        other.with_options(scope=1)
    with pytest.raises(ValueError, match="token_hosts"):
        other.with_options(token_hosts=["a/b"])


def test_a_shared_storage_has_an_entry_for_each(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage: dict[str, str] = {}
    client = make_client(token_storage=storage, token_storage_key="mine", audience="one")
    client.ensure_token()
    client.with_options(audience="two").ensure_token()
    client.with_options(audience="three", token_storage_key="theirs").ensure_token()
    assert len(storage) == 3
    assert {"mine", "theirs"} < storage.keys()
    assert make_client(token_storage=storage, audience="two").ensure_token()
    assert len(tokens.requests) == 3


def test_the_issuers_metadata_is_read_once(make_client: MakeClient, tokens: TokenServer) -> None:
    def metadata(_request: Request) -> Reply:
        return Reply(body={"issuer": issuer.url, "token_endpoint": tokens.endpoint})

    with running(Server(metadata)) as issuer:
        client = make_client(token_endpoint=None, issuer=issuer.url)
        client.with_options(audience="one").ensure_token()
        client.with_options(audience="two").ensure_token()
        client.ensure_token()
        assert len(issuer.requests) == 1
    assert len(tokens.requests) == 3


def test_the_key_that_tokens_are_bound_to_is_shared(make_client: MakeClient) -> None:
    client: Any = make_client(dpop=True)
    assert client.with_options(audience="one")._dpop_key is client._dpop_key


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))]
)
def test_a_copy_asks_for_the_same_token(
    client: Client, tokens: TokenServer, duplicate: Any
) -> None:
    other = duplicate(client.with_options(audience="two"))
    other.ensure_token()
    assert tokens.requests[0].form["audience"] == "two"


def test_it_outlives_the_client_that_it_was_made_from(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    def make() -> Client:
        client = Client(token_endpoint=tokens.endpoint, client_id="c", client_secret="s")
        client.proxies = {"http": "http://127.0.0.1:9"}
        return client.with_options(audience="two")

    other = make()
    gc.collect()
    # The token connection still follows the first one's settings.
    with pytest.raises(requests.exceptions.ProxyError):
        other.ensure_token()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_it_works_in_a_forked_child(client: Client, tokens: TokenServer, api: Api) -> None:
    other = client.with_options(audience="two")
    assert other.get(api.url).status_code == 200
    child = os.fork()
    if child == 0:
        third = other.with_options(audience="three")
        is_good = other.get(api.url).ok and third.get(api.url).ok
        os._exit(0 if is_good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert other.get(api.url).status_code == 200


class OwnManager:
    def __init__(self, **options: Any) -> None:
        self.audience = options.get("audience")

    def get_token(self) -> str:
        return f"token-for-{self.audience}"

    def reset_token(self) -> None:
        pass


def test_a_manager_of_alf_0_7_gets_the_options(tokens: TokenServer) -> None:
    own: Any = type("OwnClient", (Client,), {"token_manager_class": OwnManager})
    client = own(token_endpoint=tokens.endpoint, client_id="c", client_secret="s")
    other = client.with_options(audience="two")
    assert other.ensure_token().access_token == "token-for-two"


def test_a_thousand_audiences_and_fifty_threads(
    client: Client, tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    before = threading.enumerate()  # the thread of a storage stays for a while after its test
    others = [client.with_options(audience=f"https://{n}.example.com/") for n in range(1000)]
    barrier = threading.Barrier(50)
    seen: list[list[str]] = []

    def work() -> None:
        barrier.wait()
        seen.append([other.ensure_token().access_token for other in others])

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens.requests) == 1000
    assert len({tuple(got) for got in seen}) == 1
    assert len(set(seen[0])) == 1000
    kept = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in kept if thread.name.startswith("alf")]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_tokens_that_are_not_used_are_let_go(make_client: MakeClient, tokens: TokenServer) -> None:
    client = make_client()
    client.with_options(audience="first").ensure_token()
    used = client.with_options(audience="used")
    used.ensure_token()
    for number in range(1024):
        client.with_options(audience=str(number))
    gc.collect()
    assert client.with_options(audience="first").token is None
    assert client.with_options(audience="used").token is used.token is not None
