"""One schedule: some processes, what their threads do, and what goes wrong; all from one seed."""

from __future__ import annotations

import importlib
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from requests.exceptions import ReadTimeout, RequestException

from alf import TokenManager, _backends, _background, _entries, _entry_lock, _refresher, managers
from alf._healing import Healing
from alf._options import Options
from alf._siblings import Siblings
from alf.tokens import Token
from tests.model.scheduler import (
    EPOCH,
    Interrupted,
    Process,
    Scheduler,
    StuckError,
    Threads,
    Timers,
)
from tests.model.steps import Steps
from tests.model.world import KINDS, Endpoint, Owner, Slot, World

__all__ = ["LOCKS", "Focus", "Model", "Outcome"]

#: Modules of alf whose threads, clocks and random numbers are the model's.
_MODULES = (
    *("_background", "_backends", "_backoff", "_entry_lock", "_failures", "_lifetimes"),
    *("_notices", "_refresher", "_refusals", "_shared_refusals", "_siblings", "_single_flight"),
    *("_storage_access", "_storage_calls", "_token_source", "_token_storage", "managers"),
)

#: Those without locks or shared state: no step is needed in them.
_PURE = ("_lifetimes", "_notices")

#: The locks that the model can do without, to show that it notices: by the classes that make them,
#: and the lock of the shared entry.
LOCKS = ("SingleFlight", "Refusals", "StorageCalls", "ProcessLocks", "Workers", "Siblings", "entry")

_FAULTS = (
    *("death", "eviction", "failing endpoint", "failing storage", "interrupt", "no release"),
    *("no threads", "outage", "pauses", "refused client", "skew", "slow endpoint", "slow storage"),
)

#: Under any of these a call may fail; without them it may not.
_MAY_FAIL = {"failing endpoint", "interrupt", "pauses", "refused client", "slow endpoint"}

#: Under any of these others may wait for a lock that its holder does not release.
_MAY_WAIT = {"death", "failing storage", "no release", "outage", "slow storage"}

#: Under any of these the storage may seem to fail; without them it may not.
_TROUBLE = {"eviction", "failing storage", "no release", "outage", "pauses", "slow storage"}
_TROUBLE |= {"interrupt", "refused client"}

#: Seconds that a call may take: without faults, and with them.
_QUICK = 10.0
_LONGEST = 90.0


@dataclass
class Focus:
    """Which schedules are made: those in which a lock is needed."""

    scene: str
    kind: str


@dataclass
class Outcome:
    """What came of one schedule."""

    seed: int
    about: str
    broken: list[str]
    counts: Counter[str]
    locks: set[str]
    preemptions: int
    longest_wait: float


class _SimulatedOptions(Options):
    """Options that were checked once and for all, and lead to the model's endpoint."""

    def __post_init__(self) -> None: ...

    def make_endpoint(self, clock: Any) -> Any:
        return self.token_session


