"""One process requests the token and the others wait for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from alf import Client, Token, TokenManager
from alf._backends import ProcessLocks
from alf._token_storage import LockBusyError, TokenStorage
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock
from tests.storage_doubles import (
    NOW,
    Adding,
    Expiring,
    Locking,
    Plain,
    Waiting,
    entry,
    only,
    take,
    warnings_of,
)
from tests.test_processes import needs_fork, run

MakeClient = Callable[..., Client]

# -- one asks for all --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Locking, Adding])
def test_waits_for_the_entry_of_the_process_that_requests_it(
    make_client: MakeClient, tokens: TokenServer, make: type[Any]
) -> None:
    storage = make()
    give_back = take(storage)

    def finish() -> None:
        if len(clock.slept) == 5:
            storage.entries["mine"] = entry("of-another")

    clock = Waiting(finish)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token().access_token == "of-another"
    assert len(clock.slept) == 5
    assert all(0.02 <= pause <= 0.5 for pause in clock.slept)
    assert not tokens.requests
    give_back()


@pytest.mark.parametrize("make", [Locking, Adding])
def test_requests_a_token_when_the_process_that_tried_had_no_success(
    make_client: MakeClient, tokens: TokenServer, make: type[Any]
) -> None:
    storage = make()
    give_back = take(storage)
    clock = Waiting(lambda: give_back() if len(clock.slept) == 3 else None)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token().access_token == "token-1"
    assert len(clock.slept) == 3
    assert set(storage.entries) == {"mine"}  # and its own turn is given back


def holder(expected: float | None) -> str:
    """The value of a lock of a process that expects its request to take so many seconds."""
    return json.dumps([2, "another", expected, 0.0 if expected is None else NOW + expected])


@pytest.mark.parametrize(
    ("value", "options", "longest"),
    [
        ("not alf's", {}, 3.0),
        ("[2]", {}, 3.0),
        (json.dumps([1, "another", 0.5, 0.0]), {}, 3.0),
        (holder(0.5), {}, 4.5),
        (holder(10), {"token_timeout": 1}, 8.0),
        (holder(None), {"token_timeout": 1}, 8.0),
        (holder(None), {"token_timeout": 1000}, 85.0),
    ],
)
def test_a_dead_process_delays_the_others_and_does_not_stop_them(
    make_client: MakeClient,
    clock: TurnedClock,
    value: str,
    options: dict[str, Any],
    longest: float,
) -> None:
    storage = Adding()
    take(storage, value=value)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock, **options)
    assert client.ensure_token().access_token == "token-1"
    assert longest / 3 < sum(clock.slept) < longest
    assert json.loads(storage.entries["mine"])["access_token"] == "token-1"
    assert set(storage.entries) == {"mine"}  # the dead process's lock is gone, too


def test_a_dead_process_delays_the_others_if_its_lock_shows_no_holder(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    storage = Locking()
    take(storage)
    client = make_client(
        token_storage=storage, token_storage_key="mine", clock=clock, token_timeout=1
    )
    assert client.ensure_token().access_token == "token-1"
    assert 3 < sum(clock.slept) < 8


def test_a_waiting_process_looks_when_the_holder_expects_to_be_done(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage = Adding()
    take(storage, value=holder(3.0))

    def finish() -> None:
        if clock.time() >= NOW + 3:
            storage.entries["mine"] = entry("of-another")

    clock = Waiting(finish)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token().access_token == "of-another"
    assert len(clock.slept) == 2
    assert 3 < sum(clock.slept) < 4
    assert not tokens.requests


def test_a_long_request_of_unknown_length_costs_few_looks(make_client: MakeClient) -> None:
    storage = Adding()
    take(storage, value=holder(None))

    def finish() -> None:
        if clock.time() >= NOW + 3:
            storage.entries["mine"] = entry("of-another")

    clock = Waiting(finish)
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token().access_token == "of-another"
    assert len(clock.slept) <= 10
    assert sum(clock.slept) < 3 + 0.1 + 1


@pytest.mark.parametrize("make", [Locking, Adding])
def test_nobody_waits_for_the_lock_who_does_not_want_to(make: type[Any]) -> None:
    storage = make()
    give_back = take(storage)
    shared = TokenStorage(storage, "mine", max_duration=3)
    with pytest.raises(LockBusyError), shared.exclusive(lambda _token: True, wait=False):
        pytest.fail("it is not ours")
    give_back()
    with shared.exclusive(lambda _token: True, wait=False) as stored:
        assert stored is None
        shared.save(Token("a-token"))
    with shared.exclusive(lambda _token: True, wait=False) as stored:
        assert stored == Token("a-token")


@pytest.mark.parametrize("make", [dict, Plain, Expiring])
@pytest.mark.parametrize("way", ["cold", "expired"])
def test_clients_of_one_process_request_one_token_whatever_the_storage(
    make_client: MakeClient, tokens: TokenServer, make: type[Any], way: str
) -> None:
    storage = make()
    barrier = threading.Barrier(16)

    def slow(_request: Request) -> Reply:
        threading.Event().wait(0.05)
        return tokens.granted()

    tokens.script = slow

    def work(_number: int) -> str:
        client = make_client(token_storage=storage, token_storage_key="mine")
        barrier.wait()
        return client.ensure_token().access_token

    if way == "expired":
        dead = entry("dead")
        getattr(storage, "entries", storage)["mine"] = dead
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(work, range(16))) == {"token-1"}
    assert len(tokens.requests) == 1


def test_a_lock_lasts_as_long_as_a_token_request_may(make_client: MakeClient) -> None:
    storage = Locking()
    assert make_client(
        token_storage=storage, token_storage_key="mine", token_timeout=3
    ).ensure_token()
    ((name, seconds),) = storage.taken
    assert name == "mine:lock"
    assert 4 <= seconds <= 6
    assert storage.given_back == ["mine:lock"]


def test_a_lock_that_expired_is_not_taken_from_the_next_holder(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage = Adding()

    def slow(_request: Request) -> Reply:
        storage.entries["mine:lock"] = "the next one"
        return tokens.granted()

    tokens.replies = [slow]
    assert make_client(token_storage=storage, token_storage_key="mine").ensure_token()
    assert storage.entries["mine:lock"] == "the next one"


def test_a_lock_that_cannot_be_released_is_not_used_again(
    make_client: MakeClient, clock: TurnedClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Locking()
    storage.release_error = NotImplementedError()
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    for _ in range(3):
        assert client.renew_token()
    assert len(storage.taken) == 1
    (warning,) = warnings_of(caplog)
    assert "could not be released" in warning
    assert not clock.slept


GONE = [ConnectionError(), OSError(28, "full"), type("TimeoutError", (Exception,), {})()]


@pytest.mark.parametrize("error", GONE, ids=["system's", "another of it", "library's own"])
def test_a_storage_that_is_gone_when_the_lock_is_released_is_an_outage(
    make_client: MakeClient,
    clock: TurnedClock,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    storage = Locking()
    storage.release_error = error
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token()
    (warning,) = warnings_of(caplog)
    assert "locking mine failed" in warning
    storage.release_error = None
    storage.held.clear()
    clock.turn(2)
    assert client.renew_token()
    assert len(storage.given_back) == 1


def test_a_lock_whose_value_is_not_a_text_is_waited_for_briefly(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    storage = Adding()
    storage.entries["mine:lock"] = b"\xff"
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token().access_token == "token-1"
    assert sum(clock.slept) < 4


@pytest.mark.parametrize(("credential", "is_over"), [("top-secret", True), (None, False)])
def test_a_refusal_ends_the_wait_for_the_lock(credential: str | None, is_over: bool) -> None:
    storage = Adding()
    take(storage, value=holder(None))

    def refuse() -> None:
        if len(clock.slept) == 1:
            first.save_refusal("top-secret", 401)
        if len(clock.slept) == 2:
            storage.entries["mine:lock"] = holder(0.5)

    clock = Waiting(refuse)
    first, second = (TokenStorage(storage, "mine", clock=clock, max_duration=3) for _ in range(2))
    second.credential = credential
    with second.exclusive(lambda _token: True) as stored:
        assert stored is None
    assert (len(clock.slept) == 2) == is_over


def test_a_lock_among_threads_ends_by_itself() -> None:
    locks = ProcessLocks()
    assert locks.take("name", "one", 0)
    assert locks.take("name", "two", 60)
    locks.release("name", "one")
    assert locks.holder("name") == "two"
    assert not locks.take("name", "three", 60)
    locks.release("name", "two")
    assert locks.take("name", "three", 60)


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


def test_a_lock_is_not_released_while_the_storage_is_left_alone() -> None:
    class Failing(Locking):
        works = True

        def lock(self, name: str, timeout: float) -> Any:
            if not self.works:
                raise ConnectionError
            return super().lock(name, timeout)

    storage = Failing()
    shared = TokenStorage(storage, "mine", max_duration=3)
    with shared.exclusive(lambda _token: True, wait=False):
        storage.works = False
        with shared.exclusive(lambda _token: True, wait=False) as stored:
            assert stored is None
    assert not storage.given_back


def test_an_interrupted_process_releases_its_lock(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    class Interrupting(Locking):
        def set(self, key: str, value: str) -> Any:
            raise KeyboardInterrupt

    storage = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        _ = make_client(token_storage=storage).ensure_token()
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
        warnings = warnings_of(caplog)
        assert warnings
        assert all("TimeoutError" in warning for warning in warnings)
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
