"""Calls of a storage take a limited time, whatever the storage does."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from alf._storage_calls import StorageCallError, StorageCalls
from tests.test_processes import needs_fork


def fail(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


def test_a_call_gives_what_the_function_returns_or_raises() -> None:
    call = StorageCalls()
    assert call(lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(StorageCallError) as failure:
        call(fail(ValueError("x")))
    assert isinstance(failure.value.error, ValueError)
    with pytest.raises(KeyboardInterrupt):
        call(fail(KeyboardInterrupt()))
    assert call(lambda: "again") == "again"


def test_a_call_sees_the_context_of_its_caller() -> None:
    variable = contextvars.ContextVar("variable", default="nothing")
    variable.set("mine")
    assert StorageCalls()(variable.get) == "mine"


def test_all_calls_are_made_in_one_thread() -> None:
    call = StorageCalls()
    threads = {call(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_storage_may_call_the_client_that_calls_it() -> None:
    call = StorageCalls()
    assert call(lambda: call(lambda: "inner")) == "inner"


def test_a_call_that_hangs_is_left_alone_until_it_ends() -> None:
    call = StorageCalls()
    resumed = threading.Event()
    started_at = time.monotonic()
    with pytest.raises(StorageCallError) as failure:
        call(resumed.wait, 60)
    assert isinstance(failure.value.error, TimeoutError)
    with pytest.raises(StorageCallError) as failure:
        call(lambda: "not made")
    assert isinstance(failure.value.error, TimeoutError)
    assert time.monotonic() - started_at < 10
    resumed.set()
    assert until_made(call) == "made"


class TimeLimitExceeded(Exception):
    """As Celery's: raised by a signal handler, in whatever the main thread does."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no such timer")
def test_a_time_limit_that_strikes_during_a_call_is_the_callers() -> None:
    def strike(*_arguments: object) -> None:
        raise TimeLimitExceeded

    def strike_soon() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        resumed.wait(60)

    call = StorageCalls()
    resumed = threading.Event()
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with pytest.raises(TimeLimitExceeded):
            call(strike_soon)
    finally:
        signal.signal(signal.SIGALRM, before)
    # The others know at once that the call is abandoned, and later that it has come back.
    with pytest.raises(StorageCallError):
        call(lambda: "not made")
    resumed.set()
    assert until_made(call) == "made"


def until_made(call: StorageCalls) -> object:
    deadline = time.monotonic() + 20
    while True:
        try:
            return call(lambda: "made")
        except StorageCallError:
            assert time.monotonic() < deadline


def test_a_thread_that_never_started_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_thread: threading.Thread) -> None:
        raise TimeLimitExceeded

    call = StorageCalls()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(TimeLimitExceeded):
            call(lambda: "not made")
    assert call(lambda: threading.current_thread().name) == "alf-storage"


def test_a_caller_makes_the_call_if_there_is_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> Any:
        message = "can't start new thread"
        raise RuntimeError(message)

    call = StorageCalls()
    monkeypatch.setattr(threading, "Thread", refuse)
    assert call(threading.get_ident) == threading.get_ident()
    with pytest.raises(StorageCallError):
        call(fail(OSError()))
    assert call(threading.get_ident) == threading.get_ident()


def test_an_interrupt_without_a_thread_does_not_block_the_calls_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: Any, **_options: Any) -> Any:
        message = "can't start new thread"
        raise RuntimeError(message)

    class Interrupting(threading.Condition):  # type: ignore[misc]
        """Strikes when the lock is taken to end the call."""

        is_armed = False

        def __enter__(self) -> bool:
            if Interrupting.is_armed:
                Interrupting.is_armed = False
                raise TimeLimitExceeded
            return super().__enter__()

    def arm() -> str:
        Interrupting.is_armed = True
        return "made"

    monkeypatch.setattr(threading, "Condition", Interrupting)
    monkeypatch.setattr(threading, "Thread", refuse)
    call = StorageCalls()
    with pytest.raises(TimeLimitExceeded):
        call(arm)
    assert call(lambda: "the next") == "the next"


def test_a_fork_that_ran_no_hooks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    call = StorageCalls()
    before = call(threading.get_ident)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        # The thread of the parent is not there.
        assert call(lambda: threading.current_thread().name) == "alf-storage"
        assert call(threading.get_ident) != before


@needs_fork
def test_a_child_has_a_thread_of_its_own() -> None:
    call = StorageCalls()
    assert call(lambda: "parent") == "parent"
    child = os.fork()
    if child == 0:
        os._exit(0 if call(lambda: "child") == "child" else 1)
    assert os.waitpid(child, 0)[1] == 0
