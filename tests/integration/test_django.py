from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from alf import Client
from tests.caches import CacheServer, running_memcached, running_redis
from tests.servers import Api, TokenServer, TurnedClock

pytestmark = pytest.mark.integration

MakeClient = Callable[..., Client]

KINDS = ["locmem", "file", "database", "redis", "django-redis", "memcached"]

#: The backends that all processes share and in which one at a time can be told from the next.
WITH_TURNS = ["database", "redis", "django-redis", "memcached"]


@pytest.fixture(scope="module")
def memcached_server() -> Iterator[CacheServer]:
    with running_memcached() as server:
        yield server


@pytest.fixture(scope="module")
def caches(
    redis_port: int,
    memcached_server: CacheServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("django")
    package = "django.core.cache.backends"
    places: dict[str, tuple[str, Path | str]] = {
        "locmem": (f"{package}.locmem.LocMemCache", "alf"),
        "file": (f"{package}.filebased.FileBasedCache", folder / "cache"),
        "database": (f"{package}.db.DatabaseCache", "cache_table"),
        "redis": (f"{package}.redis.RedisCache", f"redis://127.0.0.1:{redis_port}/1"),
        "django-redis": (
            "django_redis.cache.RedisCache",
            f"redis://127.0.0.1:{redis_port}/2",
        ),
        "memcached": (
            f"{package}.memcached.PyMemcacheCache",
            f"127.0.0.1:{memcached_server.port}",
        ),
    }
    backends = {
        name: {"BACKEND": backend, "LOCATION": str(location)}
        for name, (backend, location) in places.items()
    }
    settings.configure(
        CACHES={**backends, "default": backends["redis"]},
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "database")}
        },
        USE_TZ=True,
    )
    import django
    from django.core import cache
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    call_command("createcachetable", verbosity=0)
    yield cache.caches
    cache.close_caches()
    connections.close_all()


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, caches: Any) -> Any:
    caches[request.param].clear()
    return caches[request.param]


def test_a_second_process_uses_the_token_of_the_first(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    storage: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        client = make_client(token_storage=storage, token_refresh="blocking")
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    tokens.alive.clear()
    for _ in range(2):
        client = make_client(token_storage=storage, token_refresh="blocking")
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


def test_the_entry_outlives_the_default_time_out_of_django(
    make_client: MakeClient, tokens: TokenServer, storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.expires_in = None
    monkeypatch.setattr(storage, "default_timeout", 0)  # which means: not at all
    assert make_client(token_storage=storage, token_storage_key="mine").ensure_token()
    assert json.loads(storage.get("mine"))["access_token"] == "token-1"
    assert storage.get("mine:lock") is None


def test_a_process_waits_for_the_one_that_asks(
    make_client: MakeClient, tokens: TokenServer, caches: Any, clock: TurnedClock
) -> None:
    for kind in WITH_TURNS:
        storage = caches[kind]
        storage.clear()
        storage.add("mine:lock", "of another", timeout=60)
        client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
        clock.slept.clear()
        assert client.ensure_token()
        assert 2 <= sum(clock.slept) < 3  # it is not alf that holds the lock


def test_the_default_cache_by_its_proxy(
    make_client: MakeClient, tokens: TokenServer, caches: Any
) -> None:
    from django.core.cache import cache

    cache.clear()
    for _ in range(2):
        assert make_client(token_storage=cache, token_storage_key="mine").ensure_token()
    assert len(tokens.requests) == 1
    assert 3590 <= caches["redis"]._cache.get_client().ttl(cache.make_key("mine")) <= 3600


def test_django_redis_that_ignores_exceptions(
    make_client: MakeClient, tokens: TokenServer, api: Api, caches: Any
) -> None:
    with running_redis() as gone:
        location = f"redis://127.0.0.1:{gone.port}/0"
    storage = type(caches["django-redis"])(location, {"OPTIONS": {"IGNORE_EXCEPTIONS": True}})
    client = make_client(token_storage=storage)
    for _ in range(10):
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 1
