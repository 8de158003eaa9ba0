"""Storages for tests: what storages can do, and how they fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers import TurnedClock

NOW = 1_700_000_000.0  # of a TurnedClock


class Plain:
    """A storage as alf 0.7 wanted it, and as some are: falsy while it is empty."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: str) -> Any:
        return self.entries.get(key)

    def set(self, key: str, value: str) -> Any:
        self.entries[key] = value


class Expiring(Plain):
    """Keeps the seconds that an entry is given to live."""

    def __init__(self) -> None:
        super().__init__()
        self.ttls: list[Any] = []

    def set(self, key: str, value: str, ttl: int | None = None) -> Any:
        self.ttls.append(ttl)
        return super().set(key, value)


class Locking(Plain):
    """Has a lock as redis-py has one; those in ``held`` are somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()
        self.taken: list[tuple[str, float]] = []
        self.given_back: list[str] = []
        self.release_error: Exception | None = None

    def lock(self, name: str, timeout: float) -> Any:
        storage = self

        class Lock:
            def acquire(self, blocking: bool) -> bool:
                if name in storage.held:
                    assert not blocking, "a caller would hang for as long as another holds it"
                    return False
                storage.held.add(name)
                storage.taken.append((name, timeout))
                return True

            def release(self) -> None:
                if storage.release_error is not None:
                    raise storage.release_error
                storage.held.remove(name)
                storage.given_back.append(name)

        return Lock()


class Adding(Plain):
    """Has an atomic add as memcached has one."""

    def add(self, key: str, value: str, expire: int = 0) -> Any:
        if key in self.entries:
            return False
        self.entries[key] = value
        return True

    def delete(self, key: str) -> None:
        del self.entries[key]


class Faulty(Expiring):
    """Raises what it is told to, until it is told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.get_error: BaseException | None = None
        self.set_error: BaseException | None = None
        self.calls: list[str] = []

    def get(self, key: str) -> Any:
        self.calls.append("get")
        if self.get_error is not None:
            raise self.get_error
        return super().get(key)

    def set(self, key: str, value: str, ttl: int | None = None) -> Any:
        self.calls.append("set")
        if self.set_error is not None:
            raise self.set_error
        return super().set(key, value, ttl)


def only(storage: Any) -> Any:
    (value,) = getattr(storage, "entries", storage).values()
    return value


def entry(
    token: str,
    *,
    issued_at: float = NOW,
    expires_at: float | None = NOW + 3600,
    key: str = "mine",
    sequence: int = 1,
) -> str:
    """An entry's value, as alf stores it under the key."""
    members = {"access_token": token, "token_type": "Bearer", "scope": None, "extra": {}}
    about = {"v": 2, "key": key, "sequence": sequence, "took": None}
    return json.dumps({**about, **members, "issued_at": issued_at, "expires_at": expires_at})


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Odd(Exception):
    """Is neither true nor false, and cannot even be shown."""

    def __bool__(self) -> bool:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


class Waiting(TurnedClock):
    """A clock that calls ``while_waiting`` when somebody sleeps by it."""

    def __init__(self, while_waiting: Callable[[], object]) -> None:
        super().__init__()
        self.while_waiting = while_waiting

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.while_waiting()


def take(storage: Any, key: str = "mine:lock", value: str = "another") -> Callable[[], object]:
    """Another process takes the lock."""
    if isinstance(storage, Locking):
        lock = storage.lock(key, 1)
        assert lock.acquire(blocking=False)
        return lock.release
    assert storage.add(key, value)
    return lambda: storage.delete(key)
