from __future__ import annotations

import copy
import functools
import json
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import valkey

from alf import Client
from alf._backends import make_backend
from alf.storages import EncryptedStorage
from tests.caches import CacheServer, running_redis
from tests.integration.fleet import Fleet
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock

pytestmark = pytest.mark.integration

MakeClient = Callable[..., Client]


@pytest.fixture(scope="module")
def server() -> Iterator[CacheServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def connection(server: CacheServer) -> Iterator[Any]:
    with redis.Redis(port=server.port) as connection:
        connection.flushall()
        yield connection


def commands(connection: Any) -> dict[str, int]:
    """The commands that Redis has served since ``CONFIG RESETSTAT``, without those of the test."""
    stats = connection.info("commandstats")
    names = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    return {name: calls for name, calls in names.items() if not name.startswith(("config", "info"))}


def slow_grant(tokens: TokenServer) -> Callable[[Request], Reply]:
    def grant(_request: Request) -> Reply:
        time.sleep(0.3)
        return tokens.granted()

    return grant


KINDS = [
    redis.Redis,
    redis.StrictRedis,
    functools.partial(redis.Redis, decode_responses=True),
    functools.partial(redis.Redis, protocol=3),
    valkey.Valkey,
    valkey.StrictValkey,
    functools.partial(valkey.Valkey, decode_responses=True),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_process_uses_the_token_of_the_first(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    server: CacheServer,
    connection: Any,
    kind: Callable[..., Any],
) -> None:
    for _ in range(2):
        with kind(port=server.port) as storage:
            assert make_client(token_storage=storage).get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    tokens.alive.clear()
    for _ in range(2):
        with kind(port=server.port) as storage:
            assert make_client(token_storage=storage).get(api.url).status_code == 200
    assert len(tokens.requests) == 2
    (key,) = connection.keys()
    assert key.startswith(b"alf:2:127.0.0.1:client-id:")
    assert json.loads(connection.get(key))["access_token"] == "token-2"


@pytest.mark.parametrize(("expires_in", "ttl"), [(100, 100), (None, 30 * 24 * 3600)])
def test_the_entry_lives_as_long_as_the_token(
    make_client: MakeClient, tokens: TokenServer, connection: Any, expires_in: Any, ttl: int
) -> None:
    tokens.expires_in = expires_in
    assert make_client(token_storage=connection).ensure_token()
    (key,) = connection.keys()
    assert ttl - 5 <= connection.ttl(key) <= ttl


def test_a_call_with_a_good_token_costs_redis_no_command(
    make_client: MakeClient, api: Api, connection: Any
) -> None:
    client = make_client(token_storage=connection)
    client.get(api.url)
    connection.config_resetstat()
    for _ in range(100):
        assert client.get(api.url).status_code == 200
    assert commands(connection) == {}


def test_what_a_token_costs_redis(
    make_client: MakeClient, tokens: TokenServer, connection: Any
) -> None:
    connection.script_flush()
    connection.config_resetstat()
    assert make_client(token_storage=connection).ensure_token()
    first = commands(connection)
    # Read, claimed, read again, compared, written, and the claim given back by a script.
    assert first["set"] == 2
    assert sum(first.values()) <= 12
    connection.config_resetstat()
    assert make_client(token_storage=connection).ensure_token()
    assert commands(connection) == {"get": 1}


def test_a_key_of_the_user_that_holds_something_else_is_left_alone(
    make_client: MakeClient, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    connection.rpush("mine", "a list")
    client = make_client(token_storage=connection, token_storage_key="mine")
    assert client.ensure_token()
    assert client.renew_token()
    assert connection.lrange("mine", 0, -1) == [b"a list"]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "left alone" in warning


def test_a_key_of_alf_that_holds_something_else_is_replaced(
    make_client: MakeClient, tokens: TokenServer, connection: Any
) -> None:
    assert make_client(token_storage=connection).ensure_token()
    (key,) = connection.keys()
    connection.delete(key)
    connection.rpush(key, "a list")
    for _ in range(2):
        assert make_client(token_storage=connection).ensure_token()
    assert len(tokens.requests) == 2


def test_a_client_that_cannot_be_pickled_says_why(make_client: MakeClient, connection: Any) -> None:
    client = make_client(token_storage=connection)
    with pytest.raises(TypeError, match=r"redis\.client\.Redis .*a Client in each process"):
        pickle.dumps(client)
    for clone in (copy.copy(client), copy.deepcopy(client)):
        assert clone.ensure_token() == client.ensure_token()
        clone.close()


@pytest.mark.parametrize("kind", [redis.Redis, valkey.Valkey])
def test_a_redis_that_runs_no_scripts_gets_its_lock_back(
    make_client: MakeClient,
    server: CacheServer,
    connection: Any,
    caplog: pytest.LogCaptureFixture,
    kind: Callable[..., Any],
) -> None:
    connection.acl_setuser(
        "plain", enabled=True, nopass=True, keys="*", categories=["+@all", "-@scripting"]
    )
    try:
        with kind(port=server.port, username="plain", password="") as storage:
            client = make_client(token_storage=storage)
            for _ in range(3):
                assert client.renew_token()
                assert not connection.keys("*:lock")
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert "no scripts" in warning
    finally:
        connection.acl_deluser("plain")


def test_the_lock_of_another_process_is_not_released(connection: Any) -> None:
    lock = make_backend(connection).lock
    assert lock is not None
    assert lock.take("name", "mine", 10)
    assert not lock.take("name", "theirs", 10)
    lock.release("name", "theirs")
    assert lock.holder("name") == b"mine"
    lock.release("name", "mine")
    assert not lock.holder("name")
    assert lock.take("name", "theirs", 10)


def set_config(connection: Any, name: str, value: str) -> Callable[[], object]:
    before = connection.config_get(name)[name]
    connection.config_set(name, value)
    return lambda: connection.config_set(name, before)


def read_only(connection: Any) -> Callable[[], object]:
    with running_redis() as gone:
        connection.replicaof("127.0.0.1", gone.port)
    return lambda: connection.replicaof("NO", "ONE")


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda connection: set_config(connection, "maxmemory", "1"), "OutOfMemoryError"),
        (read_only, "ReadOnlyError"),
        (lambda connection: set_config(connection, "min-replicas-to-write", "1"), "NoReplicas"),
    ],
    ids=["out of memory", "read-only", "writes refused"],
)
def test_a_redis_that_takes_no_writes(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    clock: TurnedClock,
    connection: Any,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[[Any], Callable[[], object]],
    error: str,
) -> None:
    client = make_client(token_storage=connection, clock=clock, token_refresh="blocking")
    mend = break_it(connection)
    try:
        for _ in range(20):
            assert client.get(api.url).status_code == 200
            clock.turn(1)
    finally:
        mend()
    assert len(tokens.requests) == 1
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert error in warning or "ResponseError" in warning
    clock.turn(60)
    assert client.get(api.url).status_code == 200
    (value,) = connection.mget(connection.keys())
    assert json.loads(value)["access_token"] == "token-1"
    assert len(tokens.requests) == 1


