"""What alf talks to in the model: a storage, an endpoint and APIs; and a judge of each request.

The storage and the endpoint know the truth: who holds the lock, which tokens are alive, what has
been stored. Whatever breaks a promise is noted in :attr:`World.broken`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from alf._backends import Backend, make_backend
from alf._endpoint import Answer
from alf.tokens import Token, TokenError
from tests.model.scheduler import EPOCH, Process, Scheduler, Task

__all__ = ["KINDS", "Endpoint", "Granted", "Hold", "Owner", "Slot", "World"]

KEY = "the-entry"

#: Seconds that a token request takes at most, and a flight besides.
LONGEST_REQUEST = 20.0
SPARE_TIME = 5.0
SPARE_TIME_ALONE = 1.0

#: Seconds for which a holder of the lock is left in peace, whatever it says.
LEAST_PATIENCE = 2.0

#: Seconds after which a call of the storage is given up.
LONGEST_CALL = 0.75


class NoPermissionError(Exception):
    """As a Redis that does not let this user release a lock; not an outage."""


@dataclass
class Granted:
    """A token that the endpoint has granted; the times are the world's."""

    name: str
    at: float
    life: float
    issued_at: float
    is_revoked: bool = False


@dataclass
class Hold:
    """The lock of the entry in somebody's hands."""

    value: str
    owner: Owner
    taken_at: float
    ends_at: float
    #: What the entry held then.
    entry: str | None
    #: How it was lost; ``None``: it is not lost, but for the time.
    how: str | None = None
    is_counted: bool = False

    def lost(self, now: float) -> str | None:
        """How it was lost, if it was."""
        if self.how is None and now >= self.ends_at:
            self.how = "expired"
        return self.how

    @property
    def patience(self) -> float:
        """Seconds after which others may take it away."""
        expected = json.loads(self.value)[2]
        seconds = self.ends_at - self.taken_at
        return seconds if expected is None else min(seconds, 2 * expected + 2)


@dataclass
class Request:
    """A token request under way."""

    owner: Owner
    task: Task
    began: float
    hold: Hold | None


@dataclass
class Owner:
    """A TokenManager, and what the world knows of it."""

    process: Process
    number: int
    manager: Any = None
    #: Tokens that APIs have refused to it, and those that were revoked or reset here.
    refused: set[str] = field(default_factory=set)
    #: Tokens for which it has given another one, and when: a number that goes up.
    replaced: dict[str, int] = field(default_factory=dict)
    #: Refused tokens that it has to go on with, since no other was requested so soon.
    kept: set[str] = field(default_factory=set)
    hold: Hold | None = None
    #: Until when it may have a reason not to use the storage.
    troubled_until: float = -math.inf
    failures: int = 0
    waits_since: float | None = None
    has_lost_lock_for_good: bool = False
    last_life: float = 1.0
    #: Calls of the storage under way, and when they began.
    calls: dict[Task, float] = field(default_factory=dict)
    #: Whether two of its flights were under way at once, for a good reason.
    is_overtaken: bool = False
    #: The value of the lock when it was last looked at.
    seen: object = None
    #: How many of its threads have it forget a token.
    forgetting: int = 0
    warned_at: dict[str, float] = field(default_factory=dict)


