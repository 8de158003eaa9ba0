"""Finds out how to use a storage: get, set with a time to live, and lock."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from alf._forks import register_after_fork

__all__ = [
    "LONGEST_TTL",
    "PROCESS_LOCKS",
    "Backend",
    "Lock",
    "PickledStorage",
    "as_text",
    "make_backend",
]

logger = logging.getLogger("alf")

#: The longest time to live in seconds: memcached takes a larger number for a date.
LONGEST_TTL = 30 * 24 * 3600

#: A longer value is not an entry and is not decoded.
_LONGEST_VALUE = 256 * 1024

#: How often to try a lock that cannot be taken, although it has no holder.
_ADD_TRIES = 3

#: The names that storages give to the time to live in seconds.
_TTL_WORDS = ("ex", "ttl", "expire", "expires_in", "exptime", "timeout", "time")

#: The same for packages whose signatures do not show it.
_HIDDEN_TTL_WORDS = {"flask_caching": "timeout", "pylibmc": "time", "pymemcache": "expire"}


class Lock(Protocol):
    """A lock among all processes that expires by itself.

    Its value identifies the holder; other processes can read it.
    """

    def take(self, name: str, value: str, seconds: int) -> bool:
        """Take the lock if it is free, for at most ``seconds``; return whether it was."""
        ...

    def holder(self, name: str) -> object:
        """The value with which the lock was taken; something false if it is free or unknown."""
        ...

    def release(self, name: str, value: str) -> None:
        """Release the lock if it still has this value."""
        ...


@dataclass(frozen=True)
class Backend:
    """The operations of a storage.

    ``look(key, name)`` returns an entry and the holder of a lock, with one command if possible.
    ``delete`` is ``None`` if the storage cannot delete, and ``lock`` is ``None`` if it has neither
    a lock nor an atomic add.
    """

    get: Callable[[str], object]
    set: Callable[[str, str, int], object]
    delete: Callable[[str], object] | None
    lock: Lock | None
    look: Callable[[str, str], tuple[object, object]]


def make_backend(storage: Any) -> Backend:
    """Find out what the storage can do, without a command to it.

    Its methods are looked up at each call, because Django's ``cache`` is a different object in each
    thread.

    :raises TypeError: it has neither ``get`` and ``set`` nor ``get`` and ``__setitem__``, or is
        one for asyncio.
    """
    own = getattr(type(storage), "_as_backend", None)
    if own is not None:
        made: Backend = own(storage)
        return made
    kind = type(storage)
    name = f"{kind.__module__}.{kind.__qualname__}"
    has_get, has_set = (_find(storage, method) is not None for method in ("get", "set"))
    if isinstance(storage, type) or not has_get or not (has_set or hasattr(kind, "__setitem__")):
        message = f"token_storage must have get and set, or be a mutable mapping, got a {name}"
        raise TypeError(message)
    is_async = hasattr(kind, "__aenter__") and not hasattr(kind, "__enter__")
    if is_async or inspect.iscoroutinefunction(storage.get):
        message = f"token_storage must not be one for asyncio, got a {name}"
        raise TypeError(message)

    def get(key: str) -> object:
        return storage.get(key)

    if not has_set:
        return Backend(
            get,
            lambda key, value, _ttl: storage.__setitem__(key, value),
            (lambda key: storage.pop(key, None)) if _find(storage, "pop") else None,
            None,
            lambda key, _name: (get(key), None),
        )
    ttl_options = _ttl_options(storage, "set")

    def set_(key: str, value: str, ttl: int) -> object:
        return storage.set(key, value, **ttl_options(ttl))

    delete = _find_delete(storage)
    lock = _find_lock(storage, delete)

    def look(key: str, name: str) -> tuple[object, object]:
        return get(key), None if lock is None else lock.holder(name)

    if isinstance(lock, _RedisLock) and _find(storage, "mget_nonatomic") is None:
        # In a cluster the two keys may be on different nodes.
        look = lambda key, name: tuple(storage.mget([key, name]))  # noqa: E731
    return Backend(get, set_, delete, lock, look)


def _find_delete(storage: Any) -> Callable[[str], object] | None:
    if _find(storage, "delete") is None:
        return None
    options = _reply_options(storage, "delete")
    return lambda key: storage.delete(key, **options)


def _find_lock(storage: Any, delete: Callable[[str], object] | None) -> Lock | None:
    if delete is not None and {"nx", "ex"} <= _Method(storage, "set").parameters:
        return _RedisLock(storage, delete)
    if "timeout" in _Method(storage, "lock").parameters:
        return _LockObjects(storage)
    if delete is not None and _ttl_options(storage, "add")(1):
        return _AddLock(storage, delete)
    return None


class _AddLock:
    """A lock by ``add(key, value, ttl)``, which does not replace a stored value."""

    def __init__(self, storage: Any, delete: Callable[[str], object]) -> None:
        self._storage = storage
        self._delete = delete
        self._ttl_options = _ttl_options(storage, "add")

    def take(self, name: str, value: str, seconds: int) -> bool:
        for _ in range(_ADD_TRIES):
            answer = self._storage.add(name, value, **self._ttl_options(seconds))
            if answer is None or answer:
                return True
            if self.holder(name):
                return False
            # It was released a moment ago.
        # A client that swallows errors always returns false; then the lock has no holder.
        return True

    def holder(self, name: str) -> object:
        return self._storage.get(name)

    def release(self, name: str, value: str) -> None:
        # If it expires in between, the next holder loses it. The worst result is one more token
        # request.
        held = self.holder(name)
        if held and as_text(held) == value:
            self._delete(name)


class _RedisLock(_AddLock):
    """A lock by Redis' ``SET NX``; released by a script if the server allows that."""

    _SCRIPT = """
if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) end
return 0
"""

    def __init__(self, storage: Any, delete: Callable[[str], object]) -> None:
        super().__init__(storage, delete)
        self._has_scripts = _find(storage, "eval") is not None

    def take(self, name: str, value: str, seconds: int) -> bool:
        return bool(self._storage.set(name, value, nx=True, ex=seconds))

    def release(self, name: str, value: str) -> None:
        if not self._has_scripts:
            super().release(name, value)
            return
        try:
            self._storage.eval(self._SCRIPT, 1, name, value)
        except Exception:
            # If the server is down, this fails as well.
            super().release(name, value)
            self._has_scripts = False
            logger.warning(
                "token storage: Redis allows this user no scripts; the lock %s is released "
                "with GET and DEL",
                name,
            )