def test_a_redis_that_answers_too_late_costs_one_time_out(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    clock: TurnedClock,
    server: CacheServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = []

    class Counting(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            sent.append(args[0])
            return super().execute_command(*args, **options)

    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    with Counting(port=server.port, socket_timeout=0.2, retry=retry) as storage:
        client = make_client(token_storage=storage, clock=clock)
        with server.frozen():
            for _ in range(20):
                assert client.get(api.url).status_code == 200
                client.renew_token()
    assert "TimeoutError" in caplog.text
    assert sent == ["GET"]


def test_an_evicted_entry_is_asked_for_anew(
    make_client: MakeClient, tokens: TokenServer, api: Api, connection: Any
) -> None:
    first = make_client(token_storage=connection)
    assert first.get(api.url).status_code == 200
    connection.flushall()
    assert make_client(token_storage=connection).get(api.url).status_code == 200
    assert first.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


def test_encrypted_in_redis(make_client: MakeClient, tokens: TokenServer, connection: Any) -> None:
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    for _ in range(2):
        assert make_client(token_storage=EncryptedStorage(connection, key)).ensure_token()
    assert len(tokens.requests) == 1
    (entry,) = connection.keys()
    assert 3590 <= connection.ttl(entry) <= 3600
    assert b"token-1" not in connection.get(entry)


# -- a fleet -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [redis.Redis, valkey.Valkey])
def test_one_token_request_for_the_whole_fleet(
    tokens: TokenServer,
    api: Api,
    server: CacheServer,
    connection: Any,
    kind: Callable[..., Any],
) -> None:
    tokens.script = slow_grant(tokens)
    make_storage = functools.partial(kind, port=server.port)
    with Fleet(make_storage, api.url, token_endpoint=tokens.endpoint) as fleet:
        assert fleet.call() == {200}
        assert len(tokens.requests) == 1
        for expiries in range(2, 4):
            fleet.turn(3600)
            assert fleet.call() == {200}
            assert len(tokens.requests) == expiries
        for revocations in range(4, 6):
            tokens.alive.clear()
            assert fleet.call() == {200}
            assert len(tokens.requests) == revocations


def test_one_early_renewal_for_the_whole_fleet_and_nobody_waits(
    tokens: TokenServer, api: Api, server: CacheServer, connection: Any
) -> None:
    resumed, arrived = threading.Event(), threading.Event()

    def held_back(_request: Request) -> Reply:
        arrived.set()
        assert resumed.wait(60)
        return tokens.granted()

    make_storage = functools.partial(redis.Redis, port=server.port)
    with Fleet(make_storage, api.url, token_endpoint=tokens.endpoint) as fleet:
        assert fleet.call() == {200}
        tokens.script = held_back
        fleet.turn(3575)
        assert fleet.call() == {200}  # with the first token
        assert arrived.wait(60)
        resumed.set()
        fleet.turn(16)  # now that token is dead; what the others wait for is not given up
        assert fleet.call() == {200}
        assert len(tokens.requests) == 2


def test_a_holder_that_dies_delays_the_fleet_and_does_not_stop_it(
    tokens: TokenServer, api: Api, server: CacheServer, connection: Any
) -> None:
    connection.set("mine:lock", "of the dead", px=1500)
    make_storage = functools.partial(redis.Redis, port=server.port)
    options: dict[str, Any] = {"token_endpoint": tokens.endpoint, "token_storage_key": "mine"}
    with Fleet(make_storage, api.url, 4, 2, **options) as fleet:
        assert fleet.call() == {200}
    assert len(tokens.requests) == 1


def test_no_call_fails_while_redis_is_killed_and_brought_back(
    tokens: TokenServer, api: Api
) -> None:
    tokens.expires_in = 1

    def wait_until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with running_redis() as server:
        make_storage = functools.partial(redis.Redis, port=server.port, socket_timeout=1)
        options: dict[str, Any] = {"token_endpoint": tokens.endpoint}
        with Fleet(make_storage, api.url, 4, 2, **options) as fleet:
            fleet.start_calling(on=True)
            wait_until(lambda: len(tokens.requests) >= 2)
            server.kill()
            asked = len(tokens.requests)
            # Each process has to ask by itself, and more than once.
            wait_until(lambda: len(tokens.requests) >= asked + 8)
            server.start()
            with redis.Redis(port=server.port) as connection:
                wait_until(lambda: bool(connection.keys("alf:*")))
            asked = len(api.requests)
            wait_until(lambda: len(api.requests) >= asked + 200)
            assert fleet.stop_calling() == {200}
