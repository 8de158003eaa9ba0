"""What a storage can do: get, set with a time to live, and lock."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["LONGEST_TTL", "Backend", "Release", "as_text", "make_backend", "no_release"]

#: An entry lives at most this long, in seconds: memcached takes a larger number for a date.
LONGEST_TTL = 30 * 24 * 3600

#: What storages call the seconds for which an entry lives.
_TTL_WORDS = ("ex", "ttl", "expire", "expires_in", "exptime", "timeout", "time")

#: The same for packages whose signatures do not tell.
_HIDDEN_TTL_WORDS = {"flask_caching": "timeout", "pylibmc": "time", "pymemcache": "expire"}

#: Releases a lock.
Release = Callable[[], object]


@dataclass(frozen=True)
class Backend:
    """A storage in alf's words.

    ``lock(name, seconds)`` takes a lock that ends by itself after so many seconds; it returns what
    releases it, or ``None`` if another process holds it. ``lock`` is ``None`` if the storage has
    neither a lock nor an atomic add; ``delete`` is ``None`` if it cannot delete.
    """

    get: Callable[[str], object]
    set: Callable[[str, str, int], object]
    delete: Callable[[str], object] | None
    lock: Callable[[str, int], Release | None] | None


def make_backend(storage: Any) -> Backend:
    """See what the storage is able to do; nothing is sent.

    Its methods are looked up anew at each call: Django's ``cache`` is another in each thread.

    :raises TypeError: it has neither ``get`` and ``set`` nor ``get`` and ``__setitem__``, or is
        one for asyncio.
    """
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
        )
    ttl_options = _ttl_options(storage, "set")

    def set_(key: str, value: str, ttl: int) -> object:
        return storage.set(key, value, **ttl_options(ttl))

    delete = _find_delete(storage)
    return Backend(get, set_, delete, _find_lock(storage, delete))


def _find_delete(storage: Any) -> Callable[[str], object] | None:
    if _find(storage, "delete") is None:
        return None
    options = _reply_options(storage, "delete")
    return lambda key: storage.delete(key, **options)


def _find_lock(
    storage: Any, delete: Callable[[str], object] | None
) -> Callable[[str, int], Release | None] | None:
    lock = _Method(storage, "lock")
    if "seconds" in lock.parameters:  # a storage of our own
        return lambda name, seconds: storage.lock(name, seconds)
    if "timeout" in lock.parameters or lock.package == "django_redis":
        return _lock_by_lock(storage)
    if delete is not None and _ttl_options(storage, "add")(1):
        return _lock_by_add(storage, delete)
    return None


def _lock_by_lock(storage: Any) -> Callable[[str, int], Release | None]:
    """By the lock of redis-py, of valkey-py or of django-redis."""

    def take(name: str, seconds: int) -> Release | None:
        lock = storage.lock(name, timeout=seconds)
        return lock.release if lock.acquire(blocking=False) else None

    return take


def _lock_by_add(
    storage: Any, delete: Callable[[str], object]
) -> Callable[[str, int], Release | None]:
    """By ``add(key, value, ttl)``, which stores nothing where there is something."""
    ttl_options = _ttl_options(storage, "add")

    def take(name: str, seconds: int) -> Release | None:
        owner = secrets.token_hex(16)
        answer = storage.add(name, owner, **ttl_options(seconds))
        if answer is not None and not answer:
            # Clients that swallow their errors say the same: then nobody has it.
            return None if storage.get(name) else no_release

        def release() -> None:
            if as_text(storage.get(name)) == owner:
                delete(name)

        return release

    return take


def _ttl_options(storage: Any, name: str) -> Callable[[int], dict[str, Any]]:
    """The keyword arguments that give an entry so many seconds to live; none, if none do."""
    method = _Method(storage, name)
    word = next((word for word in _TTL_WORDS if word in method.parameters), None)
    if word is None and method.is_silent:
        word = _HIDDEN_TTL_WORDS.get(method.package)
    if word is None:
        return lambda _ttl: {}
    rest = _reply_options(storage, name)
    return lambda ttl: {word: ttl, **rest}


def _reply_options(storage: Any, name: str) -> dict[str, Any]:
    """pymemcache waits for memcached's answer only where it is told to."""
    return {"noreply": False} if _Method(storage, name).package == "pymemcache" else {}


class _Method:
    """What is to be known of a storage's method.

    :ivar package: the package that it comes from; of a proxy, such as Django's ``cache``, the
        one behind it.
    :ivar parameters: the names by which its arguments can be given. Where it takes ``**kwargs``,
        those of the methods that it overrides count, too.
    :ivar is_silent: whether it may take others than these.
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
            except (TypeError, ValueError):  # there is none, or it is written in C
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
    except Exception:  # diskcache's FanoutCache asserts that there is one
        return None
    return method if callable(method) else None


def as_text(value: Any) -> str:
    """What a storage gave: some give bytes for the string that they were given."""
    return value if isinstance(value, str) else bytes(value).decode()


def no_release() -> None:
    """Releases a lock that was never taken."""
