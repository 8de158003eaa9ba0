"""The entry, who asks for all, and what goes wrong with storages; real ones are in integration/."""

from __future__ import annotations

import json
import logging
import os
import pickle
import stat
import sys
import threading
from collections import UserDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from alf import Client, Token, TokenManager
from alf.storages import EncryptedStorage, FileStorage, TokenStorage, entry_key
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock
from tests.test_processes import needs_fork, run

MakeClient = Callable[..., Client]

ENDPOINT = "https://id.example.com/token"
PARAMS = [("grant_type", "client_credentials"), ("scope", "read write")]
NOW = 1_700_000_000.0  # of a TurnedClock


class Plain:
    """A storage as alf 0.7 wanted it, and as some are: falsy while it is empty."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: str) -> Any:
        return self.entries.get(key)

    def set(self, key: str, value: str) -> Any:
        self.entries[key] = value


class Expiring(Plain):
    """Keeps the seconds that an entry is given to live."""

    def __init__(self) -> None:
        super().__init__()
        self.ttls: list[Any] = []

    def set(self, key: str, value: str, ttl: int | None = None) -> Any:
        self.ttls.append(ttl)
        return super().set(key, value)


class Locking(Plain):
    """Has a lock as redis-py has one; those in ``held`` are somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()
        self.taken: list[tuple[str, float]] = []
        self.given_back: list[str] = []

    def lock(self, name: str, timeout: float) -> Any:
        storage = self

        class Lock:
            def acquire(self, blocking: bool) -> bool:
                if name in storage.held:
                    return False
                storage.held.add(name)
                storage.taken.append((name, timeout))
                return True

            def release(self) -> None:
                storage.held.remove(name)
                storage.given_back.append(name)

        return Lock()


class Adding(Plain):
    """Has an atomic add as memcached has one."""

    def add(self, key: str, value: str, expire: int = 0) -> Any:
        if key in self.entries:
            return False
        self.entries[key] = value
        return True

    def delete(self, key: str) -> None:
        del self.entries[key]