class _LocksOfProcess:
    """Stands for ``PROCESS_LOCKS``: each of the processes has its own."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._threads.scheduler.current.process.locks, name)


class Model:
    """alf with the model's threads and clocks, for as long as it is entered.

    :param fine: whether threads are left between any two statements.
    """

    def __init__(self) -> None:
        self._threads = Threads()
        self._timers = Timers()
        self._changed: list[tuple[ModuleType, str, Any]] = []
        modules = [importlib.import_module(f"alf.{name}") for name in _MODULES]
        self._modules = modules
        self._steps = Steps([m for m in modules if m.__name__.partition(".")[2] not in _PURE])
        self._slots: dict[str, list[Slot]] = {}
        self._runs = 0
        self._is_fine = False
        self._random = random.Random()

    def __enter__(self) -> Model:
        for module in self._modules:
            for name, real, ours in (
                ("threading", threading, self._threads),
                ("time", time, self._timers),
                ("random", random, self._random),
            ):
                if vars(module).get(name) is real:
                    self._change(module, name, ours)
        self._change(managers, "Options", _SimulatedOptions)
        self._change(_entry_lock, "PROCESS_LOCKS", _LocksOfProcess(self._threads))
        self._change(_refresher, "run_in_background", self._run_in_background)
        self._change(_entries, "slow_hash", lambda text, salt: text + salt.hex())
        self._logger = logging.getLogger("alf")
        self._log_was = (self._logger.level, self._logger.propagate, self._logger.handlers[:])
        self._logger.setLevel(logging.WARNING)
        self._logger.propagate = False
        self._log = _Log()
        self._logger.handlers[:] = [self._log]
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._is_fine:
            self._steps.take_out()
        for module, name, value in reversed(self._changed):
            setattr(module, name, value)
        self._changed.clear()
        level, self._logger.propagate, self._logger.handlers[:] = self._log_was
        self._logger.setLevel(level)

    def _change(self, module: ModuleType, name: str, value: Any) -> None:
        self._changed.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def _run_in_background(self, job: Any) -> bool:
        process = self._threads.scheduler.current.process
        assert process is not None
        return process.workers.submit(job)

    def run(self, seed: int, *, without: str | None = None, focus: Focus | None = None) -> Outcome:
        """One schedule.

        :param without: the name of a lock that locks nothing.
        :param focus: what is not left to chance.
        """
        # To put the steps in and to take them out takes time, and so does a new storage.
        is_fine = focus is not None or seed // 50 % 5 > 1
        is_new = self._runs % 500 == 0
        spent = [slot for slots in self._slots.values() for slot in slots if slot.is_spent]
        if self._is_fine and (not is_fine or is_new or spent):
            self._steps.take_out()
            self._is_fine = False
        if is_new:
            self._slots = {kind: [Slot(kind) for _ in range(12)] for kind in KINDS}
            spent = []
        for slot in spent:
            slot.renew()
        self._runs += 1
        if is_fine and not self._is_fine:
            self._steps.put_in(self._step)
        self._is_fine = is_fine
        draw = random.Random(seed)
        scheduler = Scheduler(seed, draw.choice((15, 50, 150) if is_fine else (3, 10)), without)
        scheduler.parking = draw.choice((0.0, 0.3, 0.8))
        self._threads.scheduler = self._timers.scheduler = scheduler
        self._random.seed(seed)
        schedule = _Schedule(seed, draw, scheduler, self._slots, focus)
        self._log.schedule = schedule
        return schedule.run(is_fine)

    def _step(self) -> None:
        scheduler = self._threads.scheduler
        scheduler._countdown -= 1
        if scheduler._countdown <= 0:
            scheduler._preempt()


class _Log(logging.Handler):
    """Has alf's warnings judged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.schedule: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        self.schedule.judge_warning(record)


