"""A refusal of the client is shared by way of the storage; other failures are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from alf import Client, TokenError
from alf._endpoint import TokenEndpoint
from alf._shared_refusals import SharedRefusals
from alf._token_storage import TokenStorage
from alf.client_auth import ClientSecretPost, Credentials
from tests.servers import Api, Reply, TokenServer, TurnedClock

REFUSED = Reply(401, {"error": "invalid_client", "error_description": "not known"})


@pytest.fixture
def make_process(
    tokens: TokenServer, clock: TurnedClock
) -> Iterator[Callable[..., SharedRefusals]]:
    storage: dict[str, Any] = {}
    endpoints: list[TokenEndpoint] = []

    def make(secret: Any = "top-secret") -> SharedRefusals:
        endpoint = TokenEndpoint(
            tokens.endpoint, Credentials("client-id", secret), ClientSecretPost(), params=[]
        )
        endpoints.append(endpoint)
        return SharedRefusals(TokenStorage(storage, "mine", clock=clock), endpoint)

    yield make
    for endpoint in endpoints:
        endpoint.close()


MakeProcess = Callable[..., SharedRefusals]


def refused(process: SharedRefusals) -> TokenError:
    with pytest.raises(TokenError) as failure:
        process.request(is_forced=False)
    return failure.value


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
def test_a_refusal_of_the_client_is_met_once(
    tokens: TokenServer, clock: TurnedClock, make_process: MakeProcess, error: str
) -> None:
    tokens.script = lambda _request: Reply(400, {"error": error, "error_description": "why"})
    first = refused(make_process())
    others = [refused(make_process()) for _ in range(5)]
    assert len(tokens.requests) == 1
    for other in others:
        assert other.error == first.error == error
        assert other.error_description == "why"
        assert other.response is not None
        assert other.response.status_code == 400
        assert other.response.json() == {"error": error, "error_description": "why"}
        assert "another process" in str(other)
        assert "top-secret" not in str(other)
    clock.turn(31)
    refused(make_process())
    assert len(tokens.requests) == 2


def test_another_secret_is_tried(tokens: TokenServer, make_process: MakeProcess) -> None:
    tokens.replies = [REFUSED]
    refused(make_process("old-secret"))
    assert make_process("new-secret").request(is_forced=False).token.access_token == "token-1"


def test_a_secret_that_may_change_is_tried(tokens: TokenServer, make_process: MakeProcess) -> None:
    tokens.replies = [REFUSED, REFUSED]
    refused(make_process())
    refused(make_process(lambda: "top-secret"))
    assert make_process(lambda: "top-secret").request(is_forced=False).token.access_token


def test_a_forced_request_is_made(tokens: TokenServer, make_process: MakeProcess) -> None:
    tokens.replies = [REFUSED]
    refused(make_process())
    assert make_process().request(is_forced=True).token.access_token == "token-1"


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry-After": "5"}, 5), ({"Retry-After": "300"}, 30), ({}, 10)]
)
def test_too_many_requests_are_shared_until_retry_after(
    tokens: TokenServer,
    clock: TurnedClock,
    make_process: MakeProcess,
    headers: dict[str, str],
    seconds: float,
) -> None:
    tokens.replies = [Reply(429, b"", headers)]
    refused(make_process())
    clock.turn(seconds - 1)
    other = refused(make_process())
    assert other.response is not None
    assert other.response.status_code == 429
    clock.turn(1.1)
    assert make_process().request(is_forced=False).token.access_token == "token-1"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(503),
        Reply(400, {"error": "invalid_scope"}),
        Reply(500, {"error": "invalid_client"}),
        Reply(200, {"access_token": ""}),
    ],
)
def test_other_failures_are_not_shared(
    tokens: TokenServer, make_process: MakeProcess, reply: Reply
) -> None:
    tokens.replies = [reply]
    refused(make_process())
    assert make_process().request(is_forced=False).token.access_token == "token-1"


def test_an_answer_without_a_response_is_not_shared(
    tokens: TokenServer, make_process: MakeProcess
) -> None:
    tokens.stop()
    for _ in range(2):
        with pytest.raises(OSError):
            make_process().request(is_forced=False)


def test_a_fleet_with_a_wrong_secret_makes_one_request(
    make_client: Callable[..., Client], tokens: TokenServer, api: Api
) -> None:
    storage: dict[str, str] = {}
    refuse = Reply(401, {"error": "invalid_client", "error_description": "unknown client"})
    tokens.script = lambda _request: refuse
    clients = [make_client(token_storage=storage, client_secret="wrong") for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda client: client.get(api.url), clients))
    assert {response.status_code for response in responses} == {401}
    assert {response.json()["error"] for response in responses} == {"invalid_client"}
    assert len(tokens.requests) == 1
    # Another secret may be right, and a caller who insists is not held back.
    make_client(token_storage=storage, client_secret="another").get(api.url)
    with pytest.raises(TokenError):
        clients[0].renew_token()
    assert len(tokens.requests) == 3
    assert not api.requests