class Faulty(Expiring):
    """Raises what it is told to, until it is told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.get_error: BaseException | None = None
        self.set_error: BaseException | None = None
        self.calls: list[str] = []

    def get(self, key: str) -> Any:
        self.calls.append("get")
        if self.get_error is not None:
            raise self.get_error
        return super().get(key)

    def set(self, key: str, value: str, ttl: int | None = None) -> Any:
        self.calls.append("set")
        if self.set_error is not None:
            raise self.set_error
        return super().set(key, value, ttl)


def only(storage: Any) -> Any:
    (value,) = getattr(storage, "entries", storage).values()
    return value


def entry(token: str, *, issued_at: float = NOW, expires_at: float | None = NOW + 3600) -> str:
    members = {"access_token": token, "token_type": "Bearer", "scope": None, "extra": {}}
    return json.dumps({"v": 1, **members, "issued_at": issued_at, "expires_at": expires_at})


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- the key -----------------------------------------------------------------------------------


def test_the_key_can_be_read_and_fits_every_storage() -> None:
    key = entry_key(ENDPOINT, "client-id", PARAMS)
    assert key.startswith("alf:1:id.example.com:client-id:")
    ugly = entry_key(f"https://{'long.' * 40}example.com/ü", "id \n\x00ü" * 100, PARAMS)
    for each in (key, ugly):
        assert each.isascii()
        assert each.isprintable()
        assert " " not in each
        assert len(each) < 200


def test_the_key_is_the_same_for_the_same_token() -> None:
    key = entry_key(ENDPOINT, "client-id", PARAMS, {"X-Tenant": "a", "X-More": "b"}, "post")
    params = [("scope", " write  read read"), ("grant_type", "client_credentials")]
    headers = {"x-more": "b", "x-tenant": "a"}
    assert key == entry_key(
        "https://user:secret@ID.example.com/token", "client-id", params, headers, "post"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"token_endpoint": "https://id.example.com/other/token"},
        {"token_endpoint": "https://id.example.com:8443/token"},
        {"token_endpoint": "https://id.example.com/token?tenant=b"},
        {"client_id": "Client-id"},
        {"params": [("grant_type", "client_credentials"), ("scope", "read")]},
        {"params": [("grant_type", "client_credentials"), ("scope", "readwrite")]},
        {"params": [*PARAMS, ("audience", "a")]},
        {"params": [*PARAMS, ("resource", "a")]},
        {"params": [*PARAMS, ("resource", "a"), ("resource", "b")]},
        {"headers": {"X-Tenant": "a"}},
        {"headers": {"X-Tenant": "b"}},
        {"binding": "private_key_jwt"},
        {"binding": "tls_client_auth:5f"},
    ],
    ids=str,
)
def test_the_key_differs_for_every_different_token(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"token_endpoint": ENDPOINT, "client_id": "client-id", "params": PARAMS}
    assert entry_key(**given) != entry_key(**{**given, **change})


def test_the_secret_is_no_part_of_the_key(make_client: MakeClient) -> None:
    storage: dict[str, str] = {}
    for secret in ("one", "another"):
        assert make_client(client_secret=secret, token_storage=storage).token
    assert len(storage) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"client_id": "another"},
        {"scope": "read"},
        {"audience": "a"},
        {"resource": "https://api.example.com"},
        {"token_params": {"tenant": "b"}},
        {"token_headers": {"X-Tenant": "b"}},
        {"client_auth": "client_secret_post"},
        {"dpop": True},
    ],
    ids=str,
)
def test_clients_of_different_tokens_share_no_entry(
    make_client: MakeClient, tokens: TokenServer, options: dict[str, Any]
) -> None:
    storage: dict[str, str] = {}
    assert make_client(token_storage=storage).token
    if "dpop" in options:
        tokens.members = {"token_type": "DPoP"}
    assert make_client(token_storage=storage, **options).token
    assert len(storage) == len(tokens.requests) == 2


def test_a_key_of_the_users_own(make_client: MakeClient) -> None:
    storage: dict[str, str] = {"token-of-alf-0.7_access_token": "untouched"}
    assert make_client(token_storage=storage, token_storage_key="mine").token
    assert set(storage) == {"token-of-alf-0.7_access_token", "mine"}


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (b"bytes", TypeError),
        ("", ValueError),
        ("a b", ValueError),
        ("ü", ValueError),
        ("a\n", ValueError),
        ("a" * 241, ValueError),
    ],
)
def test_a_key_that_is_none(make_client: MakeClient, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="token_storage_key"):
        make_client(token_storage={}, token_storage_key=key)


def test_a_key_for_no_storage(make_client: MakeClient) -> None:
    with pytest.raises(TypeError, match="token_storage_key"):
        make_client(token_storage_key="mine")


# -- the entry ---------------------------------------------------------------------------------


def test_one_key_and_one_value_with_a_format_version(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    tokens.members = {"scope": "read", "tenant": "t"}
    storage = Plain()
    client = make_client(token_storage=storage, clock=clock)
    assert client.token
    (key,) = storage.entries
    assert key.startswith("alf:1:127.0.0.1:client-id:")
    assert json.loads(only(storage)) == {
        "v": 1,
        "access_token": "token-1",
        "token_type": "Bearer",
        "issued_at": NOW,
        "expires_at": NOW + 3600,
        "scope": "read",
        "extra": {"tenant": "t"},
    }
    assert make_client(token_storage=storage, clock=clock).token == client.token
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("make", [dict, UserDict, Plain, Expiring, Locking, Adding, Faulty])
def test_a_token_that_another_process_stored_is_used(
    make_client: MakeClient, tokens: TokenServer, api: Api, make: type[Any]
) -> None:
    storage = make()
    for _ in range(3):
        assert make_client(token_storage=storage).get(api.url).status_code == 200
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("convert", [str.encode, lambda value: bytearray(value.encode())])
def test_a_storage_that_gives_bytes(
    make_client: MakeClient, tokens: TokenServer, convert: Callable[[str], Any]
) -> None:
    storage = Plain()
    assert make_client(token_storage=storage).token
    (key,) = storage.entries
    storage.entries[key] = convert(storage.entries[key])
    assert make_client(token_storage=storage).token.access_token == "token-1"


class NoValue:
    """As dogpile.cache has one."""

    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("absent", [None, b"", "", False, NoValue()])
def test_what_storages_give_where_there_is_nothing(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, absent: Any
) -> None:
    storage = Plain()
    storage.entries["mine"] = absent
    assert make_client(token_storage=storage, token_storage_key="mine").token
    assert json.loads(only(storage))["access_token"] == "token-1"
    assert not warnings_of(caplog)


@pytest.mark.parametrize("error", [KeyError("mine"), FileNotFoundError()])
def test_storages_that_raise_where_there_is_nothing(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    storage = Faulty()
    storage.get_error = error
    assert make_client(token_storage=storage).token
    assert json.loads(only(storage))["access_token"] == "token-1"
    assert not warnings_of(caplog)


class Odd(Exception):
    """Is neither true nor false, and cannot even be shown."""

    def __bool__(self) -> bool:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


GOOD = json.loads(entry("stored-token"))


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xfe stored-token",
        '{"access_token": "stored-token"',
        '["stored-token"]',
        '"stored-token"',
        "17",
        "[" * 100_000,
        json.dumps({**GOOD, "v": 2}),
        json.dumps({name: value for name, value in GOOD.items() if name != "v"}),
        json.dumps({name: value for name, value in GOOD.items() if name != "expires_at"}),
        json.dumps({**GOOD, "access_token": "stored-token\r\nX-Header: y"}),
        json.dumps({**GOOD, "token_type": "Bearer x\r\nX-Header: y"}),
        json.dumps({**GOOD, "token_type": None}),
        json.dumps({**GOOD, "expires_at": float("nan")}),
        json.dumps({**GOOD, "expires_at": "soon"}),
        json.dumps({**GOOD, "issued_at": None}),
        json.dumps({**GOOD, "issued_at": float("inf")}),
        json.dumps({**GOOD, "scope": ["read"]}),
        json.dumps({**GOOD, "extra": 17}),
        17,
        {"access_token": "stored-token"},
        object(),
        Odd(),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_rubbish_is_logged_once_and_replaced(
    make_client: MakeClient,
    api: Api,
    clock: TurnedClock,
    caplog: pytest.LogCaptureFixture,
    value: Any,
) -> None:
    caplog.set_level(logging.DEBUG, logger="alf")
    storage = Locking()
    storage.entries["mine"] = value
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.get(api.url).status_code == 200
    assert json.loads(only(storage))["access_token"] == "token-1"
    (warning,) = warnings_of(caplog)
    assert "mine" in warning
    assert "stored-token" not in caplog.text


@pytest.mark.parametrize("scheme", ["DPoP", "Basic", "bearer-but-not-quite"])
def test_a_stored_token_of_another_scheme_is_replaced(
    make_client: MakeClient, api: Api, clock: TurnedClock, scheme: str
) -> None:
    storage = {"mine": json.dumps({**GOOD, "token_type": scheme})}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.get(api.url).status_code == 200
    assert [request.authorization for request in api.requests] == ["Bearer token-1"]
    assert json.loads(storage["mine"])["access_token"] == "token-1"


def test_members_that_a_later_version_adds_are_ignored(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    storage = {"mine": json.dumps({**GOOD, "more": 1})}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.token.access_token == "stored-token"


@pytest.mark.parametrize(
    "stored",
    [
        entry("stored-token", expires_at=NOW),
        entry("stored-token", issued_at=NOW - 3590, expires_at=NOW + 5),
        entry("stored-token", issued_at=NOW + 3600, expires_at=NOW + 7200),
    ],
    ids=["dead", "dead within the leeway", "of a wrong clock"],
)
def test_a_stored_token_that_is_not_good_is_replaced(
    make_client: MakeClient, clock: TurnedClock, stored: str
) -> None:
    storage = {"mine": stored}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.token.access_token == "token-1"
    assert json.loads(only(storage))["access_token"] == "token-1"


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
    assert make_client(token_storage=storage).token
    assert getattr(storage, "ttls", [None]) == [seen]


@pytest.mark.parametrize("expires_in", [0, -1])
def test_a_dead_token_is_never_stored(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, expires_in: int
) -> None:
    storage = Locking()
    client = make_client(token_storage=storage, clock=clock)
    tokens.expires_in = expires_in
    for _ in range(3):
        assert client.token
    assert not storage.entries
    # From the second on they are not asked for one process after the other, either.
    assert len(storage.taken) == 1
    tokens.expires_in = 3600
    assert client.token
    assert client.renew_token()
    assert len(storage.taken) == 2


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


# -- when storage is read ----------------------------------------------------------------------


def test_a_call_with_a_good_token_touches_no_storage(make_client: MakeClient, api: Api) -> None:
    storage = Faulty()
    client = make_client(token_storage=storage)
    client.get(api.url)
    storage.calls.clear()
    for _ in range(20):
        assert client.get(api.url).status_code == 200
    assert not storage.calls


def test_a_refused_token_is_replaced_from_storage(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    storage = Locking()
    first, second = (make_client(token_storage=storage) for _ in range(2))
    assert first.get(api.url).status_code == second.get(api.url).status_code == 200
    tokens.alive.clear()
    assert first.get(api.url).status_code == 200
    assert second.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


def test_storage_holds_the_refused_token_only_and_the_endpoint_gives_none(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    storage = Locking()
    client = make_client(token_storage=storage)
    assert client.get(api.url).status_code == 200
    before = dict(storage.entries)
    tokens.alive.clear()
    tokens.replies = [Reply(503)]
    assert client.get(api.url).status_code == 503
    assert storage.entries == before  # neither emptied nor replaced
    assert not storage.held
    assert client.get(api.url).status_code == 200
    assert json.loads(only(storage))["access_token"] == "token-2"


def test_early_renewal_takes_what_another_process_has_renewed(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    storage = Plain()
    first, second = (
        make_client(token_storage=storage, clock=clock, token_refresh="blocking") for _ in range(2)
    )
    assert first.token.access_token == second.token.access_token == "token-1"
    clock.turn(3560)
    assert first.token.access_token == second.token.access_token == "token-2"
    assert len(tokens.requests) == 2


def test_a_token_that_is_handed_out_until_it_is_dead_is_asked_for_by_one_process(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    def same(_request: Request) -> Reply:
        life = NOW + 3600 - clock.time()
        return Reply(body={"access_token": "same", "token_type": "Bearer", "expires_in": life})

    tokens.replies = [same] * 10
    storage = Locking()
    clients = [
        make_client(token_storage=storage, clock=clock, token_refresh="blocking") for _ in range(4)
    ]

    def call_all() -> int:
        for client in clients:
            for _ in range(3):
                assert client.token.access_token == "same"
        return len(tokens.requests)

    assert call_all() == 1
    clock.turn(3560)  # into the stretch for early renewal
    assert call_all() == 2
    clock.turn(39)  # into the leeway: there is no other to be had
    assert call_all() == 2


@pytest.mark.parametrize("expires_at", [NOW + 3600, None])
def test_a_newer_entry_is_not_overwritten_by_an_older_token(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, expires_at: float | None
) -> None:
    storage: dict[str, str] = {}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)

    def overtaken(_request: Request) -> Reply:
        clock.turn(2)
        storage["mine"] = entry("newer", issued_at=NOW + 1, expires_at=expires_at)
        return tokens.granted()

    tokens.replies = [overtaken]
    assert client.renew_token().access_token == "token-1"
    assert json.loads(storage["mine"])["access_token"] == "newer"
    assert client.renew_token().access_token == "token-2"
    assert json.loads(storage["mine"])["access_token"] == "token-2"


@pytest.mark.parametrize(
    "other",
    [
        entry("older", issued_at=NOW - 1),
        entry("dead", issued_at=NOW + 1, expires_at=NOW + 2),
        entry("of a fast clock", issued_at=NOW + 30).replace(" of a", "of-a").replace(" ", "-"),
    ],
    ids=["older", "dead", "of a fast clock"],
)
def test_an_entry_that_is_not_newer_is_overwritten(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, other: str
) -> None:
    storage: dict[str, str] = {}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)

    def overtaken(_request: Request) -> Reply:
        clock.turn(2)
        storage["mine"] = other
        return tokens.granted()

    tokens.replies = [overtaken]
    client.renew_token()
    assert json.loads(storage["mine"])["access_token"] == "token-1"


def test_a_reset_manager_takes_a_newer_token_of_another_process(tokens: TokenServer) -> None:
    storage: dict[str, str] = {}
    first, second = (
        TokenManager(tokens.endpoint, "client-id", "top-secret", storage) for _ in range(2)
    )
    assert first.get_token() == second.get_token() == "token-1"
    first.reset_token()
    assert first.get_token() == "token-2"
    second.reset_token()
    assert second.get_token() == "token-2"
    first.close()
    second.close()


# -- one asks for all --------------------------------------------------------------------------


class Waiting(TurnedClock):
    """A clock that calls ``while_waiting`` when somebody sleeps by it."""

    def __init__(self, while_waiting: Callable[[], object]) -> None:
        super().__init__()
        self.while_waiting = while_waiting

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.while_waiting()


def take(storage: Any, key: str = "mine:lock") -> Callable[[], object]:
    """Another process takes its turn."""
    if isinstance(storage, Locking):
        lock = storage.lock(key, 1)
        assert lock.acquire(blocking=False)
        return lock.release
    assert storage.add(key, "another")
    return lambda: storage.delete(key)


@pytest.mark.parametrize("make", [Locking, Adding])
def test_waits_for_the_entry_of_the_process_that_asks(
    make_client: MakeClient, tokens: TokenServer, make: type[Any]
) -> None:
    storage = make()
    give_back = take(storage)

    def finish() -> None:
        if len(clock.slept) == 5:
            storage.entries["mine"] = entry("of-another")

    clock = Waiting(finish)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.token.access_token == "of-another"
    assert len(clock.slept) == 5
    assert all(0.02 <= pause <= 0.5 for pause in clock.slept)
    assert not tokens.requests
    give_back()


@pytest.mark.parametrize("make", [Locking, Adding])
def test_asks_when_the_process_that_asked_had_no_success(
    make_client: MakeClient, tokens: TokenServer, make: type[Any]
) -> None:
    storage = make()
    give_back = take(storage)
    clock = Waiting(lambda: give_back() if len(clock.slept) == 3 else None)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.token.access_token == "token-1"
    assert len(clock.slept) == 3
    assert set(storage.entries) == {"mine"}  # and its own turn is given back


@pytest.mark.parametrize("make", [Locking, Adding])
@pytest.mark.parametrize(
    ("options", "longest"),
    [({}, 24.0), ({"token_timeout": 1}, 6.0), ({"token_retry": 5}, 63.0)],
    ids=str,
)
def test_a_dead_process_delays_the_others_and_does_not_stop_them(
    make_client: MakeClient,
    tokens: TokenServer,
    clock: TurnedClock,
    make: type[Any],
    options: dict[str, Any],
    longest: float,
) -> None:
    storage = make()
    take(storage)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock, **options)
    assert client.token.access_token == "token-1"
    assert longest - 2 < sum(clock.slept) < longest
    assert json.loads(storage.entries["mine"])["access_token"] == "token-1"


def test_a_turn_lasts_as_long_as_a_token_request_may(make_client: MakeClient) -> None:
    storage = Locking()
    assert make_client(token_storage=storage, token_storage_key="mine", token_timeout=3).token
    ((name, seconds),) = storage.taken
    assert name == "mine:lock"
    assert 7 <= seconds <= 9
    assert storage.given_back == ["mine:lock"]


def test_a_turn_that_ran_out_is_not_taken_from_the_next(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage = Adding()

    def slow(_request: Request) -> Reply:
        storage.entries["mine:lock"] = "the next one"
        return tokens.granted()

    tokens.replies = [slow]
    assert make_client(token_storage=storage, token_storage_key="mine").token
    assert storage.entries["mine:lock"] == "the next one"


@pytest.mark.parametrize("answer", [None, 0, False])
def test_an_add_that_says_no_although_nobody_has_the_turn(
    make_client: MakeClient, clock: TurnedClock, answer: Any
) -> None:
    class Swallowing(Adding):
        def add(self, key: str, value: str, expire: int = 0) -> Any:
            return answer

    client = make_client(token_storage=Swallowing(), clock=clock)
    assert client.token.access_token == "token-1"
    assert not clock.slept


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
    assert make_client(token_storage=storage).token
    assert len(storage.entries) == 1


def test_a_lock_that_cannot_be_given_back_is_no_outage(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Locking()
    client = make_client(token_storage=storage, token_storage_key="mine")
    storage.held = NeverRemoves()
    assert client.token
    assert client.renew_token()
    assert not warnings_of(caplog)


class NeverRemoves(set[str]):
    def add(self, name: str) -> None:
        """As if it ran out at once."""


def test_a_lock_that_fails_is_not_waited_for_and_the_token_shared_without(
    make_client: MakeClient, clock: TurnedClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Locking):
        works = False

        def lock(self, name: str, timeout: float) -> Any:
            if not self.works:
                raise ConnectionError
            return super().lock(name, timeout)

    storage = Failing()
    client = make_client(token_storage=storage, clock=clock)
    for number in range(1, 4):
        assert client.renew_token().access_token == f"token-{number}"
        assert json.loads(only(storage))["access_token"] == f"token-{number}"
    assert not clock.slept
    assert len(warnings_of(caplog)) == 1
    storage.works = True
    clock.turn(10)
    client.renew_token()
    assert len(storage.taken) == 1


def test_an_interrupted_process_gives_its_turn_back(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    class Interrupting(Locking):
        def set(self, key: str, value: str) -> Any:
            raise KeyboardInterrupt

    storage = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        _ = make_client(token_storage=storage).token
    assert storage.taken
    assert not storage.held


# -- one thread at a time ----------------------------------------------------------------------


def test_a_storage_is_called_by_one_thread_at_a_time(
    tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    alone = threading.Lock()

    class NotThreadSafe(Expiring):
        def get(self, key: str) -> Any:
            assert alone.acquire(blocking=False), "two threads at once"
            try:
                return super().get(key)
            finally:
                alone.release()

        def set(self, key: str, value: str, ttl: int | None = None) -> Any:
            assert alone.acquire(blocking=False), "two threads at once"
            try:
                return super().set(key, value, ttl)
            finally:
                alone.release()

    manager = TokenManager(tokens.endpoint, "client-id", "top-secret", NotThreadSafe())
    barrier = threading.Barrier(8)
    calls = [manager.get_token, manager.reset_token, manager.renew, manager.token]

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(40):
            calls[(number + turn) % 4]()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    manager.close()
    assert not warnings_of(caplog)


def test_a_storage_that_hangs_holds_up_one_caller_and_the_next_for_a_while(
    tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    hanging, resumed = threading.Event(), threading.Event()

    class Hanging(Plain):
        def get(self, key: str) -> Any:
            hanging.set()
            assert resumed.wait(20)
            return super().get(key)

    manager = TokenManager(tokens.endpoint, "client-id", "top-secret", Hanging())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(manager.get_token)
        assert hanging.wait(20)
        manager.reset_token()  # looks into storage, too
        (warning,) = warnings_of(caplog)
        assert "TimeoutError" in warning
        resumed.set()
        assert first.result(20) == "token-1"
    manager.close()


@needs_fork
def test_a_fork_while_another_thread_calls_the_storage(tokens: TokenServer, api: Api) -> None:
    run(
        """
