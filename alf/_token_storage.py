"""The shared token: reading and writing its entry, one request at a time, and outages."""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from alf._backends import LONGEST_TTL, PROCESS_LOCKS, Lock, as_text, make_backend
from alf._backoff import Backoff
from alf._clocks import Clock
from alf._entries import FORMAT, LONGEST_REFUSAL, Entry, Holder, StoredRefusal, check_key
from alf._obtained import is_of_another_secret, note_obtained
from alf._storage_calls import StorageCallError, StorageCalls
from alf.tokens import Token

__all__ = ["LockBusyError", "TokenStorage"]

logger = logging.getLogger("alf")

#: Seconds for which a part of the storage that fails is left alone, at most.
_LONGEST_PAUSE = 60.0

#: Seconds for which a process may hold the lock, at most.
_LONGEST_LOCK = 60.0

#: A holder is given up after twice the time that it expected to take and these seconds; one that
#: does not say what it expects, since it is not alf or wrote nonsense, after these seconds.
_PATIENCE = 2.0

#: A waiting process looks after this many seconds, and after this fraction of the time that it has
#: waited: nobody gets the token much later than it is there, and a long request costs few looks.
_LOOK_AFTER = 0.1
_LOOK_AFTER_FRACTION = 1 / 3

#: What reading raises if the entry is not readable, as opposed to a storage that is not.
_UNREADABLE = (
    *(UnicodeError, ValueError, TypeError, EOFError, AttributeError, ImportError),
    *(IndexError, pickle.PickleError),
)


class LockBusyError(Exception):
    """Another process holds the lock."""