class World:
    """Everything around the processes.

    :param scheduler: who goes on, and when.
    :param kind: what the storage can do: ``redis``, ``add``, ``locks``, ``mapping`` or ``none``.
    :param faults: what may go wrong.
    :param life: seconds that a token lives.
    """

    def __init__(self, scheduler: Scheduler, kind: str, faults: set[str], life: float) -> None:
        self.scheduler = scheduler
        self.kind = kind
        self.faults = faults
        self.life = life
        #: The first promises that were broken.
        self.broken: list[str] = []
        self.counts = Counter[str]()
        self.tokens: dict[str, Granted] = {}
        self.under_way: list[Request] = []
        self.values: dict[str, tuple[str, float]] = {}
        self.holds: dict[str, Hold] = {}
        self.entry: str | None = None
        #: How often the endpoint answers at once.
        self.quickness = 0.2
        self.is_down = False
        self.is_refusing = False
        self.longest_wait = 0.0

    def breach(self, message: str) -> None:
        """Note a broken promise."""
        self.broken.append(f"{self.scheduler.now:.3f} s: {message}")
        self.scheduler.is_stopped = True

    # -- tokens ----------------------------------------------------------------------------

    def grant(self, owner: Owner, issued_at: float) -> Token:
        name = f"t{len(self.tokens) + 1}"
        self.tokens[name] = Granted(name, self.scheduler.now, self.life, issued_at)
        clock = owner.process.clock
        owner.last_life = issued_at + self.life - (EPOCH + self.scheduler.now + clock.skew)
        self.counts["tokens granted"] += 1
        return Token(name, "Bearer", issued_at + self.life, issued_at)

    def revoke(self, name: str | None = None) -> None:
        """Revoke this token, or all."""
        for token in self.tokens.values():
            if name is None or token.name == name:
                token.is_revoked = True

    # -- the judgement of a token request --------------------------------------------------

    def judge(self, owner: Owner, task: Task) -> Request:
        """A token request begins: is it the only one, under the lock, and needed?"""
        now = self.scheduler.now
        hold = owner.hold
        is_unsure = owner.last_life <= 0 or now <= owner.troubled_until
        if hold is not None and (hold.lost(now) or is_unsure):
            hold = None  # it may be that of the flight before
        request = Request(owner, task, now, hold)
        self.counts["token requests"] += 1
        for other in self.under_way:
            if other.owner is owner:
                self.judge_flight(other)
            elif self.kind == "mapping":
                if other.owner.process is owner.process:
                    self._judge_process(other, owner)
            elif hold is not None:
                self._judge_pair(other)
        if self.kind in ("redis", "add", "locks") and hold is None:
            self._excuse(owner)
        self._judge_need(owner, task, hold)
        owner.waits_since = None
        self.under_way.append(request)
        return request

    def judge_flight(self, other: Request) -> None:
        """Two requests of one manager at once."""
        spare = SPARE_TIME_ALONE if self.kind == "none" else SPARE_TIME
        age = self.scheduler.now - other.task.began + self.scheduler.paused
        if age < LONGEST_REQUEST + spare - 0.01:
            self.breach("one manager makes two token requests at once")
        self.counts["overdue flights"] += 1
        other.owner.is_overtaken = True

    def _judge_process(self, other: Request, owner: Owner) -> None:
        """Two requests of one process at once, whose managers share a mapping."""
        age = self.scheduler.now - other.task.began + self.scheduler.paused
        if age < LEAST_PATIENCE and self._excused(other.owner) is self._excused(owner) is None:
            self.breach("one process makes two token requests for one entry at once")
        self.counts["locks lost: given up"] += 1

    def _judge_pair(self, other: Request) -> None:
        """Another request is under way, while this one holds the lock."""
        hold = other.hold
        if hold is None or hold.is_counted:
            return
        how = hold.lost(self.scheduler.now)
        if how in (None, "released", "taken by two"):
            self.breach(f"two token requests at once, and the lock of the first: {how}")
        hold.is_counted = True
        if other.owner.process.is_dead:
            how = "its holder died"
        self.counts[f"locks lost: {how}"] += 1

    def _excuse(self, owner: Owner) -> None:
        """A request without the lock."""
        excuse = self._excused(owner)
        if excuse is None:
            self.breach("a token request without the lock")
        self.counts[f"no lock: {excuse}"] += 1

    def _excused(self, owner: Owner) -> str | None:
        now = self.scheduler.now
        if "pauses" in self.faults:
            return "a thread did not run"
        hold = owner.hold
        is_new = hold is not None and not hold.is_counted
        if is_new and hold.how in ("expired", "evicted", "given up", "slip"):
            hold.is_counted = True
            return f"lost, {hold.how}"
        if now <= owner.troubled_until + self.scheduler.paused:
            return "the storage failed"
        if owner.last_life <= 0:
            return "the token cannot be shared"
        longest = math.ceil(LONGEST_REQUEST) + 2
        if owner.waits_since is not None and now - owner.waits_since >= longest:
            return "waited too long"
        if owner.has_lost_lock_for_good:
            return "the lock cannot be released"
        if "refused client" in self.faults:
            return "the client was refused"
        return None

    def _judge_need(self, owner: Owner, task: Task, hold: Hold | None) -> None:
        if task.works_for_itself or owner.is_overtaken or owner.forgetting or self.scheduler.slow:
            return  # a flight whose thread did not run for long may be overtaken
        scheduler = self.scheduler
        stepping, scheduler.is_still = scheduler.is_still, True
        try:
            current = owner.manager.peek(is_fresh=True) if owner.manager else None
            alive = owner.manager.peek() if owner.manager else None
            now = owner.process.clock.time()
        finally:
            scheduler.is_still = stepping
        if current is not None and current.access_token not in owner.refused:
            self.breach(f"a token request, though {current.access_token} is there")
        # One that could not be released may be that of an earlier flight.
        name = hold.entry if hold is not None and not owner.has_lost_lock_for_good else None
        if name is None or name in owner.refused or scheduler.now <= owner.troubled_until:
            return
        stored = self.tokens[name]
        left = stored.issued_at + stored.life - now
        is_newer = alive is None or stored.issued_at > alive.issued_at
        if stored.issued_at <= now and left > stored.life / 2 and is_newer:
            self.breach(f"a token request, though {name} was in the storage")


