from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import cachelib
import memcache
import pymemcache
import pytest
from pymemcache.client.retrying import RetryingClient

from alf import Client
from tests.caches import CacheServer, running_memcached
from tests.integration.fleet import Fleet
from tests.servers import Api, Reply, Request, TokenServer

pytestmark = [
    pytest.mark.integration,
    # python-memcached has a connection for each thread, and leaves it to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MakeClient = Callable[..., Client]


@pytest.fixture(scope="module")
def server() -> Iterator[CacheServer]:
    with running_memcached() as server:
        yield server


@pytest.fixture
def connection(server: CacheServer) -> Iterator[Any]:
    connection = pymemcache.Client(("127.0.0.1", server.port))
    connection.flush_all(noreply=False)
    yield connection
    connection.close()


def client(port: int) -> Any:
    return pymemcache.Client(("127.0.0.1", port))


def pooled(port: int) -> Any:
    return pymemcache.PooledClient(("127.0.0.1", port))


def hashed(port: int, **options: Any) -> Any:
    return pymemcache.HashClient([("127.0.0.1", port)], **options)


def retrying(port: int) -> Any:
    return RetryingClient(client(port), attempts=2)


def python_memcached(port: int) -> Any:
    return memcache.Client([f"127.0.0.1:{port}"])


def by_cachelib(port: int) -> Any:
    client = python_memcached(port)
    storage = cachelib.MemcachedCache(client, key_prefix="")
    storage.disconnect_all = client.disconnect_all
    return storage


def pylibmc(port: int) -> Any:
    import pylibmc

    return pylibmc.Client([f"127.0.0.1:{port}"])


KINDS = [
    client,
    pooled,
    hashed,
    functools.partial(hashed, use_pooling=True),
    functools.partial(hashed, ignore_exc=True),
    retrying,
    python_memcached,
    by_cachelib,
    # Where there is no wheel of it, it needs the headers of libmemcached.
    *([pylibmc] if find_spec("pylibmc") else []),
]


def close(storage: Any) -> None:
    for name in ("close", "disconnect_all"):
        getattr(storage, name, lambda: None)()


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_process_uses_the_token_of_the_first(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    server: CacheServer,
    connection: Any,
    caplog: pytest.LogCaptureFixture,
    kind: Callable[[int], Any],
) -> None:
    for _ in range(2):
        storage = kind(server.port)
        assert make_client(token_storage=storage).get(api.url).status_code == 200
        close(storage)
    assert len(tokens.requests) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    tokens.alive.clear()
    for _ in range(2):
        storage = kind(server.port)
        assert make_client(token_storage=storage).get(api.url).status_code == 200
        close(storage)
    assert len(tokens.requests) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("expires_in", "ttl"),
    [(100, 100), (90 * 24 * 3600, 30 * 24 * 3600), (None, 30 * 24 * 3600)],
)
def test_the_entry_lives_as_long_as_the_token(
    make_client: MakeClient,
    tokens: TokenServer,
    server: CacheServer,
    connection: Any,
    kind: Callable[[int], Any],
    expires_in: Any,
    ttl: int,
) -> None:
    tokens.expires_in = expires_in
    storage = kind(server.port)
    assert make_client(token_storage=storage, token_storage_key="mine").ensure_token()
    close(storage)
    head = connection.raw_command("mg mine t")  # "HD t<seconds>"
    assert ttl - 5 <= int(head.split(b" t")[1]) <= ttl + 1  # its second may have begun before
    assert connection.get("mine:lock") is None


# python-memcached leaves the socket open with which it could not connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_calls_go_on_without_memcached_and_wait_for_nothing(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    caplog: pytest.LogCaptureFixture,
    kind: Callable[[int], Any],
) -> None:
    with running_memcached() as gone:
        port = gone.port
    storage = kind(port)
    # The lock would be waited for by this clock; nobody has it.
    slept: list[float] = []

    class Clock:
        monotonic = staticmethod(time.monotonic)
        time = staticmethod(time.time)
        sleep = slept.append

    client = make_client(token_storage=storage, clock=Clock())
    for _ in range(20):
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    assert not slept
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings if record.name == "alf"]
    assert len([record for record in warnings if record.name == "alf"]) == 1
    close(storage)


@pytest.mark.parametrize("kind", [pooled, python_memcached])
def test_one_token_request_for_the_whole_fleet(
    tokens: TokenServer,
    api: Api,
    server: CacheServer,
    connection: Any,
    kind: Callable[[int], Any],
) -> None:
    def slow_grant(_request: Request) -> Reply:
        time.sleep(0.3)
        return tokens.granted()

    tokens.script = slow_grant
    make_storage = functools.partial(kind, server.port)
    with Fleet(make_storage, api.url, token_endpoint=tokens.endpoint) as fleet:
        assert fleet.call() == {200}
        assert len(tokens.requests) == 1
        fleet.turn(3600)
        assert fleet.call() == {200}
        assert len(tokens.requests) == 2
        tokens.alive.clear()
        assert fleet.call() == {200}
        assert len(tokens.requests) == 3