class TokenStorage:
    """The one entry of one token in a storage. A failing storage never fails a call.

    What fails, be it reading, writing or locking, is left alone for a while, longer each time. An
    outage is logged once. A call of the storage takes about a second at most.

    :param storage: any object with ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param key: the entry's key: a str that the user chose, or what gives it when it is needed.
    :param max_duration: seconds that a token request may take.
    :param secret: the client secret; a token that this process obtained with another one is not
        loaded. ``None``: it is not known.
    :param on_failure: told of each outage: its ``operation``, and the class of its ``error``.
    :param clock: what tells the time.
    :raises TypeError: the storage has neither or is for asyncio, or the key is not a str.
    :raises ValueError: the key is not 1 to 240 visible ASCII characters.

    The storage is called by one thread at a time.
    """

    def __init__(
        self,
        storage: Any,
        key: str | Callable[[], str],
        *,
        max_duration: float = 20.0,
        secret: str | None = None,
        on_failure: Callable[..., object] | None = None,
        clock: Clock = time,
    ) -> None:
        self._secret = secret
        self._own_key = key if callable(key) else None
        self._users_key = "" if callable(key) else check_key(key)
        self._backend = make_backend(storage)
        self._lock: Lock = PROCESS_LOCKS if self._backend.lock is None else self._backend.lock
        # A second more, since memcached's seconds are up to one shorter.
        self._lock_seconds = math.ceil(min(max_duration, _LONGEST_LOCK)) + 1
        self._on_failure = on_failure
        self._clock = clock
        self._call = StorageCalls()
        self._reading = _Outage("reading", clock)
        self._writing = _Outage("writing", clock)
        self._locking = _Outage("locking", clock)
        #: The client's secret, if it cannot change: whose refusal ends the wait for the lock.
        self.credential: str | None = None
        self._is_rubbish_known = False
        self._is_shareable = True
        #: Whether the user's key holds something that is not alf's to replace.
        self._is_foreign = False
        #: The place of the stored token in the order of requests, when it was last read.
        self._sequence = 0
        #: Seconds that a token request takes, as far as is known here.
        self._expected: float | None = None
        self._requested_at: float | None = None

    @property
    def _key(self) -> str:
        return self._users_key if self._own_key is None else self._own_key()

    @property
    def _lock_name(self) -> str:
        return f"{self._key}:lock"

    # -- the entry -------------------------------------------------------------------------

    def load(self) -> Token | None:
        """The token in the entry, if there is one."""
        entry = self._load()
        if entry is None or is_of_another_secret(entry.token, self._secret):
            return None
        return entry.token

    def _load(self) -> Entry | None:
        return self._parse(self._read(self._backend.get, self._key))

    def _read(self, get: Callable[..., Any], *args: str) -> Any:
        """What the storage has; ``None`` if there is nothing, or in an outage."""
        if self._reading.is_paused or self._is_foreign:
            return None
        value = None
        try:
            value = self._call(get, *args)
        except StorageCallError as failure:
            error = failure.error
            if "WRONGTYPE" in _text(error) and self._own_key is None:
                self._is_foreign = True
                logger.warning(
                    "token storage: %s holds something that is not a string; it is left alone, "
                    "and the token is not shared",
                    self._key,
                )
                return None
            if "WRONGTYPE" in _text(error) or _is_unreadable(error):
                self._note_rubbish(error)
            elif not isinstance(error, (KeyError, FileNotFoundError)):  # there is none
                self._note_failure(self._reading, error)
                return None
        self._note_success(self._reading)
        return value

    def _parse(self, value: Any) -> Entry | None:
        try:
            if not value:  # None, and dogpile's NO_VALUE
                self._sequence = 0
                return None
            entry = Entry.parse(value, self._key)
        except Exception as error:
            self._note_rubbish(error)
            return None
        self._is_rubbish_known = False
        self._sequence = entry.sequence
        if entry.took is not None:
            self._expected = entry.took
        return entry

    def _note_rubbish(self, error: Exception) -> None:
        if not self._is_rubbish_known:
            logger.warning(
                "token storage: %s is not a valid token entry of format %d (%s); it will be "
                "replaced",
                # Only the kind: the text may quote the entry.
                *(self._key, FORMAT, _kind(error)),
            )
        self._is_rubbish_known = True

    def save(self, token: Token) -> float | None:
        """Replace the entry by this token, unless one that was requested later is there.

        :returns: when to try again, in the clock's monotonic time, if that failed.
        """
        note_obtained(token, self._secret)
        now = self._clock.time()
        life = LONGEST_TTL if token.expires_at is None else token.expires_at - now
        self._is_shareable = life > 0
        if not self._is_shareable or self._is_foreign:
            return None
        if self._requested_at is not None:
            self._expected = max(0.0, self._clock.monotonic() - self._requested_at)
            self._requested_at = None
        before = self._sequence
        current = self._load()
        if current is not None and _is_newer(current, token, before, now):
            return None
        for outage in (self._reading, self._writing):
            if outage.is_paused:
                return outage.paused_until
        sequence = before if current is None else max(before, current.sequence)
        entry = Entry(token, sequence + 1, self._expected)
        ttl = min(math.ceil(life), LONGEST_TTL)
        key = self._key
        try:
            answer = self._call(self._backend.set, key, entry.dump(key), ttl)
        except StorageCallError as failure:
            return self._note_failure(self._writing, failure.error)
        self._sequence = entry.sequence
        # memcached's clients say so when they fail; others mean something else by it.
        if _is_no(answer) and self.load() != _as_stored(token):
            return self._note_failure(self._writing, None)
        self._note_success(self._writing)
        return None

    def remove(self, token: Token) -> None:
        """Remove the entry, if it still holds this token, and the storage can delete."""
        stored = self.load()
        delete = self._backend.delete
        if delete is None or stored is None or stored.access_token != token.access_token:
            return
        try:
            self._call(delete, self._key)
        except StorageCallError as failure:
            self._note_failure(self._writing, failure.error)

    # -- a refusal of the client -----------------------------------------------------------

    def load_refusal(self, credential: str) -> StoredRefusal | None:
        """The endpoint's recent refusal of this credential, if another process met one.

        :param credential: the secret that would be sent.
        """
        key = f"{self._key}:refused"
        value = self._read(self._backend.get, key)
        try:
            if not value:
                return None
            return StoredRefusal.parse(value, key, credential, self._clock.time())
        except Exception as error:
            logger.debug("token storage: %s is not a valid refusal (%s)", key, _kind(error))
            return None

    def save_refusal(
        self,
        credential: str,
        status: int,
        error: str | None = None,
        description: str | None = None,
        *,
        seconds: float = LONGEST_REFUSAL,
    ) -> None:
        """Share the endpoint's refusal of this credential for so many seconds, 30 at most.

        :param credential: the secret that was refused.
        :param status: the status of the answer.
        :param error: the error code (RFC 6749 §5.2).
        :param description: the endpoint's text, redacted.
        """
        seconds = min(seconds, LONGEST_REFUSAL)
        if seconds <= 0 or self._is_foreign or self._writing.is_paused or self._reading.is_paused:
            return
        key = f"{self._key}:refused"
        until = self._clock.time() + seconds
        value = StoredRefusal(status, error, description, until).dump(key, credential)
        try:
            self._call(self._backend.set, key, value, math.ceil(seconds))
        except StorageCallError as failure:
            self._note_failure(self._writing, failure.error)

    # -- one request at a time -------------------------------------------------------------

    @contextlib.contextmanager
    def exclusive(
        self, is_wanted: Callable[[Token], bool], *, wait: bool = True
    ) -> Iterator[Token | None]:
        """Hold the lock for the ``with`` block, in which the token is requested.

        If the storage fails, or if the last token was dead on arrival and cannot be shared, the
        block runs without the lock. A holder that is dead or stuck delays the others for a
        bounded time.

        :param is_wanted: whether a stored token makes a request needless.
        :param wait: whether to wait for another holder.
        :returns: a stored token that is wanted, if there is one; ``None``: request one.
        :raises LockBusyError: another process holds the lock, and ``wait`` is false.
        """
        if not self._is_shareable or self._is_foreign:
            yield None
            return
        name = self._lock_name
        mine = Holder.new(self._expected, self._clock.time()).dump()
        stored: Token | None = None
        holds = self._take(name, mine)
        try:
            if not holds:
                if not wait:
                    raise LockBusyError
                holds, stored = self._wait(name, mine, is_wanted)
            if holds:
                # The holder before may have stored one since the last look.
                stored = self._wanted(self._load(), is_wanted)
            self._requested_at = self._clock.monotonic()
            yield stored
        finally:
            self._requested_at = None
            if holds:
                self._release(name, mine)

    def _wait(
        self, name: str, mine: str, is_wanted: Callable[[Token], bool]
    ) -> tuple[bool, Token | None]:
        """Wait for a stored token or the lock; neither: the storage fails, or it took too long."""
        clock = self._clock
        started_at = clock.monotonic()
        pause = _LOOK_AFTER
        seen = ""
        given_up_at = math.inf
        while True:
            clock.sleep(pause)
            now = clock.monotonic()
            entry, held = self._look(name)
            stored = self._wanted(entry, is_wanted)
            if stored is not None:
                return False, stored
            if self._is_troubled or now - started_at > self._lock_seconds + 1:
                return False, None
            if seen and held != seen and self._is_refused():
                return False, None  # those who wait learn of it at once, not one by one
            if held and held != seen:
                seen, holder = held, Holder.parse(held)
                given_up_at = now + self._patience(holder)
            if held and now >= given_up_at:
                # Only one of those who wait gets it.
                self._release(name, held)
            if (not held or held == mine or now >= given_up_at) and self._take(name, mine):
                return True, None
            pause = self._pause(Holder.parse(held) if held else None, now - started_at)
            if held and now < given_up_at:
                pause = min(pause, given_up_at - now)

    def _is_refused(self) -> bool:
        return self.credential is not None and self.load_refusal(self.credential) is not None

    def _pause(self, holder: Holder | None, waited: float) -> float:
        """Seconds until the next look."""
        waiting = waited
        if holder is not None and holder.expected is not None:
            expected = holder.expected
            remaining = holder.remaining(self._clock.time())
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
            return float(self._lock_seconds)
        return min(2 * holder.expected + _PATIENCE, self._lock_seconds)

    def _look(self, name: str) -> tuple[Entry | None, str]:
        """The entry, and the value of the lock; an empty one if it is free or not known."""
        look = self._backend.look
        if self._lock is PROCESS_LOCKS:
            entry, held = self._read(self._backend.get, self._key), self._lock.holder(name)
        else:
            entry, held = self._read(look, self._key, name) or (None, None)
        try:
            text = as_text(held) if held else ""
        except Exception:
            text = "?"
        return self._parse(entry), text

    def _wanted(self, entry: Entry | None, is_wanted: Callable[[Token], bool]) -> Token | None:
        if entry is None or is_of_another_secret(entry.token, self._secret):
            return None
        return entry.token if is_wanted(entry.token) else None

    @property
    def _is_troubled(self) -> bool:
        return self._reading.is_paused or self._writing.is_paused or self._locking.is_paused

    def _take(self, name: str, mine: str) -> bool:
        """Take the lock if it is free; also true if the storage fails: then nobody waits."""
        if self._is_troubled:
            return True
        try:
            is_mine = bool(self._call(self._lock.take, name, mine, self._lock_seconds))
        except StorageCallError as failure:
            self._note_failure(self._locking, failure.error)
            return True
        self._note_success(self._locking)
        return is_mine

    def _release(self, name: str, value: str) -> None:
        # Also after an outage of anything else: the lock would keep the others waiting.
        if self._locking.is_paused:
            return
        try:
            self._call(self._lock.release, name, value)
        except StorageCallError as failure:
            if _is_outage(failure.error):
                self._note_failure(self._locking, failure.error)
                return
            # It stays until it expires: no other request may run into it.
            self._lock = PROCESS_LOCKS
            logger.warning(
                "token storage: the lock %s could not be released (%s); it is not used again",
                *(name, _kind(failure.error)),
            )

    # -- outages ---------------------------------------------------------------------------

    def _note_failure(self, outage: _Outage, error: Exception | None) -> float:
        """Leave that alone until the time returned; one outage, one warning."""
        is_known = any(o.is_failing for o in (self._reading, self._writing, self._locking))
        # Only the error's kind: its text may quote the token.
        kind = None if error is None else _kind(error)
        logger.log(
            logging.DEBUG if is_known else logging.WARNING,
            "token storage: %s %s failed (%s); going on without",
            *(outage.what, self._key, kind or "it said so"),
        )
        if not is_known and self._on_failure is not None:
            self._on_failure(operation=outage.what, error=kind)
        return outage.fail()

    def _note_success(self, outage: _Outage) -> None:
        if outage.is_failing:
            logger.info("token storage: %s %s works again", outage.what, self._key)
            outage.succeed()