class Endpoint:
    """Stands for :class:`alf._endpoint.TokenEndpoint`."""

    url = "https://id.example.com/token"
    client_id = "client"
    token_type = "Bearer"
    max_duration = LONGEST_REQUEST
    identity = binding = ""

    def __init__(self, world: World, owner: Owner) -> None:
        self._world = world
        self._owner = owner
        self.fixed_secret = "secret" if "refused client" in world.faults else None

    def __str__(self) -> str:
        return self.url

    def request(self) -> Answer:
        world, owner = self._world, self._owner
        scheduler = world.scheduler
        clock = owner.process.clock
        asked_at, issued_at = clock.monotonic(), clock.time()
        request = world.judge(owner, scheduler.current)
        try:
            self._answer()
        finally:
            world.under_way.remove(request)
        token = world.grant(owner, issued_at)
        return Answer(token, asked_at)

    def _answer(self) -> None:
        world = self._world
        draw = world.scheduler.random.random
        seconds = 0.0 if draw() < world.quickness else 0.3 * draw()
        if "slow endpoint" in world.faults and draw() < 0.3:
            seconds = 25.0 * draw()
        world.scheduler.sleep(min(seconds, LONGEST_REQUEST))
        if seconds > LONGEST_REQUEST:
            raise requests.exceptions.ReadTimeout
        if "failing endpoint" in world.faults and draw() < 0.3:
            raise requests.exceptions.ConnectionError
        if "refused client" in world.faults and world.is_refusing:
            response = requests.Response()
            response.status_code = 401
            message = "invalid_client"
            raise TokenError(message, response, error="invalid_client")

    def revoke(self, access_token: str) -> None:
        self._world.scheduler.step()
        self._world.revoke(access_token)

    def follow(self, _session: object) -> None: ...

    def forget_connections(self) -> None: ...