from alf import TokenManager
hanging, resumed = threading.Event(), threading.Event()
parent = os.getpid()

class Storage(dict):
    def get(self, key):
        if os.getpid() == parent:
            hanging.set()
            assert resumed.wait(20)
        return super().get(key)

storage = Storage()
manager = TokenManager(token_endpoint, "client-id", "top-secret", storage)
thread = threading.Thread(target=manager.get_token)
thread.start()
assert hanging.wait(20)

def call():
    assert manager.get_token()
    assert storage, "it was not stored"

wait_for(in_child(call))
resumed.set()
thread.join()
""",
        tokens,
        api,
    )


# -- faults ------------------------------------------------------------------------------------


FAULTS = [ConnectionError("down"), TimeoutError(), OSError(28, "full"), RuntimeError("x"), Odd()]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("broken", ["get", "set", "both"])
def test_calls_go_on_while_a_storage_fails(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    clock: TurnedClock,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    broken: str,
) -> None:
    caplog.set_level(logging.DEBUG, logger="alf")
    storage = Faulty()
    storage.get_error = None if broken == "set" else error
    storage.set_error = None if broken == "get" else error
    client = make_client(token_storage=storage, clock=clock, token_refresh="blocking")
    for _ in range(100):
        assert client.get(api.url).status_code == 200
        clock.turn(30)
    (warning,) = warnings_of(caplog)
    assert "token storage" in warning
    assert type(error).__name__ in warning
    # 1, 2, 4 … 60 s apart, though there were a hundred calls.
    assert 40 <= len(storage.calls) <= 2 * 100
    assert len(tokens.requests) == 1
    # It works again: the token in memory goes there, and nobody hears of it.
    storage.get_error = storage.set_error = None
    clock.turn(60)
    assert client.get(api.url).status_code == 200
    assert json.loads(only(storage))["access_token"] == "token-1"
    assert storage.ttls[-1] == 3600 - 100 * 30 - 60
    assert len(tokens.requests) == 1
    assert len(warnings_of(caplog)) == 1
    assert caplog.records[-1].levelno == logging.INFO
    # Once is enough, and the next outage is told of again.
    storage.calls.clear()
    client.get(api.url)
    assert not storage.calls
    storage.get_error = error
    client.renew_token()
    assert len(warnings_of(caplog)) == 2


def test_a_storage_in_trouble_is_tried_at_a_bounded_rate(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    storage = Faulty()
    storage.get_error = TimeoutError()
    client = make_client(token_storage=storage, clock=clock)
    pauses = []
    before = clock.monotonic()
    while len(pauses) < 12:
        storage.calls.clear()
        client.renew_token()  # reads storage, and writes it, each time
        if storage.calls:
            assert storage.calls == ["get"]  # one time-out, not four
            pauses.append(clock.monotonic() - before)
            before = clock.monotonic()
        clock.turn(0.5)
    assert 1 <= pauses[1] <= 1.5
    assert all(later <= 60.5 for later in pauses)
    assert min(pauses[8:]) >= 30


def test_a_storage_in_trouble_is_written_in_the_background(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    written, resumed = threading.Event(), threading.Event()

    class Slow(Faulty):
        def set(self, key: str, value: str, ttl: int | None = None) -> Any:
            if self.set_error is None:
                assert resumed.wait(20)
                written.set()
            return super().set(key, value, ttl)

    storage = Slow()
    storage.set_error = ConnectionError()
    client = make_client(token_storage=storage, clock=clock)
    assert client.token
    storage.set_error = None
    clock.turn(2)
    assert client.token.access_token == "token-1"  # is not held up
    resumed.set()
    assert written.wait(20)
    assert len(tokens.requests) == 1


def test_a_token_that_was_reset_is_not_brought_back_by_storing_it_late(
    tokens: TokenServer, clock: TurnedClock
) -> None:
    class Resetting(Faulty):
        def set(self, key: str, value: str, ttl: int | None = None) -> Any:
            if not self.entries and self.set_error is None:
                manager.reset_token()
            return super().set(key, value, ttl)

    storage = Resetting()
    storage.set_error = ConnectionError()
    manager = TokenManager(
        tokens.endpoint, "client-id", "top-secret", storage, token_refresh="blocking", clock=clock
    )
    assert manager.get_token() == "token-1"
    storage.set_error = None
    clock.turn(2)
    assert manager.get_token() == "token-1"
    assert manager.get_token() == "token-2"
    manager.close()


def test_a_token_that_is_due_for_renewal_is_renewed_rather_than_stored_late(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    storage = Faulty()
    storage.set_error = ConnectionError()
    client = make_client(token_storage=storage, clock=clock, token_refresh="blocking")
    assert client.token
    storage.set_error = None
    clock.turn(3560)
    assert client.token.access_token == "token-2"
    assert json.loads(only(storage))["access_token"] == "token-2"


def test_an_outage_that_shows_in_writing_first_is_told_of_once(
    make_client: MakeClient, clock: TurnedClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Faulty()
    storage.set_error = ConnectionError()
    client = make_client(token_storage=storage, clock=clock)
    assert client.token
    storage.get_error = ConnectionError()
    for _ in range(5):
        client.renew_token()
        clock.turn(10)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("answer", [False, 0])
def test_a_set_that_says_no(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    class Full(Plain):
        def set(self, key: str, value: str) -> Any:
            return answer

    assert make_client(token_storage=Full()).token
    assert len(warnings_of(caplog)) == 1


def test_a_set_that_says_no_and_means_yes(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(Plain):
        def set(self, key: str, value: str) -> Any:
            super().set(key, value)
            return 0  # new fields, as Redis' HSET says

    assert make_client(token_storage=Counting()).token
    assert not warnings_of(caplog)


def test_logs_show_no_token_whatever_a_storage_raises(
    make_client: MakeClient, clock: TurnedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    class Quoting(Locking):
        def get(self, key: str) -> Any:
            if key in self.entries:
                message = f"cannot read {self.entries[key]}"
                raise ValueError(message)
            return None

        def set(self, key: str, value: str) -> Any:
            super().set(key, value)
            message = f"cannot write {value}"
            raise ValueError(message)

    storage = Quoting()
    client = make_client(token_storage=storage, clock=clock, token_refresh="blocking")
    for _ in range(5):
        client.renew_token()
        clock.turn(60)
    assert "ValueError" in caplog.text
    assert "token-1" not in caplog.text
    assert "top-secret" not in caplog.text


# -- files -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "alf"


def test_files_keep_the_token_for_the_next_start(
    make_client: MakeClient, tokens: TokenServer, api: Api, folder: Path
) -> None:
    for _ in range(3):
        client = make_client(token_storage=FileStorage(folder))
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    tokens.alive.clear()
    for _ in range(2):
        client = make_client(token_storage=FileStorage(str(folder)))
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


@pytest.mark.skipif(os.name != "posix", reason="modes and owners of files are POSIX's")
def test_files_are_for_their_owner_only(make_client: MakeClient, folder: Path) -> None:
    before = os.umask(0)
    try:
        assert make_client(token_storage=FileStorage(folder)).token
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


@pytest.mark.skipif(os.name != "posix", reason="modes and owners of files are POSIX's")
def test_a_link_that_somebody_put_there_is_not_followed(tmp_path: Path, folder: Path) -> None:
    storage = FileStorage(folder)
    storage.set("key", "mine")
    (file,) = folder.iterdir()
    planted = tmp_path / "planted"
    planted.write_text("theirs")
    file.unlink()
    file.symlink_to(planted)
    assert storage.get("key") is None
    storage.set("key", "mine")
    assert storage.get("key") == "mine"
    assert planted.read_text() == "theirs"


@pytest.mark.skipif(os.name != "posix", reason="pipes among files are POSIX's")
def test_a_pipe_that_somebody_put_there_blocks_nobody(
    make_client: MakeClient, tokens: TokenServer, folder: Path
) -> None:
    storage = FileStorage(folder)
    storage.set("key", "mine")
    (file,) = folder.iterdir()
    file.unlink()
    os.mkfifo(file)
    assert not storage.get("key")


@pytest.mark.skipif(os.name != "posix", reason="modes and owners of files are POSIX's")
def test_a_folder_that_anybody_may_write_to_is_not_used(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path, folder: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    storage = FileStorage(folder)
    release = storage.claim("key", 1)
    assert release is not None
    release()
    (lock,) = folder.iterdir()
    lock.unlink()
    lock.symlink_to(victim)
    folder.chmod(0o777)
    assert make_client(token_storage=storage).token.access_token == "token-1"
    for write in (lambda: storage.set("key", "mine"), lambda: storage.claim("key", 1)):
        with pytest.raises(PermissionError, match="not this user's own"):
            write()
    assert victim.read_text() == "precious"
    assert list(folder.iterdir()) == [lock]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_a_folder_of_another_user_is_not_used(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chown(folder, 65534, 65534)
    with pytest.raises(PermissionError, match="not this user's own"):
        FileStorage(folder).set("key", "mine")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_a_file_of_another_user_counts_as_absent(folder: Path) -> None:
    storage = FileStorage(folder)
    storage.set("key", "theirs")
    (file,) = folder.iterdir()
    os.chown(file, 65534, 65534)
    assert storage.get("key") is None
    storage.set("key", "mine")
    assert storage.get("key") == "mine"


def test_files_are_in_the_users_cache_folder(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    assert make_client(token_storage=FileStorage()).token
    assert list(tmp_path.rglob("alf/*.json")) or list(tmp_path.rglob("alf/*/*.json"))


def test_keys_of_files_differ_as_they_do_elsewhere(folder: Path) -> None:
    storage = FileStorage(folder)
    keys = ["a/b", "a:b", "../a", "A:B", "x" * 240]
    for key in keys:
        storage.set(key, key)
    assert [storage.get(key) for key in keys] == keys
    assert len(list(folder.iterdir())) == len(keys)
    assert storage.get("none") is None


def test_a_file_is_replaced_as_a_whole_or_not_at_all(folder: Path) -> None:
    storage = FileStorage(folder)
    storage.set("key", "before")
    with pytest.raises(UnicodeEncodeError):
        storage.set("key", "after \udc80")
    assert storage.get("key") == "before"
    assert len(list(folder.iterdir())) == 1


def test_a_truncated_file_is_replaced(
    make_client: MakeClient, tokens: TokenServer, folder: Path
) -> None:
    assert make_client(token_storage=FileStorage(folder)).token
    (file,) = folder.glob("*.json")
    file.write_bytes(file.read_bytes()[:20])
    for _ in range(2):
        token = make_client(token_storage=FileStorage(folder)).token
        assert token.access_token == "token-2"
    assert len(tokens.requests) == 2


def test_a_folder_that_cannot_be_made(
    make_client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    client = make_client(token_storage=FileStorage(tmp_path / "file" / "alf"))
    assert client.token.access_token == "token-1"
    assert len(warnings_of(caplog)) == 1


def test_one_process_at_a_time_has_the_turn_of_a_file(folder: Path) -> None:
    first, second = FileStorage(folder), FileStorage(folder)
    release = first.claim("name", 1)
    assert release is not None
    assert second.claim("name", 1) is None
    other = second.claim("other", 1)
    assert other is not None
    release()
    again = second.claim("name", 1)
    assert again is not None
    again()
    other()


# -- encryption --------------------------------------------------------------------------------

KEYS = [Fernet.generate_key() for _ in range(3)]


@pytest.mark.parametrize("make", [dict, Expiring, Locking, Adding])
def test_an_encrypted_storage_is_shared_and_shows_nothing(
    make_client: MakeClient, tokens: TokenServer, api: Api, make: type[Any]
) -> None:
    storage = make()
    for key in (KEYS[0], KEYS[0].decode(), [KEYS[1], KEYS[0]]):
        client = make_client(token_storage=EncryptedStorage(storage, key))
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    assert "token-1" not in str(only(storage))
    assert getattr(storage, "ttls", [3600]) == [3600]
    assert len(getattr(storage, "given_back", [1])) == 1


def test_an_encrypted_storage_passes_the_turn_on(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    storage = Adding()
    take(storage)
    client = make_client(
        token_storage=EncryptedStorage(storage, KEYS[0]), token_storage_key="mine", clock=clock
    )
    assert client.token
    assert clock.slept


def test_keys_are_rotated(make_client: MakeClient, tokens: TokenServer) -> None:
    storage = Plain()
    for keys, expected in [
        (KEYS[0], "token-1"),
        ([KEYS[1], KEYS[0]], "token-1"),
        (KEYS[1], "token-2"),  # it was not stored anew meanwhile
        ([KEYS[2], KEYS[1]], "token-2"),
    ]:
        client = make_client(token_storage=EncryptedStorage(storage, keys))
        assert client.token.access_token == expected
    client.renew_token()
    client = make_client(token_storage=EncryptedStorage(storage, KEYS[2]))
    assert client.token.access_token == "token-3"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda secret: secret[:-8],
        lambda secret: secret.swapcase(),
        lambda secret: b"\xff\xfe",
        lambda secret: entry("in the clear").replace(" ", ""),
        lambda secret: Fernet(KEYS[1]).encrypt(entry("of-another-key").encode()),
        lambda secret: Fernet(KEYS[0]).encrypt(b"\xff\xff"),
        lambda secret: Fernet(KEYS[0]).encrypt(entry("without-its-key").encode()),
        lambda secret: 17,
    ],
)
def test_a_value_that_does_not_verify_is_absent(
    make_client: MakeClient,
    tokens: TokenServer,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[str], Any],
) -> None:
    storage = Locking()
    encrypted = EncryptedStorage(storage, KEYS[0])
    assert make_client(token_storage=encrypted).token
    (key,) = storage.entries
    storage.entries[key] = spoil(storage.entries[key])
    assert make_client(token_storage=encrypted).token.access_token == "token-2"
    assert make_client(token_storage=encrypted).token.access_token == "token-2"
    (warning,) = warnings_of(caplog)
    assert "does not verify" in warning


def test_entries_cannot_be_swapped(make_client: MakeClient) -> None:
    storage = Plain()
    encrypted = EncryptedStorage(storage, KEYS[0])
    for key in ("mine", "theirs"):
        assert make_client(token_storage=encrypted, token_storage_key=key).token
    storage.entries["mine"] = storage.entries["theirs"]
    client = make_client(token_storage=encrypted, token_storage_key="mine")
    assert client.token.access_token == "token-3"


@pytest.mark.parametrize("key", ["", b"short", "top-secret" * 10, [], [KEYS[0], "no"], 17, None])
def test_a_key_that_cannot_encrypt(key: Any) -> None:
    with pytest.raises(ValueError, match="32 bytes") as failure:
        EncryptedStorage({}, key)
    assert "top-secret" not in str(failure.value)


class GetsAndSets:
    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.entries.get(key)

    def __setitem__(self, key: str, value: str) -> None:
        self.entries[key] = value


@pytest.mark.parametrize(
    ("inner", "is_removed"),
    [(dict, True), (Adding, True), (Plain, False), (GetsAndSets, False)],
)
def test_a_token_is_removed_where_the_storage_can_do_that(
    inner: type[Any], is_removed: bool
) -> None:
    storage = TokenStorage(EncryptedStorage(inner(), KEYS[0]), "mine")
    token = Token("a-token")
    storage.save(token)
    storage.remove(Token("another"))
    assert storage.load() == token
    storage.remove(token)
    assert storage.load() == (None if is_removed else token)


def test_a_token_is_removed_from_its_file(folder: Path) -> None:
    storage = TokenStorage(FileStorage(folder), "mine")
    storage.save(Token("a-token"))
    storage.remove(Token("a-token"))
    assert storage.load() is None
    assert not list(folder.glob("*.json"))
    FileStorage(folder).delete("mine")


def test_an_encrypted_storage_around_none() -> None:
    with pytest.raises(TypeError, match="token_storage"):
        EncryptedStorage(object(), KEYS[0])


def test_storages_of_alf_travel_with_a_pickled_client(
    make_client: MakeClient, tokens: TokenServer, folder: Path
) -> None:
    client = make_client(token_storage=EncryptedStorage(FileStorage(folder), KEYS[0]))
    assert client.token
    with pickle.loads(pickle.dumps(client)) as clone:
        assert clone.token.access_token == "token-1"
    assert len(tokens.requests) == 1


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("filelock", FileStorage, "file"),
        ("platformdirs", FileStorage, "file"),
        ("cryptography.fernet", lambda: EncryptedStorage({}, KEYS[0]), "crypto"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Callable[[], object], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"alf\[{extra}\]"):
        make()
