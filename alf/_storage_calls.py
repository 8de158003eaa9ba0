"""Calls a storage: one call at a time, in a separate thread, with a time limit."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from alf._forks import register_after_fork

__all__ = ["LockBusyError", "StorageCallError", "StorageCalls"]

#: Seconds that a call may take, whatever the cache's client does in that time: redis-py 8, for
#: example, retries for a minute by default.
_LONGEST_CALL = 0.75

#: Seconds after which an idle thread ends.
_IDLE = 5.0


class LockBusyError(Exception):
    """Another process holds the lock."""


class StorageCallError(Exception):
    """A call of the storage failed or took too long.

    :param error: what the storage raised, or a :class:`TimeoutError`.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Call:
    """One call and its outcome."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[object, ...], give_up_at: float
    ) -> None:
        self._function = partial(contextvars.copy_context().run, function, *args)
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_done = False
        #: When its caller stops waiting.
        self.give_up_at = give_up_at

    def run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        error, self.error = self.error, None
        if isinstance(error, Exception):
            raise StorageCallError(error)
        if error is not None:
            raise error
        return self.value


class StorageCalls:
    """Calls functions of one storage, all in the same thread while that thread lives.

    When a call takes too long, its caller stops waiting, and all other calls fail at once until it
    ends. If no thread can be started, the caller makes the call itself.
    """

    def __init__(self) -> None:
        self._after_fork()
        register_after_fork(self)

    def _after_fork(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._call: _Call | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, function: Callable[..., Any], *args: object) -> Any:
        """Return what the function returns.

        :raises StorageCallError: the function raised an exception or took too long. An exception
            in the waiting thread itself, such as an interrupt, is passed on unchanged.
        """
        if self._pid != os.getpid():  # a fork that did not run Python's hooks
            self._after_fork()
        call = _Call(function, args, time.monotonic() + _LONGEST_CALL)
        if threading.current_thread() is self._thread:  # the storage uses the Client
            call.run()
            return call.result()
        has_thread = True
        try:
            with self._changed:
                is_free = self._changed.wait_for(self._is_free, _LONGEST_CALL)
                if not is_free or self._call is not None:
                    raise StorageCallError(TimeoutError("the previous call has not returned"))
                has_thread = self._start()
                # Before the assignment, so that an interrupt cannot leave a call that the thread
                # does not notice.
                self._changed.notify_all()
                self._call = call
                if has_thread:
                    self._wait_for(call)
            if not has_thread:
                self._run(call)
        finally:
            if not has_thread and self._call is call:
                self._call = None  # after an interrupt nobody else would end the call
        return call.result()

    def _wait_for(self, call: _Call) -> None:
        left = call.give_up_at - time.monotonic()
        if not self._changed.wait_for(lambda: call.is_done, left):
            raise StorageCallError(TimeoutError(f"no answer within {_LONGEST_CALL:g} s"))

    def _is_free(self) -> bool:
        # A call returns even if its caller was interrupted.
        return self._call is None or time.monotonic() >= self._call.give_up_at

    def _start(self) -> bool:
        """Start the thread unless it runs; return whether it does."""
        # An interrupt can leave a thread that was never started.
        if self._thread is not None and self._thread.is_alive():
            return True
        try:
            self._thread = threading.Thread(target=self._work, name="alf-storage", daemon=True)
            self._thread.start()
        except RuntimeError:  # a subinterpreter, the end of the process, or too many threads
            self._thread = None
        return self._thread is not None

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._call is not None, _IDLE):
                    self._thread = None
                    return
                call = self._call
            assert call is not None
            self._run(call)
            del call

    def _run(self, call: _Call) -> None:
        try:
            call.run()
        finally:
            with self._changed:
                call.is_done = True
                self._call = None
                self._changed.notify_all()
