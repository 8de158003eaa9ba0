"""Threads that go on when they are told to, in model time: stand-ins for threading and time.

Each thread is a greenlet. It may be left for another one wherever it takes or releases a lock,
waits, reads a clock or calls out; with :mod:`tests.model.steps` also between any two statements of
alf. A random number generator chooses who goes on, so that a seed gives the same schedule again.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import greenlet

__all__ = [
    *("EPOCH", "Interrupted", "Process", "ProcessClock", "Scheduler", "StuckError", "Task"),
    *("Threads", "Timers"),
]

EPOCH = 1_700_000_000.0


class Interrupted(BaseException):
    """What a signal handler, a time limit or a kill raises in a thread that waits."""


class StuckError(Exception):
    """Nobody can go on, or somebody goes on for ever."""


class Process:
    """One process: its clocks, and its threads, which all die with it."""

    def __init__(self, scheduler: Scheduler, name: str, skew: float = 0.0) -> None:
        self.name = name
        self.is_dead = False
        self.clock = ProcessClock(scheduler, scheduler.random.uniform(0, 1e5), skew)
        #: What its death may leave behind on its way: calls that were sent and have not arrived.
        self.sent: dict[Task, Callable[[], object]] = {}
        #: alf's module-level objects, of which each process has its own.
        self.locks: Any = None
        self.workers: Any = None
        self.siblings: Any = None
        self.found: dict[int, object] = {}
        #: The threads that alf did not start.
        self.main_tasks: list[Task] = []


class ProcessClock:
    """The clocks of one process."""

    def __init__(self, scheduler: Scheduler, booted: float, skew: float) -> None:
        self._scheduler = scheduler
        self._booted = booted
        #: Seconds that the wall clock is ahead; changes when somebody sets it.
        self.skew = skew

    def monotonic(self) -> float:
        scheduler = self._scheduler
        scheduler.step()
        return scheduler.now + self._booted

    def time(self) -> float:
        scheduler = self._scheduler
        scheduler.step()
        return EPOCH + scheduler.now + self.skew

    def sleep(self, seconds: float) -> None:
        self._scheduler.sleep(seconds)


class Task:
    """One thread."""

    __slots__ = (
        *("began", "call", "glet", "ident", "in_call", "interrupt", "is_done", "owner", "process"),
        *("stamp", "thread", "works_for_itself"),
    )

    def __init__(self, owner: Any, process: Process | None, call: Callable[[], object]) -> None:
        self.owner = owner
        self.process = process
        self.call = call
        self.ident = 0
        self.glet: Any = None
        self.is_done = False
        #: Goes up with each wait, so that a timer of an earlier one wakes nobody.
        self.stamp = 0
        self.interrupt = False
        self.in_call = False
        #: What ``threading.current_thread()`` returns in it.
        self.thread: Any = self
        #: When it began what it does.
        self.began = 0.0
        #: Whether it wants a token that is requested now, whatever there is.
        self.works_for_itself = False


class Scheduler:
    """The threads of all processes, and the time.

    :param seed: of everything that is random.
    :param calm: how many steps a thread makes on average before another one may go on.
    :param without: the name of a lock that locks nothing.
    """

    def __init__(self, seed: int, calm: float, without: str | None = None) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.locks: set[str] = set()
        self.without = without
        self.current = self._nobody = Task(None, None, lambda: None)
        self.tasks: list[Task] = []
        self.preemptions = 0
        self.most_preemptions = 200_000
        #: Called at each preemption; may kill and interrupt.
        self.strike: Callable[[], None] | None = None
        #: The threads that alf has started, and what ended them.
        self.crashes: list[BaseException] = []
        #: Set to have the run end.
        self.is_stopped = False
        self._calm = calm
        self._draw = self.random.random
        self._ready: list[Task] = []
        #: Those that go on when all others wait, or hardly ever before.
        self._parked: list[Task] = []
        self.parking = 0.0
        self._timers: list[tuple[float, int, Task, int]] = []
        self._order = itertools.count(1)
        self._hub = greenlet.getcurrent()
        self._is_over = False
        self._countdown = 1
        #: How likely a thread is kept from running at a preemption, and for how long they all were.
        self.slow = 0.0
        self.paused = 0.0
        #: Nobody else goes on while this is set.
        self.is_still = False
        #: Whether new threads can be started.
        self.has_threads = True

    # -- what threads call -----------------------------------------------------------------

    def step(self) -> None:
        """A place where another thread may go on."""
        self._countdown -= 1
        if self._countdown <= 0:
            self._preempt()

    def _preempt(self) -> None:
        if self._is_over:
            raise greenlet.GreenletExit
        if self.is_still:
            return
        self._countdown = 1 + int(-math.log(1.0 - self._draw()) * self._calm)
        task = self.current
        if task.process is None:
            return
        self.preemptions += 1
        if self.strike is not None:
            self.strike()
        if self.slow and self._draw() < self.slow:
            self.pause(self.random.choice((0.001, 0.05, 1.0)))
        elif self._ready:
            (self._parked if self._draw() < self.parking else self._ready).append(task)
            self._go_on()
        if task.interrupt:
            self.interrupt_now(task)

    def hold_up(self) -> None:
        """Now and then have a thread that has just got a lock be left before it is far."""
        if self._draw() < self.parking:
            self._countdown = min(self._countdown, 1 + int(8 * self._draw()))

    def _go_on(self) -> None:
        """Let somebody go on, if anybody is ready; returns when the current thread may go on."""
        ready, parked, draw = self._ready, self._parked, self._draw
        while (ready or parked) and not self.is_stopped:
            if parked and (not ready or draw() < 0.01):
                ready.append(parked.pop())
            place = int(draw() * len(ready))
            task = ready[place]
            ready[place] = ready[-1]
            ready.pop()
            if task is self.current:
                return
            process = task.process
            if not task.is_done and (process is None or not process.is_dead):
                self.current = task
                task.glet.switch(task)
                return
        self._hub.switch()

    def pause(self, seconds: float, *, is_wanted: bool = False) -> None:
        """Keep this thread from running, whatever it does."""
        if not is_wanted:
            self.paused += seconds
        self._sleep(seconds)

    def sleep(self, seconds: float) -> None:
        self._sleep(max(0.0, seconds))
        if self.current.interrupt:
            self.interrupt_now(self.current)

    def _sleep(self, seconds: float) -> None:
        task = self.current
        self.wake_at(task, self.now + seconds)
        self.block()

    def block(self) -> None:
        """Do not go on before somebody wakes this thread."""
        if self._is_over:
            raise greenlet.GreenletExit
        if self.preemptions > self.most_preemptions:
            self.is_stopped = True
        self._go_on()

    def wake(self, task: Task) -> None:
        task.stamp += 1
        self._ready.append(task)

    def wake_at(self, task: Task, when: float) -> None:
        heapq.heappush(self._timers, (when, next(self._order), task, task.stamp))

    def interrupt_now(self, task: Task) -> None:
        task.interrupt = False
        raise Interrupted

    # -- the life of threads ---------------------------------------------------------------

    def start(
        self,
        call: Callable[[], object],
        process: Process | None,
        *,
        owner: Any = None,
        delay: float | None = None,
    ) -> Task:
        task = Task(owner, process, call)
        task.ident = len(self.tasks) + 1
        task.began = self.now
        self.tasks.append(task)
        task.glet = greenlet.greenlet(self._body, self._hub)
        if delay is None:
            self._ready.append(task)
        else:
            self.wake_at(task, self.now + delay)
        return task

    def _body(self, task: Task) -> None:
        try:
            task.call()
        except greenlet.GreenletExit:
            pass
        except BaseException as error:
            if not self._is_over and task.process is not None:
                self.crashes.append(error)
        task.is_done = True

    def kill(self, process: Process) -> None:
        """No thread of the process goes on."""
        process.is_dead = True
        for late in list(process.sent.values()):
            # It was sent: it may arrive all the same.
            if self.random.random() < 0.5:
                self.start(late, None, delay=self.random.uniform(0, 0.5))
        if self.current.process is process:
            self.block()

    def interrupt(self, task: Task) -> None:
        """Have an exception strike the thread when it goes on, if it is in a call."""
        task.interrupt = task.in_call

    def run(self) -> None:
        """Let threads go on until somebody sets ``is_stopped``.

        :raises StuckError: nobody can go on.
        """
        ready, timers = self._ready, self._timers
        self.is_stopped = False
        while not self.is_stopped:
            if not ready and not self._parked:
                self._advance(timers)
            self.current = self._nobody
            self._go_on()
        if self.preemptions > self.most_preemptions:
            message = "somebody goes on for ever"
            raise StuckError(message)

    def _advance(self, timers: list[tuple[float, int, Task, int]]) -> None:
        """Let time pass until somebody wakes."""
        while not self._ready or (timers and timers[0][0] <= self.now):
            if not timers:
                message = "nobody can go on"
                raise StuckError(message)
            when, _, task, stamp = heapq.heappop(timers)
            if task.stamp == stamp and not task.is_done:
                self.now = max(self.now, when)
                # Whoever wakes at the same time wakes in any order.
                self.wake(task)

    def end(self) -> None:
        """End all threads where they are."""
        self._is_over = True
        for task in self.tasks:
            if not task.is_done and task.glet:
                self._countdown = 0
                self.current = task
                task.glet.throw(greenlet.GreenletExit)


class Timers:
    """Stands for the module ``time``."""

    scheduler: Scheduler

    def monotonic(self) -> float:
        process = self.scheduler.current.process
        return self.scheduler.now if process is None else process.clock.monotonic()

    def time(self) -> float:
        process = self.scheduler.current.process
        return EPOCH if process is None else process.clock.time()

    def sleep(self, seconds: float) -> None:
        self.scheduler.sleep(seconds)


#: The classes that create locks, by the code that does it.
_creators: dict[Any, str] = {}


def _creator() -> str:
    frame = sys._getframe(2)
    code = frame.f_code
    name = _creators.get(code)
    if name is None:
        name = type(frame.f_locals["self"]).__name__
        _creators[code] = name
    return name


class Threads:
    """Stands for the module ``threading``."""

    scheduler: Scheduler

    def RLock(self) -> RLock:  # noqa: N802
        return RLock(self.scheduler, _creator())

    Lock = RLock

    def Condition(self) -> Condition:  # noqa: N802
        return Condition(self.scheduler, _creator())

    def Event(self) -> Event:  # noqa: N802
        return Event(self.scheduler)

    def Thread(  # noqa: N802
        self, target: Callable[[], object], name: str = "", daemon: bool | None = None
    ) -> Thread:
        return Thread(self.scheduler, target)

    def get_ident(self) -> int:
        return self.scheduler.current.ident

    def current_thread(self) -> Any:
        return self.scheduler.current.thread

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class Thread:
    """Starts a task."""

    def __init__(self, scheduler: Scheduler, target: Callable[[], object]) -> None:
        self._scheduler = scheduler
        self._target = target
        self._task: Task | None = None

    @property
    def ident(self) -> int | None:
        return None if self._task is None else self._task.ident

    def is_alive(self) -> bool:
        self._scheduler.step()
        return self._task is not None and not self._task.is_done

    def start(self) -> None:
        scheduler = self._scheduler
        if not scheduler.has_threads:
            message = "can't start new thread"
            raise RuntimeError(message)
        current = scheduler.current
        self._task = scheduler.start(self._target, current.process, owner=current.owner)
        self._task.thread = self
        scheduler.step()


class RLock:
    """A re-entrant lock."""

    __slots__ = ("_depth", "_holder", "_scheduler", "_waiting", "_works")

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self._scheduler = scheduler
        scheduler.locks.add(name)
        self._works = name != scheduler.without
        self._holder: Task | None = None
        self._depth = 0
        self._waiting: list[Task] = []

    def acquire(self) -> bool:
        scheduler = self._scheduler
        scheduler.step()
        task = scheduler.current
        if self._holder is task:
            self._depth += 1
            return True
        if self._works:
            self._take(task)
        scheduler.hold_up()
        return True

    def release(self) -> None:
        if self._works:
            self._depth -= 1
            if self._depth:
                return
            self._let_go()
        self._scheduler.step()

    def _take(self, task: Task) -> None:
        while self._holder is not None:
            self._waiting.append(task)
            self._scheduler.block()
        self._holder = task
        self._depth = 1

    def _let_go(self) -> None:
        self._holder = None
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for task in waiting:
                self._scheduler.wake(task)

    __enter__ = acquire

    def __exit__(self, *_exc: object) -> None:
        self.release()


class Condition(RLock):
    """A condition with a lock of its own."""

    __slots__ = ("_listening",)

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        super().__init__(scheduler, name)
        self._listening: list[Task] = []

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        scheduler = self._scheduler
        until = math.inf if timeout is None else scheduler.now + timeout
        while True:
            found = predicate()
            if found or scheduler.now >= until:
                return found
            scheduler.step()
            self._wait(until)

    def _wait(self, until: float) -> None:
        scheduler = self._scheduler
        task = scheduler.current
        self._listening.append(task)
        if until < math.inf:
            scheduler.wake_at(task, until)
        if self._works:
            self._let_go()
        scheduler.block()
        if task in self._listening:
            self._listening.remove(task)
        if self._works:
            # Not acquire(): Python's own conditions are not interrupted here either.
            self._take(task)
        if task.interrupt:
            scheduler.interrupt_now(task)

    def notify_all(self) -> None:
        listening, self._listening = self._listening, []
        for task in listening:
            self._scheduler.wake(task)
        self._scheduler.step()


class Event:
    """A flag to wait for."""

    __slots__ = ("_is_set", "_scheduler", "_waiting")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        self._scheduler.step()
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._scheduler.wake(task)
        self._scheduler.step()

    def wait(self, timeout: float) -> bool:
        scheduler = self._scheduler
        scheduler.step()
        task = scheduler.current
        if not self._is_set:
            self._waiting.append(task)
            scheduler.wake_at(task, scheduler.now + max(0.0, timeout))
            scheduler.block()
            if task in self._waiting:
                self._waiting.remove(task)
        if task.interrupt:
            scheduler.interrupt_now(task)
        return self._is_set