class _LockObjects:
    """A lock by the lock objects that ``lock(name, timeout)`` makes."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._held: dict[str, Any] = {}

    def take(self, name: str, value: str, seconds: int) -> bool:
        lock = self._storage.lock(name, timeout=seconds)
        if not lock.acquire(blocking=False):
            return False
        self._held[value] = lock
        return True

    def holder(self, name: str) -> object:
        del name
        return None  # the storage's own lock objects choose the value

    def release(self, name: str, value: str) -> None:
        del name
        self._held.pop(value).release()


class ProcessLocks:
    """Locks among the threads of this process."""

    def __init__(self) -> None:
        self._after_fork()
        register_after_fork(self)

    def _after_fork(self) -> None:
        self._mutex = threading.RLock()
        self._held: dict[str, tuple[str, float]] = {}

    def take(self, name: str, value: str, seconds: int) -> bool:
        now = time.monotonic()
        with self._mutex:
            held = self._held.get(name)
            if held is not None and now < held[1]:
                return False
            self._held[name] = (value, now + seconds)
            return True

    def holder(self, name: str) -> object:
        held = self._held.get(name)
        return None if held is None else held[0]

    def release(self, name: str, value: str) -> None:
        with self._mutex:
            if self.holder(name) == value:
                del self._held[name]


#: For storages without a lock: at least the Clients of one process share a request.
PROCESS_LOCKS = ProcessLocks()


def _ttl_options(storage: Any, name: str) -> Callable[[int], dict[str, Any]]:
    """Makes the keyword arguments for a time to live; empty if the method has no such argument."""
    method = _Method(storage, name)
    word = next((word for word in _TTL_WORDS if word in method.parameters), None)
    if word is None and method.is_silent:
        word = _HIDDEN_TTL_WORDS.get(method.package)
    if word is None:
        return lambda _ttl: {}
    rest = _reply_options(storage, name)
    return lambda ttl: {word: ttl, **rest}


def _reply_options(storage: Any, name: str) -> dict[str, Any]:
    """The arguments with which pymemcache waits for memcached's answer."""
    return {"noreply": False} if _Method(storage, name).package == "pymemcache" else {}


class _Method:
    """Describes a method of a storage.

    :ivar package: the package that it comes from; for a proxy, such as Django's ``cache``, that of
        the object behind it.
    :ivar parameters: the names of its arguments; with ``**kwargs`` also those of the methods that
        it overrides.
    :ivar is_silent: whether it may take other arguments.
    """

    def __init__(self, storage: Any, name: str) -> None:
        method = _find(storage, name)
        owner = type(getattr(method, "__self__", storage))
        self.package = owner.__module__.partition(".")[0]
        self.parameters: set[str] = set()
        self.is_silent = method is not None
        for candidate in (method, *(vars(kind).get(name) for kind in owner.__mro__)):
            try:
                parameters = inspect.signature(candidate).parameters.values()  # type: ignore[arg-type]
            except (TypeError, ValueError):  # no such method, or one written in C
                continue
            self.parameters.update(
                parameter.name
                for parameter in parameters
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            )
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                self.is_silent = False
                break


def _find(storage: Any, name: str) -> Callable[..., Any] | None:
    try:
        method = getattr(storage, name)
    except Exception:  # diskcache's FanoutCache asserts that the value exists
        return None
    return method if callable(method) else None


def as_text(value: object) -> str:
    """Check a stored text. Some storages return bytes for a str.

    :raises TypeError: it is something else; ``bytes(n)`` would allocate ``n`` bytes.
    :raises ValueError: it is too long, or not UTF-8.
    """
    if not isinstance(value, (str, bytes, bytearray, memoryview)):
        message = f"a {type(value).__name__} instead of a text"
        raise TypeError(message)
    if len(value) > _LONGEST_VALUE:
        message = "too long a text"
        raise ValueError(message)
    return value if isinstance(value, str) else bytes(value).decode()


class PickledStorage:
    """Replaces a storage while a Client is pickled; explains what to do if that fails."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage

    def __deepcopy__(self, _memo: object) -> PickledStorage:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        import pickle

        try:
            pickle.dumps(self.storage)
        except Exception as error:
            kind = type(self.storage)
            message = (
                "the Client cannot be pickled because its token_storage cannot: a "
                f"{kind.__module__}.{kind.__qualname__} ({error}); make a Client in each process "
                "instead, such as in the initializer of a process pool"
            )
            raise TypeError(message) from error
        return (type(self), (self.storage,))
