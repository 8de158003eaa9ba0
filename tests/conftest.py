from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from alf import Client, TokenManager
from tests.servers import Api, TokenServer, TurnedClock, running


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with running(TokenServer()) as server:
        yield server


@pytest.fixture
def api(tokens: TokenServer) -> Iterator[Api]:
    with running(Api(tokens)) as server:
        yield server


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def make_client(tokens: TokenServer) -> Iterator[Callable[..., Client]]:
    """Clients of the token server, closed when the test ends; ``clock=`` hands one in."""
    clients: list[Client] = []

    def make(cls: type[Client] = Client, *, clock: Any = None, **options: Any) -> Client:
        if clock is not None:
            manager = functools.partial(TokenManager, clock=clock)
            cls = type("ClockedClient", (cls,), {"token_manager_class": manager})
        given = {
            "token_endpoint": tokens.endpoint,
            "client_id": "client-id",
            "client_secret": "top-secret",
            **options,
        }
        clients.append(cls(**given))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    return make_client()
