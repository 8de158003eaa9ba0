"""What alf finds out about a storage; real ones are in integration/."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from alf import Client
from tests.servers import TokenServer, TurnedClock
from tests.storage_doubles import (
    Adding,
    Expiring,
    Plain,
)

MakeClient = Callable[..., Client]

# -- the time to live --------------------------------------------------------------------------


class ByEx(Expiring):
    def set(self, name: str, value: str, ex: int | None = None, nx: bool = False) -> Any:
        self.ttls.append(ex)


class ByExpire(Expiring):
    def set(self, key: str, value: str, expire: int = 0, noreply: Any = None) -> Any:
        self.ttls.append(expire)


class ByTime(Expiring):
    def set(self, key: str, val: str, time: int = 0) -> Any:
        self.ttls.append(time)


class ByTimeout(Expiring):
    def set(self, key: str, value: str, timeout: Any = 300, version: Any = None) -> Any:
        self.ttls.append(timeout)


class ByKeyword(Expiring):
    def set(self, key: str, value: str, *, expires_in: int) -> Any:
        self.ttls.append(expires_in)


class BehindKeywords(ByTimeout):
    def set(self, *args: Any, **kwargs: Any) -> Any:
        super().set(*args, **kwargs)


class Proxy:
    """Hands on what another object has, as Django's ``cache`` does."""

    def __init__(self) -> None:
        self._other = ByTimeout()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


EXPIRING = [Expiring, ByEx, ByExpire, ByTime, ByTimeout, ByKeyword, BehindKeywords, Proxy]


@pytest.mark.parametrize("make", EXPIRING)
def test_an_entry_lives_as_long_as_its_token(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, make: type[Any]
) -> None:
    storage = make()
    client = make_client(token_storage=storage, clock=clock)
    expected = []
    for expires_in, ttl in [
        (3600, 3600),
        (3599.2, 3600),
        ("60", 60),
        (0.3, 1),
        (None, 30 * 24 * 3600),
        (10**12, 30 * 24 * 3600),
        (30 * 24 * 3600 + 1, 30 * 24 * 3600),
    ]:
        tokens.expires_in = expires_in
        client.renew_token()
        expected.append(ttl)
    assert storage.ttls == expected
    assert {type(ttl) for ttl in storage.ttls} == {int}


class Positional(Expiring):
    def set(self, key: str, value: str, ttl: Any = None, /) -> Any:
        super().set(key, value, ttl)


class Unknown:
    def __init__(self) -> None:
        self.ttls: list[Any] = []

    def get(self, key: str) -> Any:
        return None

    def set(self, key: str, value: str, **options: Any) -> Any:
        self.ttls.append(options)


class Narrowed(ByTimeout):
    def set(self, key: str, value: str) -> Any:
        self.ttls.append(None)


@pytest.mark.parametrize(
    ("make", "seen"), [(Positional, None), (Unknown, {}), (Narrowed, None), (Plain, None)]
)
def test_a_storage_without_a_time_to_live_gets_none(
    make_client: MakeClient, make: type[Any], seen: Any
) -> None:
    storage = make()
    assert make_client(token_storage=storage).ensure_token()
    assert getattr(storage, "ttls", [None]) == [seen]


# -- what is no storage ------------------------------------------------------------------------


class Asynchronous(Plain):
    async def get(self, key: str) -> Any: ...

    async def set(self, key: str, value: str) -> Any: ...


class AsynchronousClient(Plain):
    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *args: object) -> None: ...


@pytest.mark.parametrize("storage", [Asynchronous(), AsynchronousClient()])
def test_a_storage_for_asyncio(make_client: MakeClient, storage: Any) -> None:
    with pytest.raises(TypeError, match=r"token_storage .* asyncio"):
        make_client(token_storage=storage)


@pytest.mark.parametrize("storage", [object(), "redis://", [], dict, Plain, 7, False])
def test_what_has_no_get_and_set(make_client: MakeClient, storage: Any) -> None:
    with pytest.raises(TypeError, match="token_storage must have get and set"):
        make_client(token_storage=storage)


@pytest.mark.parametrize("answer", [None, 0, False])
def test_an_add_that_says_no_although_nobody_holds_the_lock(
    make_client: MakeClient, clock: TurnedClock, answer: Any
) -> None:
    class Swallowing(Adding):
        def add(self, key: str, value: str, expire: int = 0) -> Any:
            return answer

    client = make_client(token_storage=Swallowing(), clock=clock)
    assert client.ensure_token().access_token == "token-1"
    assert not clock.slept


def test_a_lock_that_is_released_while_another_process_looks_at_it(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    class Racing(Adding):
        is_late = False

        def add(self, key: str, value: str, expire: int = 0) -> Any:
            if not self.is_late:
                self.is_late = True
                return False  # another process has it, and releases it now
            return super().add(key, value, expire)

    storage = Racing()
    locks: list[bool] = []
    client = make_client(
        token_storage=storage,
        clock=clock,
        client_secret=lambda: locks.append(any("lock" in key for key in storage.entries)) or "s",
    )
    client.ensure_token()
    assert locks == [True], "the token was requested without the lock"


class AddsForEver(Adding):
    def add(self, key: str, value: str) -> Any:
        raise AssertionError


class CannotDelete(Plain):
    def add(self, key: str, value: str, expire: int = 0) -> Any:
        raise AssertionError


class HasAnotherLock(Plain):
    lock = threading.Lock()


class AssertsAttributes(Plain):
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.mark.parametrize("make", [AddsForEver, CannotDelete, HasAnotherLock, AssertsAttributes])
def test_what_is_no_lock_is_not_used_as_one(make_client: MakeClient, make: type[Any]) -> None:
    storage = make()
    assert make_client(token_storage=storage).ensure_token()
    assert len(storage.entries) == 1
