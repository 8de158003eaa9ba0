"""The lock of a shared entry: one process requests the token, the others wait."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Any

from alf._backends import PROCESS_LOCKS, Lock, as_text
from alf._entries import Holder
from alf._storage_access import StorageAccess, is_outage, kind_of
from alf._storage_calls import LockBusyError, StorageCallError
from alf.tokens import Token

__all__ = ["EntryLock", "LockBusyError"]

logger = logging.getLogger("alf")

#: The longest time, in seconds, that a process may hold the lock.
_LONGEST_LOCK = 60.0

#: A holder counts as dead after twice the time that it expected to take plus this many seconds. If
#: the lock's value does not say what its holder expects, only these seconds count.
_PATIENCE = 2.0

#: A waiting process looks again after this many seconds plus this fraction of the time that it has
#: waited. So it finds the token soon after it was stored, and a long request costs few looks.
_LOOK_AFTER = 0.1
_LOOK_AFTER_FRACTION = 1 / 3


class EntryLock:
    """The lock beside an entry.

    Without a lock or an atomic add in the storage, it excludes only threads of this process.

    :param access: the storage.
    :param max_duration: seconds that a token request may take.
    """

    def __init__(self, access: StorageAccess, max_duration: float) -> None:
        self._access = access
        lock = access.backend.lock
        self._lock: Lock = PROCESS_LOCKS if lock is None else lock
        # One more, because memcached may end a second early.
        self.seconds = math.ceil(min(max_duration, _LONGEST_LOCK)) + 1
        #: The values with which it was really taken, as opposed to skipped while the storage fails.
        self._taken: set[str] = set()

    @property
    def _name(self) -> str:
        return f"{self._access.key}:lock"

    def take(self, mine: str) -> bool:
        """Take the lock if it is free. Also true if the storage fails: no caller waits for that."""
        if self._access.is_troubled:
            return True
        try:
            is_mine = bool(self._access.call(self._lock.take, self._name, mine, self.seconds))
        except StorageCallError as failure:
            self._access.note_failure(self._access.locking, failure.error)
            return True
        self._access.note_success(self._access.locking)
        if is_mine:
            self._taken.add(mine)
        return is_mine

    def give_back(self, mine: str) -> None:
        """Release the lock if it was taken with this value."""
        if mine in self._taken:
            self._taken.discard(mine)
            self.release(mine)

    def release(self, value: str) -> None:
        """Release the lock if it has this value."""
        # Even while other operations are paused: the lock would keep other processes waiting.
        if self._access.locking.is_paused:
            return
        try:
            self._access.call(self._lock.release, self._name, value)
        except StorageCallError as failure:
            if is_outage(failure.error):
                self._access.note_failure(self._access.locking, failure.error)
                return
            # It stays until it expires, and must not delay the next request.
            self._lock = PROCESS_LOCKS
            logger.warning(
                "token storage: the lock %s could not be released (%s); it is not used again",
                *(self._name, kind_of(failure.error)),
            )

    def wait(
        self,
        mine: str,
        find: Callable[[Any], Token | None],
        is_refused: Callable[[], bool],
    ) -> tuple[bool, Token | None]:
        """Wait for a stored token or for the lock; for neither if the storage fails or time is up.

        :param mine: the value to take the lock with.
        :param find: returns the wanted token, if the stored value holds it.
        :param is_refused: whether the endpoint has refused the client in the meantime.
        :returns: whether the lock was taken, and the token.
        """
        clock = self._access.clock
        started_at = clock.monotonic()
        pause = _LOOK_AFTER
        seen = ""
        given_up_at = math.inf
        while True:
            clock.sleep(pause)
            value, held = self._look()
            now = clock.monotonic()
            stored = find(value)
            if stored is not None:
                return False, stored
            if self._access.is_troubled or now - started_at > self.seconds + 1:
                return False, None
            if seen and held != seen and is_refused():
                return False, None  # so that all waiting processes learn of it at once
            if held and held != seen:
                seen, holder = held, Holder.parse(held)
                given_up_at = now + self._patience(holder)
            if held and now >= given_up_at:
                # Only one of the waiting processes can take it.
                self.release(held)
            if (not held or held == mine or now >= given_up_at) and self.take(mine):
                return True, None
            pause = self._pause(Holder.parse(held) if held else None, now - started_at)
            if held and now < given_up_at:
                pause = min(pause, given_up_at - now)

    def _pause(self, holder: Holder | None, waited: float) -> float:
        """Seconds until the next look."""
        waiting = waited
        if holder is not None and holder.expected is not None:
            expected = holder.expected
            remaining = holder.remaining(self._access.clock.time())
            if remaining > 0:
                # Spread out, but not so early that most of them look twice.
                return remaining + random.uniform(0.05 + expected / 30, 0.1 + expected / 5)  # noqa: S311
            waiting = max(0.0, waited - expected) + expected / 4
        pause = _LOOK_AFTER + waiting * _LOOK_AFTER_FRACTION
        return pause * random.uniform(0.98, 1)  # noqa: S311

    def _patience(self, holder: Holder | None) -> float:
        """Seconds after which this holder counts as dead."""
        if holder is None:
            return _PATIENCE
        if holder.expected is None:
            return float(self.seconds)
        return min(2 * holder.expected + _PATIENCE, self.seconds)

    def _look(self) -> tuple[Any, str]:
        """The entry's value and the lock's; the latter is empty if it is free or not known."""
        access = self._access
        if self._lock is PROCESS_LOCKS:
            value = access.read(access.backend.get, access.key)
            held = self._lock.holder(self._name)
        else:
            value, held = access.read(access.backend.look, access.key, self._name) or (None, None)
        try:
            text = as_text(held) if held else ""
        except Exception:
            text = "?"
        return value, text
