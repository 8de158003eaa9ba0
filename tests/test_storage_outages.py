"""A failing storage never fails a call."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from alf import Client, Token, TokenManager
from alf._token_storage import TokenStorage
from tests.servers import Api, TokenServer, TurnedClock
from tests.storage_doubles import (
    Faulty,
    Locking,
    Odd,
    Plain,
    only,
    warnings_of,
)

MakeClient = Callable[..., Client]

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
        clock.turn(15)
    (warning,) = warnings_of(caplog)
    assert "token storage" in warning
    assert type(error).__name__ in warning
    # 1, 2, 4 … 60 s apart, though there were a hundred calls.
    assert 20 <= len(storage.calls) <= 2 * 100
    assert len(tokens.requests) == 1
    # It works again: the token in memory goes there, and nobody hears of it.
    storage.get_error = storage.set_error = None
    clock.turn(60)
    assert client.get(api.url).status_code == 200
    assert json.loads(only(storage))["access_token"] == "token-1"
    assert storage.ttls[-1] == 3600 - 100 * 15 - 60
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
    assert client.ensure_token()
    storage.set_error = None
    clock.turn(2)
    assert client.ensure_token().access_token == "token-1"  # is not held up
    resumed.set()
    assert written.wait(20)
    assert len(tokens.requests) == 1


def test_a_token_that_was_replaced_meanwhile_is_not_stored_late(make_client: MakeClient) -> None:
    class Meanwhile(TurnedClock):
        """Somebody else acts between a caller's look at the token and what the caller does."""

        def __init__(self) -> None:
            super().__init__()
            self.acts: list[Callable[[], object]] = []

        def monotonic(self) -> float:
            if self.acts:
                self.acts.pop()()
            return super().monotonic()

    clock, storage = Meanwhile(), Faulty()
    storage.set_error = ConnectionError()
    client = make_client(token_storage=storage, clock=clock, token_refresh="blocking")
    assert client.ensure_token().access_token == "token-1"
    storage.set_error = None
    clock.turn(2)
    clock.acts = [client.renew_token]
    assert client.ensure_token().access_token == "token-2"
    assert json.loads(only(storage))["access_token"] == "token-2"
    assert storage.calls.count("set") == 2


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
    assert client.ensure_token()
    storage.set_error = None
    clock.turn(3560)
    assert client.ensure_token().access_token == "token-2"
    assert json.loads(only(storage))["access_token"] == "token-2"


def test_an_outage_that_shows_in_writing_first_is_told_of_once(
    make_client: MakeClient, clock: TurnedClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Faulty()
    storage.set_error = ConnectionError()
    client = make_client(token_storage=storage, clock=clock)
    assert client.ensure_token()
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

    assert make_client(token_storage=Full()).ensure_token()
    assert len(warnings_of(caplog)) == 1


def test_a_set_that_says_no_and_means_yes(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(Plain):
        def set(self, key: str, value: str) -> Any:
            super().set(key, value)
            return 0  # new fields, as Redis' HSET says

    assert make_client(token_storage=Counting()).ensure_token()
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


def test_an_answer_to_set_that_is_neither_true_nor_false_says_nothing(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Answering(Plain):
        def set(self, key: str, value: str) -> Any:
            super().set(key, value)
            return Odd()

    assert make_client(token_storage=Answering()).ensure_token()
    assert not warnings_of(caplog)


def test_an_error_without_a_text_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    storage = Faulty()
    storage.get_error = Odd()
    assert TokenStorage(storage, "mine").load() is None
    assert len(warnings_of(caplog)) == 1


def test_a_token_that_cannot_be_removed_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    class Keeping(Plain):
        def delete(self, key: str) -> None:
            raise ConnectionError

    shared = TokenStorage(Keeping(), "mine")
    shared.save(Token("a-token"))
    shared.remove(Token("a-token"))
    (warning,) = warnings_of(caplog)
    assert "writing mine failed" in warning
