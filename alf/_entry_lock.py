"""The lock of a shared entry: one process requests the token, the others wait quietly."""

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

#: Seconds for which a process may hold the lock, at most.
_LONGEST_LOCK = 60.0

#: A holder is given up after twice the time that it expected to take and these seconds; one that
#: does not say what it expects, because it is not alf or wrote nonsense, after these seconds.
_PATIENCE = 2.0

#: A waiting process looks after this many seconds, and after this fraction of the time that it has
#: waited: a token is noticed soon after it is there, and a long request costs few looks.
_LOOK_AFTER = 0.1
_LOOK_AFTER_FRACTION = 1 / 3


class EntryLock:
    """The lock beside an entry.

    A storage that has neither a lock nor an atomic add is locked within this process only.

    :param access: the storage.
    :param max_duration: seconds that a token request may take.
    """

    def __init__(self, access: StorageAccess, max_duration: float) -> None:
        self._access = access
        lock = access.backend.lock
        self._lock: Lock = PROCESS_LOCKS if lock is None else lock
        # A second more, since memcached's seconds are up to one shorter.
        self.seconds = math.ceil(min(max_duration, _LONGEST_LOCK)) + 1
        #: The values with which it was taken, as opposed to passed by while the storage fails.
        self._taken: set[str] = set()

    @property
    def _name(self) -> str:
        return f"{self._access.key}:lock"

    def take(self, mine: str) -> bool:
        """Take the lock if it is free; also true if the storage fails: then nobody waits."""
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
        """Release the lock, if it was taken with this value."""
        if mine in self._taken:
            self._taken.discard(mine)
            self.release(mine)

    def release(self, value: str) -> None:
        """Release the lock, if it has this value."""
        # Also after an outage of anything else: the lock would keep the others waiting.
        if self._access.locking.is_paused:
            return
        try:
            self._access.call(self._lock.release, self._name, value)
        except StorageCallError as failure:
            if is_outage(failure.error):
                self._access.note_failure(self._access.locking, failure.error)
                return
            # It stays until it expires: no other request may run into it.
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
        """Wait for a stored token or the lock; neither: the storage fails, or it took too long.

        :param mine: the value to take the lock with.
        :param find: gives the token that is wanted, if the stored value holds it.
        :param is_refused: whether the endpoint has refused the client meanwhile.
        :returns: whether the lock was taken, and the token.
        """
        clock = self._access.clock
        started_at = clock.monotonic()
        pause = _LOOK_AFTER
        seen = ""
        given_up_at = math.inf
        while True:
            clock.sleep(pause)
            now = clock.monotonic()
            value, held = self._look()
            stored = find(value)
            if stored is not None:
                return False, stored
            if self._access.is_troubled or now - started_at > self.seconds + 1:
                return False, None
            if seen and held != seen and is_refused():
                return False, None  # all waiting processes learn of it at once, not one by one
            if held and held != seen:
                seen, holder = held, Holder.parse(held)
                given_up_at = now + self._patience(holder)
            if held and now >= given_up_at:
                # Only one of the waiting processes gets it.
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
                # Spread out, and not so early that most look twice.
                return remaining + random.uniform(0.05 + expected / 30, 0.1 + expected / 5)  # noqa: S311
            waiting = max(0.0, waited - expected) + expected / 4
        pause = _LOOK_AFTER + waiting * _LOOK_AFTER_FRACTION
        return pause * random.uniform(0.98, 1)  # noqa: S311

    def _patience(self, holder: Holder | None) -> float:
        """Seconds after which this holder is given up."""
        if holder is None:
            return _PATIENCE
        if holder.expected is None:
            return float(self.seconds)
        return min(2 * holder.expected + _PATIENCE, self.seconds)

    def _look(self) -> tuple[Any, str]:
        """The entry's value, and that of the lock; an empty one if it is free or not known."""
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
