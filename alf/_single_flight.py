"""One thread makes a value and all callers share it. Knows nothing about tokens."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from alf._forks import notice_fork, register_after_fork

__all__ = ["FlightOverdueError", "Make", "RecursiveFlightError", "SingleFlight", "Wanted"]

T = TypeVar("T")

#: Whether a value is good enough for a caller. The second argument says whether the value has
#: landed since the caller arrived.
Wanted = Callable[[T, bool], bool]

#: Makes the value. Its argument is a function that gives the value to the waiting callers early,
#: for a leader that has more to do.
Make = Callable[[Callable[[T], None]], T]

#: Seconds between two checks whether the leader of a flight is still running.
_LOOK = 0.25

#: The same where the leader is a greenlet of this thread, which waiting on an event would block.
_SHORT_LOOK = 0.005

#: Seconds that a flight waits for its leader thread to start.
_START = 5.0

#: The flights that this context leads.
_led: ContextVar[tuple[_Flight[Any], ...]] = ContextVar("_led", default=())


class FlightOverdueError(Exception):
    """The flight takes longer than it may."""


class RecursiveFlightError(Exception):
    """Making the value needs the value."""


class _Flight(Generic[T]):
    """One attempt to make a value, and the callers that wait for it."""

    def __init__(self, max_duration: float) -> None:
        self.started_at = time.monotonic()
        self.overdue_at = self.started_at + max_duration
        self.landed = threading.Event()
        self.value: T | None = None
        self.error: Exception | None = None
        self.thread = 0
        self._process = os.getpid()
        self._body: Iterator[None] | None = None

    def run(self, body: Iterator[None]) -> None:
        """Lead the flight: run the generator to its end.

        A generator shows whether it is running. So other callers notice when a kill or a signal
        handler's exception has ended the flight, which no ``finally`` could guarantee.
        """
        self._body = body
        self.thread = threading.get_ident()
        next(body, None)

    @property
    def is_under_way(self) -> bool:
        """Whether it has a leader, or its leader thread is about to start."""
        if self.is_overdue:
            return False
        is_starting = self._body is None and time.monotonic() < self.started_at + _START
        return is_starting or self.is_running

    @property
    def is_running(self) -> bool:
        """Whether it has a leader."""
        body: Any = self._body
        return body is not None and body.gi_running and self._process == os.getpid()

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() >= self.overdue_at


class SingleFlight(Generic[T]):
    """The current value, and the flight that makes the next one.

    :param merge: returns the next current value, given the current one, the one that has landed,
        and whether its flight was still the current flight.
    :param max_duration: seconds that a flight may take at most.
    :param shared_errors: the exceptions that the waiting callers get from the leader. After any
        other exception a waiting caller leads the next flight.
    :param copy_error: copies such an exception for each waiting caller.
    """

    __slots__ = (
        "__weakref__",
        "_copy_error",
        "_flight",
        "_lock",
        "_max_duration",
        "_merge",
        "_shared_errors",
        "current",
    )

    def __init__(
        self,
        merge: Callable[[T | None, T, bool], T | None],
        max_duration: Callable[[], float],
        shared_errors: type[Exception],
        copy_error: Callable[[Exception], Exception],
    ) -> None:
        #: Read without a lock, and replaced as a whole.
        self.current: T | None = None
        self._merge = merge
        self._max_duration = max_duration
        self._shared_errors = shared_errors
        self._copy_error = copy_error
        self._flight: _Flight[T] | None = None
        # Re-entrant, because a signal handler or a finalizer may interrupt this very code. Nothing
        # blocks while it is held, and each change is one assignment.
        self._lock = threading.RLock()
        register_after_fork(self)

    def obtain(self, wanted: Wanted[T], make: Make[T]) -> T:
        """The first wanted value: the current one, that of the flight under way, or a new one.

        :raises FlightOverdueError: the flight under way has taken too long.
        :raises RecursiveFlightError: this context leads the flight under way.
        """
        notice_fork()
        while True:
            mine: _Flight[T] = _Flight(self._max_duration())
            others: list[_Flight[T]] = []
            mine.run(self._fly(mine, None, wanted, make, others))
            if mine.value is not None:
                return mine.value
            other = others[0]
            self._wait(other)
            if other.value is not None:
                if wanted(other.value, True):
                    return other.value
            elif other.error is not None:
                raise self._copy_error(other.error) from other.error

    def start(
        self, seen: T, make: Make[T], run: Callable[[Callable[[], object]], object]
    ) -> _Flight[T] | None:
        """Start a flight, if the value seen is still current and no flight is under way.

        :param run: runs the function that leads the flight, now or in another thread.
        :returns: this flight, or the one under way; ``None`` if there is a newer value.
        """
        notice_fork()
        with self._lock:
            if self.current is not seen:
                return None
            if self._flight is not None and self._flight.is_under_way:
                return self._flight
            flight = self._flight = _Flight(self._max_duration())

        def lead() -> None:
            flight.run(self._fly(flight, flight, _never, make, []))

        run(lead)
        return flight

    def wait(self, flight: _Flight[T], seconds: float) -> None:
        """Wait for the flight, until the given number of seconds after its start."""
        until = min(flight.started_at + seconds, flight.overdue_at)
        while not flight.landed.is_set() and flight.is_under_way:
            if time.monotonic() >= until:
                return
            self._look(flight, until)

    def replace(self, seen: T | None, value: T | None) -> bool:
        """Make the value the current one if ``seen`` still is; return whether it was."""
        with self._lock:
            if self.current is not seen:
                return False
            self.current = value
        return True

    def _fly(
        self,
        flight: _Flight[T],
        reserved: _Flight[T] | None,
        wanted: Wanted[T],
        make: Make[T],
        others: list[_Flight[T]],
    ) -> Iterator[None]:
        """Lead the flight, unless the current value will do or another flight is under way.

        The flight becomes the current one in here, so that it is running from the first moment
        that other callers can see it.
        """
        # Before anything else: a signal handler must not wait for the flight that it interrupts.
        context = _led.set((*_led.get(), flight))
        try:
            with self._lock:
                current, other = self.current, self._flight
                if current is not None and wanted(current, False):
                    flight.value = current
                    return
                if other is not reserved:
                    if reserved is not None:
                        return  # another caller did not wait for this thread and leads instead
                    if other is not None and other.is_running and not other.is_overdue:
                        others.append(other)
                        return
                self._flight = flight
            self._land(flight, make(lambda value: self._land(flight, value)))
        except Exception as error:
            if isinstance(error, self._shared_errors):
                flight.error = error
            raise
        finally:
            self._land(flight)
            _led.reset(context)
        yield from ()

    def _land(self, flight: _Flight[T], value: T | None = None) -> None:
        """End the flight, and merge its value, if there is one, into the current value."""
        with self._lock:
            if flight.landed.is_set():
                return
            is_current = self._flight is flight
            if value is not None:
                self.current = self._merge(self.current, value, is_current)
                flight.value = value
            if is_current:
                self._flight = None
        flight.landed.set()

    def _wait(self, flight: _Flight[T]) -> None:
        """Wait until the flight has landed or its leader is gone.

        :raises FlightOverdueError: it takes too long.
        :raises RecursiveFlightError: this context leads it.
        """
        if flight in _led.get():
            raise RecursiveFlightError
        while not flight.landed.is_set() and flight.is_running:
            if flight.is_overdue:
                raise FlightOverdueError
            self._look(flight, flight.overdue_at)

    def _look(self, flight: _Flight[T], until: float) -> None:
        left = max(0.0, until - time.monotonic())
        if flight.thread == threading.get_ident():
            time.sleep(min(_SHORT_LOOK, left))
        else:
            flight.landed.wait(min(_LOOK, left))

    def _after_fork(self) -> None:
        # The threads that held the lock and led the flight exist in the parent only.
        self._lock = threading.RLock()
        self._flight = None


def _never(_value: object, _landed: bool) -> bool:
    return False
