"""The shared token: its entry in a storage, and the lock around token requests."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from alf._backends import LONGEST_TTL
from alf._clocks import Clock
from alf._entries import LONGEST_REFUSAL, Entry, Holder, StoredRefusal
from alf._entry_lock import EntryLock, LockBusyError
from alf._obtained import is_of_another_secret, note_obtained
from alf._storage_access import StorageAccess, kind_of
from alf._storage_calls import StorageCallError
from alf.tokens import Token

__all__ = ["LockBusyError", "TokenStorage"]

logger = logging.getLogger("alf")


class TokenStorage:
    """The one entry of one token in a storage. A failing storage never fails a call.

    After a failure of reading, writing or locking that operation is paused, longer each time. An
    outage is logged once. A call of the storage takes about a second at most.

    :param storage: any object with ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param key: the entry's key: a str that the user chose, or a callable that returns it.
    :param max_duration: seconds that a token request may take.
    :param secret: the client secret, ``None`` if not known. A token that this process obtained with
        another secret is not loaded.
    :param on_failure: called for each outage with ``operation`` and the class of the ``error``.
    :param clock: the clock.
    :raises TypeError: the storage lacks these methods or is for asyncio, or the key is not a str.
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
        self._access = StorageAccess(storage, key, on_failure, clock)
        self._lock = EntryLock(self._access, max_duration)
        self._clock = clock
        #: The client's secret, if it is fixed: a refusal of it ends the wait for the lock.
        self.credential: str | None = None
        self._is_shareable = True
        #: The sequence number of the stored token when it was last read.
        self._sequence = 0
        #: The expected duration of a token request in seconds, if known.
        self._expected: float | None = None
        self._requested_at: float | None = None

    # -- the entry -------------------------------------------------------------------------

    def load(self) -> Token | None:
        """The token in the entry, if there is one."""
        entry = self._load()
        if entry is None or is_of_another_secret(entry.token, self._secret):
            return None
        return entry.token

    def _load(self) -> Entry | None:
        return self._parse(self._access.read(self._access.backend.get, self._access.key))

    def _parse(self, value: Any) -> Entry | None:
        try:
            if not value:  # None, or dogpile's NO_VALUE
                self._sequence = 0
                return None
            entry = Entry.parse(value, self._access.key)
        except Exception as error:
            self._access.note_rubbish(error)
            return None
        self._access.is_rubbish_known = False
        self._sequence = entry.sequence
        if entry.took is not None:
            self._expected = entry.took
        return entry

    def save(self, token: Token) -> float | None:
        """Replace the entry by this token, unless it holds one that was requested later.

        :returns: when to try again, in monotonic time, if it failed.
        """
        note_obtained(token, self._secret)
        now = self._clock.time()
        life = LONGEST_TTL if token.expires_at is None else token.expires_at - now
        self._is_shareable = life > 0
        if not self._is_shareable or self._access.is_foreign:
            return None
        if self._requested_at is not None:
            self._expected = max(0.0, self._clock.monotonic() - self._requested_at)
            self._requested_at = None
        before = self._sequence
        current = self._load()
        if current is not None and _is_newer(current, token, before, now):
            return None
        for outage in (self._access.reading, self._access.writing):
            if outage.is_paused:
                return outage.paused_until
        sequence = before if current is None else max(before, current.sequence)
        entry = Entry(token, sequence + 1, self._expected)
        ttl = min(math.ceil(life), LONGEST_TTL)
        key = self._access.key
        try:
            answer = self._access.call(self._access.backend.set, key, entry.dump(key), ttl)
        except StorageCallError as failure:
            return self._access.note_failure(self._access.writing, failure.error)
        self._sequence = entry.sequence
        # memcached's clients return False when they fail; others mean something else by it.
        if _is_no(answer) and self.load() != _as_stored(token):
            return self._access.note_failure(self._access.writing, None)
        self._access.note_success(self._access.writing)
        return None

    def remove(self, token: Token) -> None:
        """Remove the entry if it still holds this token and the storage can delete."""
        stored = self.load()
        delete = self._access.backend.delete
        if delete is None or stored is None or stored.access_token != token.access_token:
            return
        try:
            self._access.call(delete, self._access.key)
        except StorageCallError as failure:
            self._access.note_failure(self._access.writing, failure.error)

    # -- a refusal of the client -----------------------------------------------------------

    def load_refusal(self, credential: str) -> StoredRefusal | None:
        """The endpoint's recent refusal of this credential in another process, if there is one.

        :param credential: the secret to be sent.
        """
        key = f"{self._access.key}:refused"
        value = self._access.read(self._access.backend.get, key)
        try:
            if not value:
                return None
            return StoredRefusal.parse(value, key, credential, self._clock.time())
        except Exception as error:
            logger.debug("token storage: %s is not a valid refusal (%s)", key, kind_of(error))
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
        """Share the endpoint's refusal of this credential, for 30 seconds at most.

        :param credential: the secret that was refused.
        :param status: the status of the answer.
        :param error: the error code (RFC 6749 §5.2).
        :param description: the endpoint's text, redacted.
        """
        seconds = min(seconds, LONGEST_REFUSAL)
        if (
            seconds <= 0
            or self._access.is_foreign
            or self._access.writing.is_paused
            or self._access.reading.is_paused
        ):
            return
        key = f"{self._access.key}:refused"
        until = self._clock.time() + seconds
        value = StoredRefusal(status, error, description, until).dump(key, credential)
        try:
            self._access.call(self._access.backend.set, key, value, math.ceil(seconds))
        except StorageCallError as failure:
            self._access.note_failure(self._access.writing, failure.error)

    # -- one request at a time -------------------------------------------------------------

    @contextlib.contextmanager
    def exclusive(
        self, is_wanted: Callable[[Token], bool], *, wait: bool = True
    ) -> Iterator[Token | None]:
        """Hold the lock for the ``with`` block, in which the token is requested.

        The block runs without the lock if the storage fails, or if the last token was dead on
        arrival and could not be shared. A dead or stuck holder delays the others for a limited
        time.

        :param is_wanted: whether a stored token makes the request unnecessary.
        :param wait: whether to wait for another holder.
        :returns: a wanted token from the storage; ``None``: request one.
        :raises LockBusyError: another process holds the lock, and ``wait`` is false.
        """
        if not self._is_shareable or self._access.is_foreign:
            yield None
            return

        def find(value: Any) -> Token | None:
            entry = self._parse(value)
            if entry is None or is_of_another_secret(entry.token, self._secret):
                return None
            return entry.token if is_wanted(entry.token) else None

        mine = Holder.new(self._expected, self._clock.time()).dump()
        stored: Token | None = None
        holds = self._lock.take(mine)
        try:
            if not holds:
                if not wait:
                    raise LockBusyError
                holds, stored = self._lock.wait(mine, find, self._is_refused)
            if holds:
                # The previous holder may have stored one since the last look.
                access = self._access
                stored = find(access.read(access.backend.get, access.key))
            self._requested_at = self._clock.monotonic()
            yield stored
        finally:
            self._requested_at = None
            if holds:
                self._lock.give_back(mine)

    def _is_refused(self) -> bool:
        return self.credential is not None and self.load_refusal(self.credential) is not None


def _is_newer(current: Entry, token: Token, before: int, now: float) -> bool:
    """Whether the stored token was requested later than this one and is still good."""
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
