"""Redis with replicas, in a cluster, and emptied all the time: no call fails."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from alf import Client
from alf.storages import FileStorage
from tests.caches import CacheServer, running_redis
from tests.integration.fleet import Fleet
from tests.servers import Api, TokenServer

pytestmark = pytest.mark.integration


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cluster_of(ports: list[int]) -> Any:
    return RedisCluster(
        startup_nodes=[ClusterNode("127.0.0.1", port) for port in ports],
        socket_timeout=0.5,
        retry=Retry(NoBackoff(), 1),
    )


def primary_of(sentinel_port: int) -> Any:
    sentinel = Sentinel([("127.0.0.1", sentinel_port)], socket_timeout=0.5)
    return sentinel.master_for("tokens", socket_timeout=0.5, retry=Retry(NoBackoff(), 1))


def redis_at(port: int) -> Any:
    return redis.Redis(port=port, socket_timeout=0.5, retry=Retry(NoBackoff(), 1))


def low_port() -> int:
    """A free port, to whose number a cluster can add 10,000."""
    for port in range(21_000, 29_000, 7):
        with contextlib.suppress(OSError):
            for each in (port, port + 10_000):
                socket.create_server(("127.0.0.1", each)).close()
            return port
    pytest.fail("no port is free")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[int]]:
    """The ports of a cluster's three nodes."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            command = ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", ""]
            server = CacheServer(
                *command, "--dir", str(folder), "--cluster-enabled", "yes", port=low_port()
            )
            stack.callback(server.kill)
            server.start()
            servers.append(server)
        nodes = [f"127.0.0.1:{server.port}" for server in servers]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        connections = [stack.enter_context(redis_at(server.port)) for server in servers]
        wait_until(
            lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in connections)
        )
        yield [server.port for server in servers]


def test_one_token_request_for_a_fleet_on_a_cluster(
    tokens: TokenServer, api: Api, cluster: list[int]
) -> None:
    make_storage = functools.partial(cluster_of, cluster)
    for number in range(1, 5):  # entry and lock may be on different nodes
        options: dict[str, Any] = {"token_endpoint": tokens.endpoint, "scope": f"scope-{number}"}
        with Fleet(make_storage, api.url, 4, 2, **options) as fleet:
            assert fleet.call() == {200}
        assert len(tokens.requests) == number


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[tuple[CacheServer, CacheServer, int]]:
    """A primary, its replica, and the port of the sentinel that watches them."""
    with running_redis() as primary, running_redis() as replica:
        with redis_at(replica.port) as connection:
            connection.replicaof("127.0.0.1", primary.port)
            wait_until(lambda: connection.info("replication")["master_link_status"] == "up")
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"sentinel monitor tokens 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds tokens 500\n"
            "sentinel failover-timeout tokens 3000\n"
        )
        sentinel = CacheServer("redis-server", str(config), "--sentinel", "--port", "{port}")
        sentinel.start()
        try:
            with redis_at(sentinel.port) as connection:
                wait_until(lambda: bool(connection.sentinel_slaves("tokens")))
            yield primary, replica, sentinel.port
        finally:
            sentinel.kill()


def test_no_call_fails_while_a_replica_takes_over(
    tokens: TokenServer, api: Api, replicated: tuple[CacheServer, CacheServer, int]
) -> None:
    primary, replica, sentinel_port = replicated
    tokens.expires_in = 2
    make_storage = functools.partial(primary_of, sentinel_port)
    with Fleet(make_storage, api.url, 4, 2, token_endpoint=tokens.endpoint) as fleet:
        fleet.start_calling(on=True)
        wait_until(lambda: len(tokens.requests) >= 2)
        started_at, before = time.monotonic(), len(tokens.requests)
        primary.kill()
        with redis_at(replica.port) as connection:
            wait_until(lambda: connection.info("replication")["role"] == "master")
            connection.flushall()
            wait_until(lambda: bool(connection.keys("alf:*")))  # it is shared there from now on
        lasted, requested = time.monotonic() - started_at, len(tokens.requests) - before
        assert fleet.stop_calling() == {200}
    # Each of the four processes by itself, while there is nothing to share.
    assert requested <= 4 * (lasted + 2)


def assert_no_call_fails(
    tokens: TokenServer, api: Api, port: int, trouble: Callable[[threading.Event], None]
) -> None:
    """Some processes call through several lives of a token while something goes wrong in Redis.

    :param trouble: makes it go wrong until the event is set.
    """
    tokens.expires_in = 4
    is_over = threading.Event()
    thread = threading.Thread(target=trouble, args=(is_over,))
    make_storage = functools.partial(redis_at, port)
    try:
        started_at = time.monotonic()
        with Fleet(make_storage, api.url, 4, 2, token_endpoint=tokens.endpoint) as fleet:
            thread.start()
            fleet.start_calling(on=True)
            wait_until(lambda: len(tokens.requests) >= 8)
            assert fleet.stop_calling() == {200}
        lasted = time.monotonic() - started_at
    finally:
        is_over.set()
        thread.join()
    # At worst each process renews for itself, twice a life.
    assert len(tokens.requests) <= 4 * 2 * (1 + lasted / 4)


def test_no_call_fails_while_redis_is_emptied_all_the_time(tokens: TokenServer, api: Api) -> None:
    def empty(is_over: threading.Event) -> None:
        with redis_at(server.port) as connection:
            while not is_over.wait(0.2):
                connection.flushall()

    with running_redis() as server:
        assert_no_call_fails(tokens, api, server.port, empty)


def test_no_call_fails_while_redis_evicts_entries_and_locks(tokens: TokenServer, api: Api) -> None:
    def fill(is_over: threading.Event) -> None:
        value = "x" * 10_000
        with redis_at(server.port) as connection:
            connection.config_set("maxmemory-policy", "allkeys-random")
            connection.config_set("maxmemory", connection.info("memory")["used_memory"] + 2**20)
            while not is_over.wait(0.05):
                for number in range(40):
                    connection.set(f"filler:{time.monotonic()}:{number}", value)
            evicted.append(connection.info("stats")["evicted_keys"])

    evicted: list[int] = []
    with running_redis() as server:
        assert_no_call_fails(tokens, api, server.port, fill)
    assert evicted[0] > 0


def make_global_client(endpoint: str, port: int) -> None:
    global _client
    _client = Client(
        token_endpoint=endpoint,
        client_id="client-id",
        client_secret="top-secret",
        token_storage=redis_at(port),
    )


def call_with_global_client(url: str) -> int:
    return _client.get(url).status_code


def call_with(client: Client, url: str) -> int:
    return client.get(url).status_code


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_of_processes_requests_one_token(
    tokens: TokenServer, api: Api, redis_port: int, method: str
) -> None:
    with redis_at(redis_port) as connection:
        connection.flushall()
    with ProcessPoolExecutor(
        3,
        mp_context=multiprocessing.get_context(method),
        initializer=make_global_client,
        initargs=(tokens.endpoint, redis_port),
    ) as pool:
        assert set(pool.map(call_with_global_client, [api.url] * 24)) == {200}
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_tasks_that_bring_a_pickled_client_request_one_token(
    tokens: TokenServer, api: Api, tmp_path: Path, method: str
) -> None:
    client = Client(
        token_endpoint=tokens.endpoint,
        client_id="client-id",
        client_secret="top-secret",
        token_storage=FileStorage(tmp_path / "tokens"),
    )
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        calls = [pool.submit(call_with, client, api.url) for _ in range(24)]
        assert {call.result(60) for call in calls} == {200}
    client.close()
    assert len(tokens.requests) == 1
