"""Calls the user's storage: with a time limit, with pauses in an outage, never raising."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any

from alf._backends import make_backend
from alf._backoff import Backoff
from alf._clocks import Clock
from alf._entries import FORMAT, check_key
from alf._storage_calls import StorageCallError, StorageCalls

__all__ = ["Outage", "StorageAccess", "is_outage", "kind_of"]

logger = logging.getLogger("alf")

#: The longest pause, in seconds, after an operation of the storage has failed.
_LONGEST_PAUSE = 60.0

#: What reading raises if the entry cannot be read, as opposed to the storage.
_UNREADABLE = (
    *(UnicodeError, ValueError, TypeError, EOFError, AttributeError, ImportError),
    *(IndexError, pickle.PickleError),
)


class Outage(Backoff):
    """An operation that may fail, and the pause before it is tried again."""

    def __init__(self, what: str, clock: Clock) -> None:
        super().__init__(clock, longest=_LONGEST_PAUSE)
        self.what = what


class StorageAccess:
    """A storage, the key of the entry in it, and which operations fail at the moment.

    :param storage: any object with ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param key: the entry's key: a str that the user chose, or a callable that returns it.
    :param on_failure: called for each outage with ``operation`` and the class of the ``error``.
    :param clock: the clock.
    :raises TypeError: the storage lacks these methods or is for asyncio, or the key is not a str.
    :raises ValueError: the key is not 1 to 240 visible ASCII characters.
    """

    def __init__(
        self,
        storage: Any,
        key: str | Callable[[], str],
        on_failure: Callable[..., object] | None,
        clock: Clock,
    ) -> None:
        self._own_key = key if callable(key) else None
        self._users_key = "" if callable(key) else check_key(key)
        self.backend = make_backend(storage)
        self.call = StorageCalls()
        self.clock = clock
        self._on_failure = on_failure
        self.reading = Outage("reading", clock)
        self.writing = Outage("writing", clock)
        self.locking = Outage("locking", clock)
        self.is_rubbish_known = False
        #: Whether the user's key holds something that alf must not replace.
        self.is_foreign = False

    @property
    def key(self) -> str:
        """The entry's key."""
        return self._users_key if self._own_key is None else self._own_key()

    @property
    def is_troubled(self) -> bool:
        """Whether any operation is paused at the moment."""
        return self.reading.is_paused or self.writing.is_paused or self.locking.is_paused

    def read(self, get: Callable[..., Any], *args: str) -> Any:
        """The stored value; ``None`` if there is no entry, or in an outage."""
        if self.reading.is_paused or self.is_foreign:
            return None
        value = None
        try:
            value = self.call(get, *args)
        except StorageCallError as failure:
            error = failure.error
            if "WRONGTYPE" in _text(error) and self._own_key is None:
                self.is_foreign = True
                logger.warning(
                    "token storage: %s holds something that is not a string; it is left alone, "
                    "and the token is not shared",
                    self.key,
                )
                return None
            if "WRONGTYPE" in _text(error) or _is_unreadable(error):
                self.note_rubbish(error)
            elif not isinstance(error, (KeyError, FileNotFoundError)):  # there is no entry
                self.note_failure(self.reading, error)
                return None
        self.note_success(self.reading)
        return value

    def note_rubbish(self, error: Exception) -> None:
        """Log once that the entry will be replaced."""
        if not self.is_rubbish_known:
            logger.warning(
                "token storage: %s is not a valid token entry of format %d (%s); it will be "
                "replaced",
                # Only the class: the text may quote the entry.
                *(self.key, FORMAT, kind_of(error)),
            )
        self.is_rubbish_known = True

    def note_failure(self, outage: Outage, error: Exception | None) -> float:
        """Pause the operation; log one WARNING per outage. Returns when the pause ends."""
        is_known = any(o.is_failing for o in (self.reading, self.writing, self.locking))
        # Only the error's class: its text may quote the token.
        kind = None if error is None else kind_of(error)
        logger.log(
            logging.DEBUG if is_known else logging.WARNING,
            "token storage: %s %s failed (%s); going on without",
            *(outage.what, self.key, kind or "it said so"),
        )
        if not is_known and self._on_failure is not None:
            self._on_failure(operation=outage.what, error=kind)
        return outage.fail()

    def note_success(self, outage: Outage) -> None:
        """Record that the operation works again."""
        if outage.is_failing:
            logger.info("token storage: %s %s works again", outage.what, self.key)
            outage.succeed()


def _is_unreadable(error: Exception) -> bool:
    # Timeouts are OSErrors, redis-py's own included.
    return isinstance(error, _UNREADABLE) and not isinstance(error, OSError)


def is_outage(error: Exception) -> bool:
    """Whether the storage could not be reached, as opposed to refusing the command."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or not names.isdisjoint({"ConnectionError", "TimeoutError"})


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def kind_of(error: Exception) -> str:
    """The name of the error's class, such as ``redis.exceptions.ReadOnlyError``."""
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
