"""Caches that need no server: in memory, in files, in SQLite."""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cachelib
import cachetools
import diskcache
import dogpile.cache
import flask
import flask_caching
import pytest
import redis

from alf import Client
from alf.storages import EncryptedStorage, FileStorage
from tests.integration.fleet import Fleet
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock

pytestmark = [
    pytest.mark.integration,
    # cachelib 0.14, the last for Python 3.10, calls what redis-py 8 has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:cachelib"),
]

MakeClient = Callable[..., Client]


@pytest.fixture
def clean_redis_port(redis_port: int) -> int:
    with redis.Redis(port=redis_port) as connection:
        connection.flushall()
    return redis_port


def flask_cache(options: dict[str, Any]) -> Any:
    return flask_caching.Cache(flask.Flask("test"), config=options)


def flask_simple(_folder: Path, _port: int) -> Any:
    return flask_cache({"CACHE_TYPE": "SimpleCache"})


def flask_files(folder: Path, _port: int) -> Any:
    return flask_cache({"CACHE_TYPE": "FileSystemCache", "CACHE_DIR": str(folder)})


def flask_redis(_folder: Path, port: int) -> Any:
    return flask_cache({"CACHE_TYPE": "RedisCache", "CACHE_REDIS_PORT": port})


def flask_backend(_folder: Path, _port: int) -> Any:
    cache = flask_caching.Cache()
    app = flask.Flask("test")
    cache.init_app(app, config={"CACHE_TYPE": "SimpleCache"})
    return app.extensions["cache"][cache]


def dogpile_memory(_folder: Path, _port: int) -> Any:
    return dogpile.cache.make_region().configure("dogpile.cache.memory")


def dogpile_files(folder: Path, _port: int) -> Any:
    arguments = {"filename": str(folder / "cache.dbm")}
    return dogpile.cache.make_region().configure("dogpile.cache.dbm", arguments=arguments)


def dogpile_redis(_folder: Path, port: int) -> Any:
    arguments = {"host": "127.0.0.1", "port": port}
    return dogpile.cache.make_region().configure("dogpile.cache.redis", arguments=arguments)


KINDS: dict[str, Callable[[Path, int], Any]] = {
    "dict": lambda _folder, _port: {},
    "cachetools.TTLCache": lambda _folder, _port: cachetools.TTLCache(100, 3600),
    "cachetools.LRUCache": lambda _folder, _port: cachetools.LRUCache(100),
    "cachelib.SimpleCache": lambda _folder, _port: cachelib.SimpleCache(),
    "cachelib.FileSystemCache": lambda folder, _port: cachelib.FileSystemCache(str(folder)),
    "cachelib.RedisCache": lambda _folder, port: cachelib.RedisCache(port=port),
    "diskcache.Cache": lambda folder, _port: diskcache.Cache(str(folder)),
    "diskcache.FanoutCache": lambda folder, _port: diskcache.FanoutCache(str(folder)),
    "flask_caching.SimpleCache": flask_simple,
    "flask_caching.FileSystemCache": flask_files,
    "flask_caching.RedisCache": flask_redis,
    "flask_caching by its backend": flask_backend,
    "dogpile.cache.memory": dogpile_memory,
    "dogpile.cache.dbm": dogpile_files,
    "dogpile.cache.redis": dogpile_redis,
    "FileStorage": lambda folder, _port: FileStorage(folder),
}

#: What has a lock or an atomic add.
WITH_TURNS = [name for name in KINDS if name.startswith(("cachelib", "diskcache", "flask_caching"))]


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path, clean_redis_port: int) -> Iterator[Any]:
    storage = KINDS[request.param](tmp_path, clean_redis_port)
    yield storage
    if hasattr(storage, "close"):
        storage.close()


def test_a_second_process_uses_the_token_of_the_first(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    storage: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        assert make_client(token_storage=storage).get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    tokens.alive.clear()
    for _ in range(2):
        assert make_client(token_storage=storage).get(api.url).status_code == 200
    assert len(tokens.requests) == 2


@pytest.mark.parametrize("kind", WITH_TURNS)
def test_a_process_waits_for_the_one_that_asks(
    make_client: MakeClient, clock: TurnedClock, tmp_path: Path, clean_redis_port: int, kind: str
) -> None:
    storage = KINDS[kind](tmp_path, clean_redis_port)
    storage.add("mine:lock", "of another")
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token()
    assert 2 <= sum(clock.slept) < 3  # it is not alf that holds the lock
    if hasattr(storage, "close"):
        storage.close()


def test_the_entry_of_diskcache_lives_as_long_as_the_token(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path
) -> None:
    with diskcache.Cache(str(tmp_path)) as storage:
        assert make_client(token_storage=storage, token_storage_key="mine").ensure_token()
        _value, expires = storage.get("mine", expire_time=True)
        assert 3590 <= expires - time.time() <= 3600


def test_a_dict_that_a_manager_of_multiprocessing_shares(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    with multiprocessing.get_context("spawn").Manager() as manager:
        storage = manager.dict()
        for _ in range(2):
            assert make_client(token_storage=storage, token_storage_key="mine").ensure_token()
        assert json.loads(storage["mine"])["access_token"] == "token-1"
    assert len(tokens.requests) == 1


def encrypted_files(folder: Path) -> Any:
    return EncryptedStorage(FileStorage(folder), "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")


@pytest.mark.parametrize("kind", [FileStorage, encrypted_files, diskcache.Cache])
def test_one_token_request_for_all_processes_of_a_machine(
    tokens: TokenServer, api: Api, tmp_path: Path, kind: Callable[[Path], Any]
) -> None:
    def slow_grant(_request: Request) -> Reply:
        time.sleep(0.3)
        return tokens.granted()

    tokens.script = slow_grant
    make_storage = functools.partial(kind, tmp_path)
    with Fleet(make_storage, api.url, 4, 4, token_endpoint=tokens.endpoint) as fleet:
        assert fleet.call() == {200}
        assert len(tokens.requests) == 1
        fleet.turn(3600)
        assert fleet.call() == {200}
        assert len(tokens.requests) == 2
        tokens.alive.clear()
        assert fleet.call() == {200}
        assert len(tokens.requests) == 3