class _Outage(Backoff):
    """Whether something that storages do fails, and until when it is left alone."""

    def __init__(self, what: str, clock: Clock) -> None:
        super().__init__(clock, longest=_LONGEST_PAUSE)
        self.what = what


def _is_newer(current: Entry, token: Token, before: int, now: float) -> bool:
    """Whether the stored token was requested later than this one, and is still good."""
    stored = current.token
    if stored.access_token == token.access_token or stored.issued_at > now:
        return False
    if stored.expires_at is not None and stored.expires_at <= now:
        return False
    return current.sequence > before + 1 or stored.issued_at > token.issued_at


def _is_no(answer: Any) -> bool:
    try:
        return answer is not None and not answer
    except Exception:  # an object that is neither true nor false
        return False


def _as_stored(token: Token) -> Token:
    return Entry.parse(Entry(token).dump(""), "").token


def _is_unreadable(error: Exception) -> bool:
    # redis-py's own timeouts and the like are neither.
    return isinstance(error, _UNREADABLE) and not isinstance(error, OSError)


def _is_outage(error: Exception) -> bool:
    """Whether the storage could not be reached, as opposed to refusing what was asked."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or not names.isdisjoint({"ConnectionError", "TimeoutError"})


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _kind(error: Exception) -> str:
    """The class of the error, such as ``redis.exceptions.ReadOnlyError``."""
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
