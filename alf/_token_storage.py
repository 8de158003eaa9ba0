"""The shared entry of a token: its key, its format, its lock, and what happens in an outage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

from alf._backends import LONGEST_TTL, Release, as_text, make_backend, no_release
from alf._clocks import Clock
from alf._forks import register_after_fork
from alf.tokens import Token

__all__ = ["TokenStorage", "entry_key"]

logger = logging.getLogger("alf")

#: The version of the entry's format, in its key and in its value.
_FORMAT = 1

#: Seconds for which a part of the storage that fails is left alone: the first time, at the most.
_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

#: Seconds that a call of the storage may keep the next one waiting.
_LONGEST_CALL = 5.0

#: Seconds for which a process may hold the lock, at the most: one that dies delays the others
#: by that.
_LONGEST_LOCK = 60.0

#: Seconds between two looks at the entry while another process asks: at first, at the most.
_SHORTEST_LOOK = 0.05
_LONGEST_LOOK = 0.5

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_KEY = re.compile(r"[\x21-\x7e]{1,240}\Z")


def entry_key(
    token_endpoint: str,
    client_id: str,
    params: Sequence[tuple[str, str]],
    headers: Mapping[str, str] | None = None,
    binding: str = "",
) -> str:
    """The key of a token's entry: the same for the same token, another for any other.

    It begins with what a person can read and ends with a digest of everything. No secret is in
    either. It has less than 250 bytes, neither blanks nor control characters: memcached's rules.

    :param token_endpoint: URL of the token endpoint.
    :param client_id: the client's identifier.
    :param params: the pairs of the token request's form, without credentials; the order of the
        names in ``scope`` does not matter (RFC 6749 §3.3).
    :param headers: headers of the token request beside the usual ones.
    :param binding: how the client authenticates, and what the token is bound to.
    """
    parts = urlsplit(token_endpoint)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2].lower()).geturl()
    pairs = sorted(
        (name, " ".join(sorted(set(value.split()))) if name == "scope" else value)
        for name, value in params
    )
    extra = sorted((name.lower(), value) for name, value in (headers or {}).items())
    whole = json.dumps([place, client_id, pairs, extra, binding])
    digest = hashlib.sha256(whole.encode()).hexdigest()[:40]
    readable = [_UNREADABLE.sub("-", part)[:60] for part in (parts.hostname or "", client_id)]
    return ":".join(("alf", str(_FORMAT), *readable, digest))


class TokenStorage:
    """The one entry of one token in a storage. Never raises: a storage in trouble is an empty one.

    What fails, be it reading, writing or locking, is left alone for a while, longer each time: a
    time-out is not paid on each call, and an outage is logged once.

    :param storage: any object with ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param key: the entry's key.
    :param max_duration: seconds that a token request may take.
    :param on_failure: told of each outage: its ``operation``, and the class of its ``error``.
    :param clock: what tells the time.
    :raises TypeError: the storage has neither or is for asyncio, or the key is no string.
    :raises ValueError: the key is not 1 to 240 visible ASCII characters.

    The storage is called by one thread at a time.
    """

    def __init__(
        self,
        storage: Any,
        key: str,
        *,
        max_duration: float = 20.0,
        on_failure: Callable[..., object] | None = None,
        clock: Clock = time,
    ) -> None:
        if not isinstance(key, str):
            message = f"token_storage_key must be a str, got {type(key).__name__}"
            raise TypeError(message)
        if not _KEY.match(key):
            message = f"token_storage_key must be 1 to 240 visible ASCII characters, got {key!r}"
            raise ValueError(message)
        self._backend = make_backend(storage)
        self._key = key
        # A second more, since memcached's seconds are up to one shorter.
        self._lock_seconds = math.ceil(min(max_duration, _LONGEST_LOCK)) + 1
        self._on_failure = on_failure
        self._clock = clock
        self._lock = threading.Lock()
        self._reading = _Outage("reading", clock)
        self._writing = _Outage("writing", clock)
        self._locking = _Outage("locking", clock)
        self._is_rubbish_known = False
        self._is_shareable = True
        register_after_fork(self)

    def load(self) -> Token | None:
        """The token in the entry, if there is one."""
        if self._reading.is_paused:
            return None
        try:
            entry = self._call(self._backend.get, self._key)
        except (KeyError, FileNotFoundError):  # how some say that there is none
            entry = None
        except Exception as error:
            self._note_failure(self._reading, error)
            return None
        self._note_success(self._reading)
        try:
            # None, and dogpile's NO_VALUE.
            token = _read_entry(entry) if entry else None
        except Exception as error:
            # Only the kind: the text may quote the entry.
            if not self._is_rubbish_known:
                logger.warning(
                    "token storage: %s holds what is no token entry of format %d (%s); it will "
                    "be replaced",
                    *(self._key, _FORMAT, _kind(error)),
                )
            self._is_rubbish_known = True
            return None
        self._is_rubbish_known = False
        return token

    def save(self, token: Token) -> float | None:
        """Replace the entry by this token, unless one that was asked for later is there.

        :returns: when to try again, in the clock's monotonic time, where that failed.
        """
        now = self._clock.time()
        life = LONGEST_TTL if token.expires_at is None else token.expires_at - now
        self._is_shareable = life > 0
        if not self._is_shareable:
            return None
        current = self.load()
        if (
            current is not None
            and token.issued_at < current.issued_at <= now
            and (current.expires_at is None or now < current.expires_at)
        ):
            return None
        for outage in (self._reading, self._writing):
            if outage.is_paused:
                return outage.paused_until
        ttl = min(math.ceil(life), LONGEST_TTL)
        try:
            answer: Any = self._call(self._backend.set, self._key, _write_entry(token), ttl)
            is_denied = answer is not None and not answer
        except Exception as error:
            return self._note_failure(self._writing, error)
        # memcached's clients say so when they fail; others mean something else by it.
        if is_denied and self.load() != token:
            return self._note_failure(self._writing, None)
        self._note_success(self._writing)
        return None

    def remove(self, token: Token) -> None:
        """Remove the entry, if it still is this token, and the storage has a way to do so."""
        stored = self.load()
        delete = self._backend.delete
        if delete is None or stored is None or stored.access_token != token.access_token:
            return
        try:
            self._call(delete, self._key)
        except Exception as error:
            self._note_failure(self._writing, error)

    @contextlib.contextmanager
    def exclusive(self, is_wanted: Callable[[Token], bool]) -> Iterator[Token | None]:
        """Wait for this process's turn to ask the endpoint, and keep it for the ``with`` block.

        Where the storage has neither a lock nor an atomic add, or is in trouble, it comes at
        once, and where the last token was dead on arrival: such ones cannot be shared. Where a
        process that has it is dead, or stuck, it comes after a bounded time.

        :param is_wanted: whether a stored token makes asking needless.
        :returns: such a token, if one is there or comes while waiting; ``None``: it is our turn.
        """
        if self._backend.lock is None or not self._is_shareable:
            yield None
            return
        stored: Token | None = None
        deadline = self._clock.monotonic() + self._lock_seconds + 1
        pause = _SHORTEST_LOOK
        release = self._take(self._backend.lock)
        try:
            while release is None and stored is None and self._clock.monotonic() < deadline:
                self._clock.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                pause = min(pause * 1.5, _LONGEST_LOOK)
                stored = self._load_wanted(is_wanted)
                if stored is None:
                    release = self._take(self._backend.lock)
            if stored is None:
                # Who had the turn before may have stored one since the last look.
                stored = self._load_wanted(is_wanted)
            yield stored
        finally:
            if release is not None:
                try:
                    self._call(release)
                except Exception as error:  # it has run out meanwhile, or will
                    logger.debug("token storage: a lock was not released (%s)", _kind(error))

    def _load_wanted(self, is_wanted: Callable[[Token], bool]) -> Token | None:
        token = self.load()
        return token if token is not None and is_wanted(token) else None

    def _take(self, lock: Callable[[str, int], Release | None]) -> Release | None:
        """What releases the lock; ``None`` if another process holds it."""
        if self._reading.is_paused or self._writing.is_paused or self._locking.is_paused:
            return no_release
        try:
            release: Release | None = self._call(lock, f"{self._key}:lock", self._lock_seconds)
        except Exception as error:
            self._note_failure(self._locking, error)
            return no_release
        self._note_success(self._locking)
        return release

    def _note_failure(self, outage: _Outage, error: Exception | None) -> float:
        """Leave that alone until the time returned; one outage, one warning."""
        is_known = self._reading.is_failing or self._writing.is_failing or self._locking.is_failing
        # Only the error's kind: its text may quote the token.
        kind = None if error is None else _kind(error)
        logger.log(
            logging.DEBUG if is_known else logging.WARNING,
            "token storage: %s %s failed (%s); going on without",
            *(outage.what, self._key, kind or "it said so"),
        )
        if not is_known and self._on_failure is not None:
            self._on_failure(operation=outage.what, error=kind)
        return outage.begin()

    def _note_success(self, outage: _Outage) -> None:
        if outage.is_failing:
            logger.info("token storage: %s %s works again", outage.what, self._key)
            outage.end()

    def _call(self, function: Callable[..., Any], *args: object) -> Any:
        if not self._lock.acquire(timeout=_LONGEST_CALL):
            message = f"another call has not come back for {_LONGEST_CALL} s"
            raise TimeoutError(message)
        try:
            return function(*args)
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


class _Outage:
    """Whether something that storages do is in trouble, and until when it is left alone."""

    def __init__(self, what: str, clock: Clock) -> None:
        self.what = what
        self._clock = clock
        self._pause = 0.0
        self.paused_until = -math.inf

    @property
    def is_failing(self) -> bool:
        return self._pause > 0

    @property
    def is_paused(self) -> bool:
        """Whether it is to be left alone now."""
        return self._clock.monotonic() < self.paused_until

    def begin(self) -> float:
        self._pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, 2 * self._pause))
        # Spread out, for a fleet meets the outage at one time.
        pause = max(_SHORTEST_PAUSE, random.uniform(self._pause / 2, self._pause))  # noqa: S311
        self.paused_until = self._clock.monotonic() + pause
        return self.paused_until

    def end(self) -> None:
        self._pause = 0.0
        self.paused_until = -math.inf


def _write_entry(token: Token) -> str:
    members = {member.name: getattr(token, member.name) for member in fields(Token)}
    return json.dumps({"v": _FORMAT, **members, "extra": dict(token.extra)})


def _read_entry(value: object) -> Token:
    """The token in the entry's value; raises some exception where it holds none."""
    entry = json.loads(as_text(value))
    if entry["v"] != _FORMAT:
        message = "it is of another format"
        raise ValueError(message)
    token = Token(**{member.name: entry[member.name] for member in fields(Token)})
    numbers = (token.issued_at, 0.0 if token.expires_at is None else token.expires_at)
    if not all(map(math.isfinite, numbers)) or not isinstance(token.scope, (str, type(None))):
        message = "a member is of the wrong type"
        raise ValueError(message)
    return token


def _kind(error: Exception) -> str:
    """The class of the error, such as ``redis.exceptions.ReadOnlyError``."""
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