class _Commands:
    """A storage's commands, as one manager sends them."""

    world: World
    owner: Owner
    is_spent = False

    def send(self, effect: Callable[[], Any]) -> Any:
        """Have the effect take place, sooner or later, or never."""
        world, owner, scheduler = self.world, self.owner, self.world.scheduler
        task, now = scheduler.current, scheduler.now
        for began in owner.calls.values():
            if now < began + LONGEST_CALL - 0.01 and not scheduler.paused:
                world.breach("two calls of the storage at once")
        owner.calls[task] = now
        try:
            return self._send(effect, task)
        finally:
            del owner.calls[task]

    def _send(self, effect: Callable[[], Any], task: Task) -> Any:
        world, owner, scheduler = self.world, self.owner, self.world.scheduler
        draw = scheduler.random.random
        seconds = 0.0 if draw() < 0.7 else 0.02 * draw()
        if "slow storage" in world.faults and draw() < 0.1:
            seconds = 4.0 * draw()
        fails = world.is_down or ("failing storage" in world.faults and draw() < 0.05)
        if fails or seconds > LONGEST_CALL / 8:  # a call may send several commands
            self._note_trouble(scheduler.now + seconds)
        if not fails or draw() < 0.3:
            if seconds:
                owner.process.sent[task] = effect
                scheduler.sleep(seconds)
                del owner.process.sent[task]
            else:
                scheduler.step()
            value = effect()
            scheduler.step()
        elif seconds:
            scheduler.sleep(seconds)
        if fails:
            raise ConnectionError
        return value

    def _note_trouble(self, when: float) -> None:
        owner = self.owner
        owner.failures += 1
        pause = max(1.0, min(60.0, 2.0 ** (owner.failures - 1)))
        owner.troubled_until = max(owner.troubled_until, when + pause + 4 * LONGEST_CALL)

    # -- effects: nobody else goes on while they take place --------------------------------

    def live(self, name: str) -> str | None:
        value, ends_at = self.world.values.get(name, (None, 0.0))
        if value is not None and self.world.scheduler.now >= ends_at:
            self.drop(name, "expired")
            value = None
        if name.endswith(":lock"):
            self.owner.seen = value
        return value

    def put(self, name: str, value: str, seconds: float) -> None:
        world = self.world
        world.values[name] = (value, world.scheduler.now + (seconds or math.inf))
        if name == KEY:
            world.entry = json.loads(value)["access_token"]

    def put_new(self, name: str, value: str, seconds: float) -> bool:
        """Store it if there is nothing: that is how the lock is taken."""
        world, owner = self.world, self.owner
        now = world.scheduler.now
        held = self.live(name)
        if held is not None:
            if world.scheduler.without != "entry":
                if owner.waits_since is None:
                    owner.waits_since = now
                for request in world.under_way:
                    is_mine = request.owner is owner and owner.last_life > 0
                    if is_mine and now > owner.troubled_until and not world.scheduler.slow:
                        world.judge_flight(request)
                return False
            self.drop(name, "taken by two")
        self.live(KEY)
        hold = Hold(value, owner, now, now + seconds, world.entry)
        world.holds[name] = owner.hold = hold
        self.put(name, value, seconds)
        owner.seen = value
        return True

    def drop(self, name: str, how: str = "") -> None:
        world = self.world
        world.values.pop(name, None)
        if name == KEY:
            world.entry = None
        hold = world.holds.pop(name, None)
        if hold is not None and hold.how is None:
            hold.how = how

    def delete_lock(self, name: str, meant: object) -> None:
        """Release the lock; is it the releaser's to release?"""
        world = self.world
        hold = world.holds.get(name)
        if hold is None or hold.lost(world.scheduler.now):
            self.drop(name)
        elif hold.owner is self.owner:
            self.drop(name, "released")
        elif meant != hold.value:
            # It was read, and has changed hands before it was deleted: not atomic.
            self.drop(name, "slip")
        else:
            age = world.scheduler.now - hold.taken_at
            if age < hold.patience - 0.01:
                world.breach(f"a lock is taken from its holder after {age:.2f} s")
            self.drop(name, "given up")

    def delete_any(self, name: str) -> None:
        if name.endswith(":lock"):
            self.check_release()
            self.delete_lock(name, self.owner.seen)
        else:
            self.drop(name)

    def check_release(self) -> None:
        if "no release" in self.world.faults:
            self.owner.has_lost_lock_for_good = True
            raise NoPermissionError