class _Schedule:
    """The processes of one schedule and what they do."""

    def __init__(
        self,
        seed: int,
        draw: random.Random,
        scheduler: Scheduler,
        slots: dict[str, list[Slot]],
        focus: Focus | None,
    ) -> None:
        self._seed = seed
        self._draw = draw
        self._scheduler = scheduler
        scene = draw.choices(("any", "crowd", "refused", "refresh"), (50, 25, 12, 13))[0]
        weights = (40, 20, 10, 20, 10) if scene != "refresh" else (20, 10, 10, 20, 40)
        kind = draw.choices((*KINDS, "none"), weights)[0]
        if focus is not None:
            scene, kind = focus.scene, focus.kind
        self._scene = scene
        faults: set[str] = set()
        if draw.random() < (0.6 if self._scene == "any" else 0.3):
            faults = {fault for fault in _FAULTS if draw.random() < 0.2}
        life = 3600.0
        if self._scene in ("any", "crowd"):
            life = draw.choices((0.0, 8.0, 60.0, 3600.0), (2, 25, 25, 48))[0]
        self._world = World(scheduler, kind, faults, life)
        if scene == "refresh":
            self._world.quickness = 0.7
        self._kind, self._faults, self._life = kind, faults, life
        self._is_background = draw.random() < (0.9 if self._scene == "refresh" else 0.5)
        self._slots = iter(slots.get(kind, ()))
        self._left = 0
        self._owners: list[Owner] = []
        self._order = 0

    def run(self, is_fine: bool) -> Outcome:
        draw, scheduler, world = self._draw, self._scheduler, self._world
        count = draw.choice((1, 1, 2, 2, 3)) if self._scene == "any" else draw.choice((1, 1, 2))
        if self._kind in ("mapping", "none"):
            count = 1
        processes = [self._start_process(number) for number in range(count)]
        self._plan_accidents(processes)
        try:
            scheduler.run()
            if not world.broken:
                # What has been started in the background ends, too.
                scheduler.start(self._stop, None, delay=30.0)
                scheduler.run()
        except StuckError as error:
            world.breach(f"{error}; {self._left} calls are not served")
        for error in scheduler.crashes:
            world.breach(f"a thread ended with {error!r}")
        scheduler.end()
        for fault in self._faults:
            world.counts[f"schedules with {fault}"] += 1
        world.counts[f"schedules on {self._kind}"] += 1
        about = f"{self._scene}, {self._kind}, {count} processes, life {self._life:g} s"
        about += f", {'background' if self._is_background else 'blocking'}"
        about += f", {'fine' if is_fine else 'coarse'}, faults: {sorted(self._faults)}"
        return Outcome(
            self._seed,
            about,
            world.broken,
            world.counts,
            scheduler.locks,
            scheduler.preemptions,
            world.longest_wait,
        )

    # -- processes and their threads -------------------------------------------------------

    def _start_process(self, number: int) -> Process:
        draw = self._draw
        skew = draw.choice((-300.0, -5.0, 5.0, 300.0)) if "skew" in self._faults else 0.0
        process = Process(self._scheduler, f"p{number}", skew)
        process.locks = _backends.ProcessLocks()
        process.workers = _background.Workers()
        options = {"number": 0}
        number = 1
        if self._scene == "refresh" or self._kind == "mapping":
            number = draw.choice((2, 3))
        elif self._kind != "none":
            number = draw.choice((1, 1, 1, 2))
        process.siblings = Siblings(options, self._make_manager(process))
        for turn in range(max(number, draw.choice((1, 2, 2, 3)))):
            is_even = self._scene == "refresh"
            self._start_thread(process, turn % number if is_even else draw.randrange(number))
        return process

    def _make_manager(self, process: Process) -> TokenManager:
        owner = Owner(process, len(self._owners))
        self._owners.append(owner)
        slot = None
        extra: dict[str, Any] = {}
        if self._kind != "none":
            slot = next(self._slots)
            slot.attach(self._world, owner)
            extra["token_storage_key"] = "the-entry"
        manager = TokenManager(
            token_storage=slot,
            token_session=Endpoint(self._world, owner),
            token_refresh="background" if self._is_background else "blocking",
            clock=process.clock,
            **extra,
        )
        owner.manager = manager
        return manager

    def _script(self) -> list[tuple[float, str, str]]:
        """What a thread does: after so many seconds such a call, of such an API."""
        draw, life = self._draw, self._life
        if self._scene == "refused":
            # All threads are refused at the same time, and again much later.
            script = [(0.0, "call", "https://a"), (2.0, "call", "https://a")]
            return script if draw.random() < 0.7 else [*script, (life * 0.7, "call", "https://b")]
        if self._scene == "refresh":
            return [(0.0, "call", "https://a"), (life * 0.85, "call", "https://a")]
        script = []
        for _ in range(draw.choice((1, 1, 2, 3)) if self._scene == "any" else 1):
            pause = draw.choice((0.0, 0.0, 0.1, 2.0, life * 0.7, life * 0.97, life * 1.05))
            what = draw.choices(("call", "renew", "replace", "reset", "revoke"), (78, 8, 4, 5, 5))
            origin = draw.choice(("https://a", "https://b"))
            script.append((pause if self._scene == "any" else 0.0, what[0], origin))
        return script

    def _start_thread(self, process: Process, number: int) -> None:
        delay = self._draw.choice((0.0, 0.0, 0.2)) if self._scene == "any" else 0.0
        script = self._script()
        self._left += 1

        def work() -> None:
            owner = self._find(process, number)
            self._scheduler.current.owner = owner
            for pause, what, origin in script:
                if pause:
                    self._scheduler.pause(pause, is_wanted=True)
                self._do(owner, what, origin)
            self._left -= 1
            if not self._left:
                self._stop()

        process.main_tasks.append(self._scheduler.start(work, process, delay=delay))

    def _find(self, process: Process, number: int) -> Owner:
        manager = process.siblings.get({"number": number}, lambda: self._make_manager(process))
        found = process.found.setdefault(number, manager)
        if found is not manager:
            self._world.breach("two managers for the same options")
        return next(owner for owner in self._owners if owner.manager is manager)

    def _stop(self) -> None:
        self._scheduler.is_stopped = True

    # -- accidents -------------------------------------------------------------------------

    def _plan_accidents(self, processes: list[Process]) -> None:
        draw, faults, scheduler = self._draw, self._faults, self._scheduler
        scheduler.slow = 0.02 if "pauses" in faults else 0.0
        scheduler.has_threads = "no threads" not in faults
        strikes = faults & {"death", "interrupt"}
        if strikes:
            at = {draw.randrange(1, 120): strike for strike in sorted(strikes) for _ in range(2)}
            scheduler.strike = lambda: self._strike(at.get(scheduler.preemptions))
        span = draw.choice((1.0, 10.0, self._life))
        if self._scene == "refused":
            for when in (1.0, self._life * 0.7):
                scheduler.start(self._world.revoke, None, delay=when)
        elif draw.random() < 0.3:
            for _ in range(draw.choice((1, 2))):
                scheduler.start(self._world.revoke, None, delay=draw.uniform(0, span))
        if "eviction" in faults:
            for _ in range(3):
                scheduler.start(self._evict, None, delay=draw.uniform(0, span))
        if "outage" in faults:
            begins = draw.uniform(0, span)
            scheduler.start(lambda: self._go_down(True), None, delay=begins)
            scheduler.start(lambda: self._go_down(False), None, delay=begins + draw.choice((1, 20)))
        if "refused client" in faults:
            begins = draw.choice((0.0, draw.uniform(0, span)))
            scheduler.start(lambda: self._refuse(True), None, delay=begins)
            scheduler.start(lambda: self._refuse(False), None, delay=begins + draw.choice((1, 20)))
        if "skew" in faults and draw.random() < 0.5:
            process = draw.choice(processes)
            scheduler.start(lambda: self._set_clock(process), None, delay=draw.uniform(0, span))

    def _strike(self, what: str | None) -> None:
        scheduler = self._scheduler
        process = scheduler.current.process
        if what is None or process is None or scheduler.is_still:
            return
        if what == "interrupt":
            task = self._draw.choice(process.main_tasks)
            if not task.is_done:
                scheduler.interrupt(task)
        elif not process.is_dead:
            self._left -= sum(not task.is_done for task in process.main_tasks)
            self._world.counts["processes killed"] += 1
            if self._kind != "none" and len(self._owners) < 4:
                scheduler.is_still = True
                self._start_process(len(self._owners))
                scheduler.is_still = False
            if not self._left:
                self._stop()
            scheduler.kill(process)

    def _evict(self) -> None:
        world = self._world
        for name in list(world.values):
            if self._draw.random() < 0.7:
                world.values.pop(name)
                if name.endswith(":lock"):
                    hold = world.holds.pop(name)
                    hold.how = hold.how or "evicted"
                else:
                    world.entry = None

    def _go_down(self, is_down: bool) -> None:
        self._world.is_down = is_down

    def _refuse(self, is_refusing: bool) -> None:
        self._world.is_refusing = is_refusing

    def _set_clock(self, process: Process) -> None:
        process.clock.skew = self._draw.choice((-3600.0, -30.0, 0.0, 30.0, 3600.0))

    # -- what threads do -------------------------------------------------------------------

    def _do(self, owner: Owner, what: str, origin: str) -> None:
        world, scheduler = self._world, self._scheduler
        task = scheduler.current
        began, paused = scheduler.now, scheduler.paused
        task.began = began
        task.works_for_itself = what == "renew"
        task.in_call = True
        try:
            getattr(self, f"_{what}")(owner, origin)
            world.counts["calls served"] += 1
        except Interrupted:
            world.counts["calls interrupted"] += 1
        except RequestException as error:
            world.counts["calls served with the endpoint's error"] += 1
            is_excused = isinstance(error, ReadTimeout) and self._faults & _MAY_WAIT
            if not self._faults & _MAY_FAIL and not is_excused:
                world.breach(f"a call fails with {error!r}")
        except Exception as error:
            world.breach(f"a call fails with {error!r}")
        task.in_call = task.interrupt = False
        wait = scheduler.now - began - (scheduler.paused - paused)
        world.longest_wait = max(world.longest_wait, wait)
        if wait > (_LONGEST if self._faults else _QUICK):
            world.breach(f"a call takes {wait:.1f} s")

    def _call(self, owner: Owner, origin: str) -> None:
        """A call of an API, which may refuse tokens."""
        world, scheduler = self._world, self._scheduler
        task, order = scheduler.current, self._order
        token = owner.manager.token()
        self._judge_token(owner, token, order)
        healing = Healing(owner.manager, origin)
        sent = 0
        while True:
            scheduler.step()
            sent += 1
            if not world.tokens[token.access_token].is_revoked:
                healing.accepted(token)
                return
            owner.refused.add(token.access_token)
            task.works_for_itself = sent > 1
            other = healing.next_token(token, can_send_again=True)
            if other is None:
                owner.kept.add(token.access_token)
                return
            self._note_replaced(owner, token, other, order)
            token = other

    def _judge_token(self, owner: Owner, token: Token, order: int) -> None:
        name = token.access_token
        if owner.replaced.get(name, order) < order and name not in owner.kept:
            self._world.breach(f"{name} was refused and replaced, and is used again")
        granted = self._world.tokens[name]
        is_exact = not self._faults & {"skew", "pauses"}
        # One that was dead on arrival is for the calls at hand.
        if is_exact and granted.at < token.expires_at - EPOCH < self._scheduler.current.began:
            self._world.breach(f"{name} has expired, and is used")

    def _note_replaced(self, owner: Owner, token: Token, other: Token, order: int) -> None:
        name = token.access_token
        known = self._world.tokens
        if known[other.access_token].at <= known[name].at:
            # The API may not know the new token yet: the one before it is tried, in this call only.
            owner.kept.add(name)
        self._judge_token(owner, other, order)
        self._order += 1
        owner.replaced.setdefault(name, self._order)

    def _renew(self, owner: Owner, _origin: str) -> None:
        self._judge_token(owner, owner.manager.renew(), self._order)

    def _replace(self, owner: Owner, origin: str) -> None:
        order = self._order
        token = owner.manager.token()
        owner.refused.add(token.access_token)
        other = owner.manager.replace(token, origin)
        if other is None:
            owner.kept.add(token.access_token)
        else:
            self._note_replaced(owner, token, other, order)

    def _reset(self, owner: Owner, _origin: str) -> None:
        self._forget(owner, owner.manager.reset_token)

    def _revoke(self, owner: Owner, _origin: str) -> None:
        self._forget(owner, owner.manager.revoke)

    def _forget(self, owner: Owner, forget: Callable[[], None]) -> None:
        token = owner.manager.peek()
        if token is not None:
            owner.refused.add(token.access_token)
        # Without one in memory that in the storage is forgotten.
        owner.forgetting += 1
        try:
            forget()
        finally:
            owner.forgetting -= 1
            # Another thread may have brought one into memory meanwhile.
            owner.refused.update(self._world.tokens)
        if token is not None:
            self._order += 1
            owner.replaced.setdefault(token.access_token, self._order)

    # -- warnings --------------------------------------------------------------------------

    def judge_warning(self, record: logging.LogRecord) -> None:
        world, scheduler = self._world, self._scheduler
        message = record.getMessage()
        world.counts["warnings"] += 1
        owner = scheduler.current.owner
        if message.startswith("token storage") and not self._faults & _TROUBLE:
            world.breach(f"a warning without a reason: {message}")
        if record.msg.startswith("%s refused") and owner is not None:
            origin = message.split()[0]
            at = owner.warned_at.get(origin)
            if at is not None and scheduler.now - at < 120 and not self._faults & {"pauses"}:
                world.breach(f"two warnings of one outage: {message}")
            owner.warned_at[origin] = scheduler.now
