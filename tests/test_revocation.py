"""``client.revoke_token()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import pytest
import requests
from urllib3.util.retry import Retry

from alf import Client, TokenError
from alf.client_auth import PrivateKeyJWT
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock, hang_up
from tests.storage_doubles import Faulty
from tests.test_client_auth import EC_KEY

MakeClient = Callable[..., Client]

FORM = [("token", "token-1"), ("token_type_hint", "access_token")]


@pytest.fixture
def revocations(tokens: TokenServer) -> list[Request]:
    """The requests that the revocation endpoint, /revoke, has seen."""
    seen: list[Request] = []

    def answer(request: Request) -> Reply:
        if request.path != "/revoke":
            return tokens.granted()
        seen.append(request)
        if tokens.replies:
            return tokens.grant(request)
        tokens.alive.discard(request.form["token"])
        return Reply(200)

    tokens.script = answer
    return seen


@pytest.fixture
def revoking(make_client: MakeClient, tokens: TokenServer) -> MakeClient:
    def make(**options: Any) -> Client:
        return make_client(revocation_endpoint=f"{tokens.url}/revoke", **options)

    return make


def test_a_token_is_revoked_and_forgotten(
    revoking: MakeClient, revocations: list[Request], api: Api
) -> None:
    client = revoking(scope="read")
    client.get(api.url)
    client.revoke_token()
    assert client.get(api.url).status_code == 200
    [revocation] = revocations
    assert (revocation.method, revocation.pairs) == ("POST", FORM)
    assert revocation.authorization == api.tokens.requests[0].authorization
    assert [request.authorization for request in api.requests] == [
        "Bearer token-1",
        "Bearer token-2",
    ]


def test_the_client_says_who_it_is_as_in_the_token_request(
    revoking: MakeClient, revocations: list[Request], tokens: TokenServer
) -> None:
    client = revoking(client_auth=PrivateKeyJWT(key=EC_KEY), client_secret=None)
    client.renew_token()
    client.revoke_token()
    claims = jwt.decode(
        revocations[0].form["client_assertion"],
        EC_KEY.public_key(),
        ["ES256"],
        audience=tokens.endpoint,
    )
    assert claims["sub"] == "client-id"


def test_without_a_token_nothing_is_done(
    revoking: MakeClient, revocations: list[Request], tokens: TokenServer
) -> None:
    revoking().revoke_token()
    revoking(token_storage={}).revoke_token()
    assert not tokens.requests


def test_closing_a_client_revokes_nothing(revoking: MakeClient, revocations: list[Request]) -> None:
    client = revoking()
    client.renew_token()
    client.close()
    assert not revocations


class Cache:
    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.get = self.entries.get

    def set(self, key: str, value: Any, **_options: Any) -> None:
        self.entries[key] = value


class DeletingCache(Cache):
    def delete(self, key: str) -> None:
        del self.entries[key]


@pytest.mark.parametrize("storage", [{}, DeletingCache()])
def test_the_token_is_taken_out_of_the_storage(
    revoking: MakeClient, revocations: list[Request], api: Api, storage: Any
) -> None:
    revoking(token_storage=storage).renew_token()
    another = revoking(token_storage=storage)
    # A token that another process has stored is its token, too.
    another.revoke_token()
    assert revocations[0].form["token"] == "token-1"
    assert not getattr(storage, "entries", storage)
    assert revoking(token_storage=storage).get(api.url).status_code == 200
    assert api.requests[0].authorization == "Bearer token-2"


def test_a_storage_that_cannot_delete_is_not_believed(
    revoking: MakeClient, revocations: list[Request], api: Api
) -> None:
    client = revoking(token_storage=Cache())
    client.renew_token()
    client.revoke_token()
    client.get(api.url)
    assert [request.authorization for request in api.requests] == ["Bearer token-2"]


def test_a_newer_token_in_the_storage_stays(
    revoking: MakeClient, revocations: list[Request], api: Api
) -> None:
    storage: dict[str, Any] = {}
    client = revoking(token_storage=storage)
    client.renew_token()
    revoking(token_storage=storage).renew_token()
    client.revoke_token()
    assert revocations[0].form["token"] == "token-1"
    assert client.ensure_token().access_token == "token-2"


def test_a_token_that_was_got_meanwhile_stays(
    revoking: MakeClient, revocations: list[Request], tokens: TokenServer
) -> None:
    client = revoking(token_storage={})
    client.renew_token()

    def renew(_request: Request) -> Reply:
        client.renew_token()
        return Reply(200)

    tokens.replies = [renew]
    client.revoke_token()
    assert client.ensure_token().access_token == "token-2"


def test_a_storage_in_trouble_keeps_no_token_from_being_revoked(
    revoking: MakeClient, revocations: list[Request]
) -> None:
    class Broken(Cache):
        def delete(self, key: str) -> None:
            raise ConnectionError

    client = revoking(token_storage=Broken())
    client.renew_token()
    client.revoke_token()
    assert client.ensure_token().access_token == "token-2"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(503, b"", {"Retry-After": "120"}), None),
        (Reply(400, {"error": "unsupported_token_type"}), "unsupported_token_type"),
        (Reply(300), None),
        (Reply(302, b"", {"Location": "/elsewhere"}), None),
    ],
)
def test_a_token_that_was_not_revoked_is_kept(
    revoking: MakeClient, revocations: list[Request], tokens: TokenServer, reply: Reply, error: Any
) -> None:
    client = revoking()
    client.renew_token()
    tokens.replies = [reply]
    place = f"revocation endpoint {tokens.url}/revoke (client_id 'client-id') answered "
    with pytest.raises(TokenError) as failure:
        client.revoke_token()
    assert str(failure.value).startswith(f"{place}{reply.status}")
    assert failure.value.error == error
    assert failure.value.response is not None
    assert failure.value.response.request.body is None
    assert client.ensure_token().access_token == "token-1"


def test_the_retries_of_the_token_request_are_for_this_one_too(
    revoking: MakeClient, revocations: list[Request], tokens: TokenServer
) -> None:
    client = revoking(token_retry=Retry(total=1, status_forcelist=[503]))
    client.renew_token()
    tokens.replies = [Reply(503)]
    client.revoke_token()
    assert len(revocations) == 2


def test_a_server_that_is_gone_is_requests_own_error(
    revoking: MakeClient, revocations: list[Request], tokens: TokenServer
) -> None:
    client = revoking()
    client.renew_token()
    tokens.replies = [hang_up, hang_up]
    with pytest.raises(requests.exceptions.ConnectionError):
        client.revoke_token()
    assert client.ensure_token().access_token == "token-1"


def test_without_an_endpoint_an_error_says_what_to_give(
    client: Client, tokens: TokenServer
) -> None:
    client.renew_token()
    with pytest.raises(ValueError, match="give revocation_endpoint"):
        client.revoke_token()


@pytest.mark.parametrize("place", ["metadata", "argument"])
def test_the_issuer_says_where(
    make_client: MakeClient, revocations: list[Request], tokens: TokenServer, place: str
) -> None:
    metadata = {"issuer": tokens.url, "token_endpoint": tokens.endpoint}
    here = f"{tokens.url}/revoke"
    metadata["revocation_endpoint"] = here if place == "metadata" else f"{tokens.url}/elsewhere"
    answer = tokens.script
    tokens.script = lambda request: (
        Reply(body=metadata) if request.method == "GET" else answer(request)
    )
    client = make_client(
        token_endpoint=None,
        issuer=tokens.url,
        revocation_endpoint=here if place == "argument" else None,
    )
    client.renew_token()
    client.revoke_token()
    assert len(revocations) == 1


class ManagerOf07:
    def __init__(self, **_options: Any) -> None:
        pass

    def get_token(self) -> str:
        return "token"

    def reset_token(self) -> None:
        pass


def test_a_manager_of_the_users_own_may_have_no_way(make_client: MakeClient) -> None:
    own = type("OwnClient", (Client,), {"token_manager_class": ManagerOf07})
    with pytest.raises(NotImplementedError, match="ManagerOf07 has no way to revoke a token"):
        make_client(own).revoke_token()


def test_a_token_that_is_stored_while_it_is_revoked_is_forgotten(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    storage = Faulty()
    storage.set_error = OSError()

    def answer(request: Request) -> Reply:
        if request.path != "/revoke":
            return tokens.granted()
        storage.set_error = None
        clock.turn(5)
        client.ensure_token()  # stores the token
        return Reply(200)

    tokens.script = answer
    client = make_client(
        token_storage=storage,
        revocation_endpoint=f"{tokens.url}/revoke",
        token_refresh="blocking",
        clock=clock,
    )
    client.ensure_token()
    client.revoke_token()
    assert client.ensure_token().access_token == "token-2"