class _Redis(_Commands):
    """As much of redis-py as alf uses."""

    def get(self, name: str) -> str | None:
        return self.send(lambda: self.live(name))

    def mget(self, names: list[str]) -> list[str | None]:
        return self.send(lambda: [self.live(name) for name in names])

    def set(self, name: str, value: str, ex: int = 0, nx: bool = False) -> bool | None:
        if nx:
            return self.send(lambda: self.put_new(name, value, ex)) or None
        self.send(lambda: self.put(name, value, ex))
        return True

    def delete(self, name: str) -> None:
        self.send(lambda: self.delete_any(name))

    def eval(self, _script: str, _count: int, name: str, value: str) -> int:
        self.is_spent = True  # alf remembers a Redis that runs no scripts

        def effect() -> int:
            if self.live(name) != value:
                return 0
            self.check_release()
            self.delete_lock(name, value)
            return 1

        answer = self.send(effect)
        self.is_spent = False
        return answer


class _Add(_Commands):
    """As memcached's clients and Django's caches do it: with an atomic add, and no compare."""

    def get(self, key: str) -> str | None:
        return self.send(lambda: self.live(key))

    def set(self, key: str, value: str, expire: int = 0) -> bool:
        self.send(lambda: self.put(key, value, expire))
        return True

    def add(self, key: str, value: str, expire: int = 0) -> bool:
        return self.send(lambda: self.put_new(key, value, expire))

    def delete(self, key: str) -> None:
        self.send(lambda: self.delete_any(key))


class _Locks(_Commands):
    """With lock objects, as FileStorage has them."""

    def get(self, key: str) -> str | None:
        return self.send(lambda: self.live(key))

    def set(self, key: str, value: str, ttl: int = 0) -> None:
        self.send(lambda: self.put(key, value, ttl))

    def delete(self, key: str) -> None:
        self.send(lambda: self.drop(key))

    def lock(self, name: str, timeout: int) -> Any:
        return _LockObject(self, name, timeout)


class _LockObject:
    def __init__(self, commands: _Locks, name: str, seconds: int) -> None:
        self._commands = commands
        self._name = name
        self._seconds = seconds
        self._value = json.dumps([0, id(self), None])

    def acquire(self, blocking: bool) -> bool:
        assert not blocking
        return self._commands.send(
            lambda: self._commands.put_new(self._name, self._value, self._seconds)
        )

    def release(self) -> None:
        def effect() -> None:
            if self._commands.live(self._name) == self._value:
                self._commands.check_release()
                self._commands.delete_lock(self._name, self._value)

        self._commands.send(effect)


class _Mapping(_Commands):
    """A dict."""

    def get(self, key: str) -> str | None:
        return self.send(lambda: self.live(key))

    def __setitem__(self, key: str, value: str) -> None:
        self.send(lambda: self.put(key, value, 0))

    def pop(self, key: str, _default: None) -> None:
        self.send(lambda: self.drop(key))


KINDS: dict[str, type[_Commands]] = {
    "redis": _Redis,
    "add": _Add,
    "locks": _Locks,
    "mapping": _Mapping,
}


class Slot:
    """A storage that many worlds use, one after the other: to look at what it can do takes time."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.renew()

    @property
    def is_spent(self) -> bool:
        """Whether alf has learned something of it that the next world must not know."""
        return self._commands.is_spent

    def renew(self) -> None:
        """Be as new."""
        self._commands = KINDS[self._kind]()
        self._backend = make_backend(self._commands)

    def _as_backend(self) -> Backend:
        return self._backend

    def attach(self, world: World, owner: Owner) -> None:
        """Be the storage of this manager."""
        self._commands.world = world
        self._commands.owner = owner
